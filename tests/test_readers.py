"""Reading a partition: what becomes a row, what is rejected and why, and what stops the read."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import logging
from typing import TYPE_CHECKING, Annotated, Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from overnight.contract import Contract, Field, Timestamp
from overnight.errors import (
    ConfigError,
    NotLandedError,
    SourceChangedError,
    SourceError,
    StoreError,
)
from overnight.landing import Reader, Source, landing_version, mark_complete
from overnight.landing.batch import FileReading
from overnight.landing.delimited import read_csv
from overnight.landing.jsonl import read_jsonl
from overnight.store import StoreConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from overnight.landing import Batch
    from overnight.store import Store

DAY = "2026-01-31"
FOLDER = f"landing/items/{DAY}"


class Item(Contract):
    """An item."""

    id: str = Field(description="Which.")
    count: pl.Int16 | None = Field(description="How many.", ge=0)
    price: float | None = Field(description="How much.")
    sold: bool | None = Field(description="Whether.")
    day: pl.Date | None = Field(description="Which day.")
    at: Timestamp | None = Field(description="When.")
    vector: Annotated[pl.Array, pl.Float32, 2] | None = Field(description="Embedding.")


class Pair(Contract):
    """Only text."""

    id: str = Field(description="Which.")
    text: str | None = Field(description="What.")


ITEMS = Source(name="items", contract=Item, key="id")
PAIRS = Source(name="items", contract=Pair, key="id")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return StoreConfig((tmp_path / "store").as_uri()).open()


def read(
    store: Store, source: Source = ITEMS, *, batch_rows: int = 16_384
) -> tuple[pl.DataFrame, pl.DataFrame, Reader]:
    reader = Reader(store, source, DAY, batch_rows=batch_rows)
    batches: list[Batch] = list(reader.batches())
    assert sum(file.rows for file in reader.inputs) == sum(
        batch.frame.height + batch.rejects.height for batch in batches
    )
    if not batches:
        return pl.DataFrame(), pl.DataFrame(), reader
    rejects = pl.concat([batch.rejects for batch in batches])
    assert (rejects["source"] == source.name).all()
    return pl.concat([batch.frame for batch in batches]), rejects.drop("source"), reader


def rejects_of(store: Store, source: Source = ITEMS) -> list[tuple[Any, ...]]:
    return read(store, source)[1].drop("file").rows()


# JSON Lines


@pytest.mark.parametrize(
    ("line", "reject"),
    [
        (b"{broken", (None, None, "'{broken'", "is not JSON at character 2 of the line: ")),
        (b'["a"]', (None, None, "'[\"a\"]'", "is not a JSON object")),
        (b"null", (None, None, "'null'", "is not a JSON object")),
        (b'{"id":"a"} {"id":"b"}', (None, None, None, "is not JSON at character 12 of the line: ")),
        (
            b'{"id":"\xff"}',
            (None, None, r"""'{"id":"\\xff"}'""", "is not UTF-8 at byte 8 of the line (0xff)"),
        ),
        (b'{"id":"a","id":"a"}', (None, None, None, "has the key 'id' more than once")),
        (b'{"id":"a","i\\u0064":"b"}', (None, None, None, "has the key 'id' more than once")),
        (b"[" * 100_000, (None, None, None, "is nested too deeply to be read")),
        (
            b'{"id":"a","n":' + b"9" * 5000 + b"}",
            (None, None, None, "is not JSON that can be read"),
        ),
        (b"{}", (None, "id", None, "is missing, but the column may not be null")),
        (b'{"id":null}', (None, "id", None, "is null, but the column may not be")),
        (b'{"id":1}', (None, "id", "1", "must be a string, is an integer")),
        (b'{"id":{"x":1,"x":2}}', (None, "id", None, "must be a string, is an object")),
        (b'{"id":"a","count":"1"}', ("a", "count", "'1'", "must be an integer, is a string")),
        (b'{"id":"a","count":1.0}', ("a", "count", "1.0", "must be an integer, is a number")),
        (b'{"id":"a","count":true}', ("a", "count", "True", "must be an integer, is a boolean")),
        (
            b'{"id":"a","count":32768}',
            ("a", "count", "32768", "must be an integer from -32768 to 32767"),
        ),
        (b'{"id":"a","count":-1}', ("a", "count", "-1", "must be >= 0")),
        (b'{"id":"a","price":"1"}', ("a", "price", "'1'", "must be a number, is a string")),
        (b'{"id":"a","price":NaN}', ("a", "price", "nan", "is not a finite number")),
        (b'{"id":"a","price":-Infinity}', ("a", "price", "-inf", "is not a finite number")),
        (b'{"id":"a","price":1e999}', ("a", "price", "inf", "is not a finite number")),
        (
            b'{"id":"a","price":1' + b"0" * 400 + b"}",
            ("a", "price", None, "is out of the range of Float64"),
        ),
        (b'{"id":"a","sold":1}', ("a", "sold", "1", "must be true or false, is an integer")),
        (
            b'{"id":"a","day":"2026-02-30"}',
            ("a", "day", "'2026-02-30'", "is not an ISO 8601 date: day is out of range for month"),
        ),
        (b'{"id":"a","day":20260101}', ("a", "day", "20260101", "must be an ISO 8601 date, is an")),
        (
            b'{"id":"a","at":"yesterday"}',
            ("a", "at", "'yesterday'", "is not an ISO 8601 date and time"),
        ),
        (
            b'{"id":"a","at":"0001-01-01T00:00:00+05:00"}',
            ("a", "at", None, "is not an ISO 8601 date and time: in UTC it is outside the years"),
        ),
        (b'{"id":"a","vector":[1]}', ("a", "vector", "[1]", "must have 2 elements, has 1")),
        (
            b'{"id":"a","vector":[1,"2"]}',
            ("a", "vector", "[1, '2']", "element 1 ('2') must be a number, is a string"),
        ),
        (
            b'{"id":"a","vector":[1,1e39]}',
            ("a", "vector", "[1, 1e+39]", "element 1 (1e+39) is out of the range of Float32"),
        ),
        (b'{"id":"a","vector":[1,null]}', ("a", "vector", "[1.0, None]", "holds a null element")),
        (b'{"id":"a\\u0000b"}', (r"a\0b", "id", r"'a\x00b'", "contains a NUL character")),
        (
            b'{"id":"\\udc00"}',
            (
                None,
                "id",
                r"'\udc00'",
                "has a lone surrogate at character 0, which is no valid text",
            ),
        ),
        (
            b'{"id":"a","count":-1,"price":"x"}',
            ("a", "price", "'x'", "must be a number, is a string"),
        ),
    ],
)
def test_a_bad_line_is_rejected_alone_with_line_key_column_and_value(
    store: Store, line: bytes, reject: tuple[str | None, str | None, str | None, str]
) -> None:
    store.put(f"{FOLDER}/a.jsonl", b'{"id":"before"}\n\n' + line + b'\n{"id":"after"}\n')
    rows, rejects, reader = read(store)
    assert rows.select("id", "_line").rows() == [("before", 1), ("after", 4)]
    ((file, number, key, column, value, reason),) = rejects.rows()
    assert (file, number) == (f"{store.url}/{FOLDER}/a.jsonl", 3)
    assert (key, column) == reject[:2]
    assert reject[2] in (None, value)
    assert len(value or "") <= 200
    assert reason.startswith(reject[3])
    assert reader.inputs[0].rows == 3


def test_good_lines_become_typed_rows_with_their_origin(store: Store) -> None:
    lines = [
        (
            '{"id":"a","count":1,"price":2,"sold":true,"day":"2026-01-31",'
            '"at":"2026-01-31T12:00:00+02:00","vector":[1,2.5]}'
        ),
        '  {"price":0.1,"id":"quote\\" ; \\n line"}  \r',
        '{"id":"b","at":"2026-01-31T12:00:00","count":null}',
    ]
    content = ("\ufeff" + "\n".join(lines)).encode()
    store.put(f"{FOLDER}/a.jsonl", content)
    rows, rejects, reader = read(store)
    assert rejects.is_empty()
    assert rows.columns == [
        *("id", "count", "price", "sold", "day", "at", "vector"),
        *("_input_id", "_line"),
    ]
    assert rows["id"].to_list() == ["a", 'quote" ; \n line', "b"]
    assert rows["count"].to_list() == [1, None, None]
    assert rows["price"].to_list() == [2.0, 0.1, None]
    assert [str(value) for value in rows["at"]] == [
        "2026-01-31 10:00:00+00:00",
        "None",
        "2026-01-31 12:00:00+00:00",
    ]
    assert rows["_line"].to_list() == [1, 2, 3]
    (file,) = reader.inputs
    assert file.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert (file.bytes, file.rows, file.key) == (len(content), 3, f"{FOLDER}/a.jsonl")
    assert rows["_input_id"].unique().to_list() == [file.input_id]
    assert 0 <= file.input_id < 1 << 63


def test_batches_are_as_small_as_asked_and_change_nothing(store: Store) -> None:
    lines = [b'{"id":"%d"}' % index if index % 5 else b"bad" for index in range(100)]
    store.put(f"{FOLDER}/a.jsonl", b"\n".join(lines))
    small, small_rejects, _ = read(store, batch_rows=7)
    large, large_rejects, _ = read(store)
    assert small.equals(large)
    assert small_rejects.equals(large_rejects)
    batches = Reader(store, ITEMS, DAY, batch_rows=7).batches()
    assert max(batch.frame.height + batch.rejects.height for batch in batches) == 7


def test_extra_columns_are_ignored_and_logged_once_per_file(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    long_name = "x" * 1000
    lines = b'{"id":"a","new\\n":1}\n{"id":"b","new\\n":[{"id":1,"id":2}]}\n'
    store.put(f"{FOLDER}/a.jsonl", lines + json.dumps({"id": "c", long_name: 1}).encode())
    with caplog.at_level(logging.INFO, logger="overnight"):
        rows, rejects, _ = read(store, batch_rows=1)
    assert (rows.height, rejects.height) == (3, 0)
    (message,) = [record.getMessage() for record in caplog.records]
    assert r"'new\n'" in message
    assert "\n" not in message
    assert len(message) < 600


def test_a_line_over_the_limit_is_rejected_and_the_next_one_is_read() -> None:
    reading = FileReading("a.jsonl", Pair, batch_rows=10, max_line_bytes=1000)
    long = b'{"id":"' + b"x" * 5_000_000 + b'"}'
    stream = io.BytesIO(b'{"id":"a"}\n' + long + b'\n{"id":"b"}\n' + long)
    (batch,) = read_jsonl(stream, reading)
    assert batch.frame["id"].to_list() == ["a", "b"]
    assert batch.lines == [1, 3]
    assert [(one.line, one.reason) for one in batch.broken] == [
        (2, "the line is 5000009 bytes long, the limit is 1000"),
        (4, "the line is 5000009 bytes long, the limit is 1000"),
    ]


def test_gzipped_lines_are_read_like_plain_ones(store: Store) -> None:
    content = gzip.compress(b'{"id":"a"}\n') + gzip.compress(b'{"id":1}\n{"id":"b"}\n')
    store.put(f"{FOLDER}/a.jsonl.gz", content)
    rows, rejects, reader = read(store)
    assert rows.select("id", "_line").rows() == [("a", 1), ("b", 3)]
    assert rejects["line"].to_list() == [2]
    assert reader.inputs[0].bytes == len(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:5],
        lambda _: b"no gzip at all",
        lambda content: content[:20] + b"\0\0\0" + content[23:],
        lambda content: content + b"trailing",
    ],
)
def test_a_damaged_gzip_file_is_an_error_that_names_it(
    store: Store, damage: Callable[[bytes], bytes]
) -> None:
    lines = b"\n".join(b'{"id":"%d"}' % number for number in range(10_000))
    store.put(f"{FOLDER}/a.jsonl.gz", damage(gzip.compress(lines)))
    with pytest.raises(SourceError, match=r"a\.jsonl\.gz: is not an intact gzip file"):
        read(store)


# CSV

CSV_HEADER = b"id,count,price,sold,day,at,vector\n"


@pytest.mark.parametrize(
    ("row", "reject"),
    [
        (b"a,1", (None, None, "'a,1'", "has 2 fields, the header has 7")),
        (b"a,1,,,,,,", (None, None, "'a,1,,,,,,'", "has 8 fields, the header has 7")),
        (b",1,,,,,", (None, "id", None, "is null, but the column may not be")),
        (b"a,x,,,,,", ("a", "count", "'x'", "is not an integer from -32768 to 32767")),
        (b"a,1.0,,,,,", ("a", "count", "'1.0'", "is not an integer from -32768 to 32767")),
        (b"a, 1,,,,,", ("a", "count", "' 1'", "is not an integer from -32768 to 32767")),
        (b"a,40000,,,,,", ("a", "count", "'40000'", "is not an integer from -32768 to 32767")),
        (b"a,,1x,,,,", ("a", "price", "'1x'", "is not a number")),
        (b"a,,nan,,,,", ("a", "price", "nan", "is not a finite number")),
        (b"a,,1e999,,,,", ("a", "price", "inf", "is not a finite number")),
        (b"a,,,yes,,,", ("a", "sold", "'yes'", "is not true or false")),
        (b"a,,,,31.1.2026,,", ("a", "day", "'31.1.2026'", "is not an ISO 8601 date")),
        (b"a,,,,,noon,", ("a", "at", "'noon'", "is not an ISO 8601 date and time")),
        (b'a,,,,,,"[1,"', ("a", "vector", "'[1,'", "is not a JSON array")),
        (b'a,,,,,,"[1]"', ("a", "vector", "'[1]'", "must have 2 elements, has 1")),
        (b"a,,,,,,7", ("a", "vector", "'7'", "must be an array, is an integer")),
        (b"a\0,,,,,,", (r"a\0", "id", r"'a\x00'", "contains a NUL character")),
        (b"\xe9,,,,,,", (None, None, r"'\\xe9,,,,,,'", "is not UTF-8 at byte 1 of line 4 (0xe9)")),
        (b'"a"b,,,,,,', (None, None, None, "is not CSV: ',' expected after '\"'")),
    ],
)
def test_a_bad_csv_row_is_rejected_alone_with_its_first_line(
    store: Store, row: bytes, reject: tuple[str | None, str | None, str | None, str]
) -> None:
    two_lines = b'"be\nfore",1,,,,,\n'
    store.put(f"{FOLDER}/a.csv", CSV_HEADER + two_lines + row + b"\n\nafter,,,,,,\n")
    rows, rejects, _ = read(store)
    assert rows.select("id", "_line").rows() == [("be\nfore", 2), ("after", 6)]
    ((_, number, key, column, value, reason),) = rejects.rows()
    assert number == 4
    assert (key, column) == reject[:2]
    assert reject[2] in (None, value)
    assert reason.startswith(reject[3])


def test_csv_values_are_parsed_from_text_and_blank_is_null(store: Store) -> None:
    store.put(
        f"{FOLDER}/a.csv",
        b'\xef\xbb\xbfextra,vector,at,day,sold,price,count,id\r\nx,"[1, 2]",2026-01-31T01:00:00Z,'
        b'2026-01-31,TRUE,1e3,-0,"a, ""b"""\r\nx,,,,0,-.5,,c\r\n',
    )
    rows, rejects, _ = read(store)
    assert rejects.is_empty()
    assert rows["id"].to_list() == ['a, "b"', "c"]
    assert rows["count"].to_list() == [0, None]
    assert rows["price"].to_list() == [1000.0, -0.5]
    assert rows["sold"].to_list() == [True, False]
    assert [str(day) for day in rows["day"]] == ["2026-01-31", "None"]
    assert rows["vector"].to_list() == [[1.0, 2.0], None]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"id\na\n", r"header lacks column 'text'; it has \['id'\]"),
        (b"id,text,id\na,b,c\n", "header repeats column 'id'"),
        (b"\n\n", "header lacks column 'id'"),
        (b"id,\xff\n", r"line 1: the header is not UTF-8 at byte 4 of line 1 \(0xff\)"),
        (b'id,text\na,b\nc,"d\ne,f\n', "quote that opens in the row at line 3 is never closed"),
    ],
)
def test_a_csv_file_that_cannot_be_told_apart_is_an_error(
    store: Store, content: bytes, problem: str
) -> None:
    store.put(f"{FOLDER}/a.csv", content)
    with pytest.raises(SourceError, match=rf"a\.csv.*{problem}"):
        read(store, PAIRS)


