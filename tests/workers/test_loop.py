"""The worker loop with a real journal and the trivial engine."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.engines.trivial import TrivialEngine, TrivialReverse
from overnight.errors import (
    ConfigError,
    EngineBrokenError,
    EngineDied,
    ModelError,
    StaleAttemptError,
)
from overnight.journal import Journal
from overnight.store import StoreConfig
from overnight.workers.bisection import Bisection
from overnight.workers.loop import Provenance, WorkerLoop

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from overnight.journal import JournalWriter

WAIT = 60.0


def split(requests: Sequence[str | None], first: int = 0) -> pa.Table:
    rows = range(first, first + len(requests))
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "key": [f"k{i}" for i in rows],
            "input_hash": pa.array([i.to_bytes(16, "big") for i in rows], pa.binary(16)),
            "request": pa.array(requests, pa.string()),
            "region": [f"r{i % 3}" for i in rows],
        }
    )


def by(attempt: int = 1) -> Provenance:
    return {"run_id": "run-a", "attempt": attempt, "machine": "m1"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(StoreConfig(url=tmp_path.as_uri()).open(), "job", "f0", "2026-01-05")


@pytest.fixture
def writer(journal: Journal) -> Iterator[JournalWriter]:
    with journal.writer(attempt=1, worker="w1") as made:
        yield made


def records(journal: Journal) -> pl.DataFrame:
    tables = list(journal.tables())
    frame = pl.from_arrow(pa.concat_tables(tables))
    assert isinstance(frame, pl.DataFrame)
    return frame.sort("input_hash")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fickle(TrivialReverse):
    """A trivial engine whose first `bad_starts` starts fail."""

    bad_starts: int = 0
    error: Exception = dataclasses.field(default_factory=lambda: OSError("no memory"))
    started: list[int] = dataclasses.field(default_factory=list)

    def start(self) -> TrivialEngine:
        self.started.append(1)
        if len(self.started) <= self.bad_starts:
            raise self.error
        return TrivialEngine(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doomed(TrivialReverse):
    """Starts, and dies of whatever it is given."""

    def start(self) -> TrivialEngine:
        class Dies(TrivialEngine):
            def step(self) -> pa.Table:
                self._suspects = self._waiting["row"].to_pylist()
                msg = "the device is gone"
                raise EngineDied(msg)

        return Dies(self)


def test_every_row_is_durable_with_key_carried_columns_and_provenance_when_the_ticket_is_done(
    journal: Journal, writer: JournalWriter
) -> None:
    loop = WorkerLoop(TrivialReverse(window=64, batch=16))
    try:
        done = loop.run("s0", split([f"text {i}" for i in range(500)]), writer, by())
        assert done.result(WAIT) == 500
        found = records(journal)
    finally:
        loop.close()
    assert found["key"].to_list() == [f"k{i}" for i in range(500)]
    assert found["text"].to_list() == [f"text {i}"[::-1] for i in range(500)]
    assert found["region"].to_list() == [f"r{i % 3}" for i in range(500)]
    assert found["failure"].null_count() == 500
    assert found.select("run_id", "attempt", "machine").unique().rows() == [("run-a", 1, "m1")]
    assert loop.progress().rows == 500
    assert loop.progress().engine_starts == 1


def test_a_row_that_cannot_be_inferred_becomes_a_record_with_a_reason(
    journal: Journal, writer: JournalWriter
) -> None:
    loop = WorkerLoop(TrivialReverse())
    try:
        loop.run("s0", split(["good", "!fail too odd", None]), writer, by()).result(WAIT)
    finally:
        loop.close()
    found = records(journal)
    assert found["failure"].to_list() == [None, "told: too odd", "null_request"]
    assert found["text"].to_list() == ["doog", None, None]
    assert loop.progress(1).failed == 2


def test_the_window_stays_full_across_splits(journal: Journal, writer: JournalWriter) -> None:
    """The slow row of the first split does not hold up the second one."""
    loop = WorkerLoop(TrivialReverse(window=8, batch=4))
    try:
        slow = loop.run("s0", split(["!slow 100000", "a"]), writer, by())
        loop.run("s1", split([f"b{i}" for i in range(50)], 2), writer, by()).result(WAIT)
        assert not slow.done()
        assert loop.progress().in_flight == 1
        loop.abort(1)
        with pytest.raises(StaleAttemptError, match="attempt 1 was aborted"):
            slow.result(WAIT)
    finally:
        loop.close()
    assert len(records(journal)) == 51


def test_abort_drops_only_the_superseded_attempt(journal: Journal, writer: JournalWriter) -> None:
    loop = WorkerLoop(TrivialReverse(window=8, batch=4))
    try:
        old = loop.run("s0", split(["!slow 1000000 x"] * 20), writer, by(1))
        with journal.writer(attempt=2, worker="w1") as newer:
            new = loop.run("s0", split(["y"] * 20), newer, by(2))
            loop.abort(1)
            assert new.result(WAIT) == 20
        with pytest.raises(StaleAttemptError):
            old.result(WAIT)
    finally:
        loop.close()
    assert records(journal)["attempt"].to_list() == [2] * 20


def test_an_empty_split_is_done_at_once(writer: JournalWriter) -> None:
    loop = WorkerLoop(TrivialReverse())
    try:
        assert loop.run("s0", split([]), writer, by()).result(WAIT) == 0
    finally:
        loop.close()


def test_a_table_that_cannot_be_journaled_is_refused(writer: JournalWriter) -> None:
    loop = WorkerLoop(TrivialReverse())
    try:
        table = split(["a"])
        with pytest.raises(ConfigError, match="lacks"):
            loop.run("s0", table.drop_columns(["key"]), writer, by())
        with pytest.raises(ConfigError, match="text"):
            loop.run("s0", table.append_column("text", [["a"]]), writer, by())
    finally:
        loop.close()


def test_ready_says_whether_the_engine_was_warm(writer: JournalWriter) -> None:
    loop = WorkerLoop(Fickle(bad_starts=2))
    try:
        assert loop.ready() > 0
        assert loop.ready() == 0
        assert loop.run("s0", split(["a"]), writer, by()).result(WAIT) == 1
        assert loop.progress().engine_starts == 3
    finally:
        loop.close()


def test_an_engine_that_never_starts_fails_the_tickets_within_its_budget(
    writer: JournalWriter,
) -> None:
    spec = Fickle(bad_starts=99)
    loop = WorkerLoop(spec, budget=3)
    try:
        ticket = loop.run("s0", split(["a", "b"]), writer, by())
        with pytest.raises(EngineBrokenError, match="no memory"):
            ticket.result(WAIT)
        with pytest.raises(EngineBrokenError):
            loop.ready()
        assert len(spec.started) == 6
    finally:
        loop.close()


def test_a_wrong_model_is_not_retried(writer: JournalWriter) -> None:
    spec = Fickle(bad_starts=99, error=ModelError("digest differs"))
    loop = WorkerLoop(spec)
    try:
        with pytest.raises(ModelError, match="digest differs"):
            loop.run("s0", split(["a"]), writer, by()).result(WAIT)
        assert len(spec.started) == 1
    finally:
        loop.close()


@pytest.mark.parametrize("rows", [1, 2, 7, 64])
def test_an_engine_that_dies_of_everything_condemns_no_row(
    rows: int, journal: Journal, writer: JournalWriter
) -> None:
    loop = WorkerLoop(Doomed(window=64, batch=64), budget=3)
    try:
        ticket = loop.run("s0", split(["a"] * rows), writer, by())
        with pytest.raises(EngineBrokenError, match="the device is gone"):
            ticket.result(WAIT)
        assert loop.progress().engine_starts <= 5
    finally:
        loop.close()
    assert not list(journal.tables())


@pytest.mark.parametrize("at", [0, 1, 100, 255, 256, 511, 999])
def test_the_killer_row_is_found_and_nothing_else_is_lost(
    at: int, journal: Journal, writer: JournalWriter
) -> None:
    requests = [f"text {i}" for i in range(1000)]
    requests[at] = "!die"
    window = 256
    loop = WorkerLoop(TrivialReverse(window=window, batch=window))
    try:
        loop.run("s0", split(requests), writer, by()).result(WAIT)
    finally:
        loop.close()
    found = records(journal)
    assert len(found) == 1000
    dead = found.filter(pl.col("failure").is_not_null())
    assert dead["key"].to_list() == [f"k{at}"]
    assert "killed the engine" in dead["failure"][0]
    assert loop.progress().engine_starts <= math.log2(window) + 2


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_set_of_killers_is_found_within_a_bounded_number_of_starts(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    window = data.draw(st.sampled_from([1, 2, 5, 16, 64]))
    rows = data.draw(st.integers(1, 150))
    killers = data.draw(st.sets(st.integers(0, rows - 1), max_size=6))
    requests = ["!die" if i in killers else f"t{i}" for i in range(rows)]
    store = StoreConfig(url=tmp_path_factory.mktemp("store").as_uri()).open()
    journal = Journal(store, "job", "f0", "2026-01-05")
    loop = WorkerLoop(TrivialReverse(window=window, batch=window))
    try:
        with journal.writer(attempt=1, worker="w1") as writer:
            loop.run("s0", split(requests), writer, by()).result(WAIT)
    finally:
        loop.close()
    found = records(journal)
    assert found["key"].to_list() == [f"k{i}" for i in range(rows)]
    failed = {i for i, why in enumerate(found["failure"].to_list()) if why is not None}
    assert failed == killers
    # One killer: log2(window) + 2. Each further one costs its own deaths, never the others'.
    each = math.ceil(math.log2(window)) + 2
    assert loop.progress().engine_starts <= 1 + each * len(killers)


@given(rows=st.integers(2, 300))
def test_an_engine_that_no_row_killed_costs_two_rounds(rows: int) -> None:
    search, groups = Bisection(range(rows)), []
    while (group := search.next()) is not None:
        groups.append(group)
        search.passed()
    assert [row for group in groups for row in group] == list(range(rows))
    assert len(groups) == 2


@given(rows=st.integers(1, 300), data=st.data())
def test_bisection_alone_decides_every_suspect(rows: int, data: st.DataObject) -> None:
    killers = data.draw(st.sets(st.integers(0, rows - 1), min_size=1, max_size=5))
    search, found, decided, deaths = Bisection(range(rows)), set(), set(), 0
    while (group := search.next()) is not None:
        if killers & set(group):
            deaths += 1
            killer = search.died()
            if killer is not None:
                found.add(killer)
                decided.add(killer)
        else:
            search.passed()
            decided |= set(group)
    assert found == killers
    assert decided == set(range(rows))
    assert deaths <= len(killers) * max(1, math.ceil(math.log2(rows)))


def test_a_journal_that_fails_fails_the_ticket(journal: Journal) -> None:
    writer = journal.writer(attempt=1, worker="w1")
    writer.close()
    loop = WorkerLoop(TrivialReverse())
    try:
        with pytest.raises(RuntimeError, match="closed"):
            loop.run("s0", split(["a"]), writer, by()).result(WAIT)
    finally:
        loop.close()


def test_closing_fails_what_is_unfinished_and_refuses_more(writer: JournalWriter) -> None:
    loop = WorkerLoop(TrivialReverse())
    ticket = loop.run("s0", split(["!slow 100000000 a"]), writer, by())
    loop.close()
    with pytest.raises(EngineDied, match="closed"):
        ticket.result(WAIT)
    loop.close()
    loop.abort(1)
    with pytest.raises(RuntimeError, match="closed"):
        loop.ready()


def test_progress_of_one_attempt_leaves_the_others_out(
    journal: Journal, writer: JournalWriter
) -> None:
    loop = WorkerLoop(TrivialReverse())
    try:
        loop.run("s0", split(["a"] * 3), writer, by(1)).result(WAIT)
        with journal.writer(attempt=2, worker="w1") as second:
            loop.run("s0", split(["!fail b"] * 2), second, by(2)).result(WAIT)
        seen: list[Any] = [(p.rows, p.failed) for p in map(loop.progress, (1, 2, 3, None))]
    finally:
        loop.close()
    assert seen == [(3, 0), (2, 2), (0, 0), (5, 2)]
