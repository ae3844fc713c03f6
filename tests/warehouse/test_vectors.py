"""Nearest rows by the index: what a reader's own session gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

from overnight.contract.sql_types import Vector
from overnight.lineage.record import finish_attempt
from overnight.warehouse.copy import copy_in
from overnight.warehouse.roles import READER
from overnight.warehouse.vectors import VectorIndex, ensure_index
from tests.warehouse.helpers import new_table, rows, start

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse

ROWS, DIMENSIONS = 600, 12


@pytest.fixture(scope="module")
def table(warehouse: Warehouse) -> sa.Table:
    """Vectors around the origin, with their index and their neighbours."""
    made = new_table(
        warehouse,
        sa.Column("id", sa.Text, nullable=False, comment="The key"),
        sa.Column("text", sa.Text, comment="What was inferred"),
        sa.Column("place", Vector(DIMENSIONS), comment="Where it is"),
    )
    attempt = start(warehouse, made)
    finish_attempt(warehouse, attempt, outcome="interrupted")
    vectors = np.random.default_rng(0).normal(size=(ROWS, DIMENSIONS)).astype(np.float32)
    frame = rows(range(ROWS), "t", attempt).with_columns(
        place=pl.Series(vectors, dtype=pl.Array(pl.Float32, DIMENSIONS)),
        partition_key=pl.lit(attempt.partition_key),
    )
    with warehouse.begin() as connection:
        copy_in(connection, made, frame)
    ensure_index(warehouse, made, VectorIndex(column="place"))
    return made


def test_a_reader_gets_the_true_neighbours_however_its_session_is_set(
    warehouse: Warehouse, table: sa.Table
) -> None:
    view = f"{table.schema}.{table.name}_neighbours"
    name = f"{table.schema}.{table.name}"
    with warehouse.connect() as connection:
        true = connection.exec_driver_sql(
            f"SELECT a.id, n.id FROM {name} a CROSS JOIN LATERAL (SELECT b.id FROM {name} b "
            "WHERE b.id <> a.id ORDER BY b.place <=> a.place LIMIT 5) n WHERE a.id < 'k13'"
        ).all()
    with warehouse.connect() as connection:
        connection.exec_driver_sql(f"SET LOCAL ROLE {READER}")
        connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
        # So narrow that an own search finds only one row.
        connection.exec_driver_sql("SET LOCAL hnsw.ef_search = 1")
        own = connection.exec_driver_sql(
            f"SELECT id FROM {name} ORDER BY place <=> (SELECT place FROM {name} "
            "WHERE id = 'k7') LIMIT 5"
        ).all()
        found = connection.exec_driver_sql(
            f"SELECT id, neighbour_id FROM {view} WHERE id < 'k13'"
        ).all()
        narrow = connection.exec_driver_sql("SHOW hnsw.ef_search").scalar_one()
    assert len(own) == 1, "the index is used, as narrowly as the session says"
    assert len(found) == len(true) == 5 * len({row[0] for row in true}) > 100
    assert len(set(found) & set(true)) >= 0.99 * len(true)
    assert narrow == "1", "the session stays as it was"


def test_neighbours_are_searched_as_widely_as_recall_was_measured_with(
    warehouse: Warehouse, table: sa.Table
) -> None:
    query = sa.text("SELECT proconfig FROM pg_proc WHERE proname = :name")
    with warehouse.connect() as connection:
        settings = connection.execute(query, {"name": f"{table.name}_near"}).scalar_one()
    assert settings == ["hnsw.ef_search=100"]


def test_neighbours_go_with_their_table(warehouse: Warehouse) -> None:
    made = new_table(
        warehouse,
        sa.Column("id", sa.Text, nullable=False, comment="The key"),
        sa.Column("place", Vector(2), comment="Where it is"),
    )
    attempt = start(warehouse, made)
    finish_attempt(warehouse, attempt, outcome="interrupted")
    frame = rows([1], "t", attempt).drop("text")
    frame = frame.with_columns(
        place=pl.Series([[1.0, 0.0]], dtype=pl.Array(pl.Float32, 2)),
        partition_key=pl.lit(attempt.partition_key),
    )
    with warehouse.begin() as connection:
        copy_in(connection, made, frame)
    for _ in range(2):
        ensure_index(warehouse, made, VectorIndex(column="place"))
        with warehouse.begin() as connection:
            connection.exec_driver_sql(f"DROP INDEX {made.schema}.{made.name}_place_hnsw")
    left = sa.text("SELECT count(*) FROM pg_proc WHERE proname = :name")
    with warehouse.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {made.fullname} CASCADE")
        assert connection.execute(left, {"name": f"{made.name}_near"}).scalar_one() == 0
