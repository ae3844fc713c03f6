"""Counting rejects, and stopping before a GPU is asked for when there are too many."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from overnight.errors import ConfigError, TooManyRejectsError

if TYPE_CHECKING:
    from collections.abc import Iterable

REJECTS_SCHEMA = {
    "source": pl.String,
    "file": pl.String,
    "line": pl.Int64,
    "key": pl.String,
    "column": pl.String,
    "value": pl.String,
    "reason": pl.String,
}
KEPT = 10_000
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class MaxRejects:
    """How many source rows may be rejected before the run stops.

    Attributes:
        share: The largest tolerated share of the rows read, 0 to 1.
        rows: The largest tolerated number of rows, as well; none for no such limit.

    Raises:
        ConfigError: if a limit is out of range.
    """

    share: float = 0.05
    rows: int | None = None

    def __post_init__(self) -> None:
        """Refuse limits that mean nothing."""
        if not 0 <= self.share <= 1:
            message = f"max_rejects: share is {self.share}, must be within 0 and 1"
            raise ConfigError(message)
        if self.rows is not None and self.rows < 0:
            message = f"max_rejects: rows is {self.rows}, must be >= 0"
            raise ConfigError(message)


class RejectTally:
    """The rejects of one partition: an exact count of rows, and the first 10,000 reasons."""

    def __init__(self, limit: MaxRejects) -> None:
        """No rejects yet."""
        self._limit = limit
        self._kept = pl.DataFrame(schema=REJECTS_SCHEMA)
        self.rows = 0

    def add(self, rejects: pl.DataFrame) -> None:
        """Count some rejects, one line for each row.

        Raises:
            TooManyRejectsError: once there are more rows than may be, whatever else is read.
        """
        if rejects.is_empty():
            return
        self.rows += rejects.height
        if self._kept.height < KEPT:
            rejects = rejects.select(REJECTS_SCHEMA.keys()).cast(REJECTS_SCHEMA)  # type: ignore[arg-type]
            self._kept = pl.concat([self._kept, rejects.head(KEPT - self._kept.height)])
        if self._limit.rows is not None and self.rows > self._limit.rows:
            self._stop(
                f"{self.rows} source rows rejected so far, over the limit of {self._limit.rows}"
            )

    def finish(self, rows_in: int) -> pl.DataFrame:
        """The kept rejects, when everything has been read.

        Raises:
            TooManyRejectsError: if their share is over the limit.
        """
        if self.rows > self._limit.share * rows_in:
            self._stop(
                f"{self.rows} of {rows_in} source rows rejected"
                f" ({self.rows / rows_in:.2%}), over the limit of {self._limit.share:.2%}"
            )
        return self._kept

    def _stop(self, what: str) -> None:
        lines = [what, *_lines(self._kept.head(_SHOWN).iter_rows(named=True))]
        if self._kept.height > _SHOWN:
            lines.append("  ...")
        lines.append("Nothing was inferred or published. Correct the files, or raise max_rejects.")
        raise TooManyRejectsError("\n".join(lines), rejects=self._kept)


def _lines(rejects: Iterable[dict[str, object]]) -> Iterable[str]:
    for reject in rejects:
        where = f"  {reject['file']}:{reject['line']}"
        column = f" column {reject['column']}" if reject["column"] is not None else ""
        value = f" value {reject['value']}" if reject["value"] is not None else ""
        key = f" key {reject['key']}" if reject["key"] is not None else ""
        yield f"{where}{key}{column}{value}: {reject['reason']}"
