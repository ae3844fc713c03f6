"""A small world of card payments, landed; and a fraud model trained from it, in service."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from assets.demo.cards import World
from assets.demo.payments import land_day, land_terminals
from assets.fraud_features import HISTORY_DAYS
from assets.fraud_model import NEEDED_DAYS, fraud_model
from overnight.training import TrainingReport, train_model

if TYPE_CHECKING:
    from overnight.run import House
    from overnight.store import Store

TOWN = World(customers=120, terminals=40, radius=30.0, bad_terminals=0.1, bad_customers=0.5)
LAST = dt.date(2026, 11, 20)
DAYS_TO_TRAIN = NEEDED_DAYS + HISTORY_DAYS


def land_days(store: Store, days: int, *, last: dt.date = LAST) -> None:
    """Land everything up to and including a day."""
    land_terminals(store, last - dt.timedelta(days=days - 1), world=TOWN)
    for ago in range(days):
        land_day(store, last - dt.timedelta(days=ago), world=TOWN)


def trained(house: House, *, last: dt.date = LAST) -> TrainingReport:
    """Train on what has landed; the model is in service then, unless it is a worse one."""
    return train_model(
        fraud_model,
        last.isoformat(),
        store=house.store,
        registry=house.registry,
        scratch=house.scratch,
    )
