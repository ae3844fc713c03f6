"""Publishing by merge: what stays is not touched, what goes and comes does so at once."""

from __future__ import annotations

import contextlib
import signal
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from overnight import crashpoints
from overnight.errors import (
    ReconciliationError,
    StagingLostError,
    StaleAttemptError,
    WarehouseUnavailableError,
)
from overnight.lineage.record import finish_attempt
from overnight.warehouse.connect import Warehouse
from overnight.warehouse.publish import publish
from overnight.warehouse.stage import Stage
from tests.warehouse.helpers import (
    LandingFile,
    hashed,
    kill_server,
    new_table,
    publication,
    python,
    read,
    rows,
    start,
    texts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from overnight.warehouse.publish import Published

OLD = range(20)
NEW = range(15, 25)
STAY = 15


def gone(numbers: Iterable[int]) -> pl.DataFrame:
    hashes = [hashed(number) for number in numbers]
    return pl.DataFrame({"input_hash": hashes}, schema={"input_hash": pl.Binary})


def publish_all(warehouse: Warehouse, table: sa.Table, text: str = "old") -> int:
    """The partition as it is before: rows 0 to 19, by replacement."""
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        stage.copy(rows(OLD, text, attempt))
        publish(warehouse, publication(stage, len(OLD)))
    finish_attempt(warehouse, attempt, outcome="published")
    return attempt.attempt


def merge(warehouse: Warehouse, table: sa.Table, **changes: Any) -> Published:
    """Five rows change and five come; an attempt stages again when Postgres lost its stage."""
    attempt = start(warehouse, table, run_id="merging")
    try:
        while True:
            with (
                contextlib.suppress(WarehouseUnavailableError),
                Stage(warehouse, table, attempt) as stage,
            ):
                # The attempt may have published already, and lost the answer.
                fill(stage)
                return publish(warehouse, publication(stage, len(NEW), **{**KEPT, **changes}))
    finally:
        finish_attempt(warehouse, attempt, outcome="failed")


KEPT: dict[str, Any] = {"kept": STAY, "kept_from": [1]}


def fill(stage: Stage) -> None:
    stage.keep(gone(range(STAY, 20)))
    stage.copy(rows(NEW, "new", stage.attempt))


def places(warehouse: Warehouse, table: sa.Table) -> dict[str, str]:
    """Where each row's one version lies: an UPDATE would make another."""
    return dict(read(warehouse, f"SELECT id, ctid::text || xmin::text FROM {table.fullname}"))


def test_rows_that_stay_are_not_touched(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    other = start(warehouse, table, day="2026-11-20")
    with Stage(warehouse, table, other) as stage:
        stage.copy(rows([100], "another day", other))
        publish(warehouse, publication(stage, 1))
    finish_attempt(warehouse, other, outcome="published")
    publish_all(warehouse, table)
    before = places(warehouse, table)
    done = merge(warehouse, table)
    assert (done.rows, done.replaced) == (10, 5)
    after = places(warehouse, table)
    assert texts(warehouse, table) == {"old": 15, "new": 10, "another day": 1}
    assert {id_ for id_ in after if before.get(id_) == after[id_]} == {
        "k100",
        *(f"k{n}" for n in range(STAY)),
    }


def test_what_is_counted_is_what_readers_would_see(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        assert stage.preview.count() == 0
        fill(stage)
        assert stage.preview.count() == 25
        assert stage.preview.count_distinct(["id"]) == 25
        assert stage.preview.count_distinct(["text"]) == 2
        assert stage.preview.count_where(lambda row: row.text == "old") == STAY
        assert set(stage.preview.frame(100)["id"]) == {f"k{n}" for n in range(25)}
        # A key that stays and is staged as well would be twice in the table.
        stage.copy(rows([3], "twice", attempt))
        assert (stage.preview.count(), stage.preview.count_distinct(["id"])) == (26, 25)
    finish_attempt(warehouse, attempt, outcome="failed")
    assert read(warehouse, "SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'") == [(0,)]


def test_all_may_stay_or_all_go(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    before = places(warehouse, table)
    for numbers, left in (((), 20), (OLD, 0)):
        attempt = start(warehouse, table)
        with Stage(warehouse, table, attempt) as stage:
            stage.keep(gone(numbers))
            assert stage.preview.count() == left
            publish(warehouse, publication(stage, 0, kept=left, kept_from=[1]))
        finish_attempt(warehouse, attempt, outcome="published")
        assert len(places(warehouse, table).items() & before.items()) == left
    assert texts(warehouse, table) == {}


def test_files_of_rows_that_stay_stay_on_record(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    for number in (2, 3):
        file = replace(LandingFile(), input_id=number, digest=f"sha256:0{number}")
        attempt = start(warehouse, table, run_id=f"run-{number}")
        with Stage(warehouse, table, attempt) as stage:
            stage.keep(gone([number]))
            new = rows([number], "new", attempt).with_columns(_input_id=pl.lit(number))
            stage.copy(new)
            stay = [1, 2] if number == 3 else [1]
            publish(warehouse, publication(stage, 1, inputs=[file], kept=19, kept_from=stay))
        finish_attempt(warehouse, attempt, outcome="published")
    found = read(
        warehouse,
        "SELECT i.digest, count(*) FROM lineage.latest_runs r "
        f"JOIN {table.fullname} t ON t.partition_key = r.partition_key AND r.job = '{table.name}' "
        "JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = t._input_id "
        "GROUP BY 1 ORDER BY 1",
    )
    assert found == [("sha256:00", 18), ("sha256:02", 1), ("sha256:03", 1)]


def test_a_row_whose_file_nobody_knows_stops_the_publication(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    with pytest.raises(ReconciliationError, match=r"_input_id \[99\]"):
        merge(warehouse, table, kept_from=[1, 99])
    assert texts(warehouse, table) == {"old": 20}


def test_other_rows_than_the_audit_saw_stop_the_publication(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        fill(stage)
        with warehouse.begin() as connection:
            connection.exec_driver_sql(f"DELETE FROM {table.fullname} WHERE id = 'k3'")
        with pytest.raises(ReconciliationError, match=r"15 rows were to stay in .* and 14 would"):
            publish(warehouse, publication(stage, len(NEW), **KEPT))
    finish_attempt(warehouse, attempt, outcome="failed")
    assert texts(warehouse, table) == {"old": 19}


def test_an_older_attempt_may_not_merge(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    old = start(warehouse, table, run_id="sleepy")
    with Stage(warehouse, table, old) as stage:
        fill(stage)
        old.lease.release()
        newest = start(warehouse, table, run_id="awake")
        with Stage(warehouse, table, newest) as newer:
            newer.keep(gone([0]))
            newer.copy(rows([0], "newest", newest))
            publish(warehouse, publication(newer, 1, kept=19, kept_from=[1]))
        with pytest.raises(StaleAttemptError, match="run awake on host-a"):
            publish(warehouse, publication(stage, len(NEW), **KEPT))
    finish_attempt(warehouse, newest, outcome="published")
    finish_attempt(warehouse, old, outcome="refused")
    assert texts(warehouse, table) == {"old": 19, "newest": 1}


def test_merging_twice_is_merging_once(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        fill(stage)
        first = publish(warehouse, publication(stage, len(NEW), **KEPT))
        again = publish(warehouse, publication(stage, len(NEW), **KEPT))
    finish_attempt(warehouse, attempt, outcome="published")
    assert again.published_at == first.published_at
    assert texts(warehouse, table) == {"old": 15, "new": 10}


CHILD = """
import sys
from pathlib import Path
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import new_table
from tests.warehouse.test_merge import merge
with Warehouse.open(home=Path(sys.argv[1])) as warehouse:
    merge(warehouse, new_table(warehouse, name="t"))
"""


def test_a_process_killed_at_any_point_leaves_old_or_new(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse:
        table = new_table(warehouse, name="t")
        for point in crashpoints.registered():
            if not point.startswith(("stage.", "merge.", "publish.")):
                continue
            publish_all(warehouse, table)
            before = places(warehouse, table)
            child = python(CHILD, str(home), OVERNIGHT_CRASH_AT=f"{point}:1")
            child.communicate(timeout=60)
            assert child.returncode == -signal.SIGKILL, point
            done = point == "publish.after_commit"
            assert texts(warehouse, table) == ({"old": 15, "new": 10} if done else {"old": 20})
            if not done:
                merge(warehouse, table)
            assert texts(warehouse, table) == {"old": 15, "new": 10}, point
            assert len(places(warehouse, table).items() & before.items()) == STAY
        left = "SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'"
        assert read(warehouse, left) == [(0,)]


@pytest.fixture
def mortal(home: Path) -> Iterator[Warehouse]:
    with Warehouse.open(home=home) as opened:
        yield opened


@pytest.mark.parametrize("seed", [2, 6, "before commit", "while committing"])
def test_postgres_killed_while_merging_leaves_old_or_new(
    mortal: Warehouse, seed: int | str
) -> None:
    table = new_table(mortal, name="t")
    publish_all(mortal, table)
    attempt = start(mortal, table)
    statements = 0
    killed = False

    def strike(*_: Any) -> None:
        nonlocal statements, killed
        statements += 1
        if not killed and seed in {statements, "before commit"}:
            killed = True
            kill_server(mortal)

    def strike_while_committing(connection: sa.Connection) -> None:
        # The commit reaches the server and takes place; its answer is lost.
        nonlocal killed
        if not killed:
            killed = True
            connection.connection.driver_connection.commit()  # type: ignore[union-attr]
            kill_server(mortal)

    where = "before_cursor_execute" if isinstance(seed, int) else "commit"
    hook = strike_while_committing if seed == "while committing" else strike
    committed = seed == "while committing"
    with Stage(mortal, table, attempt) as stage:
        fill(stage)
        sa.event.listen(mortal._engine, where, hook)
        with contextlib.nullcontext() if committed else pytest.raises(StagingLostError):
            publish(mortal, publication(stage, len(NEW), **KEPT))
        sa.event.remove(mortal._engine, where, hook)
    assert killed
    assert texts(mortal, table) == ({"old": 15, "new": 10} if committed else {"old": 20})
    if not committed:
        with Stage(mortal, table, attempt) as stage:
            fill(stage)
            publish(mortal, publication(stage, len(NEW), **KEPT))
    finish_attempt(mortal, attempt, outcome="published")
    assert texts(mortal, table) == {"old": 15, "new": 10}


def test_what_a_dead_merge_left_is_swept(warehouse: Warehouse) -> None:
    table = new_table(warehouse, name="n" * 63)
    publish_all(warehouse, table)
    killed = start(warehouse, table)
    stage = Stage(warehouse, table, killed)
    stage.__enter__()
    fill(stage)
    killed.lease.release()
    staged = "SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'"
    assert read(warehouse, staged) == [(2,)]
    merge(warehouse, table)
    assert read(warehouse, staged) == [(0,)]


def test_an_emptied_list_of_what_goes_is_noticed(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_all(warehouse, table)
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        stage.keep(gone(range(STAY, 20)))
        assert stage.gone is not None
        with warehouse.begin() as connection:
            connection.exec_driver_sql(f"TRUNCATE staging.{stage.gone.name}")
        with pytest.raises(StagingLostError, match="held 5 rows and now holds 0"):
            publish(warehouse, publication(stage, 0, **KEPT))
        with pytest.raises(StagingLostError):
            stage.check_held(0)
    finish_attempt(warehouse, attempt, outcome="failed")
    assert texts(warehouse, table) == {"old": 20}
