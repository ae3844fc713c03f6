"""One pandera model per table: its row checks, SQL table, schema, documentation and fingerprint.

A contract declares what a row must be; everything else about a table is derived from it, so
the four can never disagree. Reading files into frames belongs to `overnight.landing`, writing
tables to `overnight.warehouse`.

    class Article(Contract):
        '''Articles as the newsroom exports them.'''

        article_id: str = Field(description="The newsroom's id.", str_length={"min_value": 1})
        words: int | None = Field(description="Length of the body in words.", ge=0)
        published: Timestamp = Field(description="When it went online.")
        embedding: Annotated[pl.Array, pl.Float32, 384] = Field(description="Of the headline.")

A column may be null when its annotation is optional (`X | None`) or with `nullable=True`.
Beyond its own checks every contract refuses what PostgreSQL cannot hold or a reader would not
expect: a NUL character in text, NaN or an infinity in a float (unless the field says
`metadata={"allow_nan": True}`), null elements in lists.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import pandera.polars as pandera
import polars as pl
import sqlalchemy as sa
from pandera.api.checks import Check  # noqa: TC002 - pandera evaluates Contract's annotations
from pandera.api.polars.model_config import BaseConfig
from pandera.errors import SchemaInitError
from pandera.polars import Field
from sqlalchemy.dialects import postgresql

from overnight.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    import pyarrow as pa
    from pandera.api.polars.container import DataFrameSchema

__all__ = [
    "ColumnDecl",
    "Contract",
    "Field",
    "Timestamp",
    "Vector",
    "arrow_schema",
    "check_rows",
    "columns",
    "describe",
    "polars_schema",
    "shown",
    "sql_table",
]

Timestamp = Annotated[pl.Datetime, "us", "UTC"]
"""A point in time: microseconds, UTC; `timestamptz` in SQL."""

VIOLATION_SCHEMA = pl.Schema(
    {"row": pl.Int64, "column": pl.String, "value": pl.String, "reason": pl.String}
)
PG_DIALECT: sa.Dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
MAX_NAME_BYTES = 63
MAX_SHOWN = 200
MAX_VECTOR = 16_000
RESERVED_NAMES = frozenset({"partition_key"})

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
_PHRASES = {
    "greater_than": "must be > {min_value}",
    "greater_than_or_equal_to": "must be >= {min_value}",
    "less_than": "must be < {max_value}",
    "less_than_or_equal_to": "must be <= {max_value}",
    "equal_to": "must be {value!r}",
    "not_equal_to": "must not be {value!r}",
    "in_range": "must be between {min_value} and {max_value}",
    "isin": "must be one of {allowed_values}",
    "notin": "must be none of {forbidden_values}",
    "str_matches": "must match {pattern!r} from its start",
    "str_contains": "must contain a match of {pattern!r}",
    "str_startswith": "must start with {string!r}",
    "str_endswith": "must end with {string!r}",
    "str_length": "must have a length of {min_value} to {max_value} characters",
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

    def __init_subclass__(cls, **kwargs: Any) -> None:  # noqa: ANN401 - pandera's own signature
        """Check the declaration now, where the traceback points at it."""
        super().__init_subclass__(**kwargs)  # type: ignore[no-untyped-call]
        try:
            schema = cls.to_schema()
        except (SchemaInitError, TypeError, NameError, ValueError) as error:
            message = f"contract {cls.__name__}: cannot be read as a declaration: {error}"
            raise ConfigError(message) from error
        if len(schema.columns) < len(cls.__fields__):
            message = f"contract {cls.__name__}: two fields have the same column name"
            raise ConfigError(message)
        cls.__columns__ = tuple(_declarations(cls.__name__, schema))
        cls.__row_checks__ = tuple(schema.checks)

    @classmethod
    def build_schema_(cls, **kwargs: Any) -> DataFrameSchema:  # noqa: ANN401 - pandera's own
        """Build pandera's schema, in which `X | None` says nullable, not absent."""
        schema = super().build_schema_(**kwargs)
        for column in schema.columns.values():
            column.nullable = column.nullable or not column.required
            column.required = True
        return schema