def test_a_csv_line_over_the_limit_is_rejected_and_quotes_stay_paired() -> None:
    long = b"x" * 2_000_000
    content = b'id,text\na,1\n"%s,",2\nb,"%s\nstill\n"\nc,3\n' % (long, long)
    reading = FileReading("a.csv", Pair, batch_rows=10, max_line_bytes=1_000_000)
    with pytest.raises(SourceError, match=r"a\.csv: the row that begins at line 4 is longer than"):
        list(read_csv(io.BytesIO(content), reading))
    content = b'id,text\na,1\n"%s,",2\nc,3\n' % long
    (batch,) = read_csv(io.BytesIO(content), reading)
    assert batch.frame["id"].to_list() == ["a", "c"]
    assert batch.lines == [2, 4]
    assert [one.line for one in batch.broken] == [3]


# Parquet


def put_parquet(store: Store, table: pa.Table, name: str = "a.parquet", **options: Any) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, **options)
    store.put(f"{FOLDER}/{name}", buffer.getvalue())
    return buffer.getvalue()


def test_parquet_rows_are_converted_without_loss_and_numbered(store: Store) -> None:
    table = pa.table(
        {
            "vector": pa.array([[1.0, 2.0], None, None], pa.list_(pa.float64())),
            "at": pa.array([0, None, 1], pa.timestamp("ms", tz="Europe/Berlin")),
            "day": pa.array([0, None, 1], pa.date64()),
            "extra": [1, 2, 3],
            "sold": [True, None, False],
            "price": pa.array([1, 2, None], pa.int32()),
            "count": pa.array([1, None, 2], pa.uint64()),
            "id": pa.array(["a", "b", "c"]).dictionary_encode(),
        }
    )
    put_parquet(store, table, row_group_size=2)
    rows, rejects, _ = read(store, batch_rows=1)
    assert rejects.is_empty()
    assert rows["id"].to_list() == ["a", "b", "c"]
    assert rows["_line"].to_list() == [1, 2, 3]
    assert rows["count"].to_list() == [1, None, 2]
    assert rows["vector"].to_list() == [[1.0, 2.0], None, None]
    assert [str(at) for at in rows["at"]] == [
        "1970-01-01 00:00:00+00:00",
        "None",
        "1970-01-01 00:00:00.001000+00:00",
    ]


