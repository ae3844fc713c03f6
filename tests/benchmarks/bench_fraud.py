"""Fraud scores at the Fraud Detection Handbook's full size: how good, how fast, how large.

Days are scored by the job itself, on a warm engine. The peer is plain XGBoost in one process, as
warm: it is given the features as a matrix, predicts in place, and COPYs the finished rows as CSV
that polars writes, in half the time that psycopg takes row by row; once as it is, and once with
the contributions that the job's table has.
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
SCORED_DAYS = 9
BEST = {"auc_roc": 0.86, "average_precision": 0.63, "card_precision": 0.27}
_HANDBOOK = {"auc_roc": 0.862, "average_precision": 0.639, "card_precision": 0.273}


def figures(case: Case) -> list[Figure]:
    """The Handbook's protocol, the features, and a day; medians over days in several processes."""
    made = fresh("bench_fraud:reference")
    runs = []
    for _ in range(case.runs):
        with new_home() as home:
            runs.append(fresh("bench_fraud:score_days", home=str(home)))
    ours, plain, same = (
        statistics.median(seconds for run in runs for seconds in run[name])
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
            name=f"a day of {runs[0]['rows'][-1]:,} scored and staged; inplace_predict and COPY",
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


def score_days(home: str) -> dict[str, list[float]]:
    """Score days of the reference world in this process, each day us and then the peer.

    The first day only warms up: the engine, the connections, the peer's model and its COPY. Both
    then come to a day after its features have been computed once more.
    """
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
    known = FIRST + dt.timedelta(days=DAYS_TO_TRAIN + 7)
    days = [known + dt.timedelta(days=ahead) for ahead in range(SCORED_DAYS + 1)]
    scored = []
    with Warehouse.open(home=path) as warehouse:
        place = house(warehouse, path)
        store = place.store.open()
        land_terminals(store, FIRST, world=REFERENCE)
        for ahead in range((days[-1] - FIRST).days + 1):
            land_day(store, FIRST + dt.timedelta(days=ahead), world=REFERENCE)
        peer = _Peer(warehouse, trained(place, last=known).version.fetch())
        with keep_head(place.cluster):
            for day in map(dt.date.isoformat, days):
                report = run_partition(fraud_scores, day, run_id=f"bench-{day}", house=place)
                rows = _published(warehouse, day)
                reader = reader_of(store, scorable_transactions, day)
                requests = [batch.frame["features"] for batch in reader.batches()]
                seconds = report.seconds
                scored.append(
                    {
                        "rows": report.published,
                        "scored_s": seconds["infer"] + seconds["stage"],
                        **peer.score(requests, rows),
                        **{f"{name}_s": value for name, value in seconds.items()},
                    }
                )
    return {name: [day[name] for day in scored[1:]] for name in scored[0]}


class _Peer:
    """A model in this process, and a table like the job's for each day."""

    def __init__(self, warehouse: Any, model: Path) -> None:
        import xgboost

        from overnight.engines.xgboost import MODEL_FILE

        self._warehouse = warehouse
        self._booster = xgboost.Booster({"nthread": 2}, model_file=str(model / MODEL_FILE))

    def score(self, requests: Any, rows: Any) -> dict[str, float]:
        """Predict, and COPY the rows as they are published; contributions once more."""
        import numpy as np
        import polars as pl
        import sqlalchemy as sa
        import xgboost

        from assets.fraud import fraud_scores
        from assets.fraud_features import FEATURES
        from overnight.publication import published_table
        from overnight.warehouse.copy import copy_text
        from overnight.warehouse.table import quoted

        like = published_table(fraud_scores)
        columns = (sa.Column(column.name, column.type) for column in like.columns)
        table = sa.Table("peer", sa.MetaData(), *columns, schema="published")
        with self._warehouse.begin() as connection:
            connection.exec_driver_sql(
                f"CREATE TABLE {quoted(table)} (LIKE {quoted(like)} INCLUDING ALL)"
            )
        matrix = np.array(pl.concat(requests).to_list(), np.float32)
        began = time.perf_counter()
        self._booster.inplace_predict(matrix, validate_features=False)
        predicted = time.perf_counter()
        with self._warehouse.begin() as connection:
            copy_text(connection, quoted(table), rows, kinds=table.columns)
        copied = time.perf_counter()
        data = xgboost.DMatrix(matrix, feature_names=list(FEATURES))
        self._booster.predict(data, pred_contribs=True)
        explained = time.perf_counter()
        with self._warehouse.begin() as connection:
            table.drop(connection)
        return {
            "predict_s": predicted - began,
            "copy_s": copied - predicted,
            "plain_s": copied - began,
            "with_contributions_s": explained - began,
        }


def _published(warehouse: Any, day: str) -> Any:
    import polars as pl
    import sqlalchemy as sa

    from assets.fraud import fraud_scores
    from overnight.publication import published_table

    table = published_table(fraud_scores)
    with warehouse.connect() as connection:
        found = connection.execute(sa.select(table).where(table.c.partition_key == day)).all()
    return pl.DataFrame(
        [tuple(row) for row in found], schema=table.columns.keys(), orient="row",
        infer_schema_length=None,
    )  # fmt: skip


def _booster(model: bytes) -> Any:
    import xgboost

    return xgboost.Booster(model_file=bytearray(model))
