"""Calling a job's `prepare`, and saying which row it is that it cannot do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import polars as pl

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

_NO_REQUEST = (pl.Null, pl.Object, pl.Unknown)


def requests_of(
    prepare: Callable[[pl.DataFrame], Any],
    source: pl.DataFrame,
    located: pl.DataFrame,
    key: str,
    name_of: Callable[[int], str],
) -> pl.Series:
    """The requests of some source rows.

    Args:
        prepare: The job's function.
        source: The source's columns.
        located: The same rows with `_input_id` and `_line`.
        key: The key column.
        name_of: A file's name from its `_input_id`; only called to fail.

    Returns:
        `request`, without nulls, as long as the source.

    Raises:
        ConfigError: if `prepare` raises, or returns anything else; names function and row.
    """

    def fail(what: str, row: int | None, cause: BaseException | None = None) -> NoReturn:
        values = located.row(row or 0, named=True)
        place = f"{name_of(values['_input_id'])}:{values['_line']} ({key}={values[key]!r})"
        where = place if row is not None else f"rows from {place}"
        raise ConfigError(f"{_name(prepare)} {what}, {where}") from cause

    try:
        result = prepare(source)
    except Exception as error:  # noqa: BLE001 - it is the job's code, and may raise anything
        row = _first_failing(prepare, source)
        fail(f"raised {type(error).__name__}: {error}", row, error)
    if not isinstance(result, pl.Series):
        fail(f"returned {type(result).__name__} instead of a polars Series", None)
    if len(result) != source.height:
        row = _first_wrong(lambda part: len(prepare(part)) != part.height, source)
        fail(f"returned {len(result)} requests for {source.height} rows", row)
    if result.null_count():
        fail("returned null instead of a request", result.is_null().arg_max())
    if result.dtype in _NO_REQUEST:
        fail(f"returned requests of type {result.dtype}, which Arrow cannot hold", None)
    return result.alias("request")


def _first_failing(prepare: Callable[[pl.DataFrame], Any], source: pl.DataFrame) -> int | None:
    def raises(part: pl.DataFrame) -> bool:
        try:
            prepare(part)
        except Exception:  # noqa: BLE001 - see above
            return True
        return False

    return _first_wrong(raises, source)


def _first_wrong(wrong: Callable[[pl.DataFrame], bool], source: pl.DataFrame) -> int | None:
    """Halve until one row is left; None if it is not one row's doing."""
    low, high = 0, source.height
    while high - low > 1:
        middle = (low + high) // 2
        if wrong(source[low:middle]):
            high = middle
        elif wrong(source[middle:high]):
            low = middle
        else:
            return None
    return low


def _name(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None)
    return f"{function.__module__}.{name}" if name else repr(function)
