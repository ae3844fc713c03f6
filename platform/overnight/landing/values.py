"""Typing rules: what a JSON or CSV value must be to become a value of a column's dtype.

| dtype | in JSON | in CSV |
|---|---|---|
| String | string | any text; a blank field is null |
| integers | integer | `-12` |
| floats | number | `-1.5e3`, `nan`, `inf` |
| Boolean | `true`, `false` | `true`, `false` in any case, `1`, `0` |
| Date | string, ISO 8601 | ISO 8601 |
| Datetime | string, ISO 8601 | ISO 8601; without an offset it is UTC, digits past µs are cut |
| List, Array | array of the above | a JSON array |

Nothing is guessed: `"1"` is no integer in JSON, `1.0` neither. Which values a column allows
beyond its dtype is the contract's to say.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight.contract import shown

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
# The instants that Python, and so every reader of a frame, can hold: years 1 to 9999.
_FIRST = (dt.datetime(1, 1, 1, tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND
_LAST = (dt.datetime.max.replace(tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND
_FLOAT32_MAX = 3.4028235677973366e38
_BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
_INTEGERS: dict[Any, tuple[int, bool]] = {
    pl.Int8: (8, True),
    pl.Int16: (16, True),
    pl.Int32: (32, True),
    pl.Int64: (64, True),
    pl.UInt8: (8, False),
    pl.UInt16: (16, False),
    pl.UInt32: (32, False),
}
_JSON_NAMES = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number with a fraction",
    list: "an array",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """A value that cannot be read: `row` is an index in its batch."""

    row: int
    column: str
    value: str | None
    reason: str


class _WrongValueError(ValueError):
    """One value breaks the typing rules; the message is the reason."""


def from_json(
    name: str, dtype: pl.DataType, values: Sequence[Any]
) -> tuple[pl.Series, list[Problem]]:
    """Turn parsed JSON values into a column.

    Returns:
        The Series, null where a value is null or wrong, and the wrong values.
    """
    if set(map(type, values)) <= _plain_types(dtype) and _elements_are_plain(dtype, values):
        try:
            return _series(name, dtype, values), []
        except (pl.exceptions.PolarsError, ValueError, TypeError, OverflowError):
            # Some value is wrong; find out which.
            pass
    return _one_by_one(name, dtype, values, lambda value: _from_json(dtype, value))


def from_csv(
    name: str, dtype: pl.DataType, texts: Sequence[str]
) -> tuple[pl.Series, list[Problem]]:
    """Turn the texts of a CSV column into a column; see `from_json`."""
    if dtype.is_numeric() or dtype == pl.Boolean:
        return _cast_texts(name, dtype, texts)
    values: list[str | None] = [text or None for text in texts]
    if dtype.is_nested():
        return _one_by_one(name, dtype, values, lambda text: _from_json(dtype, _parse(text)))
    return from_json(name, dtype, values)


def describe_range(dtype: pl.DataType) -> str:
    """Say in words what a value of a dtype is."""
    if dtype.is_integer():
        low, high = _bounds(dtype)
        return f"an integer from {low} to {high}"
    if dtype.is_float():
        return "a number"
    if dtype == pl.Boolean:
        return "true or false"
    if dtype == pl.Date:
        return "an ISO 8601 date"
    if isinstance(dtype, pl.Datetime):
        return "an ISO 8601 date and time"
    return "an array" if dtype.is_nested() else "a string"


def outside_calendar(ticks: pl.Series, micros: int) -> pl.Series:
    """Mask the instants outside the years 1 to 9999, in ticks of `micros` µs since 1970."""
    return ~ticks.is_between(_FIRST // micros, _LAST // micros).fill_null(value=True)


def _plain_types(dtype: pl.DataType) -> frozenset[type]:
    """Give the Python types that convert without a second look."""
    if dtype.is_integer():
        return frozenset((int, type(None)))
    if dtype.is_float():
        return frozenset((int, float, type(None)))
    if dtype == pl.Boolean:
        return frozenset((bool, type(None)))
    return frozenset((list if dtype.is_nested() else str, type(None)))


def _elements_are_plain(dtype: pl.DataType, values: Sequence[Any]) -> bool:
    if not isinstance(dtype, pl.List | pl.Array):
        return True
    elements = chain.from_iterable(value for value in values if value is not None)
    return set(map(type, elements)) <= _plain_types(_inner(dtype))


def _series(name: str, dtype: pl.DataType, values: Sequence[Any]) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        micros = [None if value is None else _micros(value) for value in values]
        return pl.Series(name, micros, dtype=pl.Int64).cast(dtype)
    if dtype == pl.Date:
        days = [None if value is None else dt.date.fromisoformat(value) for value in values]
        return pl.Series(name, days, dtype=pl.Date)
    series = pl.Series(name, values, dtype=dtype, strict=True)
    flat = series.explode(empty_as_null=False) if dtype.is_nested() else series
    if flat.dtype == pl.Float32 and flat.is_infinite().any():
        message = "out of range"
        raise OverflowError(message)
    return series


def _one_by_one(
    name: str, dtype: pl.DataType, values: Sequence[Any], convert: Callable[[Any], Any]
) -> tuple[pl.Series, list[Problem]]:
    problems: list[Problem] = []
    clean: list[Any] = []
    for row, value in enumerate(values):
        try:
            clean.append(None if value is None else convert(value))
        except _WrongValueError as error:
            clean.append(None)
            problems.append(Problem(row, name, shown(value), str(error)))
    return _series_of_clean(name, dtype, clean), problems


def _series_of_clean(name: str, dtype: pl.DataType, clean: list[Any]) -> pl.Series:
    if isinstance(dtype, pl.Datetime):
        return pl.Series(name, clean, dtype=pl.Int64).cast(dtype)
    return pl.Series(name, clean, dtype=dtype, strict=True)


def _from_json(dtype: pl.DataType, value: Any) -> Any:
    """Convert one value that is not null, or say what is wrong with it."""
    if type(value) not in _plain_types(dtype):
        expected = "an integer" if dtype.is_integer() else describe_range(dtype)
        message = f"must be {expected}, is {_json_name(value)}"
        raise _WrongValueError(message)
    if isinstance(dtype, pl.List | pl.Array):
        return _list_from_json(dtype, value)
    try:
        if isinstance(dtype, pl.Datetime):
            return _micros(value)
        if dtype == pl.Date:
            return dt.date.fromisoformat(value)
    except (ValueError, OverflowError) as error:
        message = f"is not {describe_range(dtype)}: {str(error).split(': ')[0]}"
        raise _WrongValueError(message) from None
    if dtype == pl.String:
        return _text(value)
    return _number(dtype, value)


def _json_name(value: Any) -> str:
    return _JSON_NAMES.get(type(value), "an object")


def _list_from_json(dtype: pl.List | pl.Array, value: list[Any]) -> list[Any]:
    if isinstance(dtype, pl.Array) and len(value) != dtype.size:
        message = f"must have {dtype.size} elements, has {len(value)}"
        raise _WrongValueError(message)
    converted: list[Any] = []
    for index, element in enumerate(value):
        try:
            converted.append(None if element is None else _from_json(_inner(dtype), element))
        except _WrongValueError as error:
            message = f"element {index} ({shown(element)}) {error}"
            raise _WrongValueError(message) from None
    return converted


def _inner(dtype: pl.List | pl.Array) -> pl.DataType:
    inner = dtype.inner
    return inner if isinstance(inner, pl.DataType) else inner()


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        message = f"has a lone surrogate at character {error.start}, which is no valid text"
        raise _WrongValueError(message) from None
    return value


def _number(dtype: pl.DataType, value: float) -> float:
    if dtype.is_integer():
        low, high = _bounds(dtype)
        if not low <= value <= high:
            message = f"must be {describe_range(dtype)}"
            raise _WrongValueError(message)
        return value
    if dtype.is_float():
        try:
            number = float(value)
        except OverflowError:
            number = float("inf")
        too_large = dtype == pl.Float32 and _FLOAT32_MAX <= abs(number) < float("inf")
        if too_large or (isinstance(value, int) and number in (float("inf"), float("-inf"))):
            message = f"is out of the range of {dtype}"
            raise _WrongValueError(message)
        return number
    return value


def _bounds(dtype: pl.DataType) -> tuple[int, int]:
    bits, signed = _INTEGERS[dtype.base_type()]
    return (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)


def _micros(text: str) -> int:
    moment = dt.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=dt.UTC)
    micros = (moment - _EPOCH) // _MICROSECOND
    if not _FIRST <= micros <= _LAST:
        message = "in UTC it is outside the years 1 to 9999"
        raise ValueError(message)
    return micros


def _parse(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        message = "is not a JSON array"
        raise _WrongValueError(message) from None


def _cast_texts(
    name: str, dtype: pl.DataType, texts: Sequence[str]
) -> tuple[pl.Series, list[Problem]]:
    column = pl.Series(name, texts, dtype=pl.String)
    if dtype == pl.Boolean:
        parsed = column.str.to_lowercase().replace_strict(
            _BOOLEANS, default=None, return_dtype=pl.Boolean
        )
    else:
        parsed = column.cast(dtype, strict=False)
    wrong = (parsed.is_null() & (column != "")).arg_true().to_list()
    reason = f"is not {describe_range(dtype)}"
    return parsed, [Problem(row, name, shown(texts[row]), reason) for row in wrong]
