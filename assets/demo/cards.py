"""Card transactions with known frauds, by the rules of the Fraud Detection Handbook's simulator.

Le Borgne, Siblini, Lebichot, Bontempi: *Reproducible Machine Learning for Credit Card Fraud
Detection*, chapter 3, "Transaction data simulator". Customers pay at terminals near them; who
pays how much and how often differs from customer to customer. Fraud is (1) an amount over 220,
(2) a terminal that is compromised for 28 days, (3) a customer whose card data is stolen: for 14
days a third of the payments are five times as high. Scenario 3 draws each payment by itself
where the Handbook draws a third of them at once.

Every day has random numbers of its own, so a day is the same whichever days are asked for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["REFERENCE", "SHOP", "World", "labels", "terminals", "transactions"]

_SIDE = 100.0
_NOON, _SPREAD = 43_200.0, 20_000.0
_SUSPICIOUS_AMOUNT = 220.0
_TERMINAL_DAYS, _CUSTOMER_DAYS = 28, 14
_STOLEN_SHARE, _STOLEN_FACTOR = 1 / 3, 5.0
_FIRST_REPORT, _LAST_REPORT = 2, 6
"""Days after a transaction between which its report arrives."""
_FALSE_REPORTS, _CORRECTED_AFTER = 0.002, 4
_PEOPLE, _TRADE, _CRIME, _REPORTS = range(4)
"""Streams of random numbers: what one of them is used for changes no other."""
_ONE_BY_ONE = 500

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Who pays where, and how much of it is fraud.

    Attributes:
        customers: how many.
        terminals: how many; they and the customers live in a square of 100 by 100.
        radius: how far a customer goes to a terminal.
        bad_terminals: terminals that are newly compromised each day, on average.
        bad_customers: customers whose card data is newly stolen each day, on average.
        opened: the first day on which there is crime; None if there always was.
        seed: another one gives another world.
    """

    customers: int
    terminals: int
    radius: float = 5.0
    bad_terminals: float = 2.0
    bad_customers: float = 3.0
    opened: date | None = None
    seed: int = 0


REFERENCE = World(customers=5_000, terminals=10_000, opened=date(2018, 4, 1))
"""The Handbook's own size: 183 days from 2018-04-01 are 1.75 million transactions."""

SHOP = World(customers=400, terminals=120, radius=20.0, bad_terminals=0.08, bad_customers=0.5)
"""The demo shop's customers and the terminals of its town."""


@dataclass(frozen=True, slots=True)
class _Population:
    """The world's people: their habits, and the terminals that each can reach.

    Attributes:
        mean: of a customer's amounts.
        rate: a customer's transactions a day.
        first: where a customer's terminals begin in `reachable`; one more entry than customers.
        reachable: terminals, customer by customer.
    """

    mean: _Floats
    rate: _Floats
    first: _Ints
    reachable: _Ints


def customer_id(number: int) -> str:
    """A customer's name in every source of the shop."""
    return f"c-{number:05}"


def terminal_id(number: int) -> str:
    """A terminal's name."""
    return f"p-{number:05}"


def terminals(world: World) -> pl.DataFrame:
    """All terminals: `terminal_id`."""
    return pl.DataFrame({"terminal_id": [terminal_id(n) for n in range(world.terminals)]})


def transactions(
    world: World, days: Sequence[date], *, timezone: str = "UTC", mistakes: int = 0
) -> pl.DataFrame:
    """All transactions of some days, in order of time within each.

    Args:
        world: who pays where.
        days: which.
        timezone: at whose midnight a day begins.
        mistakes: rows to add to each day that nobody could score: in turn with a negative
            amount, with one that is no number, at an unknown terminal, and of the day before.

    Returns:
        `transaction_id`, `occurred_at` (UTC), `customer_id`, `terminal_id`, `amount`; and what
        nobody knows on that day: `fraud` and its `scenario` (0 for none).
    """
    people = _population(world)
    frame = pl.concat([_one_day(world, people, day, ZoneInfo(timezone)) for day in days])
    frame = frame.with_columns(  # text only now, and made once for each number
        _named("customer_id", customer_id, world.customers),
        _named("terminal_id", terminal_id, world.terminals),
    )
    return _with_mistakes(frame, days, mistakes)


