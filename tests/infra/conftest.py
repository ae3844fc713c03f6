"""One account for all of these tests, and the cluster file as `ray up` would resolve it there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.infra import cluster_file
from tests.infra.ec2 import Ec2, ec2

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def account() -> Iterator[Ec2]:
    with ec2() as made:
        yield made


@pytest.fixture(scope="module")
def resolved(account: Ec2, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """Do not change it: it is shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # Ray writes an SSH key there
        patch.chdir(cluster_file.ROOT)  # what is mounted is named from there
        yield cluster_file.bootstrapped(cluster_file.filled_in(account))
    cluster_file.forget()


@pytest.fixture
def machines(account: Ec2) -> Iterator[Ec2]:
    """The account, with no machine and nothing refused."""
    account.start_over()
    yield account
    account.start_over()
