"""CSV with a header, comma-separated, quoted as in RFC 4180; a row may span several lines."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, BinaryIO

import polars as pl

from overnight.contract import shown
from overnight.errors import SourceError
from overnight.landing.batch import MAX_BATCH_BYTES, Broken, FileReading, TypedBatch
from overnight.landing.lines import TooLong, numbered_lines
from overnight.landing.values import Problem, from_csv

if TYPE_CHECKING:
    from collections.abc import Iterator


def read_csv(stream: BinaryIO, reading: FileReading) -> Iterator[TypedBatch]:
    """Read a CSV stream; blank lines are no rows, blank fields are null.

    Raises:
        SourceError: if the header lacks a column or repeats one, or a quote is never closed.
    """
    # The limit is the process's; it only ever grows, and lines are bounded before they come here.
    csv.field_size_limit(max(csv.field_size_limit(), 2 * reading.max_line_bytes))
    feed = _Feed(stream, reading)
    rows = _records(feed, csv.reader(feed, strict=True), reading)
    header = _header(rows, reading)
    positions = [header.index(column.name) for column in reading.columns]
    batch: list[list[str]] = []
    lines: list[int] = []
    broken: list[Broken] = []
    size = 0
    for line, record in rows:
        if isinstance(record, Broken):
            broken.append(record)
        elif len(record) != len(header):
            reason = f"has {len(record)} fields, the header has {len(header)}"
            broken.append(Broken(line, shown(",".join(record)), reason))
        else:
            batch.append(record)
            lines.append(line)
        size += feed.row_bytes
        if len(batch) + len(broken) >= reading.batch_rows or size >= MAX_BATCH_BYTES:
            yield _typed(batch, lines, broken, positions, reading)
            batch, lines, broken, size = [], [], [], 0
    if batch or broken:
        yield _typed(batch, lines, broken, positions, reading)


class _Feed:
    """Physical lines as text for `csv.reader`, which remembers what was wrong with them."""

    def __init__(self, stream: BinaryIO, reading: FileReading) -> None:
        self._lines = numbered_lines(stream, reading.max_line_bytes)
        self._reading = reading
        self.row_line = 0
        self.row_bytes = 0
        self.wrong: Broken | None = None
        self.finished = False

    def start_row(self, line: int) -> None:
        self.row_line = line
        self.row_bytes = 0
        self.wrong = None

    def __iter__(self) -> Iterator[str]:
        for number, line in self._lines:
            size = line.size if isinstance(line, TooLong) else len(line)
            self.row_bytes += min(size, self._reading.max_line_bytes)
            if self.row_bytes > self._reading.max_line_bytes and number > self.row_line:
                message = (
                    f"{self._reading.uri}: the row that begins at line {self.row_line} is longer "
                    f"than {self._reading.max_line_bytes} bytes; is a quote left open there?"
                )
                raise SourceError(message)
            yield self._text(number, line)
        self.finished = True

    def _text(self, number: int, line: bytes | TooLong) -> str:
        if isinstance(line, TooLong):
            reason = f"the line is {line.size} bytes long, the limit is "
            self._note(number, line.head, f"{reason}{self._reading.max_line_bytes}")
            # What matters of it is only whether a quoted field begins or ends in it.
            return '"\n' if line.quotes % 2 else "\n"
        try:
            return line.decode() + "\n"
        except UnicodeDecodeError as error:
            where = f"at byte {error.start + 1} of line {number} (0x{line[error.start]:02x})"
            self._note(number, line, f"is not UTF-8 {where}")
            return line.decode(errors="replace") + "\n"

    def _note(self, number: int, line: bytes, reason: str) -> None:
        head = line[:1024].decode(errors="backslashreplace")
        self.wrong = self.wrong or Broken(number, shown(head), reason)


def _records(
    feed: _Feed, reader: Iterator[list[str]], reading: FileReading
) -> Iterator[tuple[int, list[str] | Broken]]:
    """Yield each row with the line it begins at; blank lines are left out."""
    while True:
        start: int = reader.line_num + 1  # type: ignore[attr-defined]
        feed.start_row(start)
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if feed.finished:
                message = (
                    f"{reading.uri}: the quote that opens in the row at line {start} is never "
                    "closed, so the rows after it cannot be told apart"
                )
                raise SourceError(message) from None
            yield start, Broken(start, None, f"is not CSV: {error}")
            continue
        if feed.wrong is not None:
            yield start, Broken(start, feed.wrong.value, feed.wrong.reason)
        elif record:
            yield start, record


def _header(rows: Iterator[tuple[int, list[str] | Broken]], reading: FileReading) -> list[str]:
    _, header = next(rows, (0, []))
    if isinstance(header, Broken):
        message = f"{reading.uri}, line {header.line}: the header {header.reason}"
        raise SourceError(message)
    for column in reading.columns:
        if header.count(column.name) != 1:
            times = "lacks" if column.name not in header else "repeats"
            message = (
                f"{reading.uri}: the header {times} column {column.name!r}; it has {shown(header)}"
            )
            raise SourceError(message)
    names = {column.name for column in reading.columns}
    reading.note_extra(name for name in header if name not in names)
    return header


def _typed(
    batch: list[list[str]],
    lines: list[int],
    broken: list[Broken],
    positions: list[int],
    reading: FileReading,
) -> TypedBatch:
    problems: list[Problem] = []
    series: list[pl.Series] = []
    for column, position in zip(reading.columns, positions, strict=True):
        texts = [record[position] for record in batch]
        one, wrong = from_csv(column.name, column.dtype, texts)
        series.append(one)
        problems += wrong
    return TypedBatch(lines, pl.DataFrame(series), problems, broken)
