"""What the demo shop's customers look at, put in their carts and buy.

Customers have tastes; items have a character, and a popularity with a long tail. A visitor is
shown some items, popular ones more often, and looks at the one that suits him best: a discrete
choice with random utility (McFadden, "Conditional logit analysis of qualitative choice behavior",
1974). The better it suits him, the likelier it goes into his cart and is bought. So there is
something to learn beyond popularity, which is a strong baseline all the same.

Every day has random numbers of its own, so a day is the same whichever days are asked for.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
import polars as pl

from assets.demo.cards import SHOP as CARD_SHOP
from assets.demo.cards import customer_id

__all__ = ["SHOP", "Shelves", "interactions"]

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]

_DIRECTIONS, _TASTES = 12, 2
"""What one can have a taste for, and for how much of it a customer has one."""
_BUSY = 0.8
"""How much customers differ in how often they come: the spread of a lognormal."""
_HEAD, _TAIL = 8.0, 0.7
"""Popularity falls with the rank as (rank + head) ** -tail."""
_SHOWN, _CHOOSY = 25, 6.0
_ALONE, _VIEWS = 0.3, 3.0
"""The share of visits without a view, and the mean number of views of the others."""
_CART, _PURCHASE = (-2.5, 2.5), (-0.5, 1.5)
"""Log-odds of going on from a view to the cart and from there to the till, and what taste adds."""
_EVENING_S, _SPREAD_S, _PAUSE_S = 68_000.0, 15_000.0, 45.0
_AT_ONCE = 1 << 14
_EVENTS = ("visit", "view", "cart", "purchase")
_HABITS, _TASTE, _GOODS, _TRADE = range(4)
"""Streams of random numbers: what one of them is used for changes no other."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shelves:
    """Who visits the shop, and what it has.

    Attributes:
        customers: how many.
        items: how many.
        visits: of a customer on a day, on average.
        seed: another one gives other customers and items.
    """

    customers: int
    items: int
    visits: float = 0.5
    seed: int = 0


SHOP = Shelves(customers=CARD_SHOP.customers, items=600)
"""The demo shop: its visitors are those who pay there with cards."""


class _Happened(NamedTuple):
    """Who did what (an index of `_EVENTS`) with which item (-1 for none), and when."""

    customer: _Ints
    item: _Ints
    event: _Ints
    second: _Floats


def interactions(
    shelves: Shelves, day: date, *, timezone: str = "UTC", mistakes: int = 0
) -> pl.DataFrame:
    """All interactions of a day, in order of time.

    Args:
        shelves: who visits, and what there is.
        day: which.
        timezone: at whose midnight a day begins.
        mistakes: rows to add at the end that nobody can use: in turn of an unknown event, without
            the item that was viewed, and of the day before.

    Returns:
        `user_id`, `item_id` (null for a visit), `event`, `timestamp` (UTC).
    """
    midnight, next_midnight = (
        datetime.combine(day + timedelta(days=ahead), time(), ZoneInfo(timezone)).timestamp()
        for ahead in (0, 1)
    )
    happened = _happened(shelves, day)
    # Where clocks change, a day is shorter; what would fall out of it is left out.
    inside = (happened.second >= 0) & (happened.second < next_midnight - midnight)
    order = np.flatnonzero(inside)
    order = order[np.argsort(happened.second[order], kind="stable")]
    customer, item, event, second = (column[order] for column in happened)
    names = pl.Series([customer_id(number) for number in range(shelves.customers)], dtype=pl.String)
    began = np.datetime64(int(midnight * 1e6), "us")
    frame = pl.DataFrame(
        {
            "user_id": names.gather(customer),
            "item_id": item,
            "event": pl.Series(_EVENTS, dtype=pl.String).gather(event),
            "timestamp": began + (second * 1000).astype("m8[ms]"),
        }
    ).with_columns(
        pl.when(pl.col("item_id") >= 0).then("item_id"),
        pl.col("timestamp").dt.replace_time_zone("UTC"),
    )
    return pl.concat([frame, *_mistakes(frame, mistakes)])


