"""The warehouse: the PostgreSQL where results are published."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from overnight.home import Home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.warehouse.connect import Warehouse


class WarehouseResource(dg.ConfigurableResource["WarehouseResource"]):
    """PostgreSQL 14 or newer: one of your own, or the embedded one."""

    url: str | None = Field(
        default=None,
        description="SQLAlchemy URL, e.g. postgresql+psycopg://user:password@host/db; "
        "unset: PostgreSQL embedded under OVERNIGHT_HOME.",
    )

    @contextlib.contextmanager
    def open(self) -> Iterator[Warehouse]:
        """Be connected; an embedded server is started if it does not run."""
        from overnight.warehouse.connect import Warehouse

        with Warehouse.open(home=Home.from_env().path, url=self.url) as warehouse:
            yield warehouse
