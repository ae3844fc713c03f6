"""Which PostgreSQL type a polars dtype becomes."""

from __future__ import annotations

from typing import Any

import polars as pl
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from overnight.errors import ConfigError

PG_DIALECT: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
MAX_NAME_BYTES = 63
MAX_VECTOR = 16_000

_SQL_TYPES: dict[Any, type[sa.types.TypeEngine[Any]]] = {
    pl.String: sa.Text,
    pl.Boolean: sa.Boolean,
    pl.Int8: sa.SmallInteger,
    pl.Int16: sa.SmallInteger,
    pl.Int32: sa.Integer,
    pl.Int64: sa.BigInteger,
    pl.UInt8: sa.SmallInteger,
    pl.UInt16: sa.Integer,
    pl.UInt32: sa.BigInteger,
    pl.Float32: postgresql.REAL,
    pl.Float64: postgresql.DOUBLE_PRECISION,
    pl.Date: sa.Date,
}


class Vector(sa.types.UserDefinedType[Any]):
    """pgvector's `vector(n)`; the database needs the extension `vector`."""

    cache_ok = True

    def __init__(self, size: int) -> None:
        """Declare a vector of `size` 32-bit floats."""
        self.size = size

    def get_col_spec(self, **_: object) -> str:
        """Give the type's name in SQL."""
        return f"vector({self.size})"


def sql_type(where: str, dtype: pl.DataType) -> sa.types.TypeEngine[Any]:
    """Give the SQL type of a column.

    Args:
        where: names the column in messages.
        dtype: its dtype in a frame.

    Raises:
        ConfigError: if it has no counterpart.
    """
    if isinstance(dtype, pl.Datetime):
        if (dtype.time_unit, dtype.time_zone) == ("us", "UTC"):
            return postgresql.TIMESTAMP(timezone=True)
        message = f"{where}: {dtype} must be in microseconds and UTC: annotate it as Timestamp"
        raise ConfigError(message)
    if isinstance(dtype, pl.Array) and dtype.inner == pl.Float32 and len(dtype.shape) == 1:
        if 1 <= dtype.size <= MAX_VECTOR:
            return Vector(dtype.size)
        message = f"{where}: a vector must have 1 to {MAX_VECTOR} elements, not {dtype.size}"
        raise ConfigError(message)
    if isinstance(dtype, pl.List) and dtype.inner.base_type() in _SQL_TYPES:
        return postgresql.ARRAY(_SQL_TYPES[dtype.inner.base_type()]())
    if dtype.base_type() in _SQL_TYPES:
        return _SQL_TYPES[dtype.base_type()]()
    message = (
        f"{where}: {dtype} has no counterpart in SQL here; use one of String, Boolean, Int8 to "
        "Int64, UInt8 to UInt32, Float32, Float64, Date, Timestamp, a List of these, or an "
        "Array of Float32 (a vector)"
    )
    raise ConfigError(message)
