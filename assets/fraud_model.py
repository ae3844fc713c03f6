"""The fraud model: trained anew each week, on the newest weeks whose labels are known."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import polars as pl

from assets.fraud_features import DELAY_DAYS, FEATURES, HISTORY_DAYS
from assets.fraud_metrics import quality
from assets.fraud_training import (
    PARAMETERS,
    PROTOCOL_DAYS,
    ROUNDS,
    TRAIN_DAYS,
    fit,
    scores,
    split,
)
from assets.fraud_transactions import read_days, with_labels
from overnight.engines.cores import usable_cores
from overnight.engines.xgboost import MODEL_FILE, load
from overnight.errors import ModelError
from overnight.training import Trained, TrainedModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

NEEDED_DAYS = PROTOCOL_DAYS + DELAY_DAYS
"""To train on, to wait for labels, to test on, and to wait for the labels of the test."""


def train(day: str, landed: Mapping[str, pl.LazyFrame]) -> Trained:
    """Train by the Handbook's protocol, so that the test week's labels are known on the day.

    Raises:
        ModelError: if the week to train on, or the one to test on, has no fraud, or nothing else.
    """
    first = dt.date.fromisoformat(day) - dt.timedelta(days=NEEDED_DAYS - 1)
    labelled = with_labels(landed).filter(pl.col("_day") >= first).rename({"_day": "day"}).collect()
    learned, test = split(labelled, first)
    for what, rows in (("train", learned), ("test", test)):
        if rows["fraud"].n_unique() < 2:  # noqa: PLR2004 - fraud and none
            raise ModelError(
                f"fraud_model for {day}: the week to {what} on has {rows.height} transactions, "
                f"{rows['fraud'].sum()} of them fraud; it needs both kinds. Land transactions and "
                f"fraud_labels from {first - dt.timedelta(days=HISTORY_DAYS)} on"
            )
    return Trained(
        files={MODEL_FILE: fit(learned, threads=usable_cores())},
        features=FEATURES,
        first_day=first.isoformat(),
        last_day=(first + dt.timedelta(days=TRAIN_DAYS - 1)).isoformat(),
        held_out=test,
        parameters={**PARAMETERS, "rounds": ROUNDS},
    )


def judge(model: Path, test: pl.DataFrame) -> dict[str, float]:
    """How good a model is on transactions that it has not seen.

    Raises:
        ModelError: if it is none, or one of other features.
    """
    found = scores(load(model / MODEL_FILE, FEATURES), test, threads=usable_cores())
    return quality(test.with_columns(found)).as_dict()


fraud_model = TrainedModel(
    name="fraud_model",
    inputs=read_days(1 - NEEDED_DAYS - HISTORY_DAYS),
    train=train,
    judge=judge,
    metric="average_precision",
    # A week has some 600 frauds at the reference size; two honest models differ by that much.
    margin=0.05,
    at_least={"auc_roc": 0.6},
)
