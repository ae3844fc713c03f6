from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from overnight.errors import ContractError
from overnight.warehouse.publish import publish
from overnight.warehouse.stage import Stage
from overnight.warehouse.table import add_key, ensure_table, system_columns
from tests.warehouse.helpers import new_table, publication, read, rows, start

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse


def declared(name: str, *columns: sa.Column[Any], key: tuple[str, ...] = ("id",)) -> sa.Table:
    table = sa.Table(
        name, sa.MetaData(), *columns, *system_columns(), schema="published", comment="Changed"
    )
    return add_key(table, key)


def key_column() -> sa.Column[Any]:
    return sa.Column("id", sa.Text, nullable=False, comment="The key")


def filled(warehouse: Warehouse) -> sa.Table:
    table = new_table(warehouse)
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt) as stage:
        stage.copy(rows([1, 2], "old", attempt))
        publish(warehouse, publication(stage, 2))
    attempt.lease.release()
    return table


def ensure(warehouse: Warehouse, table: sa.Table) -> None:
    with warehouse.begin() as connection:
        ensure_table(connection, table)


def test_a_new_table_has_its_key_and_comments(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    with warehouse.connect() as connection:
        found = sa.inspect(connection)
        assert found.get_pk_constraint(table.name, "published")["constrained_columns"] == [
            "partition_key",
            "id",
        ]
        assert found.get_table_comment(table.name, "published")["text"] == "A test's"
        comments = {c["name"]: c["comment"] for c in found.get_columns(table.name, "published")}
    assert comments == {c.name: c.comment for c in table.columns}


def test_the_same_declaration_changes_nothing(warehouse: Warehouse) -> None:
    kinds: tuple[Any, ...] = (
        sa.String(10), sa.Numeric(12, 3), sa.DateTime(timezone=True), sa.Double, sa.JSON,
        sa.ARRAY(sa.REAL), sa.SmallInteger, sa.Uuid, sa.Interval,
    )  # fmt: skip
    name = f"t_{uuid.uuid4().hex[:8]}"
    others = [sa.Column(f"c{i}", kind) for i, kind in enumerate(kinds)]
    ensure(warehouse, declared(name, key_column(), *others))
    again = [sa.Column(f"c{i}", kind) for i, kind in enumerate(kinds)]
    ensure(warehouse, declared(name, key_column(), *again))


def test_a_new_nullable_column_is_added_and_rows_and_grants_stay(warehouse: Warehouse) -> None:
    table = filled(warehouse)
    with warehouse.begin() as connection:
        connection.exec_driver_sql("CREATE ROLE somebody")
        connection.exec_driver_sql(f"GRANT SELECT ON {table.fullname} TO somebody")
    added = sa.Column("score", sa.Double, comment="How good")
    ensure(warehouse, declared(table.name, key_column(), sa.Column("text", sa.Text), added))
    assert read(warehouse, f"SELECT id, text, score FROM {table.fullname} ORDER BY id") == [
        ("k1", "old", None),
        ("k2", "old", None),
    ]
    granted = "SELECT has_table_privilege('somebody', %s, 'SELECT')"
    assert read(warehouse, granted, table.fullname) == [(True,)]
    assert read(warehouse, "SELECT obj_description(%s::regclass)", table.fullname) == [("Changed",)]


def test_a_column_that_became_nullable_takes_nulls(warehouse: Warehouse) -> None:
    table = new_table(warehouse, key_column(), sa.Column("n", sa.Text, nullable=False))
    ensure(warehouse, declared(table.name, key_column(), sa.Column("n", sa.Text)))
    with warehouse.connect() as connection:
        found = {c["name"]: c for c in sa.inspect(connection).get_columns(table.name, "published")}
    assert found["n"]["nullable"]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ([key_column()], "'text' \\(text\\).*no longer in the contract"),
        ([key_column(), sa.Column("text", sa.BigInteger)], "'text'.*from text to bigint"),
        ([key_column(), sa.Column("text", sa.String(9))], "from text to character varying\\(9\\)"),
        (
            [key_column(), sa.Column("text", sa.Text), sa.Column("must", sa.Text, nullable=False)],
            "'must' is new .* required",
        ),
    ],
)
def test_a_change_that_would_break_readers_is_refused(
    warehouse: Warehouse, columns: list[sa.Column[Any]], says: str
) -> None:
    table = filled(warehouse)
    before = read(warehouse, f"SELECT * FROM {table.fullname} ORDER BY id")
    changed = declared(table.name, *(column._copy() for column in columns))
    with pytest.raises(ContractError, match=says):
        ensure(warehouse, changed)
    assert read(warehouse, f"SELECT * FROM {table.fullname} ORDER BY id") == before


def test_another_key_is_refused(warehouse: Warehouse) -> None:
    table = filled(warehouse)
    text = sa.Column("text", sa.Text)
    with pytest.raises(ContractError, match=r"key of .* from .*'id'\] to .*'id', 'text'\]"):
        ensure(warehouse, declared(table.name, key_column(), text, key=("id", "text")))
