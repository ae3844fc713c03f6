"""The input hash: equal if and only if a row asks for the same inference.

BLAKE2b, 16 bytes, over the key, every column of the source row, and the rendered request. It
is stored in the journal and in published tables, so it depends on nothing that changes between
processes, machines or versions of a library: each value is encoded here, column by column.

    header (once):  format, the key's name, columns' names and kinds, as canonical JSON
    per row:        for each column the length in bytes, -1 for null (8, little endian),
                    and the 8 bytes of the value (0 for null) if the kind is fixed;
                    then the bytes of the other values: text as UTF-8, lists of a fixed kind
                    as 8 bytes for each element and then a byte for each that says if it is
                    null, structs of these as their fields in a row, anything else nested as
                    canonical JSON

A column's kind follows from its type alone, so no row's hash depends on its neighbours.

Changing any of this makes every row of every partition be inferred again.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterator

_FORMAT = 1
_WIDTH = 8

_Ints = npt.NDArray[np.int64]


class _Column(NamedTuple):
    """A column's kind, its lengths in bytes (-1 for null), and its values."""

    kind: str
    lengths: _Ints
    values: _Ints | list[bytes]


def input_hashes(frame: pl.DataFrame, request: pl.Series, *, key: str) -> pl.Series:
    """The hash of each row.

    Args:
        frame: The source's columns, and no others; their order does not matter.
        request: What is asked of the engine, as long as the frame.
        key: The name of the key column.

    Returns:
        `input_hash`, Binary, 16 bytes each.
    """
    names = sorted(frame.columns)
    encoded = [_encode(series) for series in (*(frame[name] for name in names), request)]
    header = json.dumps([_FORMAT, key, names, [column.kind for column in encoded]])
    base = hashlib.blake2b(header.encode(), digest_size=16, person=b"overnight.input")
    digests = []
    for encoded_row in _rows(encoded, len(request)):
        row = base.copy()
        row.update(encoded_row)
        digests.append(row.digest())
    return pl.Series("input_hash", digests, dtype=pl.Binary)


def encoded_sizes(series: pl.Series) -> pl.Series:
    """How many bytes each value takes, encoded for the hash; 0 for null (Int64)."""
    return pl.Series(series.name, _encode(series).lengths, dtype=pl.Int64).clip(lower_bound=0)


def _rows(columns: list[_Column], count: int) -> Iterator[bytes]:
    """The bytes of each row."""
    fixed: list[_Ints] = []
    loose: list[list[bytes]] = []
    for column in columns:
        fixed.append(column.lengths)
        if isinstance(column.values, list):
            loose.append(column.values)
        else:
            fixed.append(column.values)
    block = np.stack(fixed, axis=1)
    heads = block.view(f"V{block.shape[1] * _WIDTH}").ravel().tolist() if count else []
    return (b"".join(parts) for parts in zip(heads, *loose, strict=True))


def _encode(series: pl.Series) -> _Column:
    dtype = series.dtype
    if (kind := _fixed_kind(dtype)) is not None:
        lengths = np.where(series.is_null().to_numpy(), -1, _WIDTH)
        return _Column(kind, lengths.astype("<i8"), _bits(series))
    if dtype == pl.String or isinstance(dtype, (pl.Categorical, pl.Enum)):
        return _loose("text", series.cast(pl.String).cast(pl.Binary))
    if dtype == pl.Binary:
        return _loose("bytes", series)
    if isinstance(dtype, (pl.List, pl.Array)) and (kind := _fixed_kind(dtype.inner)) is not None:
        return _lists(f"list of {kind}", series)
    if isinstance(dtype, pl.Struct) and dtype.fields and all(map(_of_numbers, dtype.fields)):
        return _struct(series)
    values = [None if value is None else _json(value) for value in series.to_list()]
    return _loose("json", pl.Series(series.name, values, dtype=pl.Binary))


def _fixed_kind(dtype: Any) -> str | None:
    """The kind of a type whose values fit 8 bytes, else None."""
    if dtype.is_float():
        return "float"
    if dtype == pl.Boolean:
        return "bool"
    if dtype.is_integer() and dtype not in (pl.Int128, pl.UInt128):
        return "uint" if dtype == pl.UInt64 else "int"
    if isinstance(dtype, pl.Datetime):
        return f"datetime {dtype.time_unit} {dtype.time_zone or ''}"
    if isinstance(dtype, pl.Duration):
        return f"duration {dtype.time_unit}"
    return {pl.Date: "date", pl.Time: "time"}.get(dtype)


def _bits(series: pl.Series) -> _Ints:
    """Values of a fixed kind as 8 bytes, 0 for null."""
    if series.dtype.is_float():
        floats = series.cast(pl.Float64).fill_null(0.0).to_numpy()
        # There are many bit patterns for "not a number", and one meaning.
        return np.where(np.isnan(floats), np.nan, floats).astype("<f8").view("<i8")
    if series.dtype == pl.UInt64:
        return series.fill_null(0).to_numpy().astype("<u8").view("<i8")
    return series.to_physical().cast(pl.Int64).fill_null(0).to_numpy().astype("<i8")


def _loose(kind: str, series: pl.Series) -> _Column:
    lengths = series.bin.size("b").cast(pl.Int64).fill_null(-1).to_numpy()
    return _Column(kind, lengths.astype("<i8"), series.fill_null(b"").to_list())


def _lists(kind: str, series: pl.Series) -> _Column:
    """Embeddings and features: no Python object for each element."""
    lists = series.arr.to_list() if isinstance(series.dtype, pl.Array) else series
    counts = lists.list.len().cast(pl.Int64).fill_null(0).to_numpy()
    flat = lists.drop_nulls().explode(empty_as_null=False)
    data, flags = _bits(flat).tobytes(), flat.is_null().cast(pl.UInt8).to_numpy().tobytes()
    ends = np.cumsum(counts).tolist()
    values = [
        data[start * _WIDTH : end * _WIDTH] + flags[start:end]
        for start, end in zip([0, *ends], ends, strict=False)
    ]
    lengths = np.where(series.is_null().to_numpy(), -1, counts * (_WIDTH + 1))
    return _Column(kind, lengths.astype("<i8"), values)


def _struct(series: pl.Series) -> _Column:
    """A history of items and weights: each field as a column of its own would be."""
    fields = [_encode(field) for field in series.struct.unnest()]
    kind = json.dumps([series.struct.fields, [field.kind for field in fields]])
    there = series.is_not_null().to_numpy()
    rows = zip(_rows(fields, len(series)), there.tolist(), strict=True)
    values = [row if is_there else b"" for row, is_there in rows]
    lengths = np.where(there, np.fromiter(map(len, values), np.int64, len(values)), -1)
    return _Column(f"struct of {kind}", lengths.astype("<i8"), values)


def _of_numbers(field: pl.Field) -> bool:
    inner = field.dtype.inner if isinstance(field.dtype, (pl.List, pl.Array)) else field.dtype
    return _fixed_kind(inner) is not None


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain).encode()


def _plain(value: Any) -> Any:
    """What JSON does not know: dates, decimals, bytes."""
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return value.to_list() if isinstance(value, pl.Series) else str(value)
