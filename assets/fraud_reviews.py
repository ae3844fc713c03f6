"""How good the published fraud scores were, now that their labels are known; and their drift."""

from __future__ import annotations

import datetime as dt
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import sqlalchemy as sa

from assets.fraud import fraud_scores
from assets.fraud_features import DELAY_DAYS
from assets.fraud_metrics import precision_recall, quality
from assets.fraud_training import TEST_DAYS
from assets.fraud_transactions import newest_labels
from assets.sources import fraud_labels
from overnight.drift import counted, stability_index
from overnight.landing import Lookback
from overnight.landing.spool import LandedRows
from overnight.orchestration.plots import precision_recall as curve
from overnight.orchestration.review import Finding, Place, review

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse

LEAST_AUC_ROC = 0.7
MOST_DRIFT = 0.25

_SCORES = sa.text(
    "SELECT partition_key, transaction_id, customer_id, score FROM published.fraud_scores "
    "WHERE partition_key BETWEEN :first AND :last"
)
_SCORED = {
    "partition_key": pl.String,
    "transaction_id": pl.String,
    "customer_id": pl.String,
    "score": pl.Float64,
}


def detection(place: Place) -> Finding:
    """Hold the scores of the last labelled week against the reports that have landed since."""
    last = dt.date.fromisoformat(place.partition) - dt.timedelta(days=DELAY_DAYS)
    first = last - dt.timedelta(days=TEST_DAYS - 1)
    scored = _scores(place.warehouse, first, last).join(
        _frauds(place, first), on=["transaction_id", "day"], how="left"
    )
    scored = scored.with_columns(pl.col("fraud").fill_null(value=False))
    frauds = int(scored["fraud"].sum())
    figures = {"first_day": f"{first}", "last_day": f"{last}", "scored": scored.height}
    known = (
        f"{frauds} frauds are known among {scored.height} scored transactions, {first} to {last}"
    )
    if frauds in (0, scored.height):
        return Finding(passed=True, message=f"{known}: nothing to judge by yet", figures=figures)
    found = quality(scored)
    precision, recall = precision_recall(scored["fraud"].to_numpy(), scored["score"].to_numpy())
    return Finding(
        passed=found.auc_roc >= LEAST_AUC_ROC,
        message=f"AUC-ROC {found.auc_roc:.3f} (at least {LEAST_AUC_ROC}), average precision "
        f"{found.average_precision:.3f}, card precision@100 {found.card_precision:.3f}; {known}",
        figures={**figures, "frauds": frauds, **found.as_dict()},
        plots={"precision_recall": curve(precision.tolist(), recall.tolist())},
    )


def drift(place: Place) -> Finding:
    """Hold the day's scores against those of the week before it."""
    day = dt.date.fromisoformat(place.partition)
    week = _scores(place.warehouse, day - dt.timedelta(days=7), day - dt.timedelta(days=1))
    today = _scores(place.warehouse, day, day)
    figures = {"scored": today.height, "scored_in_the_week_before": week.height}
    if today.is_empty() or week.is_empty():
        return Finding(passed=True, message="no scores to compare", figures=figures)
    index = stability_index(counted(week["score"]), counted(today["score"]))
    return Finding(
        passed=index <= MOST_DRIFT,
        message=f"PSI {index:.3f} (at most {MOST_DRIFT}) of {today.height} scores against "
        f"{week.height} of the week before",
        figures={**figures, "psi": index},
    )


def _scores(warehouse: Warehouse, first: dt.date, last: dt.date) -> pl.DataFrame:
    with warehouse.connect() as connection:
        rows = connection.execute(_SCORES, {"first": first.isoformat(), "last": last.isoformat()})
        found = [tuple(row) for row in rows]
    frame = pl.DataFrame(found, schema=_SCORED, orient="row")
    return frame.with_columns(day=pl.col("partition_key").str.to_date())


def _frauds(place: Place, first: dt.date) -> pl.DataFrame:
    """The newest report on each transaction: `transaction_id`, `day`, `fraud`."""
    place.scratch.mkdir(parents=True, exist_ok=True)
    back = (first - dt.date.fromisoformat(place.partition)).days
    lookback = Lookback(source=fraud_labels, first=back, required=False)
    with tempfile.TemporaryDirectory(dir=place.scratch) as folder:
        rows = LandedRows(place.store, (lookback,), place.partition, Path(folder))
        for _ in rows.read():
            pass  # rejects were told when their day was scored
        return newest_labels(rows.frames["fraud_labels"]).rename({"_day": "day"}).collect()


reviews = (
    review(
        fraud_scores,
        name="detection",
        description="AUC-ROC, average precision and card precision@100 of the last week whose "
        "labels are known. If it fails, look at the newest `fraud_model` and at how complete "
        "`fraud_labels` are.",
        look=detection,
    ),
    review(
        fraud_scores,
        name="score_drift",
        description="The population stability index of the day's scores against the week before. "
        "If it fails, transactions have changed, or the model has: compare `model_version`.",
        look=drift,
    ),
)
