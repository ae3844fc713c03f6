"""The shop's card payments in the landing zone: a day, or the history that a model needs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from assets.demo.cards import SHOP, labels, terminals, transactions
from assets.sources import TIMEZONE
from assets.sources import fraud_labels as labels_source
from assets.sources import terminals as terminals_source
from assets.sources import transactions as transactions_source
from overnight.landing import land, mark_complete

if TYPE_CHECKING:
    from datetime import date

    import polars as pl

    from assets.demo.cards import World
    from overnight.landing import LandReport, Source
    from overnight.store import Store

__all__ = ["land_day", "land_terminals"]


def land_terminals(store: Store, day: date, *, world: World = SHOP) -> LandReport:
    """Land the terminals, which every transaction from that day on may be at."""
    return _land(store, terminals_source, day, terminals(world))


def land_day(
    store: Store, day: date, *, world: World = SHOP, mistakes: int = 0
) -> tuple[LandReport, LandReport]:
    """Land a day's transactions and the fraud reports that arrive on it.

    Args:
        store: where the landing zone is.
        day: which.
        world: whose cards.
        mistakes: bad rows to add to either, see `assets.demo.cards`.
    """
    paid = transactions(world, [day], timezone=TIMEZONE, mistakes=mistakes)
    reported = labels(world, day, timezone=TIMEZONE, mistakes=mistakes)
    return (
        _land(store, transactions_source, day, paid.drop("fraud", "scenario")),
        _land(store, labels_source, day, reported),
    )


def _land(store: Store, source: Source, day: date, rows: pl.DataFrame) -> LandReport:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{source.name}.parquet"
        rows.write_parquet(file)
        report = land(store, source, day.isoformat(), [file], replace=True)
    mark_complete(store, source, day.isoformat())
    return report
