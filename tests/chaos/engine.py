"""Paced engines that tell when they inferred what, and in which process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.engines.trivial import TrivialEngine, TrivialReverse
from tests.chaos import passages
from tests.support.typist import Typist, TypistEngine

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced(TrivialReverse):
    """Takes its time for each step, and notes each row that it inferred.

    Attributes:
        step_seconds: how long a step takes.
        log: a file to append to, one JSON object a line: see `Event`.
        letterbox: where its process may be told to die: see `passages`; none: nowhere.
    """

    step_seconds: float = 0.0
    log: str = os.devnull
    letterbox: str = ""

    def start(self) -> TracedEngine:
        return TracedEngine(self)


class TracedEngine(TrivialEngine):
    def __init__(self, spec: Traced) -> None:
        super().__init__(spec)
        self._pace = spec.step_seconds
        self._log = _open(spec.log)
        _note(self._log, [None])
        if spec.letterbox:
            passages.await_letter(spec.letterbox)

    def step(self) -> pa.Table:
        time.sleep(self._pace)
        done = super().step()
        # Noted before the worker can journal it: what a kill costs is never counted too low.
        _note(self._log, [text[::-1] for text in done["text"].to_pylist() if text is not None])
        return done


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedTypist(Typist):
    """Types letter by letter, and notes each row that is complete.

    Attributes:
        log: as that of `Traced`.
    """

    log: str = os.devnull

    def start(self) -> TracedTypistEngine:
        return TracedTypistEngine(self)


class TracedTypistEngine(TypistEngine):
    def __init__(self, spec: TracedTypist) -> None:
        super().__init__(spec)
        self._log = _open(spec.log)
        passages.from_environment()

    def step(self) -> pa.Table:
        done = super().step()
        _note(self._log, [text[::-1] for text in done["text"].to_pylist()])
        return done


def _open(log: str) -> int:
    return os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)


def _note(log: int, texts: list[str | None]) -> None:
    now, pid = time.time(), os.getpid()
    lines = [json.dumps({"at": now, "pid": pid, "text": text}) + "\n" for text in texts]
    os.write(log, "".join(lines).encode())


@dataclass(frozen=True, slots=True)
class Event:
    """A row was inferred; or, without a text, the engine was started.

    Attributes:
        at: seconds since the epoch.
        pid: the worker's process.
        text: the request, which names partition, version and row.
    """

    at: float
    pid: int
    text: str | None


class Log:
    """Reads an engine's log while it is written; each `read` adds what is new to `events`."""

    def __init__(self, path: Path, offset: int = 0) -> None:
        self.events: list[Event] = []
        self._path = path
        self._offset = offset

    def read(self) -> list[Event]:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._offset)
                whole, _, _ = file.read().rpartition(b"\n")
            if whole:
                self._offset += len(whole) + 1
                self.events += [Event(**json.loads(line)) for line in whole.splitlines()]
        return self.events

    def inferred(self) -> list[Event]:
        return [event for event in self.read() if event.text is not None]