def items_table(**columns: pa.Array) -> pa.Table:
    rows = len(next(iter(columns.values())))
    ids = pa.array([f"i{row}" for row in range(rows)])
    empty = dict.fromkeys(("count", "price", "sold", "day", "at", "vector"), pa.nulls(rows))
    return pa.table({"id": ids, **empty, **columns})


def test_parquet_values_that_do_not_fit_reject_their_rows(store: Store) -> None:
    put_parquet(store, items_table(count=pa.array([1, 70_000, -1])))
    assert rejects_of(store) == [
        (2, "i1", "count", "70000", "must be an integer from -32768 to 32767"),
        (3, "i2", "count", "-1", "must be >= 0"),
    ]
    put_parquet(store, items_table(vector=pa.array([[1.0], [1.0, 2.0], None])))
    assert rejects_of(store) == [(1, "i0", "vector", "[1.0]", "must have 2 elements, has 1")]
    put_parquet(store, items_table(price=pa.array([float("nan"), 1.0])))
    assert rejects_of(store) == [(1, "i0", "price", "nan", "is not a finite number")]
    for unit in ("ms", "us"):
        put_parquet(store, items_table(at=pa.array([2**62, 0], pa.timestamp(unit))))
        value = f"{2**62} {unit} since 1970"
        outside = "in UTC it is outside the years 1 to 9999"
        assert rejects_of(store) == [(1, "i0", "at", value, outside)]


