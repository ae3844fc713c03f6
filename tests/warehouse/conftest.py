from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def empty_home() -> Iterator[Path]:
    with open_home() as made:
        yield made


@pytest.fixture(scope="session")
def made_home() -> Iterator[Path]:
    with open_home() as made:
        Warehouse.open(home=made).close()
        yield made


@pytest.fixture
def home(made_home: Path, empty_home: Path) -> Path:
    """A home whose server was started before and is stopped now."""
    subprocess.run(["cp", "-a", f"{made_home}/.", str(empty_home)], check=True)
    return empty_home
