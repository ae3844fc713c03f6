"""What a job expects of a night: how many rows, and what kind of texts.

A declaration: making one does no I/O. What it is held against is in `overnight.audit`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

__all__ = ["Expectations", "Limit", "TextOutput"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """How large a share of rows may be, 0 to 1.

    Attributes:
        warn: beyond it the check fails as a warning, and the partition is published.
        block: beyond it nothing is published; not below `warn`. None for either: never.

    Raises:
        ConfigError: if a share is out of range.
    """

    warn: float | None = None
    block: float | None = None

    def __post_init__(self) -> None:
        for name in ("warn", "block"):
            share = getattr(self, name)
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"Limit: {name} is {share}, must be within 0 and 1")
        if self.warn is not None and self.block is not None and self.block < self.warn:
            raise ConfigError(f"Limit: block is {self.block}, which is below warn={self.warn}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOutput:
    """What is expected of the text that a job writes.

    Attributes:
        column: the output column that holds it.
        truncated: the output column that is true where it stopped at the token limit; None if
            there is none.
        truncated_share: how many may be.
        empty_share: how many may be empty, dead letters that are so for that reason included.
        duplicate_share: how many may repeat another row's text, word for word.
        least_rows: rows from which on repeated texts say anything.
        drift: the largest population stability index of the lengths against the week before.
        drift_rows: rows, on either side, from which on that index says anything: of 200 it is
            about 0.05 by chance alone.
    """

    column: str
    truncated: str | None = None
    truncated_share: Limit = field(default_factory=lambda: Limit(warn=0.02, block=0.05))
    empty_share: Limit = field(default_factory=lambda: Limit(warn=0.01, block=0.05))
    duplicate_share: Limit = field(default_factory=lambda: Limit(warn=0.05, block=0.5))
    least_rows: int = 20
    drift: float = 0.25
    drift_rows: int = 200

    def __post_init__(self) -> None:
        _require(self, "drift", above=0)
        _require(self, "least_rows", above=0)
        _require(self, "drift_rows", above=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectations:
    """What a job expects of each of its partitions.

    Attributes:
        reject_share: the share of rejects, 0 to 1, from which on there is a warning; how many
            stop the run is the job's `max_rejects`.
        row_change: how far the number of published rows may be from what it is on the same
            weekday as a rule, as a share of it; 0.5 is half as many, or half as many more.
        text: of the text that it writes, if it does.
        due: the time of day, with its time zone, by which the day before (of a job without days,
            a refresh) has to be published; None if nobody waits for it.
    """

    reject_share: float = 0.01
    row_change: float = 0.5
    text: TextOutput | None = None
    due: dt.time | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.reject_share <= 1:
            raise ConfigError(
                f"Expectations: reject_share is {self.reject_share}, must be within 0 and 1"
            )
        _require(self, "row_change", above=0)
        if self.due is not None and self.due.tzinfo is None:
            raise ConfigError(
                f"Expectations: due is {self.due:%H:%M} without a time zone; write "
                'dt.time(6, tzinfo=ZoneInfo("Europe/Berlin"))'
            )

    def check(self, job: str, output: Mapping[str, str]) -> None:
        """Refuse columns that the output does not have.

        Args:
            job: whose they are.
            output: the SQL type of each output column.

        Raises:
            ConfigError: if one is missing or of the wrong type; names it.
        """
        if self.text is None:
            return
        for column, kind in ((self.text.column, "text"), (self.text.truncated, "boolean")):
            if column is not None and output.get(column) != kind:
                has = output.get(column, "missing")
                raise ConfigError(
                    f"job {job!r}: TextOutput names the column {column!r}, which must be {kind} "
                    f"and is {has}"
                )


def _require(declared: Any, name: str, *, above: float) -> None:
    value = getattr(declared, name)
    if not value > above:
        raise ConfigError(f"{type(declared).__name__}: {name} is {value}, must be above {above}")
