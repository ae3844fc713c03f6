"""Holding rows against a contract."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from overnight.contract.declare import Contract, polars_schema
from overnight.errors import ConfigError, ContractError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from pandera.api.checks import Check

    from overnight.contract.declare import ColumnDecl

    Mask = pl.Expr | pl.Series

VIOLATION_SCHEMA = pl.Schema(
    {"row": pl.Int64, "column": pl.String, "value": pl.String, "reason": pl.String}
)
MAX_SHOWN = 200

_PHRASES = {
    "greater_than": "must be > {min_value}",
    "greater_than_or_equal_to": "must be >= {min_value}",
    "less_than": "must be < {max_value}",
    "less_than_or_equal_to": "must be <= {max_value}",
    "equal_to": "must be {value!r}",
    "not_equal_to": "must not be {value!r}",
    "isin": "must be one of {allowed_values}",
    "notin": "must be none of {forbidden_values}",
    "str_matches": "must match {pattern!r} from its start",
    "str_contains": "must contain a match of {pattern!r}",
    "str_startswith": "must start with {string!r}",
    "str_endswith": "must end with {string!r}",
}

_HOLDS: dict[str, Callable[..., pl.Expr]] = {
    "greater_than": lambda values, min_value: values.gt(min_value),
    "greater_than_or_equal_to": lambda values, min_value: values.ge(min_value),
    "less_than": lambda values, max_value: values.lt(max_value),
    "less_than_or_equal_to": lambda values, max_value: values.le(max_value),
    "isin": lambda values, allowed_values: values.is_in(list(allowed_values)),
}
"""What pandera's most frequent checks ask of polars: asked with all the rest, in one pass."""


def check_rows(
    contract: type[Contract], frame: pl.DataFrame, *, only: Collection[str] | None = None
) -> tuple[pl.Series, pl.DataFrame]:
    """Check every row of a frame against a contract.

    Args:
        contract: what the rows must be.
        frame: the contract's columns, of its dtypes, in any order. Other columns are ignored.
        only: the columns to check, where others are not there yet; checks on whole rows are
            left out then. All of them by default.

    Returns:
        `ok`: Boolean, one per row. `violations`: `row` (Int64, index in `frame`), `column`
        (String, null for a check on the whole row), `value` (String, `repr` cut to 200
        characters), `reason` (String); by row, then in the contract's order of columns.
        Uniqueness is checked within this frame only.

    Raises:
        ContractError: if a column is missing or of another dtype.
        ConfigError: if a check itself fails to run.
    """
    checked = [one for one in contract.__columns__ if only is None or one.name in only]
    _require_columns(contract, checked, frame)
    masks = [
        (column, mask, reason)
        for column in checked
        for mask, reason in _column_masks(contract, frame, column)
    ]
    # All of them in one pass: most find nothing, and a pass for each would take several times
    # as long as the looking.
    try:
        hits = frame.select(
            (pl.lit(mask) if isinstance(mask, pl.Series) else mask).any().alias(str(nth))
            for nth, (_, mask, _) in enumerate(masks)
        )
    except pl.exceptions.PolarsError:
        for column in checked:
            for check in column.checks:
                _failures(contract, check, frame, column.name)  # tells which of them it was
        raise
    found = [
        _violations(
            frame,
            column.name,
            mask if isinstance(mask, pl.Series) else frame.select(mask).to_series(),
            reason,
        )
        for nth, (column, mask, reason) in enumerate(masks)
        if hits[str(nth)].any()
    ]
    found += [
        _violations(frame, None, mask, _reason(check))
        for check in (contract.__row_checks__ if only is None else ())
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
) -> Iterator[tuple[Mask, str]]:
    """What to look for in a column: where a mask is true, the row breaks the contract."""
    values = pl.col(column.name)
    if not column.nullable:
        yield values.is_null(), "is null, but the column may not be"
    yield from _storage_masks(frame, column)
    if column.unique:
        yield values.is_duplicated() & values.is_not_null(), "must be unique"
    for check in column.checks:
        holds = _HOLDS.get(check.name or "")
        if holds is None:
            yield _failures(contract, check, frame, column.name), _reason(check)
        else:
            kept = holds(values, **(check.statistics or {}))
            yield ~kept.fill_null(value=check.ignore_na), _reason(check)


def _storage_masks(frame: pl.DataFrame, column: ColumnDecl) -> Iterator[tuple[Mask, str]]:
    """Mask what no contract lets through, whatever it declares."""
    values = pl.col(column.name)
    inner = getattr(column.dtype, "inner", None)
    if inner is not None:
        yield from _element_masks(frame[column.name], column, inner)
    elif column.dtype == pl.String:
        if _holds_zero(frame[column.name]):
            yield (
                values.str.contains("\0", literal=True).fill_null(value=False),
                "contains a NUL character",
            )
    elif column.dtype.is_float() and not column.allow_nan:
        yield ~values.is_finite().fill_null(value=True), "is not a finite number"


def _holds_zero(texts: pl.Series) -> bool:
    """Whether a byte of the texts may be 0: seen at once, where each text takes a while."""
    data = texts.to_arrow().buffers()[-1]
    return data is not None and not np.frombuffer(data, np.uint8).all()


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
    declared = frame.select(name for name in polars_schema(contract) if name in frame.columns)
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


def _require_columns(
    contract: type[Contract], columns: Iterable[ColumnDecl], frame: pl.DataFrame
) -> None:
    for column in columns:
        found = frame.schema.get(column.name)
        if found != column.dtype:
            message = (
                f"contract {contract.__name__}: column {column.name!r} must be {column.dtype}, "
                f"the frame has {'no such column' if found is None else found}"
            )
            raise ContractError(message)


def _reason(check: Check) -> str:
    statistics = check.statistics or {}
    if check.name == "str_length":
        return _length_phrase(statistics)
    phrase = _PHRASES.get(check.name or "")
    if phrase is None:
        return f"breaks the check {check.error or check.description or check.name!r}"
    return phrase.format(**statistics)


def _length_phrase(statistics: dict[str, Any]) -> str:
    if statistics.get("exact_value") is not None:
        return f"must have {statistics['exact_value']} characters"
    low, high = statistics.get("min_value"), statistics.get("max_value")
    bounds = [f"at least {low}"] if low is not None else []
    bounds += [f"at most {high}"] if high is not None else []
    return f"must have {' and '.join(bounds)} characters"
