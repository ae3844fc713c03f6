"""The best items of each query, against all products at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.engines.inner_product import NO_ITEM, ItemIndex

if TYPE_CHECKING:
    import numpy.typing as npt

    from overnight.engines.rough_products import Products

    Matrix = npt.NDArray[np.float32]
    Ints = npt.NDArray[np.int64]

ROOT = Path(__file__).parents[2]
PRODUCTS: tuple[Products, ...] = ("int8", "bfloat16", "float32")


def brute_force(
    vectors: Matrix, queries: Matrix, starts: Ints, excluded: Ints, k: int
) -> tuple[Ints, Matrix]:
    """Every product in float64, every row sorted."""
    scores = (queries.astype(np.float64) @ vectors.T.astype(np.float64)).astype(np.float32)
    for row in range(len(queries)):
        scores[row, excluded[starts[row] : starts[row + 1]]] = -np.inf
    scores = np.pad(scores, [(0, 0), (0, k)], constant_values=-np.inf)
    numbers = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    items = np.lexsort((numbers, -scores), axis=1)[:, :k]
    best = np.take_along_axis(scores, items, axis=1)
    return np.where(best > -np.inf, items, NO_ITEM), best


def found(
    vectors: Matrix, queries: Matrix, starts: Ints, excluded: Ints, k: int, products: Products
) -> tuple[Ints, Matrix]:
    index = ItemIndex(vectors, k=k, threads=2, device="cpu", products=products)
    try:
        return index.best(queries, starts, excluded)
    finally:
        index.close()


def exclusions(rng: np.random.Generator, queries: int, items: int, each: int) -> tuple[Ints, Ints]:
    chosen = [rng.choice(items, min(each, items), replace=False) for _ in range(queries)]
    starts = np.cumsum([0, *map(len, chosen)])
    return starts, np.concatenate([*chosen, np.empty(0, np.int64)]).astype(np.int64)


def random_vectors(rng: np.random.Generator, rows: int, factors: int) -> Matrix:
    return rng.standard_normal((rows, factors), dtype=np.float32)


@pytest.mark.parametrize("products", PRODUCTS)
def test_the_result_is_that_of_all_products_at_once(products: Products) -> None:
    rng = np.random.default_rng(0)
    vectors, queries = random_vectors(rng, 5_000, 64), random_vectors(rng, 2_000, 64)
    starts, excluded = exclusions(rng, 2_000, 5_000, 50)
    items, scores = found(vectors, queries, starts, excluded, 20, products)
    expected, best = brute_force(vectors, queries, starts, excluded, 20)
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_array_equal(scores, best)


@pytest.mark.parametrize("products", PRODUCTS)
@pytest.mark.parametrize("shift", [0.0, -3.0])
def test_more_items_than_fit_a_block_and_scores_below_zero_change_nothing(
    products: Products, shift: float
) -> None:
    rng = np.random.default_rng(1)
    vectors, queries = random_vectors(rng, 70_000, 8), random_vectors(rng, 40, 8)
    vectors[:, 0], queries[:, 0] = shift, 2.0
    starts, excluded = exclusions(rng, 40, 70_000, 10)
    items, scores = found(vectors, queries, starts, excluded, 10, products)
    expected, best = brute_force(vectors, queries, starts, excluded, 10)
    np.testing.assert_array_equal(items, expected)
    np.testing.assert_array_equal(scores, best)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    items=st.integers(1, 400),
    queries=st.integers(0, 12),
    factors=st.integers(1, 9),
    k=st.integers(1, 30),
    each=st.integers(0, 400),
    levels=st.sampled_from([1, 2, 3, 0]),
    scale=st.sampled_from([1e-41, 1e-6, 1.0, 1e6, 1e30]),
    products=st.sampled_from(PRODUCTS),
)
def test_ties_few_items_and_nothing_left_are_as_declared(
    *,
    seed: int,
    items: int,
    queries: int,
    factors: int,
    k: int,
    each: int,
    levels: int,
    scale: float,
    products: Products,
) -> None:
    """With few `levels` most scores are equal, and many are zero."""
    rng = np.random.default_rng(seed)
    vectors, asked = random_vectors(rng, items, factors), random_vectors(rng, queries, factors)
    if levels:
        vectors = rng.integers(-levels, levels, vectors.shape, endpoint=True).astype(np.float32)
        asked = rng.integers(-levels, levels, asked.shape, endpoint=True).astype(np.float32)
    starts, excluded = exclusions(rng, queries, items, each)
    vectors *= np.float32(scale)
    result = found(vectors, asked, starts, excluded, k, products)
    expected = brute_force(vectors, asked, starts, excluded, k)
    np.testing.assert_array_equal(result[0], expected[0])
    np.testing.assert_array_equal(result[1], expected[1])


def test_lengths_that_differ_by_a_thousand_change_nothing() -> None:
    rng = np.random.default_rng(2)
    vectors, queries = random_vectors(rng, 3_000, 16), random_vectors(rng, 50, 16)
    vectors *= np.exp(rng.uniform(-3, 4, (3_000, 1))).astype(np.float32)
    starts, excluded = exclusions(rng, 50, 3_000, 5)
    expected = brute_force(vectors, queries, starts, excluded, 20)
    for products in PRODUCTS:
        items, scores = found(vectors, queries, starts, excluded, 20, products)
        np.testing.assert_array_equal(items, expected[0])
        np.testing.assert_array_equal(scores, expected[1])


def test_a_cpu_that_gets_int8_wrong_is_found_out() -> None:
    """oneDNN, told to use no more than AVX2, lets sums of int8 saturate."""
    test = test_the_result_is_that_of_all_products_at_once.__name__
    code = f"from {__name__} import {test}; {test}('int8')"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, check=True)


def test_what_is_fastest_here_is_found_out() -> None:
    index = ItemIndex(np.ones((10, 4), np.float32), k=3, threads=1)
    assert index.products in PRODUCTS
    index.close()
