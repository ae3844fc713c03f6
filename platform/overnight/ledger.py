"""What an attempt cost: GPU-seconds by what they were spent on, tokens, and dollars.

Prices what the workers measured, for `lineage.ledger` and for an asset's metadata. It does
not measure, and it never fails a run: what has no price gets no dollars, and says why.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from overnight.crashpoints import reach, register
from overnight.errors import ConfigError
from overnight.lineage import tables
from overnight.redact import redact
from overnight.spot.market import OWN_PRICE, Price, region_of
from overnight.workers.machine_time import MachineTime

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Sequence

    from overnight.lineage.record import Attempt
    from overnight.spot.market import Market

__all__ = ["KINDS", "Entry", "MachineTime", "entries", "metadata", "record_ledger"]

_log = logging.getLogger(__name__)

KINDS = ("useful", "recomputed", "cold_start", "idle", "draining")
_HOUR = 3600.0
_UNKNOWN = Price(None, "none")
register("ledger.before_write", "ledger.after_write")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row of `lineage.ledger`: a machine's time and what it cost.

    Attributes:
        time: what the machine did.
        paid: the price it had.
        on_demand: what the same machine costs on demand.
        note: why there is no price, or what was assumed.
    """

    time: MachineTime
    paid: Price
    on_demand: Price
    note: str | None = None

    def seconds(self, kind: str) -> float:
        """Wall-clock seconds of one of `KINDS`, or of `restart`."""
        measured: float = getattr(self.time, f"{kind}_s")
        # Differences of clocks may come out a hair below zero.
        return measured if 0 < measured < math.inf else 0.0

    def gpu_seconds(self, kind: str) -> float:
        """Seconds of one of `KINDS`, times devices."""
        return self.seconds(kind) * self.time.gpus

    @property
    def machine_s(self) -> float:
        """All of its seconds, which are what is paid for."""
        return sum(map(self.seconds, KINDS))

    @property
    def dollars(self) -> float | None:
        """What they cost."""
        return _cost(self.machine_s, self.paid)

    @property
    def saved_dollars(self) -> float | None:
        """What they would have cost more on demand."""
        there, paid = _cost(self.machine_s, self.on_demand), self.dollars
        return None if there is None or paid is None else there - paid

    @property
    def interruption_dollars(self) -> float | None:
        """What interruptions cost of it: work done again, drains, and starts anew."""
        lost = sum(map(self.seconds, ("recomputed", "draining", "restart")))
        return _cost(lost, self.paid)

    def columns(self) -> dict[str, Any]:
        """By their names in `lineage.ledger`, the attempt's own left out."""
        t = self.time
        return {
            "machine": t.machine,
            "instance_type": t.instance_type,
            "zone": t.zone,
            "market": t.market,
            "gpus": t.gpus,
            "machine_s": self.machine_s,
            **{f"{kind}_gpu_s": self.gpu_seconds(kind) for kind in KINDS},
            "rows": t.rows,
            "prompt_tokens": t.prompt_tokens,
            "output_tokens": t.output_tokens,
            "recomputed_tokens": t.recomputed_tokens,
            "interruptions": t.interruptions,
            "dollars": self.dollars,
            "saved_dollars": self.saved_dollars,
            "interruption_dollars": self.interruption_dollars,
            "price_per_hour": self.paid.dollars_per_hour,
            "price_source": self.paid.source,
            "price_as_of": self.paid.as_of,
            "on_demand_per_hour": self.on_demand.dollars_per_hour,
            "on_demand_source": self.on_demand.source,
            "price_note": self.note,
        }


def entries(
    attempt: Attempt, times: Iterable[MachineTime], market: Market, at: dt.datetime
) -> list[Entry]:
    """Prices an attempt's machines; may ask AWS, so not within a transaction.

    Args:
        attempt: whose they were.
        times: what each machine did.
        market: knows the prices.
        at: when, with a time zone: spot prices are those of this hour.
    """
    priced = [_priced(time, market, at) for time in times]
    for entry in priced:
        if entry.dollars is None:
            _log.info(
                "What %s cost in attempt %d of %s is not known: %s",
                entry.time.machine, attempt.attempt, attempt.job, entry.note,
            )  # fmt: skip
    return priced


