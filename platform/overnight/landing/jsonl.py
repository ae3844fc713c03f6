"""JSON Lines: one object per line, each line judged on its own."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

import polars as pl

from overnight.contract import shown
from overnight.landing.batch import MAX_BATCH_BYTES, Broken, FileReading, TypedBatch
from overnight.landing.lines import TooLong, numbered_lines
from overnight.landing.values import Problem, from_json

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from overnight.contract import ColumnDecl


class _AmbiguousError(ValueError):
    """The object itself has a key twice."""


class _Repeated(dict[str, Any]):
    """An object in which `key` occurs more than once."""

    key: str


def read_jsonl(stream: BinaryIO, reading: FileReading) -> Iterator[TypedBatch]:
    """Read a stream of JSON lines; blank lines are counted but are no rows."""
    rows = _Rows()
    names = {column.name for column in reading.columns}
    for number, line in numbered_lines(stream, reading.max_line_bytes):
        if isinstance(line, TooLong):
            reason = f"is {line.size} bytes long, the limit is {reading.max_line_bytes}"
            rows.broken.append(Broken(number, shown(line.head), f"the line {reason}"))
        elif line and not line.isspace():
            _parse(number, line, rows)
            rows.size += len(line)
            if rows.records and not rows.records[-1].keys() <= names:
                reading.note_extra(rows.records[-1].keys() - names)
        if rows.full(reading.batch_rows):
            yield rows.typed(reading.columns)
            rows = _Rows()
    if rows.records or rows.broken:
        yield rows.typed(reading.columns)


@dataclass(slots=True)
class _Rows:
    records: list[dict[str, Any]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    size: int = 0

    def full(self, batch_rows: int) -> bool:
        return len(self.records) + len(self.broken) >= batch_rows or self.size >= MAX_BATCH_BYTES

    def typed(self, columns: Sequence[ColumnDecl]) -> TypedBatch:
        problems: list[Problem] = []
        series: list[pl.Series] = []
        for column in columns:
            values = [record.get(column.name) for record in self.records]
            one, wrong = from_json(column.name, column.dtype, values)
            series.append(one)
            problems += wrong
            if not column.nullable and None in values:
                problems += [
                    Problem(row, column.name, None, "is missing, but the column may not be null")
                    for row, record in enumerate(self.records)
                    if column.name not in record
                ]
        return TypedBatch(self.lines, pl.DataFrame(series), problems, self.broken)


def _parse(number: int, line: bytes, rows: _Rows) -> None:
    try:
        record = _DECODER.decode(line.decode())
    except UnicodeDecodeError as error:
        reason = f"is not UTF-8 at byte {error.start + 1} of the line (0x{line[error.start]:02x})"
    except json.JSONDecodeError as error:
        reason = f"is not JSON at character {error.pos + 1} of the line: {error.msg}"
    except RecursionError:
        reason = "is nested too deeply to be read"
    except ValueError as error:
        # An integer of thousands of digits, which Python refuses to convert.
        reason = f"is not JSON that can be read: {error}"
    else:
        if type(record) is dict:
            rows.records.append(record)
            rows.lines.append(number)
            return
        if isinstance(record, _Repeated):
            reason = f"has the key {shown(record.key)} more than once"
        else:
            reason = "is not a JSON object"
    rows.broken.append(Broken(number, _head(line), reason))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) == len(pairs):
        return record
    repeated = _Repeated(record)
    seen: set[str] = set()
    # `seen.add` returns None, so this is the first key that was there before.
    repeated.key = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return repeated


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def _head(line: bytes) -> str:
    """Show the beginning of a line as text where it is text."""
    return shown(line[:1024].decode(errors="backslashreplace"))
