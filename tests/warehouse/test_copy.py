from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from sqlalchemy.dialects import postgresql

from overnight.errors import ContractError
from overnight.warehouse.copy import _slices, copy_in, copy_out
from overnight.warehouse.copy_binary import BinaryRows

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse

NASTY = [
    "", None, "NULL", "\\N", "\\.", "\\", '"', '""', "'", ",", "a\nb", "a\r\nb", "\r", "\n\\.\n",
    "\t", " leading", "trailing ", "\u2028", "日本語", "🦉", "{1,2}", "\\x00", "a\\,b", "\x01",
    "\x7f",
]  # fmt: skip


def round_trip(warehouse: Warehouse, table: sa.Table, frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    with warehouse.connect() as connection:
        table.create(connection)
        assert copy_in(connection, table, frame) == frame.height
        return [tuple(row) for row in connection.execute(sa.select(table))]


def temporary(*columns: sa.Column[Any]) -> sa.Table:
    return sa.Table("nasty", sa.MetaData(), *columns, prefixes=["TEMPORARY"])


def test_texts_that_look_like_syntax_come_back_as_they_were(warehouse: Warehouse) -> None:
    table = temporary(sa.Column("a", sa.Text), sa.Column("b", sa.Text))
    frame = pl.DataFrame({"a": NASTY, "b": NASTY[::-1]})
    assert round_trip(warehouse, table, frame) == frame.rows()


def test_texts_come_back_as_they_were_beside_a_type_that_is_sent_as_text(
    warehouse: Warehouse,
) -> None:
    table = temporary(sa.Column("a", sa.Text), sa.Column("tags", postgresql.ARRAY(sa.Text)))
    frame = pl.DataFrame({"a": NASTY, "tags": [NASTY] * len(NASTY)})
    assert BinaryRows.of(frame.schema, table.columns) is None
    assert round_trip(warehouse, table, frame) == frame.rows()


def test_a_single_text_column_holds_the_end_of_data_mark(warehouse: Warehouse) -> None:
    table = temporary(sa.Column("a", sa.Text))
    frame = pl.DataFrame({"a": NASTY})
    assert round_trip(warehouse, table, frame) == frame.rows()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(
            st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
            st.none() | st.binary(),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.none() | st.floats(allow_nan=False),
            st.none() | st.booleans(),
        ),
        min_size=1,
    )
)
def test_any_value_round_trips(warehouse: Warehouse, values: list[tuple[Any, ...]]) -> None:
    kinds = [sa.Text, postgresql.BYTEA, sa.BigInteger, postgresql.DOUBLE_PRECISION, sa.Boolean]
    table = temporary(*(sa.Column(name, kind) for name, kind in zip("abcde", kinds, strict=True)))
    frame = pl.DataFrame(
        values,
        orient="row",
        schema={"a": pl.String, "b": pl.Binary, "c": pl.Int64, "d": pl.Float64, "e": pl.Boolean},
    )
    assert round_trip(warehouse, table, frame) == frame.rows()


NUMBERS = {
    "small": (pl.Int16, sa.SmallInteger, [-(2**15), 2**15 - 1]),
    "smaller": (pl.UInt8, sa.SmallInteger, [0, 255]),
    "whole": (pl.Int32, sa.Integer, [-(2**31), 2**31 - 1]),
    "unsigned": (pl.UInt32, sa.BigInteger, [0, 2**32 - 1]),
    "large": (pl.Int64, sa.BigInteger, [-(2**63), 2**63 - 1]),
    "narrower": (pl.Int32, sa.BigInteger, [-1, 1]),
    "single": (pl.Float32, postgresql.REAL, [-0.5, float("inf")]),
    "double": (pl.Float64, postgresql.DOUBLE_PRECISION, [5e-324, -1.7e308]),
    "yes": (pl.Boolean, sa.Boolean, [True, False]),
    "day": (pl.Date, sa.Date, [dt.date(1, 1, 1), dt.date(9999, 12, 31)]),
    "at": (
        pl.Datetime("us", "UTC"),
        sa.DateTime(timezone=True),
        [dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(2026, 1, 1, 0, 0, 0, 7, tzinfo=dt.UTC)],
    ),
    "bytes": (pl.Binary, postgresql.BYTEA, [b"", b"\0\xff"]),
    "text": (pl.String, sa.Text, ["", "\U0001f989"]),
}


@pytest.mark.parametrize("nulls", [0, 1, 9_000])
def test_every_type_round_trips_wherever_nulls_are(warehouse: Warehouse, nulls: int) -> None:
    table = temporary(
        sa.Column("nth", sa.BigInteger),
        *(sa.Column(name, kind) for name, (_, kind, _) in NUMBERS.items()),
    )
    frame = pl.DataFrame(
        {
            name: pl.Series([None] * (nulls * (nth % 2)) + values * 5_000, dtype=kind)[:10_000]
            for nth, (name, (kind, _, values)) in enumerate(NUMBERS.items())
        }
    ).with_row_index("nth")
    frame = frame.with_columns(pl.col("nth").cast(pl.Int64))
    binary = BinaryRows.of(frame.schema, table.columns)
    assert binary is not None
    assert sorted(binary.names) == sorted(frame.columns)
    with warehouse.connect() as connection:
        table.create(connection)
        copy_in(connection, table, frame)
        found = connection.execute(sa.select(table).order_by("nth")).all()
    assert [tuple(row) for row in found] == frame.rows()