def labels(world: World, day: date, *, timezone: str = "UTC", mistakes: int = 0) -> pl.DataFrame:
    """The reports that arrive on a day, about transactions of two to ten days before.

    Every fraud is reported within six days. A few transactions that are none are reported as
    well, which is corrected four days later. What nobody reports is genuine.

    Args:
        world: who pays where.
        day: on which the reports arrive.
        timezone: as for `transactions`.
        mistakes: reports to add that are about transactions that never were.

    Returns:
        `transaction_id`, `transaction_date`, `fraud`, `reported_at` (UTC).
    """
    reported = [
        _reports(world, about, ZoneInfo(timezone)).filter(pl.col("reported_at").dt.date() == day)
        for about in _days_before(day, _LAST_REPORT + _CORRECTED_AFTER, _FIRST_REPORT)
    ]
    nine = datetime.combine(day, time(9), ZoneInfo(timezone))
    reported.append(
        pl.DataFrame(
            {
                "transaction_id": [f"never-{number}" for number in range(mistakes)],
                "transaction_date": day - timedelta(days=_FIRST_REPORT),
                "fraud": True,
                "reported_at": nine,
            },
            schema=reported[0].schema,
        )
    )
    return pl.concat(reported).with_columns(pl.col("reported_at").dt.convert_time_zone("UTC"))


def _one_day(world: World, people: _Population, day: date, zone: ZoneInfo) -> pl.DataFrame:
    rng = _rng(world, _TRADE, day)
    customer = np.repeat(np.arange(world.customers), rng.poisson(people.rate))
    second = rng.normal(_NOON, _SPREAD, len(customer)).astype(np.int64)
    mean = people.mean[customer]
    amount = rng.normal(mean, mean / 2)
    amount = np.where(amount < 0, rng.uniform(0, 2 * mean), amount).round(2)
    choices = np.diff(people.first)[customer]
    choice = (rng.random(len(customer)) * choices).astype(np.int64)
    stolen = rng.random(len(customer)) < _STOLEN_SHARE
    midnight, next_midnight = (
        datetime.combine(day + timedelta(days=ahead), time(), zone).astimezone(UTC)
        for ahead in (0, 1)
    )
    # Where clocks change, a day is shorter; what would fall out of it is left out, as always.
    length = (next_midnight - midnight).total_seconds()
    keep = np.flatnonzero((second > 0) & (second < min(length, 86_400)) & (choices > 0))
    keep = keep[np.argsort(second[keep], kind="stable")]
    customer, second, amount = customer[keep], second[keep], amount[keep]
    terminal = people.reachable[people.first[customer] + choice[keep]]
    scenario = np.where(amount > _SUSPICIOUS_AMOUNT, 1, 0)
    scenario[np.isin(terminal, _bad_terminals(world, day))] = 2
    stolen = stolen[keep] & np.isin(customer, _bad_customers(world, day))
    scenario[stolen] = 3
    amount = np.where(stolen, (amount * _STOLEN_FACTOR).round(2), amount)
    return pl.DataFrame(
        {
            "transaction_id": pl.Series(
                [f"t-{day:%Y%m%d}-{n:06}" for n in range(len(keep))], dtype=pl.String
            ),
            "occurred_at": (
                np.datetime64(midnight.replace(tzinfo=None), "us") + second.astype("m8[s]")
            ),
            "customer_id": customer.astype(np.uint32),
            "terminal_id": terminal.astype(np.uint32),
            "amount": amount,
            "fraud": scenario > 0,
            "scenario": scenario.astype(np.int8),
        }
    ).with_columns(pl.col("occurred_at").dt.replace_time_zone("UTC"))


