"""The features of a transaction: against a computation by brute force, and without a leak."""

from __future__ import annotations

import datetime as dt
import random
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.demo.cards import SHOP, transactions
from assets.fraud_features import DELAY_DAYS, FEATURES, HISTORY_DAYS, WINDOWS, with_features

BERLIN = "Europe/Berlin"
START = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)
SPAN_MINUTES = 45 * 24 * 60

payments = st.lists(
    st.fixed_dictionaries(
        {
            # Whole hours, so that several fall on the very edge of a window, or on each other.
            "occurred_at": st.integers(0, SPAN_MINUTES // 60).map(
                lambda hour: START + dt.timedelta(hours=hour)
            ),
            "customer_id": st.sampled_from(["c1", "c2"]),
            "terminal_id": st.sampled_from(["p1", "p2", "p3"]),
            "amount": st.floats(0, 1000).map(lambda amount: round(amount, 2)),
            "fraud": st.booleans(),
        }
    ),
    max_size=60,
)


def brute_force(rows: list[dict[str, Any]], row: dict[str, Any]) -> dict[str, float]:
    """The same features, as they are defined: row by row, window by window."""
    now = row["occurred_at"]

    def within(key: str, first: int, last: int) -> list[dict[str, Any]]:
        after, until = now - dt.timedelta(days=first), now - dt.timedelta(days=last)
        return [r for r in rows if r[key] == row[key] and after < r["occurred_at"] <= until]

    local = now.astimezone(dt.timezone(dt.timedelta(hours=1 if now < SUMMER else 2)))
    found = {
        "amount": row["amount"],
        "weekend": float(local.weekday() >= 5),
        "night": float(local.hour <= 6),
    }
    for days in WINDOWS:
        mine = within("customer_id", days, 0)
        found[f"customer_count_{days}d"] = len(mine)
        found[f"customer_mean_{days}d"] = sum(r["amount"] for r in mine) / len(mine)
        known = within("terminal_id", DELAY_DAYS + days, DELAY_DAYS)
        found[f"terminal_count_{days}d"] = len(known)
        share = sum(r["fraud"] for r in known) / len(known) if known else 0.0
        found[f"terminal_fraud_share_{days}d"] = share
    return found


SUMMER = dt.datetime(2026, 3, 29, 1, tzinfo=dt.UTC)
"""When clocks change in Berlin."""


def computed(rows: list[dict[str, Any]]) -> pl.DataFrame:
    schema: Any = {
        "occurred_at": pl.Datetime("us", "UTC"),
        "customer_id": pl.String,
        "terminal_id": pl.String,
        "amount": pl.Float64,
        "fraud": pl.Boolean,
    }
    frame = pl.DataFrame(rows, schema=schema).with_row_index("at")
    return with_features(frame.lazy(), timezone=BERLIN).sort("at").collect()


@settings(deadline=None, max_examples=60)
@given(payments)
def test_features_are_what_brute_force_finds(rows: list[dict[str, Any]]) -> None:
    found = computed(rows)
    assert found.height == len(rows)
    for row, ours in zip(rows, found.select(FEATURES).iter_rows(named=True), strict=True):
        assert ours == pytest.approx(brute_force(rows, row), rel=1e-5, abs=1e-3)


@pytest.fixture(scope="module")
def shop() -> pl.DataFrame:
    first = dt.date(2026, 9, 1)
    return transactions(SHOP, [first + dt.timedelta(days=n) for n in range(60)], timezone=BERLIN)


@pytest.mark.parametrize("seed", range(10))
def test_a_label_changes_nothing_before_the_delay_has_passed(shop: pl.DataFrame, seed: int) -> None:
    at = random.Random(seed).randrange(shop.height // 2)
    moment, terminal = shop["occurred_at"][at], shop["terminal_id"][at]
    flipped = shop.with_columns(
        fraud=pl.when(pl.int_range(pl.len()) == at).then(~pl.col("fraud")).otherwise("fraud")
    )
    before, after = (
        with_features(frame.lazy(), timezone=BERLIN).sort("transaction_id").collect()
        for frame in (shop, flipped)
    )
    changed = before.filter(
        pl.any_horizontal(before[name] != after[name] for name in FEATURES)  # type: ignore[arg-type]
    )
    assert changed.height
    assert changed["terminal_id"].unique().to_list() == [terminal]
    first: dt.datetime = changed["occurred_at"].min()  # type: ignore[assignment]
    last: dt.datetime = changed["occurred_at"].max()  # type: ignore[assignment]
    assert first >= moment + dt.timedelta(days=DELAY_DAYS)
    assert last < moment + dt.timedelta(days=HISTORY_DAYS)


def test_what_happens_later_changes_nothing(shop: pl.DataFrame) -> None:
    middle = shop["occurred_at"][shop.height // 2]
    so_far = shop.filter(pl.col("occurred_at") <= middle)
    whole, part = (
        with_features(frame.lazy(), timezone=BERLIN).sort("transaction_id").collect()
        for frame in (shop, so_far)
    )
    assert whole.filter(pl.col("occurred_at") <= middle).equals(part)


def test_days_before_the_history_change_nothing(shop: pl.DataFrame) -> None:
    last: dt.datetime = shop["occurred_at"].max()  # type: ignore[assignment]
    day = last - dt.timedelta(days=1)
    recent = shop.filter(pl.col("occurred_at") > day - dt.timedelta(days=HISTORY_DAYS))
    assert recent.height < shop.height
    whole, part = (
        with_features(frame.lazy(), timezone=BERLIN)
        .filter(pl.col("occurred_at") >= day)
        .sort("transaction_id")
        .collect()
        for frame in (shop, recent)
    )
    assert whole.equals(part)
