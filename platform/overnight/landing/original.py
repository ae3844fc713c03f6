"""The text of rows as they stand in landing files, for whoever has to fix them."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from overnight.landing.lines import TooLong, numbered_lines

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overnight.store import Store

__all__ = ["Originals"]

_MAX_LINE_BYTES = 1 << 20


class Originals:
    """Reads rows by file and line, each file once.

    Args:
        store: where the landing zone is.
        rows: `file` (its URI), `line` (from 1; in Parquet the row), `version` (of the file as it
            was read, None if not on record).

    Attributes:
        notes: what could not be read, in words.
    """

    def __init__(self, store: Store, rows: Sequence[Mapping[str, Any]]) -> None:
        self.notes: list[str] = []
        self._texts: dict[tuple[str, int], str] = {}
        files: dict[tuple[str, str | None], set[int]] = {}
        for row in rows:
            if row["line"] is not None:
                files.setdefault((row["file"], row["version"]), set()).add(row["line"])
        for (uri, version), lines in files.items():
            key = uri.removeprefix(f"{store.url}/")
            try:
                if version is not None and store.head(key).version != version:
                    self.notes.append(f"{uri} was replaced since: its rows are left out")
                    continue
                data = store.get(key)
            except FileNotFoundError:
                self.notes.append(f"{uri} is gone: its rows are left out")
                continue
            for line, text in _read(key, data, lines).items():
                self._texts[uri, line] = text

    def of(self, row: Mapping[str, Any]) -> str | None:
        """The text of a row; None if it could not be read."""
        return self._texts.get((row["file"], row["line"]))


def _read(key: str, data: bytes, lines: set[int]) -> dict[int, str]:
    name = key.lower()
    if name.endswith(".parquet"):
        return _of_parquet(data, lines)
    stream = io.BytesIO(data)
    if name.endswith(".gz"):
        import gzip

        with gzip.open(stream) as unzipped:
            return _of_text(unzipped, lines, quoted=False)
    return _of_text(stream, lines, quoted=name.endswith(".csv"))


def _of_text(stream: Any, lines: set[int], *, quoted: bool) -> dict[int, str]:
    texts: dict[int, str] = {}
    row: int | None = None
    try:
        for number, line in numbered_lines(stream, _MAX_LINE_BYTES):
            text = (line.head if isinstance(line, TooLong) else line).decode(errors="replace")
            if row is not None:
                texts[row] += f"\n{text}"
            elif number in lines:
                row, texts[number] = number, text
            # A quote that is open at the end of a line of CSV goes on in the next.
            if row is not None and not (quoted and texts[row].count('"') % 2):
                row = None
    except (EOFError, OSError):
        return texts
    return texts


def _of_parquet(data: bytes, lines: set[int]) -> dict[int, str]:
    import json

    import polars as pl

    frame = pl.read_parquet(data)
    return {
        line: json.dumps(frame.row(line - 1, named=True), default=str)
        for line in lines
        if line <= frame.height
    }
