"""The population stability index, on distributions whose change is known."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from overnight.drift import counted, stability_index


def psi(expected: pl.Series, actual: pl.Series) -> float:
    return stability_index(counted(expected), counted(actual))


def test_it_tells_the_same_from_another_distribution() -> None:
    rng = np.random.default_rng(0)
    before = pl.Series(rng.beta(1, 20, 20_000))
    assert psi(before, before) == pytest.approx(0)
    assert psi(before, pl.Series(rng.beta(1, 20, 1_000))) < 0.05
    assert psi(before, pl.Series(rng.beta(2, 20, 1_000))) > 0.25


def test_it_bears_values_that_are_nearly_all_the_same() -> None:
    same = pl.Series([0.1] * 99 + [0.2])
    assert psi(same, same) == pytest.approx(0)
    assert psi(same, pl.Series([0.9] * 10)) > 0.25
    assert psi(same, pl.Series([], dtype=pl.Float64)) > 0.25


def test_two_halves_that_change_places_have_the_index_of_the_formula() -> None:
    before = pl.DataFrame({"value": [1, 2], "rows": [30, 10]})
    after = pl.DataFrame({"value": [2, 1], "rows": [30, 10]})
    assert stability_index(before, after) == pytest.approx(2 * (0.75 - 0.25) * np.log(3))


def test_the_order_of_the_rows_of_a_histogram_says_nothing() -> None:
    rng = np.random.default_rng(1)
    before, after = (counted(pl.Series(rng.poisson(n, 5_000))) for n in (20, 24))
    shuffled = before.sample(fraction=1.0, shuffle=True, seed=3)
    assert stability_index(before, after) == stability_index(shuffled, after) > 0.25
