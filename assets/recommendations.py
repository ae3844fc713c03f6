"""Nightly recommendations: for each user the 20 unseen items that suit him best."""

from __future__ import annotations

import polars as pl

from assets.histories import user_histories
from assets.sources import in_the_morning
from overnight.contract import Contract, Field
from overnight.engines.top_k import TopK
from overnight.expectations import Expectations
from overnight.job import InferenceJob, OutputCheck
from overnight.registry import RegistryRef

ITEMS = 20


class Recommendation(Contract):
    """The items to show to each user, none of which he has had to do with before."""

    user_id: str = Field(description="Who; key of the source `interactions`.")
    rank: int = Field(description="1 for the best item.", ge=1, le=ITEMS)
    item_id: int = Field(description="Which item.")
    score: float = Field(description="The model's preference, or the popularity; see `basis`.")
    basis: str = Field(
        description="`history`: from what he has done. `popularity`: of him nothing is known that "
        "the model could use, so it is what most customers had to do with.",
        isin=["history", "popularity"],
    )
    model_version: str = Field(description="The version of `recommender_model` that said so.")


def history(users: pl.DataFrame) -> pl.Series:
    """Ask for the items that suit a history."""
    return users.select(pl.struct("items", "weights")).to_series()


def ranked(results: pl.DataFrame) -> pl.DataFrame:
    """One row for each item, ranks from 1."""
    return results.select(
        "user_id",
        "model_version",
        rank=pl.int_ranges(1, pl.col("items").list.len() + 1),
        item_id="items",
        score="scores",
        basis=pl.when("personal").then(pl.lit("history")).otherwise(pl.lit("popularity")),
    ).explode("rank", "item_id", "score")


recommendations = InferenceJob(
    name="recommendations",
    source=user_histories,
    engine=TopK(model=RegistryRef("recommender_model"), k=ITEMS),
    prepare=history,
    parse=ranked,
    output=Recommendation,
    key=("user_id", "rank"),
    expects=Expectations(due=in_the_morning(8)),
    checks=(
        OutputCheck(
            name="popular_share",
            description="Recommendations of what is popular, for want of a history that the model "
            "knows. If it fails, the model may be too old: look at `recommender_model`.",
            breaks=lambda row: row.basis == "popularity",
            max_share=0.5,
        ),
    ),
)
