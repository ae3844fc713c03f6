"""A day's transactions with their features; what cannot be right about others, and about labels.

Derived from what has landed by then: the transactions and the fraud reports of the 37 days before,
and all terminals. Only what is right counts in features, whichever day it is of.
"""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Annotated

import polars as pl

from assets.fraud_features import FEATURES, HISTORY_DAYS, with_features
from assets.sources import TIMEZONE, fraud_labels, terminals, transactions
from overnight.contract import Contract, Field
from overnight.landing import DerivedSource, Lookback

if TYPE_CHECKING:
    from collections.abc import Mapping

_REJECT = ("_reject_column", "_reject_reason")


class ScorableTransaction(Contract):
    """A transaction and what the model sees of it."""

    transaction_id: str = Field(description="Key of the source `transactions`.")
    customer_id: str = Field(description="Whose card it was.")
    amount: float = Field(description="What was paid, in euros.")
    features: Annotated[pl.List, pl.Float32()] = Field(
        description="The values of `assets.fraud_features.FEATURES`, in their order."
    )


def read_days(first: int) -> tuple[Lookback, ...]:
    """What is read to know all of the days from `first` on, relative to the partition's."""
    return (
        Lookback(source=transactions, first=first),
        Lookback(source=fraud_labels, first=first),
        Lookback(source=terminals, first=None, required=False),
    )


def scorable(day: str, landed: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    """The day's transactions with features, and its bad transactions and labels with reasons."""
    today = pl.col("_day") == dt.date.fromisoformat(day)
    checked = _checked_transactions(landed)
    features = (
        with_labels(landed)
        .filter(today)
        .select("transaction_id", features=pl.concat_list(pl.col(FEATURES).cast(pl.Float32)))
    )
    rows = checked.filter(today).join(features, on="transaction_id", how="left")
    bad_labels = _checked_labels(landed, day).filter(today & pl.col(_REJECT[1]).is_not_null())
    return pl.concat([rows, bad_labels], how="diagonal").sort("_input_id", "_line").collect()


def with_labels(landed: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """All transactions that are right, with features and whether they are known to be `fraud`."""
    frauds = newest_labels(landed["fraud_labels"])
    right = (
        _checked_transactions(landed)
        .filter(pl.col(_REJECT[1]).is_null())
        .unique("transaction_id", keep="first", maintain_order=True)
        .join(frauds, on=["transaction_id", "_day"], how="left")
        .with_columns(pl.col("fraud").fill_null(value=False))
    )
    return with_features(right, timezone=TIMEZONE)


def newest_labels(landed: pl.LazyFrame) -> pl.LazyFrame:
    """What is known by now of each reported transaction: `transaction_id`, `_day`, `fraud`."""
    return (
        landed.sort("reported_at", "_day", "_line")
        .group_by("transaction_id", _day="transaction_date")
        .agg(pl.col("fraud").last())
    )


def _checked_transactions(landed: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    known = landed["terminals"].select("terminal_id", _known=True).unique("terminal_id")
    local_day = pl.col("occurred_at").dt.convert_time_zone(TIMEZONE).dt.date()
    return (
        landed["transactions"]
        .join(known, on="terminal_id", how="left", maintain_order="left")
        .with_columns(
            _first_that_holds(
                (
                    "occurred_at",
                    local_day != pl.col("_day"),
                    f"is not within the day in {TIMEZONE}",
                ),
                ("terminal_id", pl.col("_known").is_null(), "is not among the terminals"),
            )
        )
    )


def _checked_labels(landed: Mapping[str, pl.LazyFrame], day: str) -> pl.LazyFrame:
    """Labels of a day; a label of what is too old to be known here is not doubted."""
    known = (
        landed["transactions"]
        .select("transaction_id", transaction_date="_day", _known=True)
        .unique()
    )
    date = pl.col("transaction_date")
    earliest = dt.date.fromisoformat(day) - dt.timedelta(days=HISTORY_DAYS)
    return (
        landed["fraud_labels"]
        .join(known, on=["transaction_id", "transaction_date"], how="left")
        .with_columns(
            _first_that_holds(
                ("transaction_date", date > pl.col("_day"), "is after the day of the label itself"),
                (
                    "transaction_id",
                    pl.col("_known").is_null() & (date >= earliest),
                    "no such transaction landed on its transaction_date",
                ),
            )
        )
    )


def _first_that_holds(*problems: tuple[str, pl.Expr, str]) -> list[pl.Expr]:
    """Column and reason of the first problem that a row has; null if it has none."""
    column = pl.coalesce(pl.when(holds).then(pl.lit(name)) for name, holds, _ in problems)
    reason = pl.coalesce(pl.when(holds).then(pl.lit(why)) for _, holds, why in problems)
    return [column.alias(_REJECT[0]), reason.alias(_REJECT[1])]


scorable_transactions = DerivedSource(
    name="scorable_transactions",
    contract=ScorableTransaction,
    key="transaction_id",
    inputs=read_days(-HISTORY_DAYS),
    derive=scorable,
)