def test_parquet_text_that_is_not_utf8_rejects_its_row(store: Store) -> None:
    text = pa.Array.from_buffers(
        pa.string(),
        3,
        [None, pa.array([0, 1, 2, 3], pa.int32()).buffers()[1], pa.py_buffer(b"a\xffc")],
    )
    put_parquet(store, pa.table({"id": ["x", "y", "z"], "text": text}))
    rows, rejects, _ = read(store, PAIRS)
    assert rows["text"].to_list() == ["a", "c"]
    assert rejects.drop("file").rows() == [
        (2, "y", "text", r"b'\xff'", "is not UTF-8 at byte 1 (0xff)")
    ]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"id": ["a"]}, "column 'text' is missing; the file has \\['id'\\]"),
        ({"id": ["a"], "text": [1]}, "column 'text' is int64 in the file, .* Pair says String"),
        ({"id": ["a"], "text": [["x"]]}, "column 'text' is list"),
        ({"id": [b"a"], "text": ["b"]}, "column 'id' is binary"),
    ],
)
def test_a_parquet_file_of_another_shape_is_an_error(
    store: Store, columns: dict[str, Any], problem: str
) -> None:
    put_parquet(store, pa.table(columns))
    with pytest.raises(SourceError, match=rf"a\.parquet: {problem}"):
        read(store, PAIRS)


