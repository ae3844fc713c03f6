from __future__ import annotations

import contextlib
import signal
import threading
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa

from overnight import crashpoints
from overnight.errors import (
    ContractError,
    ReconciliationError,
    StagingLostError,
    StaleAttemptError,
    WarehouseUnavailableError,
)
from overnight.lineage.record import Counts, finish_attempt
from overnight.warehouse.connect import Warehouse
from overnight.warehouse.publications import (
    current_publication,
    dead_letter_hashes,
    published_hashes,
)
from overnight.warehouse.publish import publish
from overnight.warehouse.stage import Stage
from tests.warehouse.helpers import (
    DAY,
    NO_DEAD_LETTERS,
    NO_REJECTS,
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
    from collections.abc import Iterator
    from pathlib import Path


def publish_rows(warehouse: Warehouse, table: sa.Table, count: int, text: str) -> int:
    """A whole attempt, which stages again when Postgres lost what was staged."""
    attempt = start(warehouse, table)
    try:
        while True:
            with (
                contextlib.suppress(WarehouseUnavailableError),
                Stage(warehouse, table, attempt) as stage,
            ):
                stage.copy(rows(range(count), text, attempt))
                publish(warehouse, publication(stage, count))
                return attempt.attempt
    finally:
        finish_attempt(warehouse, attempt, outcome="failed")


def test_a_publication_replaces_its_partition_and_no_other(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    for day, text in (("2026-11-20", "before"), (DAY, "old"), (DAY, "new")):
        attempt = start(warehouse, table, day=day)
        with Stage(warehouse, table, attempt) as stage:
            stage.copy(rows(range(3), text, attempt))
            done = publish(warehouse, publication(stage, 3))
        finish_attempt(warehouse, attempt, outcome="published")
    assert texts(warehouse, table) == {"before": 3, "new": 3}
    assert done.replaced == 3
    assert read(warehouse, "SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'") == [(0,)]


def test_lineage_is_written_with_the_rows(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    rejects = pl.DataFrame(
        [("articles", "a.csv", 7, None, "price", "'x\0'", "not a number")],
        schema=NO_REJECTS.schema,
        orient="row",
    )
    dead = pl.DataFrame(
        [("k9", hashed(9), "too long", "run-0", 1, "host-b", 1, 9)],
        schema=NO_DEAD_LETTERS.schema,
        orient="row",
    )
    written: list[str] = []
    with Stage(warehouse, table, attempt) as stage:
        stage.copy(rows([1, 2], "text", attempt))
        counts = Counts(rows_in=4, rejected=1, reused=0, inferred=3, dead_lettered=1)
        publish(
            warehouse,
            publication(
                stage, 2, counts=counts, rejects=rejects, dead_letters=dead, summary={"ok": True},
                tokens_in=10, also=[lambda connection: written.append(str(connection.closed))],
            ),
        )  # fmt: skip
    finish_attempt(warehouse, attempt, outcome="published")
    job = table.name
    sums = "SELECT rows_in = published + rejected + dead_lettered, inferred, tokens_in, summary"
    assert read(warehouse, f"{sums} FROM lineage.latest_runs WHERE job = %s", job) == [
        (True, 3, 10, {"ok": True})
    ]
    query = 'SELECT file, line, "column", value FROM lineage.current_rejects WHERE job = %s'
    assert read(warehouse, query, job) == [("a.csv", 7, "price", "'x\ufffd'")]
    assert read(
        warehouse,
        f"SELECT i.uri FROM {table.fullname} t JOIN lineage.runs r ON r.attempt = t._attempt "
        "JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = t._input_id "
        "WHERE t.id = 'k1'",
    ) == [("s3://bucket/landing/articles/2026-11-21/a.jsonl",)]
    with warehouse.connect() as connection:
        assert dead_letter_hashes(connection, job, DAY).rows() == dead.rows()
        assert sorted(published_hashes(connection, table, DAY)["input_hash"]) == [
            hashed(1),
            hashed(2),
        ]
        current = current_publication(connection, job, DAY)
        assert current_publication(connection, job, "1999-01-01") is None
    assert current is not None
    assert (current.attempt, current.fingerprint, current.published) == (attempt.attempt, "f1", 2)
    assert written == ["False"]


def test_an_older_attempt_is_refused_and_told_by_whom(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    old = start(warehouse, table, run_id="sleepy")
    with Stage(warehouse, table, old) as stage:
        stage.copy(rows([1], "stale", old))
        old.lease.release()
        new = start(warehouse, table, run_id="awake")
        with pytest.raises(StaleAttemptError, match=f"attempt {new.attempt} .run awake on host-a"):
            publish(warehouse, publication(stage, 1))
    finish_attempt(warehouse, old, outcome="failed", error="stale")
    finish_attempt(warehouse, new, outcome="failed")
    assert texts(warehouse, table) == {}


def test_other_rows_than_were_audited_are_not_published(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_rows(warehouse, table, 2, "old")
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        stage.copy(rows([1, 2, 3], "new", attempt))
        with pytest.raises(ReconciliationError, match="2 rows were audited and 3 are staged"):
            publish(warehouse, publication(stage, 2))
    with pytest.raises(StagingLostError, match=r"held 3 .* now holds none"):
        publish(warehouse, publication(stage, 3))
    with Stage(warehouse, table, attempt) as stage, pytest.raises(StagingLostError):
        publish(warehouse, publication(stage, 3))
    finish_attempt(warehouse, attempt, outcome="refused")
    assert texts(warehouse, table) == {"old": 2}


def test_publishing_twice_is_publishing_once(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        stage.copy(rows([1, 2], "once", attempt))
        first = publish(warehouse, publication(stage, 2))
        again = publish(warehouse, publication(stage, 2))
    finish_attempt(warehouse, attempt, outcome="failed", error="after the fact")
    assert again.published_at == first.published_at
    assert read(warehouse, "SELECT count(*) FROM lineage.runs WHERE job = %s", table.name) == [(1,)]
    query = "SELECT outcome, error FROM lineage.attempts WHERE job = %s"
    assert read(warehouse, query, table.name) == [("published", None)]


def test_an_empty_partition_can_be_published(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    publish_rows(warehouse, table, 2, "old")
    publish_rows(warehouse, table, 0, "none")
    assert texts(warehouse, table) == {}


def test_a_reader_never_sees_a_mixture_nor_waits(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    count, versions = 500, 12
    publish_rows(warehouse, table, count, "v0")
    seen: list[dict[str, int]] = []
    done = threading.Event()

    def poll() -> None:
        while not done.is_set():
            with warehouse.connect() as connection:
                connection.exec_driver_sql("SET lock_timeout = '1ms'")
                found = f"SELECT text, count(*) FROM {table.fullname} GROUP BY text"
                seen.append({row[0]: row[1] for row in connection.exec_driver_sql(found)})

    reader = threading.Thread(target=poll)
    reader.start()
    try:
        for version in range(1, versions):
            publish_rows(warehouse, table, count, f"v{version}")
    finally:
        done.set()
        reader.join()
    assert {tuple(found.values()) for found in seen} == {(count,)}
    assert len({next(iter(found)) for found in seen}) > 1


def test_rows_are_reused_with_the_place_where_they_stand_now(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    first = publish_rows(warehouse, table, 4, "first")
    attempt = start(warehouse, table, run_id="run-2")
    with Stage(warehouse, table, attempt) as stage:
        again = pl.DataFrame(
            {
                "input_hash": [hashed(1), hashed(2), hashed(77)],
                "_input_id": [5, 5, 5],
                "_line": [8, 9, 1],
            }
        )
        assert stage.reuse(again) == 2
        assert stage.reuse(again.clear()) == 0
        assert stage.copy(rows([9], "second", attempt)) == 1
        assert stage.preview.count() == 3
        assert stage.preview.count_distinct(["text"]) == 2
        assert stage.preview.count_where(lambda columns: columns.text == "first") == 2
        assert stage.preview.frame(2).height == 2
        publish(warehouse, publication(stage, 3))
    finish_attempt(warehouse, attempt, outcome="published")
    query = (
        f"SELECT id, text, _run_id, _attempt, _input_id, _line FROM {table.fullname} ORDER BY id"
    )
    assert read(warehouse, query) == [
        ("k1", "first", "run-1", first, 5, 8),
        ("k2", "first", "run-1", first, 5, 9),
        ("k9", "second", "run-2", attempt.attempt, 1, 9),
    ]


@pytest.mark.parametrize("run_id", ["run-1", '100% of it\'s \\ %s :x "y"'])
def test_who_inferred_a_row_is_kept_where_others_did_and_where_all_are_this_attempts(
    warehouse: Warehouse, run_id: str
) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table, run_id=run_id)
    own = rows([1, 2], "own", attempt)
    others = own.with_columns(id=pl.col("id") + "-other")
    with Stage(warehouse, table, attempt) as stage:
        assert stage.copy(own.with_columns(partition_key=pl.lit(attempt.partition_key))) == 2
        assert stage.copy(others.with_columns(_run_id=pl.lit("earlier"), _attempt=pl.lit(0))) == 2
        mixed = pl.concat([own, own.with_columns(_attempt=pl.lit(0, pl.Int64))])
        assert stage.copy(mixed.with_columns(id=pl.Series(["m1", "m2", "m3", "m4"]))) == 4
        found = stage.preview.frame(8).select("id", "partition_key", "_run_id", "_attempt")
    finish_attempt(warehouse, attempt, outcome="failed")
    mine = (attempt.partition_key, run_id, attempt.attempt)
    assert sorted(found.rows()) == sorted(
        [
            *((name, *mine) for name in ("k1", "k2", "m1", "m2")),
            *((f"k{n}-other", attempt.partition_key, "earlier", 0) for n in (1, 2)),
            *((name, attempt.partition_key, run_id, 0) for name in ("m3", "m4")),
        ]
    )


def test_staged_nul_names_its_row(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    with (
        Stage(warehouse, table, attempt) as stage,
        pytest.raises(ContractError, match=r"'text'.*k3"),
    ):
        stage.copy(rows([3], "a\0", attempt))
    finish_attempt(warehouse, attempt, outcome="failed")


def test_a_name_of_the_longest_length_can_be_staged(warehouse: Warehouse) -> None:
    table = new_table(warehouse, name="n" * 63)
    publish_rows(warehouse, table, 1, "x")
    assert texts(warehouse, table) == {"x": 1}


def test_what_dead_attempts_staged_is_swept_and_what_runs_is_not(warehouse: Warehouse) -> None:
    dead, alive, next_one = (new_table(warehouse) for _ in range(3))
    killed = start(warehouse, dead)
    Stage(warehouse, dead, killed).__enter__()
    killed.lease.release()
    running = start(warehouse, alive)
    Stage(warehouse, alive, running).__enter__()
    publish_rows(warehouse, next_one, 1, "x")
    staged = "SELECT tablename FROM pg_tables WHERE schemaname = 'staging' ORDER BY 1"
    left = {f"{dead.name}__{killed.attempt}", f"{alive.name}__{running.attempt}"}
    assert {name for (name,) in read(warehouse, staged)} == left
    publish_rows(warehouse, dead, 1, "x")
    assert read(warehouse, staged) == [(f"{alive.name}__{running.attempt}",)]
    Stage(warehouse, alive, running).__exit__(None, None, None)
    finish_attempt(warehouse, running, outcome="failed")


CHILD = """
import sys
from pathlib import Path
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import new_table
from tests.warehouse.test_publish import publish_rows
with Warehouse.open(home=Path(sys.argv[1])) as warehouse:
    publish_rows(warehouse, new_table(warehouse, name="t"), 50, "new")
"""


def test_a_process_killed_at_any_point_leaves_old_or_new(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse:
        table = new_table(warehouse, name="t")
        for point in crashpoints.registered():
            if not point.startswith(("stage.", "publish.")):
                continue
            publish_rows(warehouse, table, 50, "old")
            child = python(CHILD, str(home), OVERNIGHT_CRASH_AT=f"{point}:1")
            child.communicate(timeout=60)
            assert child.returncode == -signal.SIGKILL, point
            expected = "new" if point == "publish.after_commit" else "old"
            assert texts(warehouse, table) == {expected: 50}, point
            publish_rows(warehouse, table, 50, "retried")
            assert texts(warehouse, table) == {"retried": 50}


@pytest.fixture
def mortal(home: Path) -> Iterator[Warehouse]:
    with Warehouse.open(home=home) as opened:
        yield opened


@pytest.mark.parametrize("seed", [2, 5, 9, "before commit", "while committing"])
def test_postgres_killed_while_publishing_leaves_old_or_new(
    mortal: Warehouse, seed: int | str
) -> None:
    table = new_table(mortal, name="t")
    publish_rows(mortal, table, 200, "old")
    attempt = start(mortal, table)
    killed = threading.Event()
    statements = 0

    def strike(*_: Any) -> None:
        nonlocal statements
        statements += 1
        if not killed.is_set() and seed in {statements, "before commit"}:
            killed.set()
            kill_server(mortal)

    def strike_while_committing(connection: sa.Connection) -> None:
        # The commit reaches the server and takes place; its answer is lost.
        if not killed.is_set():
            killed.set()
            connection.connection.driver_connection.commit()  # type: ignore[union-attr]
            kill_server(mortal)

    where = "before_cursor_execute" if isinstance(seed, int) else "commit"
    hook = strike_while_committing if seed == "while committing" else strike
    with Stage(mortal, table, attempt) as stage:
        stage.copy(rows(range(100), "new", attempt))
        sa.event.listen(mortal._engine, where, hook)
        outcome: Any = contextlib.nullcontext()
        if seed != "while committing":
            outcome = pytest.raises(StagingLostError)
        with outcome:
            publish(mortal, publication(stage, 100))
        sa.event.remove(mortal._engine, where, hook)
    assert killed.is_set()
    committed = seed == "while committing"
    assert texts(mortal, table) == ({"new": 100} if committed else {"old": 200})
    if not committed:
        with Stage(mortal, table, attempt) as stage:
            stage.copy(rows(range(100), "new", attempt))
            publish(mortal, publication(stage, 100))
    finish_attempt(mortal, attempt, outcome="published")
    assert texts(mortal, table) == {"new": 100}
    runs = "SELECT count(*) FROM lineage.runs WHERE attempt = %s"
    assert read(mortal, runs, attempt.attempt) == [(1,)]
