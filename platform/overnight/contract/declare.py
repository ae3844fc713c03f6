"""Declaring a contract: columns, their types and names, and what is derived from them alone."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pandera.polars as pandera
import polars as pl
from pandera.api.checks import Check  # noqa: TC002 - pandera evaluates Contract's annotations
from pandera.api.polars.model_config import BaseConfig
from pandera.errors import SchemaInitError

from overnight.contract.sql_types import MAX_NAME_BYTES, PG_DIALECT, sql_type
from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa
    import sqlalchemy as sa
    from pandera.api.polars.container import DataFrameSchema

Timestamp = Annotated[pl.Datetime, "us", "UTC"]
"""A point in time: microseconds, UTC; `timestamptz` in SQL."""

RESERVED_NAMES = frozenset({"partition_key"})


@dataclass(frozen=True, slots=True)
class ColumnDecl:
    """One column, as its contract declares it."""

    name: str
    dtype: pl.DataType
    sql_type: sa.types.TypeEngine[Any]
    nullable: bool
    description: str
    unique: bool
    allow_nan: bool = False
    checks: tuple[Check, ...] = ()

    @property
    def sql(self) -> str:
        """The column's PostgreSQL type, e.g. `DOUBLE PRECISION`."""
        return str(self.sql_type.compile(dialect=PG_DIALECT))


class Contract(pandera.DataFrameModel):
    """Base of every table's contract; a subclass's docstring becomes the table's comment.

    Raises:
        ConfigError: when the subclass is declared, if a column has no description, a name that
            cannot be a column or a type that has no counterpart in SQL.
    """

    __columns__: ClassVar[tuple[ColumnDecl, ...]] = ()
    __row_checks__: ClassVar[tuple[Check, ...]] = ()

    class Config(BaseConfig):
        """Exactly the declared columns, of exactly the declared types."""

        strict = True
        coerce = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Check the declaration now, where the traceback points at it."""
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]
        try:
            schema = cls.to_schema()
        except (SchemaInitError, TypeError, NameError, ValueError) as error:
            message = f"contract {cls.__name__}: cannot be read as a declaration: {error}"
            raise ConfigError(message) from error
        fields = {
            name
            for base in cls.__mro__
            if issubclass(base, Contract)
            for name in vars(base).get("__annotations__", {})
            if not name.startswith("_")
        }
        if len(schema.columns) < len(fields):
            message = f"contract {cls.__name__}: two fields have the same column name"
            raise ConfigError(message)
        cls.__columns__ = tuple(_declarations(cls.__name__, schema))
        cls.__row_checks__ = tuple(schema.checks)

    @classmethod
    def build_schema_(cls, **kwargs: Any) -> DataFrameSchema:
        """Build pandera's schema, in which `X | None` says nullable, not absent."""
        schema = super().build_schema_(**kwargs)
        for column in schema.columns.values():
            column.nullable = column.nullable or not column.required
            column.required = True
        return schema


def columns(contract: type[Contract]) -> list[ColumnDecl]:
    """List the columns of a contract in declared order."""
    return list(contract.__columns__)


def has_row_checks(contract: type[Contract]) -> bool:
    """Whether a contract has checks on whole rows, beyond those on single columns."""
    return bool(contract.__row_checks__)


def polars_schema(contract: type[Contract]) -> pl.Schema:
    """Give the names and dtypes that a frame under this contract has."""
    return pl.Schema({column.name: column.dtype for column in contract.__columns__})


def arrow_schema(contract: type[Contract]) -> pa.Schema:
    """Give the Arrow schema of `frame.to_arrow()` for a frame under this contract."""
    return polars_schema(contract).to_frame().to_arrow().schema


def describe(contract: type[Contract]) -> dict[str, Any]:
    """Describe what decides whether a row is valid: JSON-able, and equal across processes.

    Descriptions are left out: a better sentence in the documentation is no other contract. Of a
    check that is a function, only its name counts.
    """
    return {
        "columns": [
            {
                "name": column.name,
                "dtype": str(column.dtype),
                "nullable": column.nullable,
                "unique": column.unique,
                "allow_nan": column.allow_nan,
                "checks": [_check_identity(check) for check in column.checks],
            }
            for column in contract.__columns__
        ],
        "checks": [_check_identity(check) for check in contract.__row_checks__],
    }


def table_comment(contract: type[Contract]) -> str | None:
    """Give the first paragraph of a contract's docstring, on one line."""
    if contract.__doc__ is None or not contract.__doc__.strip():
        return None
    return " ".join(inspect.cleandoc(contract.__doc__).split("\n\n")[0].split())


def _check_identity(check: Check) -> dict[str, Any]:
    statistics = json.dumps(check.statistics or {}, default=_stable, sort_keys=True)
    return {"name": check.name, "statistics": json.loads(statistics), "ignore_na": check.ignore_na}


def _stable(value: object) -> object:
    # A set has another order in every process.
    return sorted(map(repr, value)) if isinstance(value, set | frozenset) else repr(value)


def _declarations(contract: str, schema: DataFrameSchema) -> Iterator[ColumnDecl]:
    for name, column in schema.columns.items():
        where = f"contract {contract}, column {name!r}"
        problem = _name_problem(name)
        if problem is None and not (column.description or "").strip():
            problem = "needs a description: Field(description=...)"
        if problem is not None:
            message = f"{where}: {problem}"
            raise ConfigError(message)
        dtype = _instance(where, column.dtype.type)
        yield ColumnDecl(
            name=name,
            dtype=dtype,
            sql_type=sql_type(where, dtype),
            nullable=column.nullable,
            description=column.description.strip(),
            unique=column.unique,
            allow_nan=bool((column.metadata or {}).get("allow_nan")),
            checks=tuple(column.checks),
        )


def _name_problem(name: str) -> str | None:
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "the name has a lone surrogate, which no database can hold"
    if not 1 <= size <= MAX_NAME_BYTES:
        return f"the name must have 1 to {MAX_NAME_BYTES} bytes in UTF-8, this one has {size}"
    if "\0" in name:
        return "the name has a NUL character, which no database can hold"
    if name.startswith("_") or name in RESERVED_NAMES:
        return "the name is reserved for Overnight's own columns"
    if name == "*" or (name.startswith("^") and name.endswith("$")):
        return "polars reads this name as a pattern for several columns"
    return None


def _instance(where: str, dtype: pl.DataType | pl.datatypes.DataTypeClass) -> pl.DataType:
    try:
        return dtype if isinstance(dtype, pl.DataType) else dtype()
    except TypeError as error:
        message = f"{where}: {dtype} needs parameters: annotate it as Annotated[pl.{dtype}, ...]"
        raise ConfigError(message) from error
