"""A row's place among all of its partition, for `InferenceJob.over_partition`.

It can be told in two ways that agree row by row: in SQL over what is staged, which works however
many rows there are and wherever they came from, and in memory where all rows are there at once,
which spares Postgres from writing them a second time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import sqlalchemy as sa

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Rank"]

DESCENDING = "-"


@dataclass(frozen=True, slots=True)
class Rank:
    """1 for the first row of a partition, 2 for the second, and so on.

    Texts are ordered by their code points, whatever the warehouse's collation, and nulls come
    after all values, in falling order before them, as Postgres has it.

    Attributes:
        by: columns, the most important first; one with a `-` before its name falls. End with the
            key, or it is left to chance which of two equal rows comes first.

    Raises:
        ConfigError: without a column, or with one that is named twice.
    """

    by: tuple[str, ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self._columns()]
        if not names or not all(names) or len(set(names)) < len(names):
            raise ConfigError(f"Rank: by={self.by!r} must name columns, each once")

    def __call__(self, row: Any) -> sa.ColumnElement[int]:
        """The rank in SQL, given a table's columns."""
        order = []
        for name, falls in self._columns():
            column = row[name]
            if isinstance(column.type, sa.String):
                column = column.collate("C")
            order.append(column.desc() if falls else column.asc())
        return sa.func.row_number().over(order_by=order)

    def of(self, frame: pl.DataFrame) -> pl.Series:
        """The rank of each row of a frame that holds the whole partition."""
        names, falls = zip(*self._columns(), strict=True)
        order = frame.select(
            pl.arg_sort_by(names, descending=list(falls), nulls_last=[not one for one in falls])
        ).to_series()
        ranks = np.empty(frame.height, np.int64)
        ranks[order.to_numpy()] = np.arange(1, frame.height + 1)
        return pl.Series("rank", ranks)

    def _columns(self) -> Iterator[tuple[str, bool]]:
        for name in self.by:
            yield name.removeprefix(DESCENDING), name.startswith(DESCENDING)
