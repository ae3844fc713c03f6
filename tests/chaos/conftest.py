from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.lab import Lab, open_lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def lab(ray_head: str) -> Iterator[Lab]:
    """One installation with warm engines; each case has a partition of its own in it."""
    with open_lab(ray_head) as made:
        yield made
