"""A small shop's visitors, landed; and a recommender trained from them, in service."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from assets.demo.clicks import Shelves
from assets.demo.visits import land_visits
from assets.recommender_model import recommender_model
from overnight.training import TrainingReport, train_model

if TYPE_CHECKING:
    from overnight.run import House
    from overnight.store import Store

SHELVES = Shelves(customers=200, items=240, visits=0.8)
LAST = dt.date(2026, 11, 22)
"""A Sunday, with which a week ends."""
DAYS_TO_TRAIN = 21


def land_days(
    store: Store, days: int = DAYS_TO_TRAIN, *, last: dt.date = LAST, mistakes: int = 0
) -> None:
    """Land everything up to and including a day; mistakes are made on each of them."""
    for ago in range(days):
        day = last - dt.timedelta(days=ago)
        land_visits(store, day, shelves=SHELVES, mistakes=mistakes)


def trained(house: House, *, last: dt.date = LAST) -> TrainingReport:
    """Train on what has landed; the model is in service then, unless it is a worse one."""
    return train_model(
        recommender_model,
        last.isoformat(),
        store=house.store,
        registry=house.registry,
        scratch=house.scratch,
    )
