"""What led to a publication: attempts, interruptions and rejects since the one before."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from overnight.lineage.record import add_decision, finish_attempt
from overnight.lineage.trail import RejectedFile, Trail, trail_of
from overnight.warehouse.publish import publish
from overnight.warehouse.stage import Stage
from tests.warehouse.helpers import DAY, NO_REJECTS, new_table, publication, rows, start

if TYPE_CHECKING:
    import sqlalchemy as sa

    from overnight.warehouse.connect import Warehouse


def publish_once(warehouse: Warehouse, table: sa.Table, rejects: pl.DataFrame = NO_REJECTS) -> int:
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        stage.copy(rows([1, 2], "said", attempt))
        publish(warehouse, publication(stage, 2, rejects=rejects))
    finish_attempt(warehouse, attempt, outcome="published")
    return attempt.attempt


def trail(warehouse: Warehouse, table: sa.Table, attempt: int) -> Trail:
    return trail_of(warehouse, job=table.name, partition_key=DAY, attempt=attempt)


def test_attempts_and_interruptions_are_counted_from_the_publication_before(
    warehouse: Warehouse,
) -> None:
    table = new_table(warehouse)
    first = publish_once(warehouse, table)
    assert trail(warehouse, table, first) == Trail(attempts=1)
    failed = start(warehouse, table)
    for reason in ("a machine went", "another one went"):
        add_decision(warehouse, failed, {"decision": "interruption", "reason": reason})
    add_decision(warehouse, failed, {"decision": "market", "reason": "spot in any zone"})
    finish_attempt(warehouse, failed, outcome="failed", error="no good")
    killed = start(warehouse, table)
    finish_attempt(warehouse, killed, outcome="interrupted")
    second = publish_once(warehouse, table)
    assert trail(warehouse, table, second) == Trail(attempts=3, failures=1, interruptions=3)
    # What came later changes nothing of what was told.
    assert trail(warehouse, table, first) == Trail(attempts=1)
    third = publish_once(warehouse, table)
    assert trail(warehouse, table, third) == Trail(attempts=1)


def test_rejects_are_told_by_file_the_worst_first(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    found = [("a.jsonl", 1), ("b.jsonl", 1), ("b.jsonl", 2), ("b.jsonl", 2)]
    rejects = pl.DataFrame(
        {
            "source": "articles",
            "file": [file for file, _ in found],
            "line": [number for _, number in found],
            "key": None,
            "column": "text",
            "value": None,
            "reason": "is null",
        },
        schema=NO_REJECTS.schema,
    )
    # A line that breaks the contract in two columns is one row.
    attempt = publish_once(warehouse, table, rejects)
    assert trail(warehouse, table, attempt).rejected == (
        RejectedFile(source="articles", file="b.jsonl", rows=2),
        RejectedFile(source="articles", file="a.jsonl", rows=1),
    )