def record_ledger(
    connection: sa.Connection, attempt: Attempt, ledger_entries: Iterable[Entry]
) -> None:
    """Writes an attempt's entries in the caller's transaction, in place of any it has.

    For `Publication.also`, and for attempts that failed. What the table does not take is
    logged and left out: the transaction goes on. A lost connection ends it as always.
    """
    rows = [
        {
            "attempt": attempt.attempt,
            "job": attempt.job,
            "partition_key": attempt.partition_key,
            "table_name": attempt.table,
            "started_at": attempt.started_at,
            **entry.columns(),
        }
        for entry in ledger_entries
    ]
    reach("ledger.before_write")
    try:
        with connection.begin_nested():
            connection.execute(
                sa.delete(tables.ledger).where(tables.ledger.c.attempt == attempt.attempt)
            )
            if rows:
                connection.execute(sa.insert(tables.ledger), rows)
    except (sa.exc.DataError, sa.exc.IntegrityError, sa.exc.ProgrammingError) as error:
        said = redact(str(error.orig)).strip()
        _log.warning("What attempt %d cost was not recorded: %s", attempt.attempt, said)
    reach("ledger.after_write")


def metadata(ledger_entries: Sequence[Entry]) -> dict[str, Any]:
    """What an asset shows of it: dollars, goodput, GPU-seconds by kind; numbers and text.

    Dollars are left out unless every machine has a price; `price` says where from.
    """
    if not ledger_entries:
        return {}
    spent = {kind: sum(e.gpu_seconds(kind) for e in ledger_entries) for kind in KINDS}
    shown: dict[str, Any] = {
        name: round(total, 6)
        for name in ("dollars", "saved_dollars", "interruption_dollars")
        if (total := _total(ledger_entries, name)) is not None
    }
    if all_of_it := sum(spent.values()):
        shown["goodput"] = round(spent["useful"] / all_of_it, 4)
    shown |= {f"{kind}_gpu_s": round(seconds, 3) for kind, seconds in spent.items()}
    shown["interruptions"] = sum(e.time.interruptions for e in ledger_entries)
    shown["price"] = "; ".join(sorted({_told(entry) for entry in ledger_entries}))
    return shown


def _priced(time: MachineTime, market: Market, at: dt.datetime) -> Entry:
    on_demand, spot, note = _UNKNOWN, _UNKNOWN, None
    if time.instance_type is None:
        note = f"it is not a machine of a cloud: {OWN_PRICE} can say what an hour of it costs"
    else:
        try:
            on_demand = market.on_demand_price(time.instance_type, region_of(time.zone))
        except ConfigError as error:
            note = str(error)
    if market.own is not None:
        return Entry(time=time, paid=market.own, on_demand=on_demand)
    if time.instance_type is not None and time.market == "spot":
        try:
            spot = market.spot_price(time.instance_type, time.zone, at)
        except ConfigError as error:
            note = str(error)
    paid = on_demand if spot is _UNKNOWN else spot
    if paid is not _UNKNOWN and paid is on_demand and time.market != "on_demand":
        what = "its spot price" if time.market == "spot" else "how it was bought"
        note = f"{what} is not known: priced on demand"
    return Entry(time=time, paid=paid, on_demand=on_demand, note=note)


def _cost(seconds: float, price: Price) -> float | None:
    return None if price.dollars_per_hour is None else seconds / _HOUR * price.dollars_per_hour


def _total(ledger_entries: Sequence[Entry], name: str) -> float | None:
    values: list[float | None] = [getattr(entry, name) for entry in ledger_entries]
    known = [value for value in values if value is not None]
    return sum(known) if len(known) == len(values) else None


def _told(entry: Entry) -> str:
    price = entry.paid
    name = entry.time.instance_type or entry.time.machine
    if price.dollars_per_hour is None:
        return f"{name}: unknown, {entry.note}"
    source = {"aws": "AWS", "setting": OWN_PRICE}.get(price.source, "the price table")
    dated = f" of {price.as_of:%Y-%m-%d}" if price.as_of else ""
    return f"{name}: ${price.dollars_per_hour:g} an hour, from {source}{dated}"
