"""Connections to the warehouse: any PostgreSQL by URL, or the embedded one.

Getting a connection is retried within a bounded time, and starts the embedded server again
if it died; a statement is never repeated here, because only its caller knows whether that
is safe. What is in the warehouse does not belong here: see `schema`, `stage`, `publish`.

Behind a pooler use session pooling: leases are locks of a session.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import threading
import time
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from overnight.crashpoints import reach, register
from overnight.errors import ConfigError, WarehouseUnavailableError
from overnight.redact import redact
from overnight.warehouse import expose, schema
from overnight.warehouse.embedded import DATABASE, SUPERUSER, EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from sqlalchemy.engine.interfaces import DBAPIConnection

__all__ = ["Warehouse"]

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

register("warehouse.before_commit", "warehouse.after_commit")

_DIALECT: Any = PGDialect_psycopg()  # type: ignore[no-untyped-call]
_OLDEST_VERSION = 140000
_LONGEST_TRY_S = 5
_HOPELESS = (
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    'database "',
    'role "',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Patience:
    """How long a connection is tried for, in seconds; pauses double up to `longest_s`."""

    budget_s: float
    first_s: float = 0.05
    longest_s: float = 2.0


class _GivenUpError(WarehouseUnavailableError):
    """The patience is used up already; an outer try does not begin anew."""


class Warehouse:
    """An open warehouse; safe to share between threads. Close it, or use it in `with`."""

    def __init__(
        self,
        *,
        url: sa.URL | None,
        server: EmbeddedServer | None,
        home: Path,
        connect_timeout_s: float,
    ) -> None:
        """Not for direct use: `Warehouse.open` does what makes it usable."""
        self._url = url
        self._server = server
        self._home = home
        self._patience = _Patience(budget_s=connect_timeout_s)
        self._mending = threading.Lock()
        self._closed = False
        self._engine = sa.create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=32,
            # Values of rows and secrets of settings stay out of error messages.
            hide_parameters=True,
        )

    @classmethod
    def open(cls, *, home: Path, url: str | None = None, connect_timeout_s: float = 30.0) -> Self:
        """Opens the warehouse and creates what Overnight needs in it.

        Args:
            home: where the embedded server keeps its data (`<home>/warehouse`).
            url: a PostgreSQL 14 or newer to use instead, e.g.
                `postgresql://user@host:5432/database`; libpq's `PGPASSWORD` and
                `~/.pgpass` work, so the password need not be in it.
            connect_timeout_s: for how many seconds a connection is tried before giving up.

        Raises:
            ConfigError: if the URL, the server's version or the place cannot work.
            WarehouseUnavailableError: if it does not answer in time.
        """
        server = EmbeddedServer(home / "warehouse") if url is None else None
        warehouse = cls(
            url=None if url is None else _parsed(url),
            server=server,
            home=home,
            connect_timeout_s=connect_timeout_s,
        )
        try:
            if server is not None:
                server.tcp_port = expose.wanted_port(home)
                warehouse._retry(server.join)
            # All of it can be repeated, should the server be stopping just now.
            warehouse._retry(warehouse._prepare)
        except BaseException:
            warehouse.close()
            raise
        # The server must stop with the last process even where nobody closes.
        atexit.register(_close, weakref.ref(warehouse))
        return warehouse

    def __enter__(self) -> Self:
        """Returns itself; leaving the block closes it."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Closes the warehouse."""
        self.close()

    def close(self) -> None:
        """Closes its connections; the last process to close stops the embedded server."""
        if self._closed:
            return
        self._closed = True
        self._engine.dispose()
        if self._server is not None:
            self._server.leave()

    @property
    def embedded(self) -> bool:
        """Whether this is the embedded server."""
        return self._server is not None

    @property
    def server_pid(self) -> int | None:
        """The process id of the embedded server while it runs, else None."""
        return None if self._server is None else self._server.pid()

    def url(self, *, hide_password: bool = True) -> str:
        """Where the warehouse answers, for libpq and SQLAlchemy; for people by default.

        Args:
            hide_password: False gives a URL that works: hand it to a program, never to a log.
        """
        url = self._where().set(drivername="postgresql")
        return url.render_as_string(hide_password=hide_password)

    def expose(self, port: int = 0) -> sa.URL:
        """Opens the embedded server on 127.0.0.1, for tools that read through TCP.

        Makes the login role `reader`, a member of `overnight_reader`, with a generated
        password, kept in `<home>/warehouse.tcp` (mode 0600). Stays open over restarts.
        Opening it or moving it to another port restarts the server, which ends the other
        connections; whoever uses one through this library gets over that.

        Args:
            port: the TCP port; 0 keeps the one it has, or picks one that is free.

        Raises:
            ConfigError: if the port is taken, or the warehouse is not the embedded one.
        """
        server = self._embedded("be exposed: it has its own address")
        door = expose.prepare(self._home, port=port, current=server.listening_port())
        if server.listening_port() != door.port:
            server.tcp_port = door.port
            self._engine.dispose()
            self._retry(server.restart)
        with self.begin() as connection:
            expose.grant(connection, door)
        return self.tcp_url()

    def tcp_url(self) -> sa.URL:
        """The URL of the open TCP port; its `str` hides the password.

        Raises:
            ConfigError: if `expose` was not called, or the port could not be opened.
        """
        server = self._embedded("have a TCP address of its own")
        door = expose.read(self._home)
        if door is None or server.listening_port() != door.port:
            message = "The embedded warehouse has no open TCP port: call expose() first"
            raise ConfigError(message)
        return sa.URL.create(
            "postgresql",
            username=expose.LOGIN,
            password=door.password,
            host="127.0.0.1",
            port=door.port,
            database=DATABASE,
        )

    @contextlib.contextmanager
    def connect(self) -> Iterator[sa.Connection]:
        """A connection for reading, rolled back at the end.

        Raises:
            WarehouseUnavailableError: if there is none in time, or it breaks in the block.
        """
        with self._answering(), self._engine.connect() as connection, _broken_aside(connection):
            yield connection

    @contextlib.contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A connection in a transaction: committed at the end, rolled back on an error.

        Raises:
            WarehouseUnavailableError: if there is none in time, or it breaks in the block;
                if it broke while committing, only asking again tells what happened.
        """
        with self._answering(), self._engine.begin() as connection, _broken_aside(connection):
            yield connection
            reach("warehouse.before_commit")
        reach("warehouse.after_commit")

    def session(self) -> sa.Connection:
        """A connection of its own, not pooled, in autocommit: for locks of a session.

        Raises:
            WarehouseUnavailableError: if there is none in time.
        """
        with self._answering():
            connection = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            connection.detach()
            return connection

    def rows_in(self, schema_name: str, table: str) -> int:
        """How many rows a table holds.

        Raises:
            ConfigError: if there is no such table.
        """
        name = sa.table(table, schema=schema_name)
        try:
            with self.connect() as connection:
                return connection.execute(sa.select(sa.func.count()).select_from(name)).scalar_one()
        except sa.exc.ProgrammingError as error:
            message = f"The warehouse has no table {schema_name}.{table}"
            raise ConfigError(message) from error

    # -- how it gets connections --

    def _prepare(self) -> None:
        with self.begin() as connection:
            _check_version(connection)
            schema.ensure_schema(connection)

    def _embedded(self, what: str) -> EmbeddedServer:
        if self._server is None:
            message = f"Only the embedded warehouse can {what}; this one is {self.url()}"
            raise ConfigError(message)
        return self._server

    def _where(self) -> sa.URL:
        if self._url is not None:
            return self._url
        assert self._server is not None
        host, port = self._server.address()
        return sa.URL.create(
            "postgresql+psycopg",
            username=SUPERUSER,
            database=DATABASE,
            query={"host": host, "port": str(port)},
        )

    def _connect(self) -> DBAPIConnection:
        if self._closed:
            message = f"The warehouse {self.url()} is closed"
            raise RuntimeError(message)
        return self._retry(self._try_to_connect)  # type: ignore[return-value]

    def _try_to_connect(self) -> psycopg.Connection[Any]:
        try:
            return self._connect_once()
        except psycopg.OperationalError:
            if self._server is None:
                raise
        with self._mending:
            self._server.ensure_running()
        return self._connect_once()

    def _connect_once(self) -> psycopg.Connection[Any]:
        arguments, settings = _DIALECT.create_connect_args(self._where())
        longest = max(2, min(_LONGEST_TRY_S, int(self._patience.budget_s)))
        defaults = {
            "connect_timeout": longest,
            "application_name": "overnight",
            # A peer that vanished without a word is noticed within a minute.
            "keepalives_idle": 20,
            "keepalives_interval": 5,
            "keepalives_count": 6,
        }
        return psycopg.connect(*arguments, **{**defaults, **settings})

    def _retry(self, action: Callable[[], _T]) -> _T:
        """Tries within the patience; only what may pass by itself is tried again."""
        give_up = time.monotonic() + self._patience.budget_s
        pause = self._patience.first_s
        tries = 0
        while True:
            tries += 1
            try:
                return action()
            except _GivenUpError:
                raise
            except (psycopg.OperationalError, WarehouseUnavailableError) as error:
                said = redact(str(error)).strip()
                if any(sign in said for sign in _HOPELESS):
                    message = f"The warehouse {self._described()} refuses this connection: {said}"
                    raise ConfigError(message) from None
                if tries > 1 and time.monotonic() + pause > give_up:
                    raise _GivenUpError(self._given_up(tries, said)) from None
                _log.info("The warehouse %s did not answer: %s", self._described(), said)
            time.sleep(pause)
            pause = min(2 * pause, self._patience.longest_s)

    def _given_up(self, tries: int, said: str) -> str:
        return (
            f"The warehouse {self._described()} did not answer: tried {tries} times in "
            f"{self._patience.budget_s:g} s, last: {said}"
        )

    def _described(self) -> str:
        url = self._where()
        host = url.host or url.query.get("host") or "localhost"
        port = url.port or url.query.get("port") or 5432
        return f"(host {host}, port {port}, database {url.database or url.username or 'default'})"

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        """Turns a lost connection, a lock timeout and the like into the project's error."""
        try:
            yield
        except (sa.exc.OperationalError, sa.exc.InterfaceError, psycopg.OperationalError) as error:
            original = getattr(error, "orig", None) or error
            said = redact(str(original)).strip()
            message = f"The warehouse {self._described()} broke off: {said}"
            raise WarehouseUnavailableError(message) from error


