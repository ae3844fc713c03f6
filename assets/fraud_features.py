"""What the fraud model sees of a transaction, from the 37 days up to it.

The fifteen features of the Fraud Detection Handbook (Le Borgne et al., chapter 3, "Baseline
feature transformation"), with its windows and its delay: whether a terminal's transactions were
fraud is known a week later at the earliest, so the last seven days of a terminal do not count.
"""

from __future__ import annotations

import polars as pl

DELAY_DAYS = 7
WINDOWS = (1, 7, 30)
HISTORY_DAYS = DELAY_DAYS + max(WINDOWS)

FEATURES = (
    "amount",
    "weekend",
    "night",
    *(f"customer_{what}_{days}d" for days in WINDOWS for what in ("count", "mean")),
    *(f"terminal_{what}_{days}d" for days in WINDOWS for what in ("count", "fraud_share")),
)

_SATURDAY = 6
_LAST_HOUR_OF_NIGHT = 6


def with_features(transactions: pl.LazyFrame, *, timezone: str) -> pl.LazyFrame:
    """Add all features but `amount`, which is there already.

    A window ends with the transaction itself, whatever happens later: features of a transaction
    never change because of later ones, nor because of labels of transactions of the last
    `DELAY_DAYS` before it. They are complete if `HISTORY_DAYS` before it are there.

    Args:
        transactions: `occurred_at`, `customer_id`, `terminal_id`, `amount`, `fraud` (Boolean, as
            far as it is known); other columns are kept. In any order, which is not kept.
        timezone: whose nights and weekends they are.
    """
    local = pl.col("occurred_at").dt.convert_time_zone(timezone)
    return (
        transactions.sort("occurred_at")
        .with_columns(
            weekend=(local.dt.weekday() >= _SATURDAY).cast(pl.Float32),
            night=(local.dt.hour() <= _LAST_HOUR_OF_NIGHT).cast(pl.Float32),
            **{f"customer_count_{days}d": _count(days).over("customer_id") for days in WINDOWS},
            **{f"customer_mean_{days}d": _mean(days).over("customer_id") for days in WINDOWS},
            **{f"terminal_count_{days}d": _known_count(days) for days in WINDOWS},
            **{
                f"terminal_fraud_share_{days}d": (
                    _known_frauds(days) / _known_count(days)
                ).fill_nan(0)
                for days in WINDOWS
            },
        )
        .with_columns(pl.col(FEATURES[1:]).cast(pl.Float32))
    )


def _count(days: int) -> pl.Expr:
    """Transactions within so many days, the row's own included."""
    one = pl.col("amount").is_not_null().cast(pl.Int32)
    return one.rolling_sum_by("occurred_at", f"{days}d")


def _mean(days: int) -> pl.Expr:
    return pl.col("amount").rolling_mean_by("occurred_at", f"{days}d")


def _frauds(days: int) -> pl.Expr:
    return pl.col("fraud").cast(pl.Int32).rolling_sum_by("occurred_at", f"{days}d")


def _known_count(days: int) -> pl.Expr:
    """A terminal's transactions within so many days before the delay."""
    return (_count(DELAY_DAYS + days) - _count(DELAY_DAYS)).over("terminal_id")


def _known_frauds(days: int) -> pl.Expr:
    return (_frauds(DELAY_DAYS + days) - _frauds(DELAY_DAYS)).over("terminal_id")
