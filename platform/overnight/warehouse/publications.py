"""What is published now: which rows, by which attempt, made with what.

Input hashes come as compact frames (a million of them: tens of megabytes), to be joined.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl
import sqlalchemy as sa

from overnight.lineage import tables
from overnight.warehouse.copy import copy_out
from overnight.warehouse.table import quoted

if TYPE_CHECKING:
    import datetime as dt

    from overnight.warehouse.connect import Warehouse

__all__ = [
    "DEAD_LETTERS",
    "PUBLISHED_HASHES",
    "CurrentPublication",
    "current_publication",
    "dead_letter_hashes",
    "publications",
    "published_hashes",
]

DEAD_LETTERS = pl.Schema(
    {
        "key": pl.String,
        "input_hash": pl.Binary,
        "reason": pl.String,
        "run_id": pl.String,
        "attempt": pl.Int64,
        "machine": pl.String,
        "_input_id": pl.Int64,
        "_line": pl.Int64,
    }
)
"""Dead letters as a frame: `attempt` is the one that tried."""

PUBLISHED_HASHES = pl.Schema({"input_hash": pl.Binary, "_input_id": pl.Int64})


@dataclass(frozen=True, slots=True, kw_only=True)
class CurrentPublication:
    """The publication of a partition that readers see."""

    attempt: int
    run_id: str
    job: str
    table: str
    partition_key: str
    fingerprint: str
    output_version: str
    published: int
    data_version: str | None
    published_at: dt.datetime


def current_publication(
    connection: sa.Connection, job: str, partition_key: str
) -> CurrentPublication | None:
    """What readers see of a job's partition now, or None."""
    runs, fence = tables.runs.c, tables.partitions.c
    query = (
        sa.select(
            runs.attempt,
            runs.run_id,
            runs.job,
            runs.table_name.label("table"),
            runs.partition_key,
            runs.fingerprint,
            runs.output_version,
            runs.published,
            runs.data_version,
            runs.published_at,
        )
        .join_from(tables.runs, tables.partitions, fence.published_attempt == runs.attempt)
        .where(fence.job == job, fence.partition_key == partition_key)
    )
    row = connection.execute(query).mappings().first()
    return None if row is None else CurrentPublication(**row)


def published_hashes(
    connection: sa.Connection, table: sa.Table, partition_key: str
) -> pl.DataFrame:
    """What the published rows were made of: `input_hash` (unique), and `_input_id`, its file."""
    query = (
        "SELECT DISTINCT encode(_input_hash, 'hex'), _input_id "  # noqa: S608 - quoted
        f"FROM {quoted(table)} WHERE partition_key = %s"
    )
    return copy_out(connection, query, [partition_key], PUBLISHED_HASHES)


def dead_letter_hashes(connection: sa.Connection, job: str, partition_key: str) -> pl.DataFrame:
    """The dead letters of what is published now, to be carried over where nothing changed.

    Columns: `key`, `input_hash` (Binary), `reason`, `run_id`, `attempt` (which tried),
    `machine`, `_input_id`, `_line`.
    """
    query = (
        "SELECT d.key, encode(d.input_hash, 'hex'), d.reason, d.run_id, d.inferred_attempt, "
        "d.machine, d.input_id, d.line FROM lineage.current_dead_letters d "
        "WHERE d.job = %s AND d.partition_key = %s"
    )
    return copy_out(
        connection,
        query,
        [job, partition_key],
        DEAD_LETTERS,
    )


def publications(warehouse: Warehouse, job: str) -> list[tuple[str, str, dt.datetime]]:
    """When each partition of a job was last published: (job, partition, time)."""
    c = tables.partitions.c
    query = sa.select(c.job, c.partition_key, c.published_at).where(
        c.job == job, c.published_at.is_not(None)
    )
    with warehouse.connect() as connection:
        return [(row.job, row.partition_key, row.published_at) for row in connection.execute(query)]
