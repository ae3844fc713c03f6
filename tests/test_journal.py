from __future__ import annotations

import datetime as dt
import logging
import threading
from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.errors import StoreError
from overnight.journal import Journal, collect, shard, writer
from overnight.journal.writer import JournalWriter, flush_interval
from overnight.store import Store, StoreConfig
from tests.journal_records import number_of, records, wanted
from tests.moto_server import moto_server, new_bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NEVER = 3600.0


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return StoreConfig(tmp_path.as_uri()).open()


@pytest.fixture
def journal(store: Store) -> Journal:
    return Journal(store, "job", "fingerprint", "2026-11-22")


@pytest.fixture(params=["file", "s3"])
def either(request: pytest.FixtureRequest, tmp_path: Path) -> Journal:
    if request.param == "file":
        config = StoreConfig(tmp_path.as_uri())
    else:
        config = new_bucket(request.getfixturevalue("endpoint"))
    return Journal(config.open(), "job", "fingerprint", "2026-11-22")


def done(journal: Journal) -> dict[int, bool]:
    """Number -> whether there are only dead letters for it."""
    frame = journal.done()
    assert frame.schema == {"input_hash": pl.Binary, "failed": pl.Boolean}
    assert frame["input_hash"].n_unique() == frame.height
    return {number_of(row[0]): row[1] for row in frame.iter_rows()}


def found(journal: Journal, numbers: range | list[int]) -> dict[int, str | None]:
    """Number -> text of the one record that is given back for it; None for a dead letter."""
    result: dict[int, str | None] = {}
    for frame in journal.records(wanted(numbers)):
        for row in frame.iter_rows(named=True):
            assert row["_line"] == number_of(row["input_hash"])
            assert row["key"] == f"key {row['_line']}"
            assert row["_line"] not in result
            result[row["_line"]] = None if row["failure"] else row["text"]
    return result


def write(journal: Journal, *tables: pa.Table, attempt: int = 1, worker: str = "w") -> list[str]:
    """Each table in a shard of its own; the keys of the shards."""
    before = set(keys(journal))
    with journal.writer(attempt=attempt, worker=worker, interval=NEVER) as out:
        for table in tables:
            out.append(table)
            out.flush()
    return sorted(set(keys(journal)) - before)


def keys(journal: Journal) -> list[str]:
    return [entry.key for entry in journal._store.list(journal.prefix)]


def test_an_empty_journal_has_nothing_done(either: Journal) -> None:
    assert done(either) == {}
    assert found(either, range(3)) == {}
    assert list(either.tables()) == []


def test_what_was_flushed_is_done_and_given_back(either: Journal) -> None:
    acknowledged: list[int] = []
    with either.writer(
        attempt=3, worker="node-1.gpu_0", on_flushed=acknowledged.append, interval=NEVER
    ) as out:
        assert out.append(records(range(10))) == 10
        assert out.append(records(range(10, 15))) == 15
        out.flush()
        assert out.flushed() == 15
        assert done(either) == dict.fromkeys(range(15), False)
    assert acknowledged[-1] == 15
    assert found(either, range(5, 20)) == {number: f"text of {number}" for number in range(5, 15)}


def test_nothing_needs_a_flush_to_become_durable(journal: Journal) -> None:
    durable = threading.Event()
    with journal.writer(attempt=1, worker="w", on_flushed=lambda _: durable.set()) as out:
        out.append(records([1]))
        assert durable.wait(60)
        assert done(journal) == {1: False}


def test_close_flushes_and_may_be_called_twice(journal: Journal) -> None:
    out = journal.writer(attempt=1, worker="w", interval=NEVER)
    out.append(records([1]))
    out.close()
    out.close()
    assert done(journal) == {1: False}
    with pytest.raises(RuntimeError, match="closed"):
        out.append(records([2]))


@pytest.mark.parametrize("finished_first", [True, False])
def test_a_finished_record_beats_a_dead_letter(journal: Journal, *, finished_first: bool) -> None:
    tables = [records([1, 2]), records([2, 3], failure="too long")]
    write(journal, *(tables if finished_first else reversed(tables)))
    assert done(journal) == {1: False, 2: False, 3: True}
    assert found(journal, [1, 2, 3]) == {1: "text of 1", 2: "text of 2", 3: None}


def test_of_several_records_the_oldest_attempts_is_given_back(journal: Journal) -> None:
    write(journal, records([1], note=" again"), attempt=10)
    write(journal, records([1]), records([1], note=" later"), attempt=9)
    assert found(journal, [1]) == {1: "text of 1"}


