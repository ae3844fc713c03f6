"""A frame's rows in PostgreSQL's binary COPY format, written a whole column at a time.

Postgres reads it in half the time that it needs for text, and vectors in a fraction. The layout
is that of "COPY: Binary Format" in PostgreSQL's documentation: every row is its number of fields,
then for each field its length (-1: null) and its bytes, all numbers big-endian.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from overnight.contract.sql_types import Vector
from overnight.warehouse.table import DIALECT

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    import numpy.typing as npt
    import sqlalchemy as sa

    Values = npt.NDArray[Any]

__all__ = ["HEADER", "TRAILER", "BinaryRows"]

HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
_COUNT = np.dtype(">i2")
_LENGTH = np.dtype(">i4")
_NULL = -1
# Postgres counts days and microseconds from 2000-01-01.
_FIRST_DAY = 10_957
_FIRST_MICROSECOND = 946_684_800_000_000
_NUMBERS: dict[str, tuple[tuple[type[pl.DataType], ...], str]] = {
    "BOOLEAN": ((pl.Boolean,), ">i1"),
    "SMALLINT": ((pl.Int8, pl.Int16, pl.UInt8), ">i2"),
    "INTEGER": ((pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16), ">i4"),
    "BIGINT": (
        (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32), ">i8",
    ),
    "REAL": ((pl.Float32,), ">f4"),
    "DOUBLE PRECISION": ((pl.Float32, pl.Float64), ">f8"),
    "DATE": ((pl.Date,), ">i4"),
}  # fmt: skip
_BYTES = {"TEXT": pl.String, "BYTEA": pl.Binary}


@dataclass(frozen=True, slots=True)
class BinaryRows:
    """Encodes frames of one schema for one table: `of` makes it.

    Attributes:
        numbers: columns whose values are of one width, and the type of them; they come first.
        texts: columns whose values have a length of their own.
    """

    numbers: dict[str, np.dtype[Any]]
    texts: list[str]

    @classmethod
    def of(
        cls, schema: pl.Schema, columns: sa.ColumnCollection[str, sa.Column[Any]]
    ) -> Self | None:
        """What encodes a schema for a table's columns; None if text has to do.

        Args:
            schema: of the frames; each of its columns is one of the table's.
            columns: the table's.
        """
        numbers: dict[str, np.dtype[Any]] = {}
        texts = []
        for name, kind in schema.items():
            element = _element(kind, columns[name].type)
            if element is not None:
                numbers[name] = element
            elif _BYTES.get(_sql(columns[name].type)) == kind:
                texts.append(name)
            else:
                return None
        return cls(numbers, texts)

    @property
    def names(self) -> Sequence[str]:
        """The columns in the order in which a row has them."""
        return [*self.numbers, *self.texts]

    def rows(self, frame: pl.DataFrame) -> memoryview:
        """The rows of a frame, without what stands before the first and after the last."""
        pieces = [np.array(len(self.names), _COUNT)]
        parts: list[pa.Array] = []
        for name in self.names:
            element, values = self.numbers.get(name), frame[name].to_arrow()
            for piece in _text(values) if element is None else _number(values, element):
                if isinstance(piece, np.ndarray):
                    pieces.append(piece)
                else:
                    parts += [_large_binary(_beside(pieces, len(frame))), piece]
                    pieces = []
        parts.append(_large_binary(_beside(pieces, len(frame))))
        joined = pc.binary_join_element_wise(*parts, pa.scalar(b"", pa.large_binary()))
        offsets = np.frombuffer(joined.buffers()[1], np.int64)
        return memoryview(joined.buffers()[2])[: offsets[len(frame)]]


def _sql(kind: sa.types.TypeEngine[Any]) -> str:
    name: str = kind.compile(dialect=DIALECT)
    return name


def _element(kind: pl.DataType, sql: sa.types.TypeEngine[Any]) -> np.dtype[Any] | None:
    """The bytes of one value in Postgres' order, if it has the same number of them each time."""
    if isinstance(kind, pl.Array):
        if isinstance(sql, Vector) and kind.inner == pl.Float32 and kind.shape == (sql.size,):
            return np.dtype([("size", ">i2"), ("unused", ">i2"), ("values", ">f4", kind.shape)])
        return None
    name = _sql(sql)
    if isinstance(kind, pl.Datetime):
        aware = name == f"TIMESTAMP WITH{'OUT' if kind.time_zone is None else ''} TIME ZONE"
        return np.dtype(">i8") if aware and kind.time_unit == "us" else None
    taken, element = _NUMBERS.get(name, ((), ""))
    return np.dtype(element) if kind.base_type() in taken else None


def _beside(pieces: Sequence[Values], rows: int) -> Values:
    """Values that stand beside each other in each row; one that has no rows is in all of them."""
    fields = [(str(nth), piece.dtype, piece.shape[1:]) for nth, piece in enumerate(pieces)]
    block = np.empty(rows, fields)
    for nth, piece in enumerate(pieces):
        block[str(nth)] = piece
    return block


def _number(column: pa.Array, element: np.dtype[Any]) -> list[Values | pa.Array]:
    """The lengths and the values of a column of fixed width."""
    if not column.null_count:
        return [np.array(element.itemsize, _LENGTH), _values(column, element)]
    there = column.is_valid().to_numpy(zero_copy_only=False)
    lengths = np.where(there, element.itemsize, _NULL).astype(_LENGTH)
    values = _values(column.drop_null(), element)
    return [lengths, _large_binary(values, np.cumsum(there * element.itemsize))]


def _text(column: pa.Array) -> list[Values | pa.Array]:
    """The lengths and the values of a column of text or bytes."""
    values = column.view(pa.large_binary())
    if column.null_count:
        lengths = pc.binary_length(values).fill_null(_NULL).to_numpy()
        return [lengths.astype(_LENGTH), values.fill_null(b"")]
    ends = np.frombuffer(values.buffers()[1], np.int64)[values.offset :][: len(values) + 1]
    lengths = np.diff(ends)
    width = int(lengths[0])
    if width and (lengths == width).all():  # a key, a hash, or the same everywhere
        data = np.frombuffer(values.buffers()[2], np.uint8)[ends[0] : ends[-1]]
        return [np.array(width, _LENGTH), data.view(f"V{width}")]
    return [lengths.astype(_LENGTH), values]


def _values(column: pa.Array, element: np.dtype[Any]) -> Values:
    """The values of a column without nulls."""
    rows = np.empty(len(column), element)
    if element.names:
        values = rows["values"]
        rows["size"], rows["unused"] = values.shape[1], 0
        values[:] = column.flatten().to_numpy(zero_copy_only=False).reshape(values.shape)
    elif pa.types.is_date32(column.type):
        rows[:] = column.view(pa.int32()).to_numpy() - _FIRST_DAY
    elif pa.types.is_timestamp(column.type):
        rows[:] = column.view(pa.int64()).to_numpy() - _FIRST_MICROSECOND
    else:
        rows[:] = column.to_numpy(zero_copy_only=False)
    return rows


def _large_binary(values: Values, ends: npt.NDArray[np.int64] | None = None) -> pa.Array:
    """Values as Arrow has bytes of any length: each an element, or cut at other places."""
    if ends is None:
        ends = np.arange(1, len(values) + 1) * values.itemsize
    offsets = np.concatenate([[0], ends])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values.view(np.uint8))]
    return pa.Array.from_buffers(pa.large_binary(), len(ends), buffers)
