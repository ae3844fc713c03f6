"""Which process passed which crash point: noted by the processes themselves, for a test to read.

A worker that runs already is armed here too: it takes what it finds in its letterbox, and no
other worker does, its successor included.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter
from pathlib import Path

from overnight import crashpoints
from tests.support.processes import alive

VARIABLE = "OVERNIGHT_CHAOS_PASSAGES"
"""A file for this process's passages."""
NOWHERE = "nowhere:1"
"""A point that nobody passes."""
_POLL_S = 0.01


def from_environment() -> None:
    """Note this process's passages from here on, if it was told to."""
    if file := os.environ.get(VARIABLE):
        _note(file)


def await_letter(letterbox: str) -> None:
    """Wait, beside everything else, for a letter: `<point>:<nth> <file for the passages>`."""
    threading.Thread(target=_await, args=(Path(letterbox),), daemon=True).start()


def _await(letterbox: Path) -> None:
    taken = letterbox.with_suffix(f".{os.getpid()}")
    while True:
        # A letter can be taken once.
        with contextlib.suppress(FileNotFoundError):
            letterbox.rename(taken)
            break
        time.sleep(_POLL_S)
    setting, _, file = taken.read_text().partition(" ")
    crashpoints._armed = crashpoints._target(setting)
    _note(file)
    taken.unlink()


def _note(file: str) -> None:
    out = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    go_on = crashpoints._pass

    def noted(name: str, armed: tuple[str, int]) -> None:
        os.write(out, f"{os.getpid()} {name}\n".encode())
        go_on(name, armed)

    crashpoints._pass = noted
    crashpoints._armed = crashpoints._armed or crashpoints._target(NOWHERE)


class Passages:
    """What has been noted in a file; `setting` is where its processes are to be killed."""

    def __init__(self, file: Path, setting: str = NOWHERE) -> None:
        self.file = file
        self.setting = setting

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process die there, and note how it came there."""
        return {crashpoints.VARIABLE: self.setting, VARIABLE: str(self.file)}

    def post(self, letterbox: Path) -> None:
        """Arm the worker that waits at a letterbox; once the letter is gone, it is."""
        unfinished = letterbox.with_suffix(".new")
        unfinished.write_text(f"{self.setting} {self.file}")
        unfinished.rename(letterbox)

    def count(self) -> Counter[str]:
        """How often each point was passed."""
        return Counter(name for _, name in self._lines())

    def killed(self) -> bool:
        """Whether a process came to where it was to be killed, and is gone."""
        name, _, nth = self.setting.rpartition(":")
        passed = Counter(pid for pid, passed in self._lines() if passed == name)
        return any(count >= int(nth) and not alive(pid) for pid, count in passed.items())

    def _lines(self) -> list[tuple[int, str]]:
        if not self.file.exists():
            return []
        lines = [line.split() for line in self.file.read_text().splitlines()]
        return [(int(pid), name) for pid, name in lines]
