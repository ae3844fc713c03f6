"""What the processes of one machine share: a directory with their notices and their presence.

| file            | written by          | tells                                                   |
|-----------------|---------------------|---------------------------------------------------------|
| `notice.json`   | anybody of the user | the machine goes (the format is `overnight.spot.file`'s) |
| `state.json`    | the one that leads  | what the cloud said last                                |
| `worker-<pid>`  | a worker            | it is at work here                                      |
| `drained-<pid>` | a worker            | it has nothing left to lose                             |
| `node-<pid>`    | `overnight node`    | SIGTERM will be passed on                               |

Whoever holds the lock on the directory leads: the kernel gives it back when its process dies,
however it dies. A mark of a process that is gone, or whose number another one has now, does
not count.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from overnight.errors import ConfigError
from overnight.spot.types import Notice

Role = Literal["worker", "drained", "node"]
_MOST_BYTES = 64 * 1024
_locks: set[int] = set()


@dataclass(frozen=True, slots=True)
class CloudState:
    """What the process that asks the cloud tells the others.

    Attributes:
        last_poll: Unix time in seconds of the last look; None before the first.
        error: why it told nothing.
        idle: why nothing will ever be announced here; nobody is asked any more.
        notice: the gravest so far.
    """

    last_poll: float | None = None
    error: str | None = None
    idle: str | None = None
    notice: Notice | None = None


class Machine:
    """The shared directory; `open` makes and checks it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None
        self._boot = _boot_id()
        self._seen: tuple[tuple[int, ...], CloudState | None] | None = None

    @classmethod
    def open(cls, path: Path) -> Machine:
        """Make the directory if it is missing; only its owner may write in it.

        Raises:
            ConfigError: if it cannot be made, or others could announce the machine's end in it.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            status = path.lstat()
        except OSError as error:
            raise ConfigError(
                f"no directory for notices at {path}: {error.strerror}; "
                "name another with OVERNIGHT_NOTICE_DIR"
            ) from error
        ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid()
        if not ours or status.st_mode & 0o022:
            raise ConfigError(
                f"{path} is not a directory that only user {os.geteuid()} can write to, so others "
                "could stop this machine's work: name another with OVERNIGHT_NOTICE_DIR"
            )
        return cls(path)

    @property
    def notice_file(self) -> Path:
        """Where anybody can say that this machine goes."""
        return self.path / "notice.json"

    def lead(self) -> bool:
        """Whether this object holds the lock, taking it if it is free."""
        if self._lock in _locks:
            return True
        try:
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return False
        _locks.add(lock)
        self._lock = lock
        return True

    def resign(self) -> None:
        """Give the lock back, so that another process leads."""
        if self._lock in _locks:
            _locks.discard(self._lock)
            os.close(self._lock)
        self._lock = None

    def publish(self, state: CloudState) -> None:
        """Tell the others.

        Raises:
            OSError: if the directory cannot be written to.
        """
        told = {
            "boot": self._boot,
            "last_poll": state.last_poll,
            "error": state.error,
            "idle": state.idle,
            "notice": None if state.notice is None else state.notice.as_json(),
        }
        self._write("state.json", json.dumps(told))

    def published(self) -> CloudState | None:
        """What the leader told last, since this machine was started; None if nothing."""
        path = self.path / "state.json"
        try:
            status = path.stat()
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            if self._seen is None or self._seen[0] != signature:
                with path.open("rb") as file:
                    self._seen = signature, self._state(json.loads(file.read(_MOST_BYTES)))
        except (OSError, ValueError, RecursionError):
            return None
        return self._seen[1]

    def announce(self, notice: Notice, *, deadline: str) -> None:
        """Write the machine's notice file; `deadline` is the notice's in ISO 8601.

        Raises:
            OSError: if the directory cannot be written to.
        """
        told = {"kind": notice.kind, "source": notice.source, "deadline": deadline}
        told |= {"detail": notice.detail, "by": f"{os.getpid()} {_started(os.getpid())}"}
        self._write(self.notice_file.name, json.dumps(told))

    def forget_earlier_lives(self) -> None:
        """Remove a SIGTERM's notice by a process that is gone: this is the machine's next life."""
        try:
            told = json.loads(self.notice_file.read_bytes()[:_MOST_BYTES])
            pid, _, started = str(told["by"]).partition(" ")
            if told["source"] == "sigterm" and _started(int(pid)) != started:
                self.notice_file.unlink()
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return

    def mark(self, role: Role) -> None:
        """Say what this process is.

        Raises:
            OSError: if the directory cannot be written to.
        """
        self._write(f"{role}-{os.getpid()}", _started(os.getpid()) or "")
        for path in self.path.glob(f"{role}-*"):
            if not _alive(path):
                path.unlink(missing_ok=True)

    def unmark(self, *roles: Role, pid: int) -> None:
        """Take back what a process said it is."""
        for role in roles:
            with contextlib.suppress(OSError):
                (self.path / f"{role}-{pid}").unlink(missing_ok=True)

    def marked(self, role: Role) -> frozenset[int]:
        """The numbers of the living processes with this mark."""
        paths = [path for path in self.path.glob(f"{role}-*") if _alive(path)]
        return frozenset(int(path.name.partition("-")[2]) for path in paths)

    def _state(self, told: Any) -> CloudState | None:
        match told:
            case {
                "boot": str() as boot,
                "last_poll": float() | int() | None as last_poll,
                "error": str() | None as error,
                "idle": str() | None as idle,
                "notice": dict() | None as notice,
            } if boot == self._boot:
                known = None if notice is None else Notice.from_json(notice)
                return CloudState(last_poll, error, idle, known)
        return None

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, for whoever reads at any moment."""
        new = self.path / f".{name}.{os.getpid()}.{threading.get_ident()}"
        new.write_text(text)
        new.replace(self.path / name)


def _alive(path: Path) -> bool:
    number = path.name.partition("-")[2]
    try:
        return number.isdecimal() and path.read_text() == _started(int(number))
    except (OSError, ValueError):
        return False


def _started(pid: int) -> str | None:
    """When a living process was started, in clock ticks since the machine's boot."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return None
    return None if fields[0] in "ZX" else fields[19]


def _boot_id() -> str:
    """What a file from before the machine was last started has differently."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""


def _release_in_child() -> None:
    """A forked child shares its parent's locks: it must not hold them when the parent dies."""
    for lock in _locks:
        os.close(lock)
    _locks.clear()


os.register_at_fork(after_in_child=_release_in_child)
