"""What people decide about dead letters: to try one again, or to do without it.

A decision is about one dead letter, made by one attempt. The row may be asked for again as often
as somebody likes: each time, what is known of it from that attempt or before counts for nothing.
"""

from __future__ import annotations

import getpass
import socket
from typing import TYPE_CHECKING, Literal

import polars as pl

from overnight.lineage import tables
from overnight.warehouse.copy import copy_in, copy_out

if TYPE_CHECKING:
    import sqlalchemy as sa

    from overnight.warehouse.connect import Warehouse

__all__ = ["DECIDED", "decide", "decided"]

DECIDED = pl.Schema({"input_hash": pl.Binary, "until": pl.Int64})
"""Decisions as a frame: unique `input_hash`, and the attempt `until` which they hold."""

Action = Literal["retry", "drop"]


def decide(
    warehouse: Warehouse,
    action: Action,
    *,
    job: str,
    dead_letters: pl.DataFrame,
    reason: str | None = None,
) -> None:
    """Put a decision about dead letters on record, in one transaction.

    Args:
        warehouse: where.
        action: what becomes of them: `retry` at the partition's next run, or `drop`.
        job: whose they are.
        dead_letters: `partition_key`, `key`, `input_hash`, `inferred_attempt`.
        reason: why, in words.
    """
    rows = dead_letters.select(
        pl.lit(job).alias("job"),
        "partition_key",
        "key",
        "input_hash",
        "inferred_attempt",
        pl.lit(action).alias("action"),
        pl.lit(reason, pl.String).alias("reason"),
        pl.lit(f"{getpass.getuser()}@{socket.gethostname()}").alias("asked_by"),
    )
    with warehouse.begin() as connection:
        copy_in(connection, tables.repairs, rows)


def decided(
    connection: sa.Connection, action: Action, *, job: str, partition_key: str
) -> pl.DataFrame:
    """The decisions of a kind about a partition's rows, as `DECIDED`."""
    query = (
        "SELECT encode(input_hash, 'hex'), max(inferred_attempt) FROM lineage.repairs "
        "WHERE action = %s AND job = %s AND partition_key = %s GROUP BY input_hash"
    )
    return copy_out(connection, query, [action, job, partition_key], DECIDED)
