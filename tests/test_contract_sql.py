"""The DDL of a contract, run by PostgreSQL: names, types, comments, and what the table takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import polars as pl
import pytest
import sqlalchemy as sa

from overnight.contract import Contract, Field, Timestamp, columns, sql_table
from overnight.errors import ConfigError
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator

NASTY_NAMES = (
    'with "quotes"',
    "it's; DROP TABLE x; --",
    "100% sure %s %(x)s",
    "select",
    "line\nfeed\ttab",
    "back\\slash",
    "(brackets) [and] {braces} :colon",
    "日本語 ñ 🙂",
    "x" * 63,
    "MiXeD",
    ".",
    " ",
)


class Everything(Contract):
    """All types; it's 100% "quoted"; -- \\ %s.

    A second paragraph.
    """

    text: str = Field(description='It\'s "text"; 100% %s :x \\.')
    yes: bool = Field(description="Boolean.")
    tiny: pl.Int8 = Field(description="Int8.")
    medium: pl.Int32 = Field(description="Int32.")
    large: int = Field(description="Int64.")
    single: pl.Float32 = Field(description="Float32.")
    double: float | None = Field(description="Float64.", metadata={"allow_nan": True})
    day: pl.Date = Field(description="Date.")
    at: Timestamp = Field(description="Datetime.")
    words: Annotated[pl.List, pl.String] | None = Field(description="List of String.")
    numbers: Annotated[pl.List, pl.Float32] = Field(description="List of Float32.")
    vector: Annotated[pl.Array, pl.Float32, 3] = Field(description="A vector.")


@pytest.fixture(scope="module")
def warehouse() -> Iterator[Warehouse]:
    with open_home() as home, Warehouse.open(home=home) as opened:
        with opened.begin() as connection:
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
        yield opened


def test_every_type_and_every_comment_arrives_in_the_database(warehouse: Warehouse) -> None:
    table = sql_table(Everything, schema="public", name="every;thing\"'%", metadata=sa.MetaData())
    with warehouse.begin() as connection:
        table.create(connection)
    with warehouse.begin() as connection:
        found = connection.execute(
            sa.text(
                "SELECT attname, format_type(atttypid, atttypmod), NOT attnotnull, "
                "col_description(attrelid, attnum) FROM pg_attribute JOIN pg_class "
                "ON pg_class.oid = attrelid WHERE relname = :name AND attnum > 0 ORDER BY attnum"
            ),
            {"name": table.name},
        ).fetchall()
        comment = connection.execute(
            sa.text("SELECT obj_description(oid) FROM pg_class WHERE relname = :name"),
            {"name": table.name},
        ).scalar_one()
    assert comment == 'All types; it\'s 100% "quoted"; -- \\ %s.'
    assert [name for name, *_ in found] == [column.name for column in columns(Everything)]
    assert [kind for _, kind, *_ in found] == [
        "text",
        "boolean",
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "date",
        "timestamp with time zone",
        "text[]",
        "real[]",
        "vector(3)",
    ]
    assert [name for name, _, nullable, _ in found if nullable] == ["double", "words"]
    assert [doc for *_, doc in found] == [column.description for column in columns(Everything)]


def test_names_of_any_characters_become_columns(warehouse: Warehouse) -> None:
    attributes = {f"c{index}": name for index, name in enumerate(NASTY_NAMES)}
    contract = type(
        "Nasty",
        (Contract,),
        {
            "__annotations__": dict.fromkeys(attributes, str),
            **{
                attribute: Field(alias=name, description=f"Of {name!r}.")
                for attribute, name in attributes.items()
            },
        },
    )
    table = sql_table(contract, schema="public", name="nasty", metadata=sa.MetaData())
    values = dict(zip(NASTY_NAMES, (name[::-1] for name in NASTY_NAMES), strict=True))
    with warehouse.begin() as connection:
        table.create(connection)
        connection.execute(table.insert(), [values])
        row = connection.execute(sa.select(table)).mappings().one()
        assert dict(row) == values
        inspector = sa.inspect(connection)
        found = {column["name"]: column["comment"] for column in inspector.get_columns("nasty")}
    assert found == {name: f"Of {name!r}." for name in NASTY_NAMES}


def test_system_columns_follow_and_uniqueness_holds_within_a_partition(
    warehouse: Warehouse,
) -> None:
    class Coded(Contract):
        code: str | None = Field(description="Code.", unique=True)

    table = sql_table(
        Coded,
        schema="public",
        name="coded",
        metadata=sa.MetaData(),
        system_columns=[sa.Column("partition_key", sa.Text, nullable=False)],
    )
    assert [column.name for column in table.columns] == ["code", "partition_key"]
    with warehouse.begin() as connection:
        table.create(connection)
        connection.execute(
            table.insert(),
            [{"code": "a", "partition_key": day} for day in ("2026-01-01", "2026-01-02")],
        )
    with pytest.raises(sa.exc.IntegrityError), warehouse.begin() as connection:
        connection.execute(table.insert(), {"code": "a", "partition_key": "2026-01-02"})


def test_a_contract_without_columns_cannot_be_a_table() -> None:
    class Nothing(Contract):
        """Declares nothing."""

    with pytest.raises(ConfigError, match="Nothing declares no columns"):
        sql_table(Nothing, schema=None, name="nothing", metadata=sa.MetaData())