def _happened(shelves: Shelves, day: date) -> _Happened:
    rng = _rng(shelves, _TRADE, day)
    visitor = np.repeat(np.arange(shelves.customers), rng.poisson(_visits(shelves)))
    arrived = rng.normal(_EVENING_S, _SPREAD_S, len(visitor))
    alone = rng.random(len(visitor)) < _ALONE
    views = np.where(alone, 0, 1 + rng.poisson(_VIEWS - 1, len(visitor)))
    who = np.repeat(visitor, views)
    nth = np.arange(len(who)) - np.repeat(views.cumsum() - views, views)
    when = np.repeat(arrived, views) + _PAUSE_S * (nth + rng.uniform(0.3, 0.7, len(nth)))
    item, suits = _chosen(shelves, rng, who)
    cart = rng.random(len(item)) < _probability(_CART, suits)
    bought = cart & (rng.random(len(item)) < _probability(_PURCHASE, suits))
    parts = [
        (visitor, np.full(len(visitor), -1), arrived),
        (who, item, when),
        (who[cart], item[cart], when[cart] + 0.1 * _PAUSE_S),
        (who[bought], item[bought], when[bought] + 0.2 * _PAUSE_S),
    ]
    customers, items, seconds = (np.concatenate(column) for column in zip(*parts, strict=True))
    events = np.repeat(np.arange(len(parts)), [len(part[0]) for part in parts])
    return _Happened(customers, items, events, seconds)


def _chosen(shelves: Shelves, rng: np.random.Generator, who: _Ints) -> tuple[_Ints, _Floats]:
    """The item that each of these looks at, and how well it suits him, -1 to 1."""
    character, popularity = _goods(shelves)
    tastes = _tastes(shelves)
    items, suits = [np.empty(0, np.int64)], [np.empty(0)]
    for start in range(0, len(who), _AT_ONCE):
        some = who[start : start + _AT_ONCE]
        shown = np.searchsorted(popularity, rng.random((len(some), _SHOWN)), side="right")
        fits = np.einsum("vsd,vd->vs", character[shown], tastes[some])
        best = np.argmax(_CHOOSY * fits + rng.gumbel(size=fits.shape), axis=1)[:, None]
        items.append(np.take_along_axis(shown, best, axis=1)[:, 0])
        suits.append(np.take_along_axis(fits, best, axis=1)[:, 0])
    return np.concatenate(items), np.concatenate(suits)


def _mistakes(frame: pl.DataFrame, count: int) -> list[pl.DataFrame]:
    """Bad rows; their other values are those of a view."""
    kinds = (
        {"event": pl.lit("stare")},
        {"item_id": pl.lit(None, pl.Int64)},
        {"timestamp": pl.col("timestamp").dt.offset_by("-1d")},
    )
    view = frame.filter(pl.col("event") == "view").tail(1)
    return [view.with_columns(**kinds[number % len(kinds)]) for number in range(count)]


def _probability(log_odds: tuple[float, float], suits: _Floats) -> _Floats:
    constant, slope = log_odds
    return 1 / (1 + np.exp(-(constant + slope * suits)))


@functools.cache
def _visits(shelves: Shelves) -> _Floats:
    rng = _rng(shelves, _HABITS)
    return shelves.visits * rng.lognormal(-(_BUSY**2) / 2, _BUSY, shelves.customers)


@functools.cache
def _tastes(shelves: Shelves) -> _Floats:
    """Directions of length 1, (customers, directions)."""
    rng = _rng(shelves, _TASTE)
    tastes = rng.normal(0, 0.15, (shelves.customers, _DIRECTIONS))
    for _ in range(_TASTES):
        liked = rng.integers(_DIRECTIONS, size=shelves.customers)
        tastes[np.arange(shelves.customers), liked] += rng.uniform(0.5, 1.5, shelves.customers)
    return _unit(tastes)


@functools.cache
def _goods(shelves: Shelves) -> tuple[_Floats, _Floats]:
    """Characters of length 1, (items, directions); and popularity, cumulative but for the last."""
    rng = _rng(shelves, _GOODS)
    character = rng.normal(0, 0.2, (shelves.items, _DIRECTIONS))
    character[np.arange(shelves.items), rng.integers(_DIRECTIONS, size=shelves.items)] += 1
    popularity = (rng.permutation(shelves.items) + _HEAD) ** -_TAIL
    return _unit(character), np.cumsum(popularity / popularity.sum())[:-1]


def _unit(vectors: _Floats) -> _Floats:
    length: _Floats = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / length


def _rng(shelves: Shelves, stream: int, day: date | None = None) -> np.random.Generator:
    return np.random.default_rng([shelves.seed, stream, day.toordinal() if day else 0])
