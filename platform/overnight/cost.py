"""What was spent, summed over days: the question and the answer of `overnight cost`.

Reads `lineage.ledger`; how prices got into it is the business of `ledger`.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight.errors import ConfigError
from overnight.lineage.tables import ledger

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

__all__ = ["BY", "Cost", "Period", "footnotes", "spent"]

_DAYS = re.compile(r"(\d{1,5})d")
_HOUR = 3600

_started_on = sa.cast(sa.func.timezone("UTC", ledger.c.started_at), sa.Date)
# What a line stands for, by the name of the choice.
BY: dict[str, sa.ColumnElement[Any]] = {
    "day": sa.cast(_started_on, sa.Text),
    "job": ledger.c.job,
    "instance": sa.func.coalesce(ledger.c.instance_type, "own machine")
    + sa.case((ledger.c.market == "unknown", ""), else_=" " + ledger.c.market),
}


@dataclass(frozen=True, slots=True)
class Period:
    """Days, both ends included, in UTC: those on which attempts began.

    Attributes:
        since: the first.
        until: the last; None for no end.
    """

    since: dt.date
    until: dt.date | None = None

    @classmethod
    def parse(cls, since: str, until: str | None, *, today: dt.date) -> Self:
        """Reads `2026-11-20`, or `7d` for the last seven days and today.

        Raises:
            ConfigError: if one is neither, or the end is before the beginning.
        """
        first = _day("--since", since, today)
        last = None if until is None else _day("--until", until, today)
        if last is not None and last < first:
            raise ConfigError(f"--until {last} is before --since {first}: exchange the two")
        return cls(first, last)

    def __str__(self) -> str:
        return f"since {self.since}" + (f" until {self.until}" if self.until else "")


@dataclass(frozen=True, slots=True)
class Cost:
    """What was spent on one thing, or on all of them.

    Attributes:
        name: of the thing; None for the total.
        attempts: how many attempts it took.
        dollars: USD; None if no price was known.
        saved_dollars: what it would have cost more on demand.
        interruption_dollars: of `dollars`, what interruptions cost.
        goodput: share of the GPU-seconds that were useful; None if there were none.
        gpu_hours: GPU-hours, useful or not.
        tokens: tokens read and generated.
        interruptions: how many machines were taken away.
        listed: machines of which a price came from the dated table.
        unpriced: machines that no price was known of.
    """

    name: str | None
    attempts: int
    dollars: float | None
    saved_dollars: float | None
    interruption_dollars: float | None
    goodput: float | None
    gpu_hours: float
    tokens: int
    interruptions: int
    listed: int
    unpriced: int

    def shown(self) -> dict[str, str]:
        """As a line of a table; `*` marks prices from the dated table, `?` missing ones."""
        marks = ("*" if self.listed else "") + ("?" if self.unpriced else "")
        return {
            "attempts": str(self.attempts),
            "dollars": _dollars(self.dollars) + marks,
            "saved": _dollars(self.saved_dollars),
            "interruptions": str(self.interruptions),
            "their dollars": _dollars(self.interruption_dollars),
            "goodput": "" if self.goodput is None else f"{self.goodput:.1%}",
            "GPU hours": f"{self.gpu_hours:,.3f}",
            "tokens": f"{self.tokens:,}",
        }


def spent(connection: sa.Connection, period: Period, by: str) -> list[Cost]:
    """What was spent in a period, one line for each thing and the total last; [] if nothing.

    Args:
        connection: to read with.
        period: the days.
        by: one of `BY`.
    """
    c = ledger.c
    gpu_s = (
        c.useful_gpu_s + c.recomputed_gpu_s + c.cold_start_gpu_s + c.idle_gpu_s + c.draining_gpu_s
    )
    listed = sa.or_(c.price_source == "table", c.on_demand_source == "table")
    named = sa.select(BY[by].label("name"), ledger, gpu_s.label("gpu_s"), listed.label("listed"))
    rows = named.where(_started_on >= period.since)
    if period.until is not None:
        rows = rows.where(_started_on <= period.until)
    r = rows.subquery().c
    sums = {
        "attempts": sa.func.count(sa.distinct(r.attempt)),
        "dollars": sa.cast(sa.func.sum(r.dollars), sa.Double),
        "saved_dollars": sa.cast(sa.func.sum(r.saved_dollars), sa.Double),
        "interruption_dollars": sa.cast(sa.func.sum(r.interruption_dollars), sa.Double),
        "goodput": sa.func.sum(r.useful_gpu_s) / sa.func.nullif(sa.func.sum(r.gpu_s), 0),
        "gpu_hours": sa.func.sum(r.gpu_s) / _HOUR,
        "tokens": sa.cast(sa.func.sum(r.prompt_tokens + r.output_tokens), sa.BigInteger),
        "interruptions": sa.cast(sa.func.sum(r.interruptions), sa.BigInteger),
        "listed": sa.func.count().filter(r.listed),
        "unpriced": sa.func.count().filter(r.dollars.is_(None)),
    }
    query = (
        sa.select(r.name, *(value.label(name) for name, value in sums.items()))
        .group_by(sa.func.grouping_sets(sa.tuple_(r.name), sa.tuple_()))
        .having(sa.func.count() > 0)
        .order_by(sa.func.grouping(r.name), r.name)
    )
    return [Cost(**row) for row in connection.execute(query).mappings()]


def footnotes(total: Cost) -> Sequence[str]:
    """What the marks of a table mean, as far as it has them."""
    from overnight.spot.market import OWN_PRICE

    notes = []
    if total.listed:
        notes.append(
            f"* with list prices from a dated table, where AWS gave none (machines: "
            f"{total.listed}; lineage.ledger has the dates)"
        )
    if total.unpriced:
        notes.append(
            f"? without machines that no price is known of (machines: {total.unpriced}; "
            f"lineage.ledger says why; {OWN_PRICE} sets a price for your own)"
        )
    return notes


def _day(option: str, text: str, today: dt.date) -> dt.date:
    if days := _DAYS.fullmatch(text):
        return today - dt.timedelta(days=int(days[1]))
    try:
        return dt.date.fromisoformat(text)
    except ValueError:
        message = f"{option} {text!r} is neither a date such as {today} nor a number of days (7d)"
        raise ConfigError(message) from None


def _dollars(value: float | None) -> str:
    if value is None:
        return ""
    # A night of a small model costs cents: their digits matter.
    return f"{value:,.2f}" if abs(value) >= 1 or value == 0 else f"{value:.4f}"
