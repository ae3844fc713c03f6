"""Training the fraud model by the Fraud Detection Handbook's protocol.

Le Borgne et al., chapter 3, "Baseline fraud detection system": a week to train on, a week until
the labels of that are known, a week to test on.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any

import polars as pl

from assets.fraud_features import DELAY_DAYS, FEATURES

if TYPE_CHECKING:
    import xgboost

TRAIN_DAYS = TEST_DAYS = 7
PROTOCOL_DAYS = TRAIN_DAYS + DELAY_DAYS + TEST_DAYS

ROUNDS = 100
PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "aucpr",
    # Shallow: a week has some 600 frauds to learn from, and up to this depth the engine looks
    # contributions up, thirty times sooner than XGBoost computes them.
    "max_depth": 3,
    "eta": 0.05,
    "seed": 0,
}


def split(labelled: pl.DataFrame, first: dt.date) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The transactions to train on, and those to test on.

    A card that is known to be compromised by the morning of a test day is blocked by then: its
    transactions are no part of the test.

    Args:
        labelled: `day` (Date), `customer_id`, `fraud`, whatever else.
        first: the first day to train on.
    """
    train = _days(labelled, first, TRAIN_DAYS)
    known = train.filter("fraud").select("customer_id")
    tests = []
    for ahead in range(TEST_DAYS):
        day = first + dt.timedelta(days=TRAIN_DAYS + DELAY_DAYS + ahead)
        reported = _days(labelled, day - dt.timedelta(days=DELAY_DAYS + 1), 1).filter("fraud")
        known = pl.concat([known, reported.select("customer_id")]).unique()
        tests.append(_days(labelled, day, 1).join(known, on="customer_id", how="anti"))
    return train, pl.concat(tests)


def fit(train: pl.DataFrame, *, threads: int) -> bytes:
    """The model, trained on `FEATURES` and `fraud`, as the bytes of its file.

    The same rows give the same bytes, with whatever number of threads.
    """
    import xgboost

    data = xgboost.DMatrix(
        train.select(FEATURES).cast(pl.Float32).to_numpy(),
        train["fraud"].to_numpy(),
        feature_names=list(FEATURES),
        nthread=threads,
    )
    booster = xgboost.train({**PARAMETERS, "nthread": threads}, data, ROUNDS)
    return bytes(booster.save_raw("json"))


def scores(booster: xgboost.Booster, rows: pl.DataFrame, *, threads: int) -> pl.Series:
    """What the model says of rows with `FEATURES`: the probability of fraud."""
    booster.set_param({"nthread": threads})
    matrix = rows.select(FEATURES).cast(pl.Float32).to_numpy()
    return pl.Series("score", booster.inplace_predict(matrix, validate_features=False))


def _days(labelled: pl.DataFrame, first: dt.date, days: int) -> pl.DataFrame:
    return labelled.filter(pl.col("day").is_between(first, first + dt.timedelta(days=days - 1)))