@contextlib.contextmanager
def _broken_aside(connection: sa.Connection) -> Iterator[None]:
    """Keeps a connection that broke below SQLAlchemy (in COPY) out of the pool."""
    try:
        yield
    except psycopg.OperationalError:
        connection.invalidate()
        raise


def _parsed(text: str) -> sa.URL:
    try:
        url = sa.make_url(text)
    except (sa.exc.ArgumentError, ValueError):
        # The text itself may hold a password, so it is not repeated.
        message = (
            "The warehouse URL cannot be read; it should look like "
            "postgresql://user:password@host:5432/database"
        )
        raise ConfigError(message) from None
    if url.drivername.split("+")[0] not in {"postgresql", "postgres"}:
        message = f"The warehouse must be a PostgreSQL, not {url.drivername!r}"
        raise ConfigError(message)
    return url.set(drivername="postgresql+psycopg")


def _check_version(connection: sa.Connection) -> None:
    version = int(connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if version < _OLDEST_VERSION:
        message = f"The warehouse runs PostgreSQL {version // 10000}; 14 or newer is needed"
        raise ConfigError(message)


def _close(reference: weakref.ref[Warehouse]) -> None:
    warehouse = reference()
    if warehouse is not None:
        with contextlib.suppress(OSError, sa.exc.SQLAlchemyError):
            warehouse.close()