def test_wanted_columns_come_with_the_records_and_win(journal: Journal) -> None:
    write(journal, records([1]))
    asked = wanted([1]).with_columns(key=pl.lit("the plan's"), state=pl.lit("journal"))
    (frame,) = journal.records(asked)
    assert frame.columns[:4] == ["input_hash", "_line", "key", "state"]
    assert frame["key"].to_list() == ["the plan's"]
    with pytest.raises(ValueError, match="only once"):
        list(journal.records(wanted([1, 1])))


def test_partitions_jobs_and_fingerprints_do_not_see_each_other(store: Store) -> None:
    names = [("job", "f", "p"), ("job", "f", "p2"), ("job", "f2", "p"), ("job2", "f", "p")]
    for number, name in enumerate(names):
        write(Journal(store, *name), records([number]))
    for number, name in enumerate(names):
        assert done(Journal(store, *name)) == {number: False}


def test_records_of_other_types_are_cast_and_only_columns_asked_for_are_read(
    journal: Journal,
) -> None:
    as_polars_has_it = pl.DataFrame(records([1, 2])).to_arrow()
    assert as_polars_has_it.schema != records([1, 2]).schema
    write(journal, as_polars_has_it)
    (table,) = journal.tables(["input_hash", "failure"])
    assert table.schema == pa.schema([shard.RECORD_SCHEMA.field(n) for n in table.column_names])


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (records([1]).drop_columns("machine"), "lack .*machine"),
        (records([1]).set_column(1, "input_hash", pa.array([None], pa.binary(16))), "without"),
        (records([1]).set_column(1, "input_hash", pa.array([b"short"])), "width"),
        (records([1]).drop_columns("text"), "changed their columns"),
    ],
)
def test_what_is_no_record_is_refused_at_once(
    journal: Journal, table: pa.Table, problem: str
) -> None:
    with journal.writer(attempt=1, worker="w", interval=NEVER) as out:
        out.append(records([7]))
        with pytest.raises(ValueError, match=problem):
            out.append(table)
    assert done(journal) == {7: False}


