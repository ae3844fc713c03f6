"""Notices in a file: for clouds without a metadata service, for SIGTERM, for tests.

The file holds one JSON object, all of whose members may be missing:

| member     | means                                                                          |
|------------|--------------------------------------------------------------------------------|
| `deadline` | when the machine goes: an ISO 8601 time with its zone, `2026-11-20T02:00:00Z`   |
| `in_s`     | the same in seconds from the file's modification; 30 without either of the two  |
| `kind`     | `interruption` (the default) or `rebalance`                                     |
| `detail`   | in words, for logs and lineage                                                  |
| `source`   | `file` (the default) or `sigterm`                                               |

An empty file is an object without members. Write it whole, under another name, and rename it:
what is empty or unreadable counts only if it is unchanged at the next look.
"""

from __future__ import annotations

import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any

from overnight.redact import redact
from overnight.spot.types import Look, Notice, NoticeError, unix_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DEFAULT_WARNING_S = 30.0
_STALE_S = 60.0
_MOST_BYTES = 64 * 1024
_MOST_SECONDS = 366 * 86_400
_MOST_CHARACTERS = 500


class NoticeFile:
    """The notice in one file; looking at a file that did not change is one `stat`.

    Args:
        path: the file, which need not exist.
        clock: Unix seconds.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self._clock = clock
        self._signature: tuple[int, ...] | None = None
        self._unsettled = False
        self._last = Look()

    def look(self) -> Look:
        """What the file says now; never raises."""
        try:
            status = self.path.stat()
        except (FileNotFoundError, NotADirectoryError):
            self._signature, self._last = None, Look()
            return self._last
        except OSError as error:
            self._signature = None
            return Look(error=f"{self.path} cannot be read: {error.strerror}")
        signature = (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)
        if signature == self._signature and not self._unsettled:
            return self._last
        settled = signature == self._signature
        self._signature = signature
        self._last = self._read(status, settled=settled)
        return self._last

    def _read(self, status: os.stat_result, *, settled: bool) -> Look:
        self._unsettled = False
        try:
            content = _content(self.path, status)
            if not (content.strip() or settled):
                self._unsettled = True
                return Look()
            notice = parse_notice(content, modified=status.st_mtime, now=self._clock())
        except OSError as error:
            return Look(error=f"{self.path} cannot be read: {error.strerror}")
        except NoticeError as error:
            # It may be in the middle of being written.
            self._unsettled = not settled
            return Look(error=f"{self.path} {error}") if settled else Look()
        return Look((notice,))


def parse_notice(content: bytes, *, modified: float, now: float) -> Notice:
    """The notice that a file holds.

    Args:
        content: of the file.
        modified: Unix time in seconds of its last modification.
        now: Unix time in seconds.

    Raises:
        NoticeError: if it holds none; the text goes on after the file's name.
    """
    told = _members(content)
    kind, source = told.get("kind", "interruption"), told.get("source", "file")
    if kind not in ("interruption", "rebalance"):
        raise NoticeError("has a `kind` that is neither interruption nor rebalance")
    if source not in ("file", "sigterm"):
        raise NoticeError("has a `source` that is neither file nor sigterm")
    detail = told.get("detail", "")
    if not isinstance(detail, str):
        raise NoticeError("has a `detail` that is no text")
    deadline = _deadline(told, modified)
    if kind == "interruption" and deadline < now - _STALE_S:
        raise NoticeError("tells of a deadline that is long past: it is left from an earlier time")
    words = " ".join(detail.encode("utf-8", "replace").decode().split())[:_MOST_CHARACTERS]
    words = redact(words) or f"{kind} told by a file"
    return Notice(kind, source, None if kind == "rebalance" else deadline, now, words)


def _content(path: Path, status: os.stat_result) -> bytes:
    if not stat.S_ISREG(status.st_mode):
        raise NoticeError("is not a file")
    # Should it have become a pipe meanwhile, opening it must not wait for a writer.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123 - by descriptor
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise NoticeError(f"is longer than {_MOST_BYTES} bytes")
    return content


def _members(content: bytes) -> dict[str, Any]:
    if not content.strip():
        return {}
    try:
        told = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise NoticeError("holds no JSON") from error
    if not isinstance(told, dict):
        raise NoticeError("holds no JSON object")
    return told


def _deadline(told: dict[str, Any], modified: float) -> float:
    if "deadline" in told and "in_s" in told:
        raise NoticeError("has both `deadline` and `in_s`, of which one has to go")
    if "deadline" in told:
        try:
            return unix_time(told["deadline"])
        except ValueError as error:
            raise NoticeError(
                "has a `deadline` that is no time with a zone, such as 2026-11-20T02:00:00Z"
            ) from error
    seconds = told.get("in_s", DEFAULT_WARNING_S)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise NoticeError("has an `in_s` that is no number of seconds")
    if not 0 <= seconds <= _MOST_SECONDS:
        raise NoticeError(f"has an `in_s` that is not from 0 to {_MOST_SECONDS} seconds")
    return modified + seconds
