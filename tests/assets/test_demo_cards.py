"""The simulator: its reference figures, its bad rows, and that a day is always the same."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import date, timedelta

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from assets.demo.cards import REFERENCE, SHOP, labels, terminals, transactions

DAY = date(2026, 11, 20)
BERLIN = "Europe/Berlin"


@pytest.fixture(scope="module")
def reference() -> pl.DataFrame:
    """At the Handbook's full size; takes a few seconds."""
    return transactions(REFERENCE, [date(2018, 4, 1) + timedelta(days=n) for n in range(183)])


def test_the_reference_size_has_the_handbooks_figures(reference: pl.DataFrame) -> None:
    # The Handbook's own draw: 1,754,155 transactions, 0.837% of them fraud, by scenario 978,
    # 9,099 and 4,604. Ours is another draw of the same world.
    assert reference.height == pytest.approx(1_754_155, rel=0.03)
    assert reference["fraud"].mean() == pytest.approx(0.00837, rel=0.05)
    scenarios = dict(reference["scenario"].value_counts().iter_rows())
    for scenario, rows in {1: 978, 2: 9_099, 3: 4_604}.items():
        assert scenarios[scenario] == pytest.approx(rows, rel=0.1)
    assert reference["customer_id"].n_unique() == pytest.approx(5_000, rel=0.01)
    assert reference["amount"].min() == 0
    assert reference["amount"].mean() == pytest.approx(53.6, rel=0.02)
    assert reference["transaction_id"].n_unique() == reference.height


def test_each_scenario_is_what_it_says(reference: pl.DataFrame) -> None:
    honest = reference.filter(pl.col("scenario") == 0)
    assert honest["amount"].max() <= 220  # type: ignore[operator]
    assert reference.filter(pl.col("scenario") == 1)["amount"].min() > 220  # type: ignore[operator]
    terminal = reference.filter(pl.col("scenario") == 2)["terminal_id"].first()
    days = reference.filter((pl.col("terminal_id") == terminal) & (pl.col("scenario") == 2))
    times = days["occurred_at"]
    span: timedelta = times.max() - times.min()  # type: ignore[assignment, operator]
    assert span < timedelta(days=28)


def test_a_day_is_the_same_whichever_days_are_asked_for() -> None:
    alone = transactions(SHOP, [DAY], timezone=BERLIN)
    among = transactions(SHOP, [DAY - timedelta(days=1), DAY], timezone=BERLIN)
    assert_frame_equal(among.tail(alone.height), alone)
    other = transactions(replace(SHOP, seed=1), [DAY], timezone=BERLIN)
    assert not other.equals(alone)


@pytest.mark.parametrize("day", [DAY, date(2026, 3, 29), date(2026, 10, 25)])
def test_all_of_a_day_is_within_it_where_the_shop_is(day: date) -> None:
    local = transactions(SHOP, [day], timezone=BERLIN)["occurred_at"].dt.convert_time_zone(BERLIN)
    assert local.dt.date().unique().to_list() == [day]


def test_terminals_are_those_of_the_world() -> None:
    known = terminals(SHOP)
    used = transactions(SHOP, [DAY]).select("terminal_id").unique()
    assert used.join(known, on="terminal_id", how="anti").is_empty()
    assert known.height == SHOP.terminals


def test_mistakes_are_added_to_a_day_that_is_otherwise_the_same() -> None:
    good = transactions(SHOP, [DAY])
    spoiled = transactions(SHOP, [DAY], mistakes=4)
    assert_frame_equal(spoiled.head(good.height), good)
    negative, not_a_number, unknown, yesterday = spoiled.tail(4).iter_rows(named=True)
    assert negative["amount"] < 0
    assert math.isnan(not_a_number["amount"])
    assert unknown["terminal_id"] == "p-unknown"
    assert yesterday["occurred_at"].date() == DAY - timedelta(days=1)


def test_every_fraud_is_reported_once_and_every_mistake_is_corrected() -> None:
    days = [DAY + timedelta(days=ahead) for ahead in range(11)]
    reported = pl.concat([labels(SHOP, day) for day in days])
    about = reported.filter(pl.col("transaction_date") == DAY)
    known = transactions(SHOP, [DAY])
    frauds = set(known.filter("fraud")["transaction_id"])
    latest = about.sort("reported_at").group_by("transaction_id").agg(pl.col("fraud").last())
    assert set(latest.filter("fraud")["transaction_id"]) == frauds
    wrong = set(latest.filter(~pl.col("fraud"))["transaction_id"])
    assert wrong
    assert about.height == len(frauds) + 2 * len(wrong)


def test_reports_arrive_on_their_day_and_may_be_about_nothing() -> None:
    reported = labels(SHOP, DAY, timezone=BERLIN, mistakes=2)
    assert reported["reported_at"].dt.convert_time_zone(BERLIN).dt.date().unique().to_list() == [
        DAY
    ]
    assert reported.tail(2)["transaction_id"].to_list() == ["never-0", "never-1"]
    assert (reported["transaction_date"] < DAY).all()
