"""What Overnight needs in a warehouse, created once and taken along when it changes.

Three schemas: `published` is for readers, `staging` for what is not audited yet, `lineage`
for where it all came from. The published tables themselves are made by `table`.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.schema import CreateTable

from overnight.lineage import tables
from overnight.warehouse.roles import ensure_reader
from overnight.warehouse.table import DIALECT, ensure_table, lock_name

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["PUBLISHED", "STAGING", "ensure_schema"]

PUBLISHED = "published"
STAGING = "staging"

_SCHEMAS = {
    PUBLISHED: "Tables for readers: only what passed its audit, one transaction per partition",
    STAGING: "Rows on their way to publication; nothing for readers",
    tables.SCHEMA: "Where every published row came from",
}


def ensure_schema(connection: Connection) -> None:
    """Creates what is missing; several processes may do so at once.

    Leaves a warehouse alone that already has all of it, so that a connection without the
    right to create anything is enough from then on.
    """
    mark = f"{_SCHEMAS[tables.SCHEMA]} [definition {_digest()}]"
    if _mark(connection) == mark:
        return
    lock_name(connection, "overnight.schema")
    if _mark(connection) == mark:
        return
    for name, comment in _SCHEMAS.items():
        connection.execute(sa.schema.CreateSchema(name, if_not_exists=True))
        _comment(connection, f"SCHEMA {name}", comment)
    for table in tables.METADATA.sorted_tables:
        ensure_table(connection, table)
    for name, comment, query in tables.VIEWS:
        view = f"{tables.SCHEMA}.{name}"
        connection.exec_driver_sql(f"CREATE OR REPLACE VIEW {view} AS {query}")
        _comment(connection, f"VIEW {view}", comment)
    ensure_reader(connection)
    _comment(connection, f"SCHEMA {tables.SCHEMA}", mark)


def _mark(connection: Connection) -> str | None:
    query = sa.text("SELECT obj_description(to_regnamespace(:name), 'pg_namespace')")
    found: str | None = connection.execute(query, {"name": tables.SCHEMA}).scalar()
    return found


def _comment(connection: Connection, what: str, comment: str) -> None:
    literal = sa.literal(comment).compile(dialect=DIALECT, compile_kwargs={"literal_binds": True})
    connection.exec_driver_sql(f"COMMENT ON {what} IS {literal}")


def _digest() -> str:
    """Changes whenever a declaration does, so that nobody has to count versions."""
    hasher = hashlib.sha256(repr((_SCHEMAS, tables.VIEWS)).encode())
    for table in tables.METADATA.sorted_tables:
        hasher.update(str(CreateTable(table).compile(dialect=DIALECT)).encode())
        hasher.update(repr([(c.name, c.comment) for c in table.columns]).encode())
    return hasher.hexdigest()[:16]