def test_rows_that_are_large_go_in_small_pieces(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overnight.warehouse.copy._BYTES_AT_ONCE", 3_000)
    table = temporary(sa.Column("a", sa.Text))
    frame = pl.DataFrame({"a": ["x" * 1_000] * 10})
    assert [part.height for part in _slices(frame)] == [1, 3, 3, 3]
    assert round_trip(warehouse, table, frame) == frame.rows()


def test_times_keep_their_microseconds_and_their_zone(warehouse: Warehouse) -> None:
    table = temporary(
        sa.Column("aware", sa.DateTime(timezone=True)),
        sa.Column("naive", sa.DateTime),
        sa.Column("day", sa.Date),
        sa.Column("clock", sa.Time),
        sa.Column("span", sa.Interval),
    )
    when = dt.datetime(2026, 3, 29, 1, 30, 0, 123456, tzinfo=dt.UTC)
    frame = pl.DataFrame(
        {
            "aware": [when, None],
            "naive": [dt.datetime(1969, 12, 31, 23, 59, 59, 999999), None],  # noqa: DTZ001
            "day": [dt.date(2024, 2, 29), None],
            "clock": [dt.time(23, 59, 59, 999999), None],
            "span": [dt.timedelta(days=-1, microseconds=7), None],
        }
    ).with_columns(pl.col("aware").dt.convert_time_zone("Asia/Kolkata"))
    assert round_trip(warehouse, table, frame)[0] == (when, *frame.row(0)[1:])


def test_lists_become_arrays(warehouse: Warehouse) -> None:
    table = temporary(
        sa.Column("f", postgresql.ARRAY(postgresql.DOUBLE_PRECISION)),
        sa.Column("i", postgresql.ARRAY(sa.BigInteger)),
        sa.Column("t", postgresql.ARRAY(sa.Text)),
    )
    frame = pl.DataFrame(
        {
            "f": [[0.1, -1e300, 5e-324], [], None, [None]],
            "i": [[1, 2], [], None, [None]],
            "t": [['a"b', "c\\d", "", "NULL", "x,y", "{}", "\n"], [], None, [None]],
        },
        schema={"f": pl.List(pl.Float64), "i": pl.List(pl.Int64), "t": pl.List(pl.String)},
    )
    assert round_trip(warehouse, table, frame) == frame.rows()


def test_vectors_are_told_from_arrays(warehouse: Warehouse) -> None:
    from overnight.contract import Vector

    with warehouse.begin() as connection:
        connection.exec_driver_sql("CREATE EXTENSION IF NOT EXISTS vector")
    table = temporary(sa.Column("v", Vector(3)))
    frame = pl.DataFrame({"v": [[0.1, 2.0, -3e-8], None]}, schema={"v": pl.Array(pl.Float32, 3)})
    first, second = round_trip(warehouse, table, frame)
    assert (
        pl.Series(first[0].strip("[]").split(",")).cast(pl.Float32).to_list()
        == frame["v"][0].to_list()
    )
    assert second == (None,)


@pytest.mark.parametrize("other", [1, [1]])
def test_nul_is_refused_with_column_and_key_and_nothing_is_stored(
    warehouse: Warehouse, other: Any
) -> None:
    kind = sa.BigInteger if other == 1 else postgresql.ARRAY(sa.BigInteger)
    table = sa.Table("nul", sa.MetaData(), sa.Column("id", sa.Text), sa.Column("t", sa.Text),
                     sa.Column("other", kind))  # fmt: skip
    many = [f"k{n}" for n in range(10_000)]
    frame = pl.DataFrame({"id": many, "t": ["fine"] * 9_999 + ["a\0b"], "other": [other] * 10_000})
    with warehouse.begin() as connection:
        table.create(connection)
    with (
        pytest.raises(ContractError, match=r"'t'.*k9999"),
        warehouse.begin() as connection,
    ):
        copy_in(connection, table, frame, key=["id"])
    with warehouse.begin() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() == 0
        table.drop(connection)


def test_what_is_read_is_what_is_there(warehouse: Warehouse) -> None:
    table = temporary(
        sa.Column("a", sa.Text), sa.Column("b", postgresql.BYTEA), sa.Column("c", sa.BigInteger)
    )
    frame = pl.DataFrame(
        {
            "a": NASTY,
            "b": [None, b"", b"\0\xff"] + [b"x"] * (len(NASTY) - 3),
            "c": range(len(NASTY)),
        },
        schema={"a": pl.String, "b": pl.Binary, "c": pl.Int64},
    )
    with warehouse.connect() as connection:
        table.create(connection)
        copy_in(connection, table, frame)
        query = "SELECT a, encode(b, 'hex'), c FROM nasty WHERE c >= %s ORDER BY c"
        assert_frame_equal(copy_out(connection, query, [0], frame.schema), frame)
        assert copy_out(connection, query, [99], frame.schema).schema == frame.schema