def columns(contract: type[Contract]) -> list[ColumnDecl]:
    """List the columns of a contract in declared order."""
    return list(contract.__columns__)


def polars_schema(contract: type[Contract]) -> pl.Schema:
    """Give the names and dtypes that a frame under this contract has."""
    return pl.Schema({column.name: column.dtype for column in contract.__columns__})


def arrow_schema(contract: type[Contract]) -> pa.Schema:
    """Give the Arrow schema of `frame.to_arrow()` for a frame under this contract."""
    return polars_schema(contract).to_frame().to_arrow().schema


def describe(contract: type[Contract]) -> dict[str, Any]:
    """Describe what decides whether a row is valid: JSON-able, and equal across processes.

    Descriptions are left out: a better sentence in the documentation is no other contract.
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


def sql_table(
    contract: type[Contract],
    *,
    schema: str | None,
    name: str,
    metadata: sa.MetaData,
    system_columns: Sequence[sa.Column[Any]] = (),
) -> sa.Table:
    """Make the table of a contract: its columns in order, then the system columns.

    The docstring and the descriptions become SQL comments. Constraints that are about more than
    one column (the primary key, uniqueness within a partition) are the warehouse's to add.

    Raises:
        ConfigError: if the contract has no columns.
    """
    if not contract.__columns__:
        message = f"contract {contract.__name__} declares no columns, so it cannot be a table"
        raise ConfigError(message)
    declared = [
        sa.Column(
            column.name, column.sql_type, nullable=column.nullable, comment=column.description
        )
        for column in contract.__columns__
    ]
    return sa.Table(
        name,
        metadata,
        *declared,
        *system_columns,
        schema=schema,
        comment=_first_paragraph(contract.__doc__),
    )


def check_rows(contract: type[Contract], frame: pl.DataFrame) -> tuple[pl.Series, pl.DataFrame]:
    """Check every row of a frame against a contract.

    Args:
        contract: what the rows must be.
        frame: the contract's columns, of its dtypes, in any order. Other columns are ignored.

    Returns:
        `ok`: Boolean, one per row. `violations`: `row` (Int64, index in `frame`), `column`
        (String, null for a check on the whole row), `value` (String, `repr` cut to 200
        characters), `reason` (String); by row, then in the contract's order of columns.
        Uniqueness is checked within this frame only.

    Raises:
        ContractError: if a column is missing or of another dtype.
        ConfigError: if a check itself fails to run.
    """
    _require_columns(contract, frame)
    found = [
        _violations(frame, column.name, mask, reason)
        for column in contract.__columns__
        for mask, reason in _column_masks(contract, frame, column)
        if mask.any()
    ]
    found += [
        _violations(frame, None, mask, _reason(check))
        for check in contract.__row_checks__
        if (mask := _failures(contract, check, frame, None)).any()
    ]
    if not found:
        return pl.repeat(value=True, n=frame.height, dtype=pl.Boolean, eager=True), (
            VIOLATION_SCHEMA.to_frame()
        )
    violations = pl.concat(found).sort("row", maintain_order=True)
    ok = ~pl.int_range(frame.height, eager=True).is_in(violations["row"].unique().implode())
    return ok, violations


def shown(value: object) -> str:
    """Give a value for a message: its `repr`, cut to 200 characters."""
    if isinstance(value, str | bytes):
        value = value[: MAX_SHOWN + 1]
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _column_masks(
    contract: type[Contract], frame: pl.DataFrame, column: ColumnDecl
) -> Iterator[tuple[pl.Series, str]]:
    values = frame[column.name]
    if not column.nullable:
        yield values.is_null(), "is null, but the column may not be"
    yield from _storage_masks(values, column)
    if column.unique:
        yield values.is_duplicated() & values.is_not_null(), "must be unique"
    for check in column.checks:
        yield _failures(contract, check, frame, column.name), _reason(check)


def _storage_masks(values: pl.Series, column: ColumnDecl) -> Iterator[tuple[pl.Series, str]]:
    """Mask what no contract lets through, whatever it declares."""
    inner = getattr(column.dtype, "inner", None)
    if inner is not None:
        yield from _element_masks(values, column, inner)
    elif column.dtype == pl.String:
        yield (
            values.str.contains("\0", literal=True).fill_null(value=False),
            ("contains a NUL character"),
        )
    elif column.dtype.is_float() and not column.allow_nan:
        yield ~values.is_finite().fill_null(value=True), "is not a finite number"


def _element_masks(
    values: pl.Series, column: ColumnDecl, inner: pl.DataType
) -> Iterator[tuple[pl.Series, str]]:
    """Flatten once, mark the rows of the elements that are not allowed."""
    lists = values.arr.to_list() if isinstance(values.dtype, pl.Array) else values
    flat = pl.DataFrame({"row": pl.int_range(len(lists), eager=True), "value": lists}).filter(
        pl.col("value").list.len() > 0
    )
    element = pl.col("value")
    wrong: list[tuple[pl.Expr, str]] = [(element.is_null(), "holds a null element")]
    if inner == pl.String:
        wrong.append((element.str.contains("\0", literal=True), "contains a NUL character"))
    elif inner.is_float() and not column.allow_nan:
        wrong.append((~element.is_finite(), "holds an element that is not a finite number"))
    exploded = flat.explode("value")
    for expression, reason in wrong:
        rows = exploded.filter(expression.fill_null(value=False))["row"].unique()
        yield pl.int_range(len(values), eager=True).is_in(rows.implode()), reason


def _failures(
    contract: type[Contract], check: Check, frame: pl.DataFrame, column: str | None
) -> pl.Series:
    """Run one pandera check: True where a row breaks it."""
    declared = frame.select(polars_schema(contract).names())
    try:
        output = check(declared.lazy(), column).check_output.collect().to_series()
    except Exception as error:
        where = "the whole row" if column is None else f"column {column!r}"
        message = (
            f"contract {contract.__name__}: the check {check.name!r} on {where} failed to run: "
            f"{type(error).__name__}: {error}"
        )
        raise ConfigError(message) from error
    failed: pl.Series = ~output.cast(pl.Boolean).fill_null(value=check.ignore_na)
    # A check may answer once for all rows; then all of them break it, or none.
    return failed if len(failed) == frame.height else failed.new_from_index(0, frame.height)


def _violations(
    frame: pl.DataFrame, column: str | None, mask: pl.Series, reason: str
) -> pl.DataFrame:
    rows = mask.arg_true().cast(pl.Int64)
    values: Iterable[Any] = [None] * len(rows) if column is None else frame[column].filter(mask)
    return pl.DataFrame(
        {
            "row": rows,
            "column": [column] * len(rows),
            "value": [None if value is None else shown(_plain(value)) for value in values],
            "reason": [reason] * len(rows),
        },
        schema=VIOLATION_SCHEMA,
    )


def _plain(value: object) -> object:
    return value.to_list() if isinstance(value, pl.Series) else value


def _require_columns(contract: type[Contract], frame: pl.DataFrame) -> None:
    for column in contract.__columns__:
        found = frame.schema.get(column.name)
        if found != column.dtype:
            message = (
                f"contract {contract.__name__}: column {column.name!r} must be {column.dtype}, "
                f"the frame has {'no such column' if found is None else found}"
            )
            raise ContractError(message)


def _reason(check: Check) -> str:
    phrase = _PHRASES.get(check.name or "")
    if phrase is not None:
        return phrase.format(**{"min_value": "", "max_value": "", **(check.statistics or {})})
    return f"breaks the check {check.error or check.description or check.name!r}"


def _check_identity(check: Check) -> dict[str, Any]:
    statistics = json.loads(json.dumps(check.statistics or {}, default=repr, sort_keys=True))
    return {"name": check.name, "statistics": statistics, "ignore_na": check.ignore_na}


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
            sql_type=_sql_type(where, dtype),
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


def _sql_type(where: str, dtype: pl.DataType) -> sa.types.TypeEngine[Any]:
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


def _first_paragraph(doc: str | None) -> str | None:
    if doc is None or not doc.strip():
        return None
    return " ".join(inspect.cleandoc(doc).split("\n\n")[0].split())
