"""The embedded warehouse's door for readers: one TCP port, one login, one password.

What is written to `<home>/warehouse.tcp` is the port and the generated password, readable
by its owner only. The server keeps a SCRAM verifier, never the password.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from overnight.errors import ConfigError
from overnight.warehouse.roles import READER

if TYPE_CHECKING:
    from pathlib import Path

    import sqlalchemy as sa

__all__ = ["LOGIN", "Door", "grant", "prepare", "read", "wanted_port"]

_log = logging.getLogger(__name__)

LOGIN = "reader"
_HOST = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Door:
    """The open port and the password of the login role `reader`."""

    port: int
    password: str = field(repr=False)


def read(home: Path) -> Door | None:
    """The door that was asked for, or None."""
    try:
        return Door(**json.loads(_path(home).read_text()))
    except FileNotFoundError:
        return None


def wanted_port(home: Path) -> int | None:
    """The TCP port to start with: None where none was asked for or another program has it."""
    door = read(home)
    if door is None:
        return None
    if not _free(door.port):
        _log.warning("The warehouse's TCP port %d is taken: starting without it", door.port)
        return None
    return door.port


def prepare(home: Path, *, port: int, current: int | None) -> Door:
    """Decides the port, makes the password and writes both down.

    Args:
        home: of the embedded warehouse.
        port: the port asked for; 0 for the one it has, or any that is free.
        current: the port the server listens on now, if it does.

    Raises:
        ConfigError: if another program has the port.
    """
    old = read(home)
    if port == 0:
        port = current or (old.port if old is not None and _free(old.port) else _any_free())
    elif port != current and not _free(port):
        message = f"Port {port} on {_HOST} is taken by another program: choose another"
        raise ConfigError(message)
    door = Door(port, old.password if old is not None else secrets.token_urlsafe(24))
    if door != old:
        _write(_path(home), json.dumps(asdict(door)))
    return door


def grant(connection: sa.Connection, door: Door) -> None:
    """Makes the login role, or gives it the present password."""
    raw = connection.connection.driver_connection
    assert raw is not None
    verifier = raw.pgconn.encrypt_password(
        door.password.encode(), LOGIN.encode(), b"scram-sha-256"
    ).decode()
    known = "SELECT FROM pg_roles WHERE rolname = %s"
    if connection.exec_driver_sql(known, (LOGIN,)).first() is None:
        connection.exec_driver_sql(f"CREATE ROLE {LOGIN} LOGIN IN ROLE {READER}")
    # A SCRAM verifier is base64 and a few signs: nothing in it needs quoting.
    connection.exec_driver_sql(f"ALTER ROLE {LOGIN} PASSWORD '{verifier}'")


def _path(home: Path) -> Path:
    return home / "warehouse.tcp"


def _write(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    with contextlib.suppress(FileNotFoundError):
        fresh.unlink()
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
        except OSError:
            return False
    return True


def _any_free() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((_HOST, 0))
        port: int = probe.getsockname()[1]
    return port
