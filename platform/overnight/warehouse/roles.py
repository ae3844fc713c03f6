"""Who may read: the role `overnight_reader`, to be granted to people and tools.

It sees what is published and its lineage, and nothing that is still staged.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy import Connection

__all__ = ["READER", "ensure_reader"]

_log = logging.getLogger(__name__)

READER = "overnight_reader"
_OPEN = ("published", "lineage")


def ensure_reader(connection: Connection) -> bool:
    """Creates the role and its grants, for tables to come as well; False if it may not.

    A warehouse whose administrator makes roles works without: a note is logged.
    """
    try:
        with connection.begin_nested():
            _grant(connection)
    except sa.exc.ProgrammingError as error:
        _log.info("Role %s is left to the warehouse's administrator: %s", READER, error.orig)
        return False
    return True


def _grant(connection: Connection) -> None:
    known = sa.text("SELECT FROM pg_roles WHERE rolname = :name")
    if connection.execute(known, {"name": READER}).first() is None:
        connection.exec_driver_sql(f"CREATE ROLE {READER} NOLOGIN")
    for schema in _OPEN:
        connection.exec_driver_sql(f"GRANT USAGE ON SCHEMA {schema} TO {READER}")
        connection.exec_driver_sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA {schema} TO {READER}")
        connection.exec_driver_sql(
            f"ALTER DEFAULT PRIVILEGES IN SCHEMA {schema} GRANT SELECT ON TABLES TO {READER}"
        )
