"""What the readers of the file formats have in common: their settings and their batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overnight.contract import ColumnDecl, columns, shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import polars as pl

    from overnight.contract import Contract
    from overnight.landing.values import Problem

MAX_LINE_BYTES = 16 << 20
MAX_BATCH_BYTES = 64 << 20
_MAX_EXTRA = 20


@dataclass(frozen=True, slots=True)
class Broken:
    """A row that could not be read at all."""

    line: int
    value: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class TypedBatch:
    """Rows of one file, typed but not yet checked against the contract.

    Attributes:
        lines: the 1-based line of each row of `frame` (in Parquet, its row number).
        frame: the contract's columns, of its dtypes; null where a value could not be read.
        problems: values that could not be read, by their row in `frame`.
        broken: rows that are not in `frame` at all.
    """

    lines: Sequence[int]
    frame: pl.DataFrame
    problems: Sequence[Problem]
    broken: Sequence[Broken]


@dataclass(slots=True)
class FileReading:
    """One file while it is read.

    Attributes:
        uri: how messages name the file.
        contract: what its rows must be.
        batch_rows: the most rows in a batch.
        max_line_bytes: the longest line, or CSV row, that is read.
        extra: the first columns met that the contract does not have.
    """

    uri: str
    contract: type[Contract]
    batch_rows: int
    max_line_bytes: int = MAX_LINE_BYTES
    extra: dict[str, None] = field(default_factory=dict)
    columns: list[ColumnDecl] = field(init=False)

    def __post_init__(self) -> None:
        """Look the columns up once."""
        self.columns = columns(self.contract)

    def note_extra(self, names: Iterable[str]) -> None:
        """Remember columns that will be ignored, for one line in the log."""
        for name in names:
            if len(self.extra) < _MAX_EXTRA:
                self.extra[shown(name)] = None
