from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from overnight.errors import PartitionBusyError
from overnight.lineage.contents import record_failure_rejects
from overnight.lineage.lease import PartitionLease
from overnight.lineage.record import Counts, add_decision, finish_attempt
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import DAY, NO_REJECTS, new_table, python, read, start

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

HOLD = """
import sys
from pathlib import Path
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import new_table, start
warehouse = Warehouse.open(home=Path(sys.argv[1]))
attempt = start(warehouse, new_table(warehouse, name="t"), run_id="killed")
print(attempt.attempt, flush=True)
sys.stdin.read()
"""


def attempts(warehouse: Warehouse, table: sa.Table) -> list[tuple[str, str, bool]]:
    query = (
        "SELECT run_id, outcome, ended_at IS NOT NULL FROM lineage.attempts WHERE job = %s "
        "ORDER BY attempt"
    )
    return read(warehouse, query, table.name)


def test_tokens_rise_and_the_fence_holds_the_newest(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    tokens = []
    for _ in range(3):
        attempt = start(warehouse, table)
        tokens.append(attempt.attempt)
        finish_attempt(warehouse, attempt, outcome="unchanged")
    assert tokens == sorted(set(tokens))
    query = "SELECT token, published_attempt FROM lineage.partitions WHERE job = %s"
    assert read(warehouse, query, table.name) == [(tokens[-1], None)]
    assert attempts(warehouse, table) == [("run-1", "unchanged", True)] * 3


def test_a_second_attempt_at_once_is_told_who_is_at_work(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    first = start(warehouse, table, run_id="first")
    says = (
        f"attempt {first.attempt} of run first on host-a, since {first.started_at:%Y-%m-%d %H:%M}"
    )
    with pytest.raises(PartitionBusyError, match=says):
        start(warehouse, table, run_id="second")
    other_day = start(warehouse, table, day="2026-11-20")
    finish_attempt(warehouse, other_day, outcome="failed")
    finish_attempt(warehouse, first, outcome="failed")
    finish_attempt(warehouse, start(warehouse, table), outcome="failed")


def test_kill_9_frees_the_lease_and_the_next_attempt_marks_the_dead_one(home: Path) -> None:
    child = python(HOLD, str(home))
    assert child.stdout is not None
    token = int(child.stdout.readline())
    with Warehouse.open(home=home) as warehouse:
        with pytest.raises(PartitionBusyError, match=f"attempt {token} of run killed"):
            PartitionLease.take(warehouse, job="t", partition_key=DAY)
        child.kill()
        child.communicate()
        table = new_table(warehouse, name="t")
        attempt = start(warehouse, table, run_id="next")
        assert attempts(warehouse, table) == [
            ("killed", "interrupted", True),
            ("next", "running", False),
        ]
        finish_attempt(warehouse, attempt, outcome="failed")


def test_an_attempt_outlives_its_lease_and_notes_its_own_end(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    assert attempt.lease.alive()
    with warehouse.begin() as connection:
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_locks WHERE locktype = 'advisory' "
            "AND pid <> pg_backend_pid()"
        )
    assert not attempt.lease.alive()
    newer = start(warehouse, table, run_id="newer")
    finish_attempt(warehouse, attempt, outcome="failed", error=ValueError("late"))
    assert attempts(warehouse, table) == [("run-1", "failed", True), ("newer", "running", False)]
    finish_attempt(warehouse, newer, outcome="failed")
    attempt.lease.release()


def test_an_error_is_noted_without_its_secrets(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    error = OSError("cannot read postgresql://me:hunter2@db/x with AKIAIOSFODNN7EXAMPLE")
    counts = Counts(rows_in=5, rejected=2)
    finish_attempt(warehouse, attempt, outcome="failed", error=error, counts=counts)
    query = "SELECT error, rows_in, rejected, inferred FROM lineage.attempts WHERE job = %s"
    assert read(warehouse, query, table.name) == [
        ("OSError: cannot read postgresql://me:***@db/x with ***", 5, 2, None)
    ]


def test_rejects_of_a_stopped_attempt_are_the_current_ones(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    for line in (1, 2):
        attempt = start(warehouse, table)
        rejects = pl.DataFrame(
            [("articles", "a.csv", line, "k", None, None, "bad")],
            schema=NO_REJECTS.schema,
            orient="row",
        )
        counts = Counts(rows_in=1, rejected=1)
        record_failure_rejects(warehouse, attempt, rejects=rejects, counts=counts)
        finish_attempt(warehouse, attempt, outcome="failed", error="too many rejects")
    query = "SELECT line, source FROM lineage.current_rejects WHERE job = %s"
    assert read(warehouse, query, table.name) == [(2, "articles")]


def test_decisions_add_up(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    add_decision(warehouse, attempt, {"what": "spot"})
    add_decision(warehouse, attempt, {"what": "on-demand"})
    finish_attempt(warehouse, attempt, outcome="failed")
    query = "SELECT decisions FROM lineage.attempts WHERE job = %s"
    assert read(warehouse, query, table.name) == [([{"what": "spot"}, {"what": "on-demand"}],)]


def test_every_lineage_table_and_column_is_explained(warehouse: Warehouse) -> None:
    query = (
        "SELECT c.relname, a.attname FROM pg_class c "
        "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0 AND NOT a.attisdropped "
        "WHERE c.relnamespace = 'lineage'::regnamespace AND c.relkind = 'r' "
        "AND (col_description(c.oid, a.attnum) IS NULL OR obj_description(c.oid) IS NULL)"
    )
    assert read(warehouse, query) == []