def test_a_damaged_parquet_file_is_an_error_that_names_it(store: Store) -> None:
    table = pa.table({"id": [str(number) for number in range(5000)], "text": ["x" * 20] * 5000})
    content = put_parquet(store, table, row_group_size=1000, use_dictionary=False)
    for damaged in (
        b"PAR1",
        b"not parquet",
        content[:-1],
        content[: len(content) // 2],
        content[:4] + bytes(2000) + content[2004:],
        content[:60_000] + b"\xff" * 2000 + content[62_000:],
    ):
        store.put(f"{FOLDER}/a.parquet", damaged)
        with pytest.raises(SourceError, match=r"a\.parquet: is not an intact Parquet file"):
            read(store, PAIRS)


def test_a_parquet_column_with_a_dot_in_its_name_is_not_a_nested_one(store: Store) -> None:
    dotted = type(
        "Dotted",
        (Contract,),
        {
            "__annotations__": {"id": str, "b": str},
            "id": Field(description="Which."),
            "b": Field(alias="a.b", description="With a dot."),
        },
    )
    put_parquet(store, pa.table({"a": [{"b": "wrong"}], "a.b": ["right"], "id": ["x"]}))
    rows, _, _ = read(store, Source(name="items", contract=dotted, key="id"))
    assert rows["a.b"].to_list() == ["right"]


# Partitions


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.csv", "a.parquet"])
def test_an_empty_file_is_an_error(store: Store, name: str) -> None:
    store.put(f"{FOLDER}/{name}", b"")
    with pytest.raises(SourceError, match=rf"{name}: is empty \(0 bytes\)"):
        read(store)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", b"\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
        ("a.csv", b"id,text\n"),
    ],
)
def test_a_valid_file_without_rows_has_no_rows(store: Store, name: str, content: bytes) -> None:
    store.put(f"{FOLDER}/{name}", content)
    rows, _, reader = read(store, PAIRS)
    assert rows.is_empty()
    assert [file.rows for file in reader.inputs] == [0]


