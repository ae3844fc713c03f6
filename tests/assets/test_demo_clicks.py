"""The invented visitors: repeatable, with habits, and with something to learn from."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from assets.demo.cards import SHOP as CARDS
from assets.demo.cards import transactions
from assets.demo.clicks import SHOP, Shelves, interactions
from assets.sources import Interaction
from overnight.contract import check_rows

DAY = dt.date(2026, 11, 20)
BIG = Shelves(customers=3_000, items=2_000)


@pytest.fixture(scope="module")
def week() -> pl.DataFrame:
    return pl.concat([interactions(BIG, DAY - dt.timedelta(days=ago)) for ago in range(7)])


def test_a_day_is_the_same_whenever_it_is_asked_for() -> None:
    first = interactions(SHOP, DAY)
    interactions(SHOP, DAY - dt.timedelta(days=1))
    assert interactions(SHOP, DAY).equals(first)
    assert not interactions(Shelves(customers=400, items=600, seed=1), DAY).equals(first)


def test_rows_keep_the_contract_and_their_day() -> None:
    rows = interactions(SHOP, DAY, timezone="Europe/Berlin")
    ok, violations = check_rows(Interaction, rows)
    assert ok.all(), violations
    local = rows["timestamp"].dt.convert_time_zone("Europe/Berlin").dt.date()
    assert local.unique().to_list() == [DAY]
    assert rows["timestamp"].is_sorted()


def test_a_day_on_which_clocks_change_has_its_own_length() -> None:
    for day in (dt.date(2026, 3, 29), dt.date(2026, 10, 25)):
        rows = interactions(BIG, day, timezone="Europe/Berlin")
        local = rows["timestamp"].dt.convert_time_zone("Europe/Berlin").dt.date()
        assert local.unique().to_list() == [day]


def test_visitors_are_those_who_pay_with_cards() -> None:
    payers = set(transactions(CARDS, [DAY])["customer_id"])
    visitors = set(interactions(SHOP, DAY)["user_id"])
    assert SHOP.customers == CARDS.customers
    assert len(visitors & payers) > len(visitors) / 2


def test_each_step_towards_the_till_is_taken_less_often(week: pl.DataFrame) -> None:
    counts = dict(week["event"].value_counts().iter_rows())
    assert counts["view"] > 2 * counts["cart"] > 2 * counts["purchase"] > 0
    assert week.filter(pl.col("event") != "visit")["item_id"].null_count() == 0
    assert week.filter(pl.col("event") == "visit")["item_id"].count() == 0
    bought = week.filter(pl.col("event") == "purchase")
    assert bought.join(
        week.filter(pl.col("event") == "cart"), on=["user_id", "item_id"], how="anti"
    ).is_empty()


def test_popularity_has_a_long_tail_and_some_only_visit(week: pl.DataFrame) -> None:
    views = week.filter(pl.col("event") == "view")["item_id"].value_counts(sort=True)["count"]
    head = views.head(BIG.items // 10).sum() / views.sum()
    assert 0.25 < head < 0.7
    assert views.len() > BIG.items * 0.8
    busy = week.group_by("user_id").agg(looked=(pl.col("event") == "view").any())
    assert 0.05 < 1 - busy["looked"].mean() < 0.4  # type: ignore[operator]


def test_mistakes_are_at_the_end_and_one_of_each_kind_is_a_reject() -> None:
    rows = interactions(SHOP, DAY, timezone="Europe/Berlin", mistakes=3)
    ok, violations = check_rows(Interaction, rows)
    assert (~ok).arg_true().to_list() == [rows.height - 3, rows.height - 2]
    assert "must be one of" in violations["reason"][0]
    # The third is of the day before, which the contract of a row cannot know.
    assert rows["timestamp"][-1] < rows["timestamp"][0]
