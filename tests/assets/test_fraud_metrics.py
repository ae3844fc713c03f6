"""The figures of fraud scores, on cases small enough to be worked out by hand."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from assets.fraud_metrics import (
    auc_roc,
    average_precision,
    card_precision,
    precision_recall,
    quality,
)

scored = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 0.9])), min_size=2, max_size=40
).filter(lambda rows: len({fraud for fraud, _ in rows}) == 2)


@given(scored)
def test_auc_is_the_chance_that_a_fraud_scores_higher(rows: list[tuple[bool, float]]) -> None:
    bad = [score for fraud, score in rows if fraud]
    good = [score for fraud, score in rows if not fraud]
    wins = sum((b > g) + (b == g) / 2 for b in bad for g in good)
    frauds, scores = (np.array(values) for values in zip(*rows, strict=True))
    assert auc_roc(frauds, scores) == pytest.approx(wins / len(bad) / len(good))


@given(scored)
def test_average_precision_is_its_definition(rows: list[tuple[bool, float]]) -> None:
    frauds, scores = (np.array(values) for values in zip(*rows, strict=True))
    area, recall = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        reported = frauds[scores >= threshold]
        found = reported.sum() / frauds.sum()
        area += (found - recall) * reported.mean()
        recall = found
    assert average_precision(frauds, scores) == pytest.approx(area)


def test_the_curve_ends_where_everything_is_reported() -> None:
    precision, recall = precision_recall(
        np.array([True, False, True, False]), np.array([0.9, 0.8, 0.8, 0.1])
    )
    assert precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert recall.tolist() == pytest.approx([1 / 2, 1, 1])


def cards(day: int, *rows: tuple[str, float, bool]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["customer_id", "score", "fraud"], orient="row").with_columns(
        day=dt.date(2026, 1, day)
    )


def test_card_precision_looks_at_cards_and_at_none_twice() -> None:
    first = cards(1, ("a", 0.9, True), ("a", 0.2, False), ("b", 0.8, False), ("c", 0.7, True))
    second = cards(2, ("a", 0.9, True), ("b", 0.8, False), ("c", 0.7, True), ("d", 0.1, False))
    # The first day's two are a and b, of which a is found; the second's are then b and c.
    assert card_precision(pl.concat([second, first]), top=2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_fewer_cards_than_are_looked_at_count_as_misses() -> None:
    assert card_precision(cards(1, ("a", 0.9, True)), top=4) == pytest.approx(1 / 4)


def test_all_figures_of_a_perfect_score() -> None:
    found = quality(cards(1, ("a", 0.9, True), ("b", 0.1, False)))
    assert found.as_dict() == {
        "auc_roc": 1.0,
        "average_precision": 1.0,
        "card_precision": pytest.approx(0.01),
    }
