"""Dropping what dead attempts left in the staging schema."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from typing import TYPE_CHECKING

import sqlalchemy as sa

from overnight.errors import WarehouseUnavailableError
from overnight.lineage import tables
from overnight.lineage.lease import held_leases, lease_key
from overnight.warehouse.schema import STAGING
from overnight.warehouse.table import DIALECT

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse

__all__ = ["sweep"]

_log = logging.getLogger(__name__)


def sweep(warehouse: Warehouse) -> None:
    """Drops the staging tables of attempts that are over.

    An attempt that is noted as running and has lost its lease may still be at work, so its
    table is left alone for a day, or until the partition's next attempt marks it.
    """
    with warehouse.connect() as connection:
        query = sa.text("SELECT tablename FROM pg_tables WHERE schemaname = :schema")
        found: dict[int, list[str]] = defaultdict(list)
        for name in connection.execute(query, {"schema": STAGING}).scalars():
            if match := re.search(r"__(\d+)$", name):
                found[int(match[1])].append(name)
        over = _over(connection, list(found))
    for name in (name for attempt in over for name in found[attempt]):
        try:
            with warehouse.begin() as connection:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '1s'")
                quoted = DIALECT.identifier_preparer.quote(name)
                connection.exec_driver_sql(f"DROP TABLE IF EXISTS {STAGING}.{quoted}")
        except WarehouseUnavailableError as error:
            _log.info("Left %s for later: %s", name, error)


def _over(connection: sa.Connection, candidates: list[int]) -> list[int]:
    if not candidates:
        return []
    c = tables.attempts.c
    old = c.started_at < sa.func.now() - sa.text("interval '1 day'")
    query = sa.select(c.attempt, c.job, c.partition_key, c.outcome, old.label("old")).where(
        c.attempt.in_(candidates)
    )
    leases = held_leases(connection)
    return [
        row.attempt
        for row in connection.execute(query)
        if row.outcome != "running"
        or (row.old and lease_key(row.job, row.partition_key) not in leases)
    ]