def test_a_parquet_file_without_rows_has_no_rows(store: Store) -> None:
    put_parquet(store, items_table(count=pa.array([], pa.int64())))
    rows, _, reader = read(store)
    assert rows.is_empty()
    assert [file.rows for file in reader.inputs] == [0]


def test_a_partition_that_has_not_landed_says_where_it_looked(store: Store) -> None:
    with pytest.raises(NotLandedError, match=rf"{store.url}/{FOLDER}/; land files .*_SUCCESS"):
        read(store)
    store.put(f"{FOLDER}/_temporary.jsonl", b"{}")
    store.put(f"{FOLDER}/.hidden.csv", b"{}")
    with pytest.raises(NotLandedError):
        read(store)


def test_a_complete_partition_without_files_has_zero_rows(store: Store) -> None:
    mark_complete(store, ITEMS, DAY)
    rows, _, reader = read(store)
    assert rows.is_empty()
    assert reader.inputs == []


@pytest.mark.parametrize("name", ["notes.txt", "a.csv.gz", "jsonl", "sub/a.jsonl"])
def test_a_file_that_would_be_skipped_silently_is_an_error(store: Store, name: str) -> None:
    store.put(f"{FOLDER}/a.jsonl", b'{"id":"a"}')
    store.put(f"{FOLDER}/{name}", b"x")
    with pytest.raises(SourceError, match=name):
        read(store)


