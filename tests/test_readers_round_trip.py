"""Whatever a valid frame holds survives each file format, and every other line is accounted for."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
import json
import string
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.contract import Contract, Field, Timestamp, columns, polars_schema
from overnight.landing.batch import FileReading
from overnight.landing.jsonl import read_jsonl
from overnight.landing.lines import TooLong, numbered_lines
from overnight.landing.rows import checked_rows

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
FLOAT32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


class Row(Contract):
    """One of each."""

    key: str = Field(description="Text.")
    other: str | None = Field(alias='q"uo;te, \n', description="A name for CSV to quote.")
    yes: bool | None = Field(description="Boolean.")
    small: pl.Int8 | None = Field(description="Int8.")
    large: int | None = Field(description="Int64.")
    single: pl.Float32 | None = Field(description="Float32.")
    double: float | None = Field(description="Float64.")
    day: pl.Date | None = Field(description="Date.")
    at: Timestamp | None = Field(description="Datetime.")
    words: Annotated[pl.List, pl.String] | None = Field(description="List of String.")
    vector: Annotated[pl.Array, pl.Float32, 2] | None = Field(description="Vector.")


ROW = st.fixed_dictionaries(
    {
        # CSV cannot tell an empty text from none.
        "key": TEXT.filter(bool),
        'q"uo;te, \n': st.none() | TEXT.filter(bool),
        "yes": st.none() | st.booleans(),
        "small": st.none() | st.integers(-128, 127),
        "large": st.none() | st.integers(-(1 << 63), (1 << 63) - 1),
        "single": st.none() | FLOAT32,
        "double": st.none() | st.floats(allow_nan=False, allow_infinity=False),
        "day": st.none() | st.dates(),
        "at": st.none() | st.datetimes(timezones=st.just(dt.UTC)),
        "words": st.none() | st.lists(TEXT, max_size=3),
        "vector": st.none() | st.lists(FLOAT32, min_size=2, max_size=2),
    }
)


def plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, dt.date | dt.datetime) else value


def to_jsonl(rows: list[dict[str, Any]]) -> bytes:
    lines = (json.dumps({name: plain(value) for name, value in row.items()}) for row in rows)
    return "\n".join(lines).encode() + b"\n"


def to_jsonl_unescaped(rows: list[dict[str, Any]]) -> bytes:
    lines = (
        json.dumps({name: plain(value) for name, value in row.items()}, ensure_ascii=False)
        for row in rows
    )
    return "\r\n".join(lines).encode() + b"\n"


def to_gzip(rows: list[dict[str, Any]]) -> bytes:
    return gzip.compress(to_jsonl(rows))


def to_csv(rows: list[dict[str, Any]]) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    names = [column.name for column in columns(Row)]
    writer.writerow(names)
    for row in rows:
        values = (plain(row[name]) for name in names)
        writer.writerow([json.dumps(one) if isinstance(one, list) else one for one in values])
    return out.getvalue().encode()


def to_parquet(rows: list[dict[str, Any]]) -> bytes:
    out = io.BytesIO()
    pl.DataFrame(rows, schema=polars_schema(Row)).write_parquet(out)
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", to_jsonl),
        ("b.jsonl", to_jsonl_unescaped),
        ("a.jsonl.gz", to_gzip),
        ("a.csv", to_csv),
        ("a.parquet", to_parquet),
    ],
)
@given(rows=st.lists(ROW, min_size=1, max_size=8), batch_rows=st.integers(1, 4))
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_a_valid_frame_survives_every_format(
    name: str,
    write: Callable[[list[dict[str, Any]]], bytes],
    rows: list[dict[str, Any]],
    batch_rows: int,
) -> None:
    batches = list(
        checked_rows(
            io.BytesIO(write(rows)), uri=name, contract=Row, key="key", batch_rows=batch_rows
        )
    )
    rejects = pl.concat([batch.rejects for batch in batches])
    assert rejects.is_empty(), rejects.rows()
    frame = pl.concat([batch.frame for batch in batches])
    expected = pl.DataFrame(rows, schema=polars_schema(Row))
    assert frame.drop("_line").equals(expected)


JUNK = st.one_of(
    st.binary(max_size=40),
    st.builds(
        lambda value: json.dumps(value).encode(),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([column.name for column in columns(Row)]), inner)
            ),
            max_leaves=8,
        ),
    ),
    ROW.map(lambda row: to_jsonl([row]).strip(b"\n")),
)


@given(lines=st.lists(JUNK.filter(lambda line: b"\n" not in line), max_size=12))
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
def test_every_line_that_is_not_blank_becomes_one_row_or_one_reject(lines: list[bytes]) -> None:
    content = b"\n".join([b" ", *lines])
    numbers: list[int] = []
    for batch in checked_rows(
        io.BytesIO(content), uri="a.jsonl", contract=Row, key="key", batch_rows=5
    ):
        numbers += batch.frame["_line"].to_list()
        numbers += batch.rejects["line"].to_list()
        for column in batch.rejects.drop("line"):
            # Rejects are themselves stored in PostgreSQL.
            assert not column.str.contains("\0", literal=True).any()
            assert (column.str.len_chars() <= 300).all()
    expected = [number for number, line in enumerate([b" ", *lines], 1) if line.strip()]
    assert sorted(numbers) == expected


@given(
    lines=st.lists(st.binary(max_size=30).map(lambda line: line.replace(b"\n", b"")), max_size=8),
    limit=st.integers(1, 20),
    step=st.integers(1, 7),
)
def test_lines_are_split_the_same_however_the_bytes_arrive(
    lines: list[bytes], limit: int, step: int
) -> None:
    class Slow(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            return super().read(step)

    content = b"\n".join([b"first", *lines]) + b"\n"
    found = list(numbered_lines(Slow(content), limit))
    assert [number for number, _ in found] == list(range(1, len(lines) + 2))
    for (_, line), original in zip(found, [b"first", *lines], strict=True):
        if isinstance(line, TooLong):
            assert (line.size, line.quotes) == (len(original), original.count(b'"'))
            assert original.startswith(line.head)
        else:
            assert line == original
            assert len(line) <= limit


@given(st.text(alphabet=string.printable, max_size=60))
def test_no_text_makes_the_csv_reader_lose_a_row_silently(text: str) -> None:
    class Pair(Contract):
        a: str | None = Field(description="A.")
        b: str | None = Field(description="B.")

    out = io.StringIO(newline="")
    csv.writer(out).writerows([["a", "b"], [text, "x"], ["y", text]])
    (batch,) = checked_rows(
        io.BytesIO(out.getvalue().encode()), uri="a.csv", contract=Pair, key="a", batch_rows=10
    )
    assert batch.frame.drop("_line").rows() == [(text or None, "x"), ("y", text or None)]


def test_a_batch_is_bounded_in_bytes_as_well_as_in_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("overnight.landing.jsonl.MAX_BATCH_BYTES", 1000)
    content = b"\n".join(b'{"key":"%s"}' % (b"x" * 300) for _ in range(10))
    reading = FileReading("a.jsonl", Row, batch_rows=1000)
    sizes = [batch.frame.height for batch in read_jsonl(io.BytesIO(content), reading)]
    assert sizes == [4, 4, 2]