def _with_mistakes(frame: pl.DataFrame, days: Sequence[date], mistakes: int) -> pl.DataFrame:
    """Bad rows take the place after the last good one of each day, and its other values."""
    if not mistakes:
        return frame
    kinds = (
        {"amount": pl.lit(-1.0) * pl.col("amount")},
        {"amount": pl.lit(float("nan"))},
        {"terminal_id": pl.lit("p-unknown")},
        {"occurred_at": pl.col("occurred_at").dt.offset_by("-1d")},
    )
    parts = []
    for day in days:
        rows = frame.filter(pl.col("transaction_id").str.starts_with(f"t-{day:%Y%m%d}-"))
        parts += [
            rows,
            *(
                rows.tail(1).with_columns(
                    transaction_id=pl.lit(f"bad-{day:%Y%m%d}-{number}"),
                    **kinds[number % len(kinds)],
                )
                for number in range(mistakes)
            ),
        ]
    return pl.concat(parts)


@functools.lru_cache(maxsize=16)
def _reports(world: World, about: date, zone: ZoneInfo) -> pl.DataFrame:
    """Everything that is ever reported about a day; kept, since nine days ask for it in turn."""
    known = transactions(world, [about], timezone=zone.key)
    rng = _rng(world, _REPORTS, about)
    days = rng.integers(_FIRST_REPORT, _LAST_REPORT, known.height, endpoint=True)
    moment = datetime.combine(about, time(8), zone)
    known = known.select(
        "transaction_id",
        "fraud",
        transaction_date=pl.lit(about),
        by_mistake=pl.Series(rng.random(known.height) < _FALSE_REPORTS) & ~pl.col("fraud"),
        # Offsets in calendar days: a day is not always 24 hours long.
        reported_at=pl.lit(moment).dt.offset_by(pl.lit(pl.Series(days).cast(pl.String)) + "d"),
    )
    wrong = known.filter("by_mistake")
    reported = [
        known.filter("fraud"),
        wrong.with_columns(fraud=pl.lit(value=True)),
        wrong.with_columns(pl.col("reported_at").dt.offset_by(f"{_CORRECTED_AFTER}d")),
    ]
    return pl.concat(reported).select("transaction_id", "transaction_date", "fraud", "reported_at")


@functools.cache
def _population(world: World) -> _Population:
    rng = _rng(world, _PEOPLE)
    customers = rng.uniform(0, _SIDE, (world.customers, 2))
    places = rng.uniform(0, _SIDE, (world.terminals, 2))
    reachable, counts = [], []
    for start in range(0, world.customers, _ONE_BY_ONE):  # all distances at once would be 400 MB
        some = customers[start : start + _ONE_BY_ONE, None, :]
        near = ((some - places) ** 2).sum(axis=2) < world.radius**2
        counts.append(near.sum(axis=1))
        reachable.append(near.nonzero()[1])
    first = np.concatenate([[0], np.cumsum(np.concatenate(counts))])
    return _Population(
        mean=rng.uniform(5, 100, world.customers),
        rate=rng.uniform(0, 4, world.customers),
        first=first,
        reachable=np.concatenate(reachable),
    )


def _bad_terminals(world: World, day: date) -> _Ints:
    return _victims(world, day, _TERMINAL_DAYS, world.terminals, world.bad_terminals, 0)


def _bad_customers(world: World, day: date) -> _Ints:
    return _victims(world, day, _CUSTOMER_DAYS, world.customers, world.bad_customers, 1)


def _victims(world: World, day: date, lasting: int, among: int, new: float, kind: int) -> _Ints:
    """Who was chosen on this day or in the time before that a crime lasts."""
    chosen = [np.empty(0, np.int64)]
    for since in _days_before(day, lasting - 1, 0):
        if world.opened is None or since >= world.opened:
            rng = _rng(world, _CRIME, since, kind)
            count = int(new) + int(rng.random() < new % 1)
            chosen.append(rng.choice(among, count, replace=False))
    return np.concatenate(chosen)


def _days_before(day: date, first: int, last: int) -> list[date]:
    return [day - timedelta(days=ago) for ago in range(first, last - 1, -1)]


def _rng(world: World, stream: int, day: date | None = None, kind: int = 0) -> np.random.Generator:
    return np.random.default_rng([world.seed, stream, day.toordinal() if day else 0, kind])


def _named(column: str, name: Callable[[int], str], count: int) -> pl.Expr:
    names = pl.Series([name(number) for number in range(count)], dtype=pl.String)
    return pl.lit(names).gather(pl.col(column)).alias(column)
