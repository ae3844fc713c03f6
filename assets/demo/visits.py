"""The shop's clicks and purchases in the landing zone."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from assets.demo.clicks import SHOP, interactions
from assets.sources import TIMEZONE
from assets.sources import interactions as interactions_source
from overnight.landing import land, mark_complete

if TYPE_CHECKING:
    from datetime import date

    from assets.demo.clicks import Shelves
    from overnight.landing import LandReport
    from overnight.store import Store

__all__ = ["land_visits"]


def land_visits(
    store: Store, day: date, *, shelves: Shelves = SHOP, mistakes: int = 0
) -> LandReport:
    """Land a day's interactions.

    Args:
        store: where the landing zone is.
        day: which.
        shelves: whose shop.
        mistakes: bad rows to add, see `assets.demo.clicks`.
    """
    rows = interactions(shelves, day, timezone=TIMEZONE, mistakes=mistakes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "interactions.parquet"
        rows.write_parquet(file)
        report = land(store, interactions_source, day.isoformat(), [file], replace=True)
    mark_complete(store, interactions_source, day.isoformat())
    return report
