"""What each user has done in the shop, folded from all that has landed by a day."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import polars as pl

from assets.sources import EVENT_WEIGHTS, TIMEZONE, interactions
from overnight.contract import Contract, Field
from overnight.landing import DerivedSource, Lookback

if TYPE_CHECKING:
    from collections.abc import Mapping


class UserHistory(Contract):
    """A user, and the items that he has had to do with."""

    user_id: str = Field(description="Key; as in the source `interactions`.")
    items: Annotated[pl.List, pl.Int64()] = Field(description="The items, in their order.")
    weights: Annotated[pl.List, pl.Float32()] = Field(
        description="How much is known of his taste for each: `assets.sources.EVENT_WEIGHTS`."
    )


def histories(day: str, landed: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """Every user up to the day, in order; and the day's rows that are of another day."""
    rows = landed["interactions"]
    misplaced = rows.filter(~_in_its_day(), pl.col("_day") == dt.date.fromisoformat(day)).select(
        "user_id",
        "timestamp",
        "_input_id",
        "_line",
        _reject_column=pl.lit("timestamp"),
        _reject_reason=pl.lit(f"is not within the day in {TIMEZONE}"),
    )
    # A row of the user's latest day stands for him.
    users = rows.filter(_in_its_day()).group_by("user_id").agg(_latest("_input_id", "_line"))
    liked = (
        weighted(rows)
        .sort("user_id", "item_id")
        .group_by("user_id", maintain_order=True)
        .agg(items="item_id", weights="weight")
    )
    known = users.join(liked, on="user_id", how="left").with_columns(
        # Who has only visited has a history without an item.
        pl.col("items", "weights").fill_null([])
    )
    return pl.concat([misplaced, known.sort("user_id")], how="diagonal")


def weighted(rows: pl.LazyFrame) -> pl.LazyFrame:
    """`user_id`, `item_id`, and the `weight` (Float32) of all that one did with the other.

    Rows of another day than they landed on do not count, and what was delivered twice counts
    once.
    """
    weights = pl.col("event").replace_strict(EVENT_WEIGHTS, return_dtype=pl.Float32)
    return (
        rows.filter(_in_its_day(), pl.col("item_id").is_not_null())
        .unique(["user_id", "item_id", "event", "timestamp"])
        .group_by("user_id", "item_id")
        .agg(weight=weights.sum())
    )


def _in_its_day() -> pl.Expr:
    return pl.col("timestamp").dt.convert_time_zone(TIMEZONE).dt.date() == pl.col("_day")


def _latest(*columns: str) -> pl.Expr:
    return pl.col(columns).get(pl.col("timestamp").arg_max())


user_histories = DerivedSource(
    name="user_histories",
    contract=UserHistory,
    key="user_id",
    inputs=(Lookback(source=interactions, first=None),),
    derive=histories,
)
