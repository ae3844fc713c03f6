"""What several test folders need: real servers, started once."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from overnight.warehouse.connect import Warehouse
from overnight.workers.cluster import ClusterConfig, keep_head
from tests.moto_server import ENVIRONMENT
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
# Workers inherit the environment that Ray was started with.
os.environ.update(ENVIRONMENT)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory of its own for one test, which the embedded server's user can reach."""
    with open_home() as made:
        yield made


@pytest.fixture(scope="session")
def warehouse() -> Iterator[Warehouse]:
    """One embedded PostgreSQL for the whole session."""
    with open_home() as made, Warehouse.open(home=made) as opened:
        yield opened


@pytest.fixture(scope="session")
def ray_head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """One Ray for the whole session; this process is connected to it, engines stay warm."""
    config = ClusterConfig(address=None, head_file=tmp_path_factory.mktemp("ray") / "ray.json")
    with keep_head(config) as address:
        yield address
