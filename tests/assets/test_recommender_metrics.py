from __future__ import annotations

import math

import numpy as np
import pytest

from assets.recommender_metrics import ndcg_at, recall_at

RANKED = np.array([[1, 2, 3], [4, 5, 6], [7, 8, -1]])


def test_recall_is_the_share_of_what_could_be_found() -> None:
    wanted = [np.array([3]), np.array([6, 4, 1, 2, 9]), np.array([1, 2])]
    assert recall_at(RANKED, wanted) == pytest.approx((1 + 2 / 3 + 0) / 3)


def test_a_hit_counts_less_the_later_it_comes() -> None:
    wanted = [np.array([3]), np.array([6, 4, 1, 2, 9]), np.array([1, 2])]
    third = 1 / math.log2(4)
    best = 1 + 1 / math.log2(3) + third
    assert ndcg_at(RANKED, wanted) == pytest.approx((third + (1 + third) / best + 0) / 3)


def test_the_best_list_has_both_at_one_and_an_empty_one_at_zero() -> None:
    wanted = [np.array([1, 2, 3, 4]), np.array([4]), np.array([8, 7])]
    assert (recall_at(RANKED, wanted), ndcg_at(RANKED, wanted)) == (1, 1)
    nothing = np.full((3, 3), -1)
    assert (recall_at(nothing, wanted), ndcg_at(nothing, wanted)) == (0, 0)
