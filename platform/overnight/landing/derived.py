"""Sources whose rows are not landed as such, but derived from landed rows of other sources.

A day's transactions with what the 37 days before say of them, users folded from all of their
clicks, documents folded from a feed of changes: declarations only. How they are read is in
`overnight.landing.deriving`.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError
from overnight.landing.zone import Source, check_declaration, check_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    import polars as pl

    from overnight.contract import Contract
    from overnight.landing.notes import Landed

WHOLE = "all"
"""The only partition of what is not partitioned by day."""

DAY = "_day"
REJECT_COLUMN = "_reject_column"
REJECT_REASON = "_reject_reason"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookback:
    """Which days of a source are read.

    Attributes:
        source: the landed source.
        first: the first day, in days relative to the partition (0 or less); None for everything
            that has landed up to `last`.
        last: the last day, likewise.
        required: whether the partition's own day must have landed, if it is read; without
            daily partitions, whether anything must have. Other days that have not landed have
            no rows.

    Raises:
        ConfigError: if the days are no span that ends on the partition's day or before.
    """

    source: Source
    first: int | None = 0
    last: int = 0
    required: bool = True

    def __post_init__(self) -> None:
        if self.last > 0 or (self.first is not None and self.first > self.last):
            raise ConfigError(
                f"lookback on {self.source.name!r}: first={self.first}, last={self.last}; need "
                "first <= last <= 0, in days relative to the partition"
            )

    def days(self, partition: str) -> list[str] | None:
        """The days to read, in order; None for all that have landed up to `last_day`."""
        if self.first is None:
            return None
        day = dt.date.fromisoformat(partition)
        return [
            (day + dt.timedelta(days=back)).isoformat() for back in range(self.first, self.last + 1)
        ]

    def last_day(self, partition: str) -> str | None:
        """The last day that may be read; None if there is none."""
        if partition == WHOLE:
            return None
        day = dt.date.fromisoformat(partition) + dt.timedelta(days=self.last)
        return day.isoformat()


@dataclass(frozen=True, slots=True, kw_only=True)
class DerivedSource:
    """A source that is computed from landed ones.

    Attributes:
        name: names it in messages.
        contract: what a derived row must be.
        key: the column that identifies a derived row within a partition: text or an integer,
            not null.
        inputs: what is read, each source once.
        derive: given the partition and a frame for each source by its name, the derived rows.

            A frame has the columns of its source's contract, `_input_id` and `_line` (where the
            row stands), and `_day` (Date, the partition it landed in); rows that break the
            source's contract are not in it. It waits on disk: what is collected from it is what
            is held in memory.

            Derived rows have the columns of `contract`, and the `_input_id` and `_line` of the
            landed row that each is traced to; a row that is bad for a reason that only this
            function can know says so in `_reject_reason` (null where it is fine) and
            `_reject_column`. Other columns are ignored. A LazyFrame is computed in bounded
            memory; frames may also come one by one. What is dear to compute and seldom changes
            may be left in `notes` for the next time.

    Raises:
        ConfigError: if the name, the key or the inputs cannot be used.
    """

    name: str
    contract: type[Contract]
    key: str
    inputs: tuple[Lookback, ...]
    derive: Callable[[str, Landed], pl.DataFrame | pl.LazyFrame | Iterator[pl.DataFrame]]

    def __post_init__(self) -> None:
        check_declaration(self.name, self.contract, self.key)
        names = [lookback.source.name for lookback in self.inputs]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                f"derived source {self.name!r}: its inputs are {names}; it needs at least one, "
                "and each source once"
            )


def landed_sources(source: Source | DerivedSource) -> tuple[Source, ...]:
    """The sources that land files: those behind a derived one, or the source itself."""
    if isinstance(source, DerivedSource):
        return tuple(lookback.source for lookback in source.inputs)
    return (source,)


def check_span(source: Source | DerivedSource, partition: str) -> str:
    """Give back a partition key that a source can be read for.

    Raises:
        ConfigError: if it is neither a day, nor `WHOLE` of a source that reads all that landed.
    """
    if partition != WHOLE:
        return check_partition(partition)
    if isinstance(source, Source) or any(look.first is not None for look in source.inputs):
        raise ConfigError(
            f"source {source.name!r} has daily partitions, so {WHOLE!r} is none of them: write "
            "YYYY-MM-DD, or read all that has landed with Lookback(first=None)"
        )
    return partition


def sources_of(jobs: Iterable[Any]) -> dict[str, Source]:
    """The landed sources of some jobs, by name."""
    return {source.name: source for job in jobs for source in landed_sources(job.source)}
