"""The worker loop when its machine goes: real journal, an engine that types letter by letter."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from overnight.engines.trivial import TrivialReverse
from overnight.errors import DrainingError
from overnight.journal import Journal
from overnight.store import StoreConfig
from overnight.workers.loop import Provenance, WorkerLoop
from tests.support.typist import Typist, TypistEngine
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from overnight.journal import JournalWriter

WAIT = 60.0
LONG = 400


def split(requests: Sequence[str], partial: pa.Array | None = None) -> pa.Table:
    rows = range(len(requests))
    columns: dict[str, Any] = {
        "row": pa.array(rows, pa.int64()),
        "key": [f"k{i}" for i in rows],
        "input_hash": pa.array([i.to_bytes(16, "big") for i in rows], pa.binary(16)),
        "request": pa.array(requests, pa.string()),
    }
    if partial is not None:
        columns["partial"] = partial
    return pa.table(columns)


def by(attempt: int) -> Provenance:
    return {"run_id": "run-a", "attempt": attempt, "machine": "m1"}


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(StoreConfig(url=tmp_path.as_uri()).open(), "job", "f0", "2026-01-05")


def done(journal: Journal) -> dict[bytes, str]:
    tables = [table.select(["input_hash", "text"]) for table in journal.tables()]
    return {row["input_hash"]: row["text"] for table in tables for row in table.to_pylist()}


def handed_back(loop: WorkerLoop, table: pa.Table, writer: JournalWriter, seconds: float) -> Any:
    """Drain while all rows are in flight; the error of the split's ticket."""
    ticket = loop.run("s", table, writer, by(1))
    until(lambda: loop.progress().in_flight > 0, seconds=WAIT)
    loop.drain(seconds)
    error = ticket.exception(WAIT)
    assert isinstance(error, DrainingError)
    return error


def letters(path: Path) -> int:
    return path.stat().st_size


def test_what_fits_is_finished_the_rest_is_kept_and_no_letter_is_typed_twice(
    journal: Journal, tmp_path: Path
) -> None:
    counter = tmp_path / "letters"
    spec = Typist(window=64, step_s=0.01, counter=str(counter))
    short, long = ["abc" * 10] * 20, ["xyz" * LONG] * 20
    loop = WorkerLoop(spec)
    with journal.writer(attempt=1, worker="w1") as writer:
        error = handed_back(loop, split([*short, *long]), writer, 3.0)
        # Nobody has waited for the end: the long ones are free at once.
        assert {int.from_bytes(h, "big") for h in error.finishing} <= set(range(20))
        assert loop.drained(WAIT)
    assert sorted(int.from_bytes(h, "big") for h in done(journal)) == list(range(20))

    states = journal.partials()
    assert states is not None
    left = {row["input_hash"]: row["partial"] for row in states.to_pylist()}
    requests = split([*short, *long])
    rest = requests.slice(20)
    partial = pa.array([left[h] for h in rest["input_hash"].to_pylist()], spec.partial_type)
    other = WorkerLoop(Typist(window=64, step_s=0.0, counter=str(counter)))
    with journal.writer(attempt=2, worker="w2") as writer:
        other.run("s", rest.append_column("partial", partial), writer, by(2)).result(WAIT)
    other.close()
    loop.close()
    assert set(done(journal).values()) == {("abc" * 10)[::-1], ("xyz" * LONG)[::-1]}
    assert letters(counter) == sum(map(len, [*short, *long]))


def test_when_time_is_up_the_rest_is_kept_too(journal: Journal, tmp_path: Path) -> None:
    class Optimist(Typist):
        """Believes that everything is done at once."""

        def start(self) -> Any:
            engine = super().start()
            engine.time_left = lambda: dict.fromkeys(engine._words, 0.0)  # type: ignore[method-assign]
            return engine

    loop = WorkerLoop(Optimist(step_s=0.01, counter=str(tmp_path / "letters")))
    with journal.writer(attempt=1, worker="w1") as writer:
        error = handed_back(loop, split(["xyz" * LONG] * 5), writer, 1.5)
        assert len(error.finishing) == 5
        assert loop.drained(WAIT)
    loop.close()
    states = journal.partials()
    assert states is not None
    kept = [len(row["partial"]["text"]) for row in states.to_pylist()]
    assert len(kept) == 5
    assert sum(kept) == letters(tmp_path / "letters")


