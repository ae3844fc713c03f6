"""Fraud scores at the Fraud Detection Handbook's full size: how good, how fast, how large.

A day is scored by the job itself, on a warm engine. The peer is plain XGBoost in one process: it
is given the features as a matrix, predicts in place, and COPYs the finished rows as CSV that
polars writes, in half the time that psycopg takes row by row; once as it is, and once with the
contributions that the job's table has.
"""

from __future__ import annotations

import datetime as dt
import statistics
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_plumbing import peak_mib
from tests.benchmarks.harness import Case, Figure, fresh, new_home

FIRST = dt.date(2018, 4, 1)
TRAINED = dt.date(2018, 7, 25)
DAYS = 183
BEST = {"auc_roc": 0.86, "average_precision": 0.63, "card_precision": 0.27}
_HANDBOOK = {"auc_roc": 0.862, "average_precision": 0.639, "card_precision": 0.273}


def figures(case: Case) -> list[Figure]:
    """The Handbook's protocol, the features, and a day; medians of several processes."""
    made = fresh("bench_fraud:reference")
    runs = []
    for _ in range(case.runs):
        with new_home() as home:
            runs.append(fresh("bench_fraud:score_a_day", home=str(home)))
    ours, plain, same = (
        statistics.median(run[name] for run in runs)
        for name in ("scored_s", "plain_s", "with_contributions_s")
    )
    return [
        *(
            Figure(
                name=f"fraud, the Handbook's protocol: {name}; its own XGBoost",
                ours=f"{made[name]:.3f}",
                peer=f"{_HANDBOOK[name]:.3f}",
                ratio=made[name],
                least=least,
                decimals=3,
            )
            for name, least in BEST.items()
        ),
        Figure(
            name=f"fraud features of {made['rows']:,} transactions, seconds",
            ours=f"{made['seconds']:.1f} s",
            ratio=made["seconds"],
            most=60,
        ),
        Figure(
            name="fraud features, peak memory of the process, GB",
            ours=f"{made['peak_mib']:.0f} MiB",
            ratio=made["peak_mib"] * 2**20 / 1e9,
            most=4,
        ),
        Figure(
            name=f"a day of {runs[0]['rows']:,} scored and staged; inplace_predict and COPY",
            ours=f"{ours:.2f} s",
            peer=f"{plain:.2f} s",
            ratio=plain / ours,
            least=0.9,
        ),
        Figure(
            name="the same; with XGBoost's contributions in the peer too",
            ours=f"{ours:.2f} s",
            peer=f"{same:.2f} s",
            ratio=same / ours,
        ),
    ]


def reference() -> dict[str, Any]:
    """Make the reference data, compute its features, train and test; all in this process."""
    import polars as pl

    from assets.demo.cards import REFERENCE, transactions
    from assets.fraud_features import with_features
    from assets.fraud_metrics import quality
    from assets.fraud_training import fit, scores, split

    paid = transactions(REFERENCE, [FIRST + dt.timedelta(days=n) for n in range(DAYS)])
    began = time.perf_counter()
    labelled = with_features(paid.lazy(), timezone="UTC").collect()
    seconds = time.perf_counter() - began
    peak = peak_mib()
    learned, test = split(labelled.with_columns(day=pl.col("occurred_at").dt.date()), TRAINED)
    found = scores(_booster(fit(learned, threads=2)), test, threads=2)
    return {
        "rows": labelled.height,
        "seconds": seconds,
        "peak_mib": peak,
        **quality(test.with_columns(found)).as_dict(),
    }


def score_a_day(home: str) -> dict[str, Any]:
    """Score a day of the reference world in this process; then the peer, on the same rows."""
    from assets.demo.cards import REFERENCE
    from assets.demo.payments import land_day, land_terminals
    from assets.fraud import fraud_scores
    from assets.fraud_transactions import scorable_transactions
    from overnight.landing import reader_of
    from overnight.run import run_partition
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.cluster import keep_head
    from tests.support.payments import DAYS_TO_TRAIN, trained
    from tests.support.shop import house

    path = Path(home)
    with Warehouse.open(home=path) as warehouse:
        place = house(warehouse, path)
        store = place.store.open()
        last = FIRST + dt.timedelta(days=DAYS_TO_TRAIN + 7)
        land_terminals(store, FIRST, world=REFERENCE)
        for ahead in range((last - FIRST).days + 1):
            land_day(store, FIRST + dt.timedelta(days=ahead), world=REFERENCE)
        version = trained(place, last=last).version
        with keep_head(place.cluster):
            day_before = (last - dt.timedelta(days=1)).isoformat()
            run_partition(fraud_scores, day_before, run_id="warm-up", house=place)
            report = run_partition(fraud_scores, last.isoformat(), run_id="bench", house=place)
        reader = reader_of(store, scorable_transactions, last.isoformat())
        requests = [batch.frame["features"] for batch in reader.batches()]
        peer = _peer(warehouse, last.isoformat(), requests, version.fetch())
    seconds = report.seconds
    return {
        "rows": report.published,
        "scored_s": seconds["infer"] + seconds["stage"],
        **peer,
        **{f"{name}_s": value for name, value in seconds.items()},
    }


def _peer(warehouse: Any, day: str, requests: Any, model: Path) -> dict[str, float]:
    import numpy as np
    import polars as pl
    import sqlalchemy as sa
    import xgboost

    from assets.fraud import fraud_scores
    from assets.fraud_features import FEATURES
    from overnight.engines.xgboost import MODEL_FILE
    from overnight.publication import published_table
    from overnight.warehouse.copy import copy_text
    from overnight.warehouse.table import quoted

    table = published_table(fraud_scores)
    with warehouse.begin() as connection:
        found = connection.execute(sa.select(table).where(table.c.partition_key == day)).all()
        connection.exec_driver_sql(
            "CREATE TABLE published.peer (LIKE published.fraud_scores INCLUDING ALL)"
        )
    rows = pl.DataFrame(
        [tuple(row) for row in found], schema=table.columns.keys(), orient="row",
        infer_schema_length=None,
    )  # fmt: skip
    peer = sa.Table(
        "peer", sa.MetaData(), *(sa.Column(c.name, c.type) for c in table.columns),
        schema="published",
    )  # fmt: skip
    matrix = np.array(pl.concat(requests).to_list(), np.float32)
    booster = xgboost.Booster({"nthread": 2}, model_file=str(model / MODEL_FILE))
    booster.inplace_predict(matrix[:100], validate_features=False)
    began = time.perf_counter()
    booster.inplace_predict(matrix, validate_features=False)
    predicted = time.perf_counter()
    with warehouse.begin() as connection:
        copy_text(connection, quoted(peer), rows, kinds=peer.columns)
    copied = time.perf_counter()
    data = xgboost.DMatrix(matrix, feature_names=list(FEATURES))
    booster.predict(data, pred_contribs=True)
    explained = time.perf_counter()
    return {
        "predict_s": predicted - began,
        "copy_s": copied - predicted,
        "plain_s": copied - began,
        "with_contributions_s": explained - began,
    }


def _booster(model: bytes) -> Any:
    import xgboost

    return xgboost.Booster(model_file=bytearray(model))
