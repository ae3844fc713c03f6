"""What is looked up of shallow trees: XGBoost's own to the last bit, or not looked up at all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.engines.shallow_trees import ShallowTrees, exact_contributions

WIDTH = 6


def rows(count: int, seed: int) -> Any:
    """Continuous, counted and missing values, as real features have."""
    rng = np.random.default_rng(seed)
    made = rng.normal(size=(count, WIDTH)).astype(np.float32)
    made[:, 1] = np.round(made[:, 1] * 3)
    made[:, 2] = made[:, 2] > 0
    made[rng.random(made.shape) < 0.05] = np.nan
    return made


def trained(rounds: int = 30, *, seed: int = 0, **parameters: Any) -> xgboost.Booster:
    data = rows(1500, seed)
    known = np.nan_to_num(data)
    labels = known[:, 0] * known[:, 1] + known[:, 2] + known[:, 3] ** 2 > 1
    settings_ = {"objective": "binary:logistic", "max_depth": 3, "nthread": 2, **parameters}
    names = [f"f{n}" for n in range(WIDTH)]
    return xgboost.train(settings_, xgboost.DMatrix(data, labels, feature_names=names), rounds)


def tabulated(booster: xgboost.Booster) -> ShallowTrees:
    trees = ShallowTrees.tabulate(booster)
    assert trees is not None
    return trees


def assert_xgboosts_own(trees: ShallowTrees, booster: xgboost.Booster, data: Any) -> None:
    scores, contributions = trees.of(data)
    whole = xgboost.DMatrix(data, feature_names=booster.feature_names)
    assert np.array_equal(contributions, exact_contributions(booster, whole))
    assert scores is not None
    assert scores.dtype == np.float32
    assert np.array_equal(scores, booster.predict(whole))
    assert np.array_equal(scores, booster.inplace_predict(data, validate_features=False))


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 99),
    depth=st.integers(1, 3),
    rounds=st.integers(1, 60),
    more=st.sampled_from(
        [
            {},
            {"min_split_loss": 5.0},
            {"reg_alpha": 3.0},
            {"grow_policy": "lossguide"},
            {"base_score": 0.003},
            {"eta": 1.0, "scale_pos_weight": 30},
        ]
    ),
)
def test_what_is_looked_up_is_xgboosts_to_the_last_bit(
    seed: int, depth: int, rounds: int, more: dict[str, Any]
) -> None:
    booster = trained(rounds, seed=seed, max_depth=depth, **more)
    trees = tabulated(booster)
    data = rows(1700, seed + 1)  # more than are looked up at once
    data[3], data[4], data[5] = np.nan, np.float32(3e38), np.float32(-3e38)
    assert_xgboosts_own(trees, booster, data)
    assert_xgboosts_own(trees, booster, data[:1])


def test_margins_so_low_that_xgboost_cuts_them_off_give_its_scores() -> None:
    booster = trained(13, seed=25, eta=1.0, scale_pos_weight=30)
    data = rows(20_000, 1)
    margins = booster.predict(
        xgboost.DMatrix(data, feature_names=booster.feature_names), output_margin=True
    )
    assert margins.min() < -90
    assert_xgboosts_own(tabulated(booster), booster, data)


def test_a_missing_value_goes_where_xgboost_sends_it_with_each_of_the_others() -> None:
    booster = trained(40)
    data = rows(200, 7)
    data[np.arange(200), np.arange(200) % WIDTH] = np.nan
    assert_xgboosts_own(tabulated(booster), booster, data)


def test_a_value_on_a_threshold_goes_where_xgboost_sends_it() -> None:
    booster = trained()
    trees = tabulated(booster)
    at = booster.trees_to_dataframe().dropna(subset=["Split"])
    data = np.zeros((len(at), WIDTH), np.float32)
    places = at["Feature"].str.removeprefix("f").astype(int)
    data[np.arange(len(at)), places] = at["Split"].astype(np.float32)
    assert_xgboosts_own(trees, booster, data)
    for away in (-np.inf, np.inf):
        assert_xgboosts_own(trees, booster, np.nextafter(data, np.float32(away)))


def test_a_tree_without_a_split_gives_every_row_the_same() -> None:
    booster = trained(3, min_split_loss=1e9)
    trees = tabulated(booster)
    scores, contributions = trees.of(rows(5, 1))
    assert not contributions.any()
    assert len(set(scores)) == 1
    assert_xgboosts_own(trees, booster, rows(5, 1))


@pytest.mark.parametrize("objective", ["reg:squarederror", "count:poisson", "binary:hinge"])
def test_scores_of_another_objective_are_left_to_xgboost(objective: str) -> None:
    booster = trained(10, objective=objective)
    data = rows(100, 1)
    scores, contributions = tabulated(booster).of(data)
    assert scores is None
    whole = xgboost.DMatrix(data, feature_names=booster.feature_names)
    assert np.array_equal(contributions, exact_contributions(booster, whole))


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_depth": 8},
        {"booster": "dart", "rate_drop": 0.3},
        {"booster": "gblinear", "max_depth": None},
        {"num_parallel_tree": 3},
        {"objective": "multi:softprob", "num_class": 2},
    ],
)
def test_other_models_are_left_to_xgboost(parameters: dict[str, Any]) -> None:
    assert ShallowTrees.tabulate(trained(10, **parameters)) is None


def test_a_model_with_categories_is_left_to_xgboost() -> None:
    rng = np.random.default_rng(0)
    data = rng.integers(0, 5, size=(500, 1)).astype(np.float32)
    matrix = xgboost.DMatrix(
        data, np.isin(data[:, 0], [1, 3]), feature_types=["c"], enable_categorical=True
    )
    booster = xgboost.train({"objective": "binary:logistic", "max_cat_to_onehot": 1}, matrix, 3)
    assert ShallowTrees.tabulate(booster) is None
