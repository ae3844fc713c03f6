"""Vectors in published tables: their HNSW index, and the rows nearest to a vector.

Source of the index's settings: pgvector's documentation (m 16, ef_construction 64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight.errors import ConfigError
from overnight.warehouse.table import DIALECT, lock_key, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.warehouse.connect import Warehouse

__all__ = ["VectorIndex", "ensure_index", "index_name", "nearest"]

_BUILD_MEMORY = "1GB"
# With pgvector's own 40, one of forty nearest neighbours was missed among 20,000 real texts.
_SEARCHED = 100
_NEIGHBOURS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class VectorIndex:
    """An HNSW index for cosine distance on a vector column, made after the first load.

    Attributes:
        column: the vector column.
        m: neighbours of a row in each layer of the graph.
        ef_construction: candidates that are considered for them.
    """

    column: str
    m: int = 16
    ef_construction: int = 64

    def __post_init__(self) -> None:
        if not (2 <= self.m <= 100 and 2 * self.m <= self.ef_construction <= 1000):  # noqa: PLR2004 - pgvector's limits
            raise ConfigError(
                f"VectorIndex: m={self.m}, ef_construction={self.ef_construction}; need "
                "2 <= m <= 100 and 2 m <= ef_construction <= 1000"
            )


def index_name(table: sa.Table, index: VectorIndex) -> str:
    """The index's name in the warehouse."""
    return f"{table.name}_{index.column}_hnsw"


def ensure_index(warehouse: Warehouse, table: sa.Table, index: VectorIndex) -> None:
    """Makes the index if it is not there and the table has rows; readers do not wait for it.

    From then on it is kept with every row that is published. One that a crash left unfinished
    is made again.
    """
    name = index_name(table, index)
    named = DIALECT.identifier_preparer.quote(name)
    # A session of its own: its lock and its memory end with it.
    with warehouse.session() as connection:
        lock = {"key": lock_key("overnight.index", name)}
        connection.execute(sa.text("SELECT pg_advisory_lock(:key)"), lock)
        state = _valid(connection, f"{table.schema}.{named}")
        if state or not _has_rows(connection, table):
            return
        _ensure_neighbours(warehouse, table, index)
        if state is False:
            connection.exec_driver_sql(f"DROP INDEX {table.schema}.{named}")
        connection.exec_driver_sql(f"SET maintenance_work_mem = '{_BUILD_MEMORY}'")
        column = DIALECT.identifier_preparer.quote(index.column)
        connection.exec_driver_sql(
            f"CREATE INDEX CONCURRENTLY {named} ON {quoted(table)} "
            f"USING hnsw ({column} vector_cosine_ops) "
            f"WITH (m = {index.m}, ef_construction = {index.ef_construction})"
        )


def _ensure_neighbours(warehouse: Warehouse, table: sa.Table, index: VectorIndex) -> None:
    """Makes the view `<table>_neighbours`: of each row its five nearest others, by the index.

    Meant to be read with a condition on the key: each row that is asked for costs a search. The
    search is a function, because a view cannot say how far it is to go: whoever reads, through
    whatever connection, gets it as wide as it has to be.
    """
    keys = [c for c in table.primary_key.columns if c.name != "partition_key"]
    quote = DIALECT.identifier_preparer.quote
    names = [quote(c.name) for c in keys]
    types = [c.type.compile(dialect=DIALECT) for c in keys]
    column = quote(index.column)
    mine = ", ".join(f"a.{name}" for name in names)
    theirs = ", ".join(
        f"n.{name} AS {quote('neighbour_' + c.name)}" for name, c in zip(names, keys, strict=True)
    )
    same = " AND ".join(f"n.{name} = a.{name}" for name in names)
    found = ", ".join(f"{name} {kind}" for name, kind in zip(names, types, strict=True))
    search = f"{table.schema}.{quote(table.name + '_near')}"
    view = f"{table.schema}.{quote(table.name + '_neighbours')}"
    with warehouse.begin() as connection:
        # Only once pgvector is loaded into the session are its settings anybody's to give.
        connection.exec_driver_sql("SELECT CAST('[1]' AS vector)")
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION {search} (wanted vector) "  # noqa: S608 - quoted identifiers
            f"RETURNS TABLE ({found}, distance double precision) LANGUAGE sql STABLE "
            f"ROWS {_NEIGHBOURS + 1} SET hnsw.ef_search = {_SEARCHED} BEGIN ATOMIC "
            f"SELECT {', '.join(f'b.{name}' for name in names)}, b.{column} <=> wanted "
            f"FROM {quoted(table)} b ORDER BY b.{column} <=> wanted LIMIT {_NEIGHBOURS + 1}; END"
        )
        connection.exec_driver_sql(
            f"CREATE OR REPLACE VIEW {view} AS SELECT {mine}, {theirs}, n.distance "  # noqa: S608 - quoted identifiers
            f"FROM {quoted(table)} a CROSS JOIN LATERAL (SELECT n.* FROM {search}(a.{column}) n "
            f"WHERE NOT ({same}) ORDER BY n.distance LIMIT {_NEIGHBOURS}) n"
        )


def nearest(
    connection: sa.Connection,
    table: sa.Table,
    column: str,
    vector: Sequence[float],
    limit: int,
    *,
    exact: bool = False,
) -> list[sa.Row[Any]]:
    """The rows whose vectors are nearest, with their cosine `distance` (0 to 2), nearest first.

    Args:
        connection: in whose transaction it is looked up.
        table: the published table.
        column: its vector column.
        vector: what to be near to, as many elements as the column's.
        limit: rows at most.
        exact: compare with every row instead of walking the index.
    """
    names = [c.name for c in table.columns if c.name != column and not c.name.startswith("_")]
    columns = ", ".join(DIALECT.identifier_preparer.quote(name) for name in names)
    near = f"{DIALECT.identifier_preparer.quote(column)} <=> CAST(:vector AS vector)"
    searched = max(_SEARCHED, min(1000, 2 * limit))
    connection.exec_driver_sql(f"SET LOCAL hnsw.ef_search = {searched}")
    if exact:
        connection.exec_driver_sql("SET LOCAL enable_indexscan = off")
    query = sa.text(
        f"SELECT {columns}, {near} AS distance FROM {quoted(table)} ORDER BY {near} LIMIT :limit"  # noqa: S608 - quoted identifiers
    )
    written = "[" + ",".join(map(repr, map(float, vector))) + "]"
    return list(connection.execute(query, {"vector": written, "limit": limit}))


def _valid(connection: sa.Connection, name: str) -> bool | None:
    query = sa.text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(:name)")
    found: bool | None = connection.execute(query, {"name": name}).scalar()
    return found


def _has_rows(connection: sa.Connection, table: sa.Table) -> bool:
    return bool(connection.execute(sa.select(sa.exists(sa.select(1).select_from(table)))).scalar())
