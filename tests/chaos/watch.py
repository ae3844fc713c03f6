"""What others see while a partition is worked on: a reader of the table, the journal's shards."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg

from overnight.journal import Journal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType
    from typing import Any, Self

    from overnight.run import House

POLL_S = 0.01
PATIENCE_S = 60
_CONTENT = (
    "SELECT md5(coalesce(string_agg(line_id || '=' || reversed, ',' ORDER BY line_id), '')) "
    "FROM published.reversed_lines WHERE partition_key = %s"
)


def digest(content: Mapping[str, str]) -> str:
    """What the reader sees of a partition that holds this, key to text, and nothing else."""
    text = ",".join(f"{key}={content[key]}" for key in sorted(content))
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def rows_journalled(house: House, job: str, day: str) -> int:
    """How many rows of a partition are durable, under whatever fingerprint."""
    store = house.store.open()
    prefix = f"journal/{job}/"
    known = {tuple(entry.key.removeprefix(prefix).split("/")[:2]) for entry in store.list(prefix)}
    return sum(
        Journal(store, job, fingerprint, there).done().height
        for fingerprint, there in known
        if there == day
    )


def until_journalled(house: House, job: str, day: str, rows: int, step: Any) -> None:
    """Wait until so many rows are durable; the step, a `Popen`, must be at work until then."""
    give_up = time.monotonic() + PATIENCE_S
    while rows_journalled(house, job, day) < rows:
        assert step.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < give_up, "too few rows were journalled"
        time.sleep(POLL_S)


class _Watch:
    """Calls `look` every 10 ms in a thread of its own, until the block is left."""

    def __init__(self) -> None:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.close()
        if self._error is not None and error is None:
            raise self._error

    def look(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass

    def _run(self) -> None:
        try:
            while True:
                self.look()
                if self._stop.wait(POLL_S):
                    self.look()
                    return
        except BaseException as error:  # noqa: BLE001 - raised where the block is left
            self._error = error


class Reader(_Watch):
    """Reads a partition over a connection of its own, and starts no server that died.

    Attributes:
        seen: the different contents that were seen, as digests, in the order of their change.
        polls: how often it got an answer.
    """

    def __init__(self, url: str, day: str) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.polls = 0
        self._url = url
        self._day = day
        self._connection: psycopg.Connection[tuple[str]] | None = None

    def look(self) -> None:
        try:
            if self._connection is None:
                self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=2)
            row = self._connection.execute(_CONTENT, (self._day,)).fetchone()
        except psycopg.OperationalError:
            # The server is away: a reader that comes back later is none that saw a mixture.
            self.close()
            return
        assert row is not None
        self.polls += 1
        if not self.seen or self.seen[-1] != row[0]:
            self.seen.append(row[0])

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


@dataclass(frozen=True, slots=True)
class _Shard:
    writer: str
    at: float


class Flushes(_Watch):
    """Notes when which writer of a journal made a shard durable.

    Names of shards say who wrote them: `<attempt>-<worker>-<sequence>-<digest>.arrow`.
    """

    def __init__(self, journal: Path, day: str) -> None:
        super().__init__()
        self._journal = journal
        self._day = day
        self._shards: dict[str, _Shard] = {}

    def look(self) -> None:
        for path in self._journal.glob(f"*/{self._day}/*.arrow"):
            if path.name not in self._shards:
                with contextlib.suppress(FileNotFoundError):  # merged meanwhile
                    at = path.stat().st_mtime
                    self._shards[path.name] = _Shard(path.name.rsplit("-", 2)[0], at)

    @property
    def count(self) -> int:
        return len(self._shards)

    def longest_gap(self) -> float:
        """The most seconds between two flushes of a writer that followed each other."""
        times: dict[str, list[float]] = {}
        for shard in self._shards.values():
            times.setdefault(shard.writer, []).append(shard.at)
        gaps = [
            later - earlier
            for written in map(sorted, times.values())
            for earlier, later in itertools.pairwise(written)
        ]
        return max(gaps, default=0.0)