def test_a_draining_worker_takes_nothing_more(journal: Journal) -> None:
    loop = WorkerLoop(TrivialReverse())
    loop.drain(5.0)
    assert loop.drained(WAIT)
    with journal.writer(attempt=1, worker="w1") as writer:
        ticket = loop.run("s", split(["abc"]), writer, by(1))
        assert isinstance(ticket.exception(WAIT), DrainingError)
    with pytest.raises(DrainingError):
        loop.ready()
    loop.close()


def test_an_engine_whose_rows_cannot_stop_finishes_what_it_computes(journal: Journal) -> None:
    loop = WorkerLoop(TrivialReverse(window=8, batch=8))
    with journal.writer(attempt=1, worker="w1") as writer:
        ticket = loop.run("s", split(["!slow 3000 abc"] * 8 + ["def"] * 100), writer, by(1))
        until(lambda: loop.progress().in_flight > 0, seconds=WAIT)
        loop.drain(20.0)
        error = ticket.exception(WAIT)
        assert loop.drained(WAIT)
    loop.close()
    if error is not None:  # else all was finished before the drain began
        assert isinstance(error, DrainingError)
        assert set(error.finishing) <= set(done(journal))


def test_without_notice_a_row_is_kept_as_of_the_last_flush(
    journal: Journal, tmp_path: Path
) -> None:
    loop = WorkerLoop(Typist(step_s=0.002, counter=str(tmp_path / "letters")))
    writer = journal.writer(attempt=1, worker="w1")
    loop.run("s", split(["xyz" * 100_000]), writer, by(1))

    def kept() -> int:
        states = journal.partials()
        return 0 if states is None else len(states["partial"][0].as_py()["text"])

    until(lambda: kept() > 50, seconds=WAIT)
    before = kept()
    until(lambda: kept() > before, seconds=WAIT)
    loop.abort(1)
    loop.close()
    writer.close()


def test_the_furthest_state_counts_and_torn_files_do_not(journal: Journal, tmp_path: Path) -> None:
    def state(length: int, attempt: int) -> pa.Table:
        return pa.table(
            {
                "key": ["k0"],
                "input_hash": pa.array([bytes(16)], pa.binary(16)),
                "failure": pa.array([None], pa.string()),
                "run_id": ["r"],
                "attempt": pa.array([attempt], pa.int64()),
                "machine": ["m"],
                "progress": pa.array([length], pa.int64()),
                "partial": ["x" * length],
            }
        )

    for attempt, length in ((1, 9), (2, 3)):
        with journal.writer(attempt=attempt, worker="w") as writer:
            writer.note(state(length, attempt))
            writer.flush()
    (folder,) = (tmp_path / "partial").rglob("2026-01-05")
    (folder / "000003-w.arrow").write_bytes(b"torn")
    states = journal.partials()
    assert states is not None
    assert states["partial"].to_pylist() == ["x" * 9]
    assert journal.done().is_empty()
    journal.forget_partials()
    assert journal.partials() is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Clingy(Typist):
    """Its engine does not close before it may."""

    may_close: threading.Event = field(default_factory=threading.Event)

    def start(self) -> TypistEngine:
        may_close = self.may_close

        class Engine(TypistEngine):
            def close(self) -> None:
                may_close.wait(WAIT)
                super().close()

        return Engine(self)


def test_the_end_of_a_drain_is_told_before_the_engine_is_closed(journal: Journal) -> None:
    """Closing vLLM takes seconds, which a machine that goes may not have."""
    spec = Clingy(step_s=0.01)
    loop = WorkerLoop(spec)
    try:
        with journal.writer(attempt=1, worker="w1") as writer:
            handed_back(loop, split(["a" * LONG]), writer, 0.5)
            assert loop.drained(timeout=WAIT / 2)
            assert not spec.may_close.is_set()
    finally:
        spec.may_close.set()
        loop.close()
