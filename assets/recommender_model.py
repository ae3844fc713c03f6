"""The recommender: trained each week on what happened before that week, and judged by the week.

Matrix factorization of implicit feedback (Hu, Koren, Volinsky 2008) by alternating least squares,
with the library `implicit`. The split is by time: users' histories up to the week's first day, and
for each user the items that he has to do with in the week for the first time. Users without either
are left out of the judgement; items that are in a history are never ranked.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from assets.histories import weighted
from assets.recommender_metrics import ndcg_at, recall_at
from assets.sources import interactions
from overnight.engines.cores import usable_cores
from overnight.engines.factors import FILE, FactorModel
from overnight.engines.recommend import Histories, Recommender
from overnight.errors import ModelError
from overnight.landing import Lookback
from overnight.training import Trained, TrainedModel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

HELD_OUT_DAYS = 7
K = 10
PARAMETERS: dict[str, Any] = {"factors": 16, "regularization": 5.0, "alpha": 1.0, "iterations": 15}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a model is judged by.

    Attributes:
        histories: of the users that are asked about, up to the split.
        wanted: the items that each of them has to do with after it, and never before.
    """

    histories: Histories
    wanted: list[npt.NDArray[np.int64]]


def train(day: str, landed: Mapping[str, pl.LazyFrame]) -> Trained:
    """Train on everything before the week that ends with the day.

    Raises:
        ModelError: if nothing has landed for the time before it.
    """
    split = dt.date.fromisoformat(day) - dt.timedelta(days=HELD_OUT_DAYS - 1)
    rows = landed["interactions"]
    before = weighted(rows.filter(pl.col("_day") < split)).sort("user_id", "item_id").collect()
    if before.is_empty():
        raise ModelError(
            f"recommender_model: no interaction with an item has landed before {split}, and the "
            f"days from then to {day} are what the model is judged by; land some of the time before"
        )
    days = rows.filter(pl.col("_day") < split).select("_day").collect()["_day"]
    after = weighted(rows.filter(pl.col("_day") >= split)).sort("user_id", "item_id").collect()
    return Trained(
        files={FILE: fit(before).write()},
        features=("user_id", "item_id", "event"),
        first_day=str(days.min()),
        last_day=str(days.max()),
        held_out=_held_out(before, after),
        parameters=PARAMETERS,
    )


def fit(rows: pl.DataFrame) -> FactorModel:
    """The model of `user_id`, `item_id` and `weight`: the same rows in the same order, the same."""
    import scipy.sparse
    import threadpoolctl
    from implicit.cpu.als import AlternatingLeastSquares

    users = rows["user_id"].rank("dense").to_numpy() - 1
    items = rows["item_id"].rank("dense").to_numpy() - 1
    ids = rows["item_id"].unique().sort().to_numpy()
    confidence = (1 + PARAMETERS["alpha"] * rows["weight"].to_numpy()).astype(np.float32)
    matrix = scipy.sparse.csr_matrix((confidence, (users, items)))
    # The library works on many rows at once; a BLAS with threads of its own would slow it down.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        als = AlternatingLeastSquares(
            factors=PARAMETERS["factors"],
            regularization=PARAMETERS["regularization"],
            iterations=PARAMETERS["iterations"],
            num_threads=usable_cores(),
            random_state=0,
        )
        als.fit(matrix, show_progress=False)
    return FactorModel(
        item_ids=ids,
        factors=als.item_factors,
        popularity=(np.bincount(items, minlength=len(ids)) / matrix.shape[0]).astype(np.float32),
        regularization=PARAMETERS["regularization"],
        alpha=PARAMETERS["alpha"],
    )


def judge(directory: Path, held_out: HeldOut) -> dict[str, float]:
    """Recall@10 and NDCG@10, those of the most popular unseen items, and how many times as good.

    Raises:
        ModelError: if the model cannot be read, or nobody did anything new in the week.
    """
    if not held_out.wanted:
        raise ModelError(
            "recommender_model: nobody with a history has had to do with a new item in the week "
            "that the model is judged by; land more of it, or train another week"
        )
    model = FactorModel.read(directory)
    recommender = Recommender(model, k=K, threads=usable_cores())
    histories = held_out.histories
    nobodys = Histories(
        starts=histories.starts, items=histories.items, weights=np.zeros_like(histories.weights)
    )
    try:
        ours, popular = (recommender.best(asked).items for asked in (histories, nobodys))
    finally:
        recommender.close()
    metrics: dict[str, float] = {"users": len(held_out.wanted)}
    for name, measure in (("recall_at_10", recall_at), ("ndcg_at_10", ndcg_at)):
        value, baseline = (measure(items, held_out.wanted) for items in (ours, popular))
        metrics |= {
            name: value,
            f"popularity_{name}": baseline,
            f"{name}_over_popularity": value / max(baseline, 1e-6),
        }
    return metrics


def _held_out(before: pl.DataFrame, after: pl.DataFrame) -> HeldOut:
    """What is new after the split, of users with a history before it, and these histories."""
    new = after.join(before, on=["user_id", "item_id"], how="anti").join(
        before.select("user_id").unique(), on="user_id", how="semi"
    )
    wanted = new.sort("user_id", "item_id").group_by("user_id", maintain_order=True).agg("item_id")
    known = before.join(wanted, on="user_id", how="semi")
    counts = known.group_by("user_id", maintain_order=True).len()["len"].to_numpy()
    return HeldOut(
        histories=Histories(
            starts=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
            items=known["item_id"].to_numpy(),
            weights=known["weight"].to_numpy(),
        ),
        wanted=[items.to_numpy() for items in wanted["item_id"]],
    )


recommender_model = TrainedModel(
    name="recommender_model",
    inputs=(Lookback(source=interactions, first=None),),
    train=train,
    judge=judge,
    metric="ndcg_at_10",
    at_least={"recall_at_10_over_popularity": 2.0, "ndcg_at_10_over_popularity": 2.0},
)