@pytest.mark.parametrize(
    "partition",
    [
        "2026-11-31",
        "2026-1-1",
        "../x",
        "",
        "\0",
        "2026-01-01\n",
        "20260101",
        "2026-W01-1",
        "٢٠٢٦-01-01",
    ],
)
def test_a_partition_that_is_no_date_is_refused(store: Store, partition: str) -> None:
    with pytest.raises(ConfigError, match="is not a date"):
        Reader(store, ITEMS, partition)


def test_files_are_read_in_order_and_each_has_its_own_id(store: Store) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.csv"):
        content = b'{"id":"x"}' if name.endswith("jsonl") else CSV_HEADER + b"x,,,,,,\n"
        store.put(f"{FOLDER}/{name}", content)
    rows, _, reader = read(store)
    assert [file.key.rpartition("/")[2] for file in reader.inputs] == [
        "a.jsonl",
        "b.jsonl",
        "c.csv",
    ]
    assert rows["_input_id"].to_list() == [file.input_id for file in reader.inputs]
    assert rows["_input_id"].n_unique() == 3
    assert reader.version == landing_version(store, ITEMS, DAY)


def test_a_file_replaced_before_it_is_read_is_noticed(store: Store) -> None:
    store.put(f"{FOLDER}/a.jsonl", b'{"id":"a"}\n')
    store.put(f"{FOLDER}/b.jsonl", b'{"id":"b"}\n')
    batches = Reader(store, ITEMS, DAY).batches()
    next(batches)
    store.put(f"{FOLDER}/b.jsonl", b'{"id":"c"}\n')
    with pytest.raises(SourceChangedError, match=r"b\.jsonl: changed while it was being read"):
        list(batches)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda store: store.put(f"{FOLDER}/a.jsonl", b'{"id":"z"}\n'), r"a\.jsonl: changed"),
        (lambda store: store.delete([f"{FOLDER}/a.jsonl"]), r"a\.jsonl: changed .* it is gone"),
        (lambda store: store.put(f"{FOLDER}/0.jsonl", b'{"id":"z"}\n'), r"0\.jsonl: was added"),
    ],
)
def test_a_change_after_a_file_was_read_is_noticed_at_the_end(
    store: Store, change: Callable[[Store], object], problem: str
) -> None:
    store.put(f"{FOLDER}/a.jsonl", b'{"id":"a"}\n')
    batches = Reader(store, ITEMS, DAY).batches()
    assert next(batches).frame["id"].to_list() == ["a"]
    change(store)
    with pytest.raises(SourceChangedError, match=problem) as error:
        list(batches)
    assert error.value.retryable


def test_no_room_for_a_copy_is_an_error_that_says_where(store: Store, tmp_path: Path) -> None:
    store.put(f"{FOLDER}/a.jsonl", b'{"id":"a"}')
    reader = Reader(store, ITEMS, DAY, scratch=tmp_path / "missing")
    with pytest.raises(StoreError, match=rf"{tmp_path}/missing: No such file"):
        list(reader.batches())