def test_a_worker_name_that_cannot_be_in_a_file_name_is_refused(journal: Journal) -> None:
    with pytest.raises(ValueError, match="worker name 'a/b'"):
        journal.writer(attempt=1, worker="a/b")


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zero length": lambda _: b"",
    "torn header": lambda data: data[:20],
    "torn body": lambda data: data[:-1],
    "torn in the middle": lambda data: data[: len(data) // 2],
    "grown": lambda data: data + b"\0",
    "zeroed tail": lambda data: data[:-64] + bytes(64),
    "flipped in the body": lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
    "flipped in the checksum": lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
    "flipped in the length": lambda data: data[:9] + bytes([data[9] ^ 1]) + data[10:],
    "another program's": lambda _: b"PAR1" * 100,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_shard_is_skipped_with_one_warning(
    journal: Journal, store: Store, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first, second, third = write(journal, records([1]), records([2]), records([3]))
    store.put(second, DAMAGES[damage](store.get(second)))
    with caplog.at_level(logging.WARNING):
        assert done(journal) == {1: False, 3: False}
    assert [second in record.getMessage() for record in caplog.records] == [True]
    assert found(journal, range(4)) == {1: "text of 1", 3: "text of 3"}
    assert {first, second, third} == set(keys(journal))


def test_a_foreign_file_is_skipped_with_one_warning(
    journal: Journal, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    (key,) = write(journal, records([1]))
    store.put(f"{journal.prefix}/notes.txt", b"hello")
    store.put(f"{journal.prefix}/sub/{key.rsplit('/', 1)[1]}", store.get(key))
    with caplog.at_level(logging.WARNING):
        assert done(journal) == {1: False}
    assert len(caplog.records) == 2


def test_a_shard_copied_from_another_fingerprint_is_foreign(
    journal: Journal, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    other = Journal(store, "job", "another", "2026-11-22")
    (key,) = write(other, records([1]))
    store.put(key.replace("another", "fingerprint"), store.get(key))
    assert done(journal) == {}
    assert "another journal" in caplog.text


def test_two_writers_of_one_name_never_clobber_each_other(either: Journal) -> None:
    start = threading.Barrier(2)

    def work(numbers: range) -> None:
        with either.writer(attempt=1, worker="same", interval=NEVER) as out:
            start.wait()
            for number in numbers:
                out.append(records([number]))
                out.flush()

    threads = [threading.Thread(target=work, args=(part,)) for part in (range(40), range(40, 80))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done(either) == dict.fromkeys(range(80), False)


def test_namesakes_with_the_same_content_share_a_shard_and_others_do_not(
    journal: Journal, store: Store
) -> None:
    (key,) = write(journal, records([1]))
    assert write(journal, records([1])) == []
    # The same name, and not our content: torn by a crash, say.
    store.put(key, b"torn")
    assert len(write(journal, records([1]))) == 1
    assert done(journal) == {1: False}


def test_small_shards_are_merged_and_no_record_is_lost(either: Journal) -> None:
    count = 16 * 16 + 5
    with either.writer(attempt=1, worker="w", interval=0) as out:
        for number in range(count):
            out.append(records([number]))
            out.flush()
    assert len(keys(either)) < 64 + 16
    assert found(either, range(count)) == {n: f"text of {n}" for n in range(count)}


def test_a_reader_sees_everything_flushed_while_shards_are_being_merged(journal: Journal) -> None:
    total = 600
    flushed = 0
    finished = threading.Event()

    def work() -> None:
        nonlocal flushed
        with journal.writer(attempt=1, worker="w", interval=0) as out:
            for number in range(total):
                out.append(records([number]))
                out.flush()
                flushed = number + 1
        finished.set()

    thread = threading.Thread(target=work)
    thread.start()
    while not finished.is_set():
        at_least = flushed
        assert set(done(journal)) >= set(range(at_least))
    thread.join()
    assert set(done(journal)) == set(range(total))


def test_a_damaged_shard_does_not_stop_merging(journal: Journal, store: Store) -> None:
    with journal.writer(attempt=1, worker="w", interval=NEVER) as out:
        for number in range(80):
            out.append(records([number]))
            out.flush()
            if number == 3:
                store.put(keys(journal)[2], b"torn")
    assert set(done(journal)) == set(range(80)) - {2}


@pytest.mark.parametrize(
    ("cost", "interval"), [(0.0, 0.1), (0.001, 0.1), (0.1, 2.0), (0.3, 6.0), (5.0, 10.0)]
)
def test_flushing_costs_five_percent_within_bounds(cost: float, interval: float) -> None:
    assert flush_interval(cost) == pytest.approx(interval)


class FlakyStore(Store):
    """Fails the next `failures` writes."""

    failures = 0

    def put(self, key: str, data: bytes | memoryview, *, create: bool = False) -> str:
        if self.failures:
            self.failures -= 1
            message = "the store is away"
            error = StoreError(message)
            raise error
        return super().put(key, data, create=create)


def flaky_writer(tmp_path: Path, failures: int) -> tuple[Journal, JournalWriter]:
    store = FlakyStore(StoreConfig(tmp_path.as_uri()))
    store.failures = failures
    journal = Journal(store, "job", "fingerprint", "2026-11-22")
    out = JournalWriter(
        store, journal.prefix, attempt=1, worker="w", interval=0, retry_waits=(0, 0, 0)
    )
    return journal, out


def test_a_store_that_comes_back_in_time_loses_nothing(tmp_path: Path) -> None:
    journal, out = flaky_writer(tmp_path, failures=3)
    with out:
        out.append(records([1]))
        out.flush()
        assert out.flushed() == 1
    assert done(journal) == {1: False}


def test_a_store_that_stays_away_surfaces_everywhere(tmp_path: Path) -> None:
    journal, out = flaky_writer(tmp_path, failures=1000)
    out.append(records([1]))
    for call in (out.flush, lambda: out.append(records([2])), out.close):
        with pytest.raises(StoreError, match="the store is away"):
            call()
    assert out.flushed() == 0
    assert done(journal) == {}


def test_a_callback_that_fails_surfaces_and_loses_nothing(journal: Journal) -> None:
    def fail(_: int) -> None:
        message = "callback"
        raise RuntimeError(message)

    out = journal.writer(attempt=1, worker="w", on_flushed=fail, interval=0)
    out.append(records([1]))
    with pytest.raises(StoreError, match="callback"):
        out.close()
    assert done(journal) == {1: False}


def test_appending_waits_when_the_store_does_not_keep_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "_MAX_BUFFERED_BYTES", 1)
    arrived, released = threading.Event(), threading.Event()

    class BlockedStore(Store):
        def put(self, key: str, data: bytes | memoryview, *, create: bool = False) -> str:
            arrived.set()
            assert released.wait(60)
            return super().put(key, data, create=create)

    journal = Journal(BlockedStore(StoreConfig(tmp_path.as_uri())), "job", "f", "p")
    with journal.writer(attempt=1, worker="w", interval=0) as out:
        out.append(records([1]))
        assert arrived.wait(60)
        appended = threading.Event()

        def append() -> None:
            out.append(records([2]))
            appended.set()

        thread = threading.Thread(target=append)
        thread.start()
        assert not appended.wait(0.05)
        released.set()
        thread.join()
        assert appended.is_set()
    assert done(journal) == {1: False, 2: False}


class TestCollect:
    now = dt.datetime(2026, 11, 22, 12, tzinfo=dt.UTC)
    week = dt.timedelta(days=7)

    def test_shards_go_when_retention_after_their_publication_is_over(self, store: Store) -> None:
        old = Journal(store, "job", "f1", "2026-11-01")
        (key,) = write(old, records([1]))
        other_fingerprint = Journal(store, "job", "f2", "2026-11-01")
        write(other_fingerprint, records([1]), records([2]))
        published = store.head(key).modified + dt.timedelta(hours=1)

        def collected(now: dt.datetime) -> int:
            publications = [("job", "2026-11-01", published)]
            return collect(store, published=publications, retention=self.week, now=now)

        assert collected(published + self.week) == 0
        late = published + self.week + dt.timedelta(seconds=1)
        assert collected(late) == 3
        assert collected(late) == 0
        assert list(store.list("journal")) == []

    def test_what_was_written_after_the_publication_stays(self, store: Store) -> None:
        journal = Journal(store, "job", "f", "p")
        (key,) = write(journal, records([1]))
        published = store.head(key).modified
        now = published + 2 * self.week
        assert (
            collect(store, published=[("job", "p", published)], retention=self.week, now=now) == 0
        )

    def test_other_partitions_jobs_and_files_stay(self, store: Store) -> None:
        write(Journal(store, "job", "f", "q"), records([1]))
        write(Journal(store, "job2", "f", "p"), records([1]))
        store.put("journal/job/f/p/notes.txt", b"")
        far = dt.datetime(2100, 1, 1, tzinfo=dt.UTC)
        now = far + 2 * self.week
        assert collect(store, published=[("job", "p", far)], retention=self.week, now=now) == 0
        assert len(list(store.list("journal"))) == 3


def rows_of(table: pa.Table) -> list[tuple[int, bool]]:
    hashes, failures = table["input_hash"].to_pylist(), table["failure"].to_pylist()
    pairs = zip(hashes, failures, strict=True)
    return [(number_of(input_hash), failure is not None) for input_hash, failure in pairs]


Step = tuple[str, list[int], bool]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "flush", "new writer"]),
        st.lists(st.integers(0, 30), max_size=6),
        st.booleans(),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(
    steps=STEPS,
    damages=st.lists(st.tuples(st.integers(0, 99), st.sampled_from(sorted(DAMAGES)))),
)
def test_what_is_done_is_exactly_what_the_whole_shards_hold(
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[Step],
    damages: list[tuple[int, str]],
) -> None:
    store = StoreConfig(tmp_path_factory.mktemp("journal").as_uri()).open()
    journal = Journal(store, "job", "fingerprint", "2026-11-22")
    appended: list[tuple[int, bool]] = []
    out = journal.writer(attempt=1, worker="w", interval=NEVER)
    for kind, numbers, failed in steps:
        if kind == "append":
            out.append(records(numbers, failure="dead" if failed else None))
            appended += [(number, failed) for number in numbers]
        elif kind == "flush":
            out.flush()
            assert set(done(journal)) == {number for number, _ in appended}
        else:
            out.close()
            out = journal.writer(attempt=1, worker="w", interval=NEVER)
    out.close()
    contents = {key: rows_of(shard.decode(journal.prefix, store.get(key))) for key in keys(journal)}
    assert {row for rows in contents.values() for row in rows} == set(appended)
    for position, damage in damages:
        if contents:
            key = sorted(contents)[position % len(contents)]
            store.put(key, DAMAGES[damage](store.get(key)))
            del contents[key]
    rows = [row for shard_rows in contents.values() for row in shard_rows]
    expected = {number: all(f for n, f in rows if n == number) for number, _ in rows}
    assert done(journal) == expected
    assert found(journal, range(31)) == {
        number: None if failed else f"text of {number}" for number, failed in expected.items()
    }
