"""Where a development installation keeps Dagster's history: a database of the embedded PostgreSQL.

Production has `dagster-postgres` itself, with a URL (infra/dagster/dagster.yaml). Here each of
Dagster's processes is a user of the embedded server, so it runs as long as one of them does,
whoever was started first.

Dagster's own storage opens a connection for each statement, a hundred and more in a run. Here each
process keeps its connections, which is what Dagster itself does in its webserver only.
"""

from __future__ import annotations

import contextlib
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg2
from dagster import Field, StringSource
from dagster_postgres import DagsterPostgresStorage
from sqlalchemy import event, exc, pool

from overnight.warehouse.embedded import SUPERUSER, EmbeddedServer

if TYPE_CHECKING:
    from dagster._config.config_schema import UserConfigSchema
    from dagster._serdes import ConfigurableClassData

DATABASE = "dagster"
_OVERFLOW = 20
"""Connections beside the one that a storage keeps, for as long as they are in use."""


class EmbeddedHistory(DagsterPostgresStorage):
    """Dagster's storage in the database `dagster` of an installation's embedded PostgreSQL."""

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """`home`: the installation's directory."""
        return {"home": Field(StringSource)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Any
    ) -> EmbeddedHistory:
        """Starts the server if it does not run.

        Raises:
            WarehouseUnavailableError: if it does not start; quotes its log.
        """
        server = EmbeddedServer(Path(config_value["home"]) / "warehouse")
        server.join()
        history = cls(history_url(server), inst_data=inst_data)
        for kept in (history.run_storage, history.event_log_storage, history.schedule_storage):
            kept.optimize_for_webserver(
                statement_timeout=0, pool_recycle=-1, max_overflow=_OVERFLOW
            )
        # Dagster tells its storage nothing of the end, and keeps only the parts of it: the last of
        # the server's users stops it.
        weakref.finalize(history.event_log_storage, _leave, server)
        return history


@event.listens_for(pool.QueuePool, "checkout")
def _check(connection: Any, _record: Any, _proxy: Any) -> None:
    """Have a connection of Dagster's opened anew that did not survive the server's restart."""
    if isinstance(connection, psycopg2.extensions.connection):
        try:
            with connection.cursor() as cursor:
                cursor.execute("SELECT 1")
        except psycopg2.Error as error:
            raise exc.DisconnectionError from error


def _leave(server: EmbeddedServer) -> None:
    with contextlib.suppress(FileNotFoundError):  # the installation may be gone by then
        server.leave()


def history_url(server: EmbeddedServer) -> str:
    """The URL of Dagster's database in a server that runs; the database is made if need be.

    It has no secret: the server answers on a socket that only its owner may open.
    """
    import psycopg

    folder, port = server.address()
    with psycopg.connect(
        user=SUPERUSER, host=folder, port=port, dbname="postgres", autocommit=True
    ) as connection:
        known = "SELECT FROM pg_database WHERE datname = %s"
        if connection.execute(known, (DATABASE,)).fetchone() is None:
            # Another of Dagster's processes may be quicker.
            made = (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation)
            with contextlib.suppress(*made):
                connection.execute(f"CREATE DATABASE {DATABASE}")
    return f"postgresql+psycopg2://{SUPERUSER}@/{DATABASE}?host={folder}&port={port}"
