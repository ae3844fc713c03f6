"""XGBoost's scores and contributions looked up instead of computed, for models of shallow trees.

What a tree gives a row depends only on how the row compares with each of the tree's thresholds.
A shallow tree can tell few cases apart; XGBoost itself is asked once for each of them, tree by
tree, and what a row is given is the sum over the trees, added up in XGBoost's own order and
precision: the same bits, contributions some thirty times sooner. (Yang, "Fast TreeSHAP:
Accelerating SHAP value computation for trees", 2021, tabulates paths; this tabulates whole trees.)
"""

from __future__ import annotations

import itertools
import json
import logging
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    import numpy.typing as npt
    import xgboost

    Matrix = npt.NDArray[np.float32]
    Whole = npt.NDArray[np.integer]

__all__ = ["ShallowTrees", "exact_contributions"]

log = logging.getLogger(__name__)

_MOST_CASES = 1 << 18
"""Of all trees together; asking for as many costs what a few thousand rows do."""
_MOST_BYTES = 64 << 20
_TRIED_ROWS = 512
_TRIED_SCORES = 8192
_LINE = 16
"""Floats in a cache line."""
_BLOCK_ROWS = 1024
"""So few that what is computed on the way stays in the caches."""
_FEW_THRESHOLDS = 32
"""Up to so many, comparing with each is faster than a search."""
_LOGISTIC = "binary:logistic"
_LEAST_MARGIN = np.float32(-88.7)
"""Below it XGBoost's logistic function does not fall any more, so that exp cannot overflow."""


@dataclass(frozen=True, slots=True)
class _Feature:
    """What one tree asks of one feature.

    Attributes:
        values: its thresholds, rising. A value has as its case the number of those that it
            reaches.
        missing: the case of a value that is missing: that of the values which the tree sends the
            same ways, where there are any, or one more.
    """

    values: Matrix
    missing: int

    @classmethod
    def of(cls, nodes: Sequence[tuple[float, bool]]) -> Self:
        """Of its nodes in the tree: threshold, and whether a missing value goes left."""
        values = np.unique(np.array([threshold for threshold, _ in nodes], np.float32))
        for reached in range(len(values) + 1):
            below = values[reached] if reached < len(values) else np.float32(np.inf)
            if all((np.float32(threshold) >= below) == left for threshold, left in nodes):
                return cls(values, reached)
        return cls(values, len(values) + 1)

    @property
    def examples(self) -> list[np.float32]:
        """A value for each case, in order."""
        some = [np.nextafter(self.values[0], np.float32(-np.inf)), *self.values]
        return some if self.missing < len(some) else [*some, np.float32(np.nan)]


@dataclass(frozen=True, slots=True)
class _Tree:
    """What one tree asks, by the feature's number, and the value of each leaf, by the node's."""

    features: Mapping[int, _Feature]
    leaves: Matrix

    @property
    def sizes(self) -> list[int]:
        """How many cases it can tell apart by each of its features."""
        return [len(feature.examples) for feature in self.features.values()]

    @property
    def cases(self) -> int:
        """How many it can tell apart in all."""
        return math.prod(self.sizes)


@dataclass(frozen=True, slots=True)
class ShallowTrees:
    """The tables of one model: `tabulate` makes them.

    A column's value falls into a bin between two thresholds of any tree. The sum of what the bins
    of a row add is the number of its case in each tree; the sum of what these cases give is its
    contributions and its margin. Both sums are products with a sparse matrix: compiled, without
    Python's lock.
    """

    _thresholds: list[Matrix]
    _first_bin: Whole
    _steps: Whole
    _first_case: Whole
    _given: Matrix
    _scores: bool

    @classmethod
    def tabulate(cls, booster: xgboost.Booster) -> Self | None:
        """The tables of a model; None if they would be too large, or would not give its numbers.

        Args:
            booster: of single-valued trees, on the CPU.
        """
        model = json.loads(booster.save_raw("json"))["learner"]
        trees = _trees(model)
        if trees is None:
            return None
        width = booster.num_features()
        merged = [_merged(tree.features[f].values for tree in trees if f in tree.features)
                  for f in range(width)]  # fmt: skip
        bins = [len(values) + 2 for values in merged]
        # Before all trees comes what every row starts from: a tree of a single case.
        cases = [1, *(tree.cases for tree in trees)]
        padded = -(-(width + 1) // _LINE) * _LINE
        if sum(cases) > _MOST_CASES or 4 * (sum(cases) * padded + sum(bins) * len(cases)) > (
            _MOST_BYTES
        ):
            return None
        steps = np.zeros((sum(bins), len(cases)), np.int16 if max(cases) < 2**15 else np.int32)
        given = np.zeros((sum(cases), padded), np.float32)
        tables = cls(merged, _starts(bins), steps, _starts(cases), given, _scores=False)
        for nth, tree in enumerate(trees):
            tables._fill(nth + 1, booster[nth : nth + 1], tree)
        tried = _trial(merged)
        few = tried[:_TRIED_ROWS]
        if not np.array_equal(tables.of(few)[1], _asked(booster, few)):
            log.warning("contributions of this model cannot be looked up: XGBoost computes them")
            return None
        return replace(tables, _scores=tables._find_start(model, booster, tried))

    def of(self, rows: Matrix) -> tuple[Matrix | None, Matrix]:
        """What some rows are given; NaN is a value that is missing.

        Returns:
            Their scores (rows), None for a model whose scores are not looked up; their
            contributions (rows, features).
        """
        import scipy.special

        margins, contributions = np.empty(len(rows), np.float32), np.empty_like(rows)
        bins = self._bins(rows)
        for start in range(0, len(rows), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            cases = _sums(bins[block], self._steps) + self._first_case
            found = _sums(cases, self._given)
            contributions[block] = found[:, : rows.shape[1]]
            margins[block] = found[:, rows.shape[1]]
        if not self._scores:
            return None, contributions
        return scipy.special.expit(np.maximum(margins, _LEAST_MARGIN)), contributions

    def _bins(self, rows: Matrix) -> Whole:
        columns = np.ascontiguousarray(rows.T)
        bins = np.empty(columns.shape, np.int32)
        for column, values, found in zip(columns, self._thresholds, bins, strict=True):
            found[:] = _reached(column, values)
            found[np.isnan(column)] = len(values) + 1
        bins += self._first_bin[:, np.newaxis]
        return bins.T

    def _fill(self, nth: int, booster: xgboost.Booster, tree: _Tree) -> None:
        """Enter one tree, alone in its booster: steps to its cases, and what these give."""
        import xgboost

        for place, (number, feature) in enumerate(tree.features.items()):
            merged, first = self._thresholds[number], self._first_bin[number]
            reached = np.searchsorted(feature.values, merged, side="right")
            radix = math.prod(tree.sizes[place + 1 :])
            steps = np.array([0, *reached, feature.missing]) * radix
            self._steps[first : first + len(steps), nth] = steps
        rows = np.full((tree.cases, len(self._thresholds)), np.nan, np.float32)
        examples = itertools.product(*(feature.examples for feature in tree.features.values()))
        rows[:, list(tree.features)] = np.array(list(examples), np.float32)
        given = self._given[self._first_case[nth] :][: len(rows)]
        given[:, : rows.shape[1]] = _asked(booster, rows)
        data = xgboost.DMatrix(rows, feature_names=booster.feature_names)
        ends = booster.predict(data, pred_leaf=True).astype(int).ravel()
        given[:, rows.shape[1]] = tree.leaves[ends]

    def _find_start(
        self, model: Mapping[str, Any], booster: xgboost.Booster, tried: Matrix
    ) -> bool:
        """Enter the margin that every row starts from; whether scores are XGBoost's own then."""
        if model["objective"]["name"] != _LOGISTIC:
            return False
        chance = np.float32(model["learner_model_param"]["base_score"].strip("[]"))
        near = np.float32(-math.log(np.float32(1) / chance - np.float32(1)))
        known = booster.inplace_predict(tried, validate_features=False)
        # XGBoost writes down the chance alone; another logarithm may give the float beside it.
        for start in (
            near,
            np.nextafter(near, np.float32(-np.inf)),
            np.nextafter(near, np.float32(np.inf)),
        ):
            self._given[0, len(self._thresholds)] = start
            scores, _ = replace(self, _scores=True).of(tried)
            if scores is not None and np.array_equal(scores, known):
                return True
        return False


def exact_contributions(booster: xgboost.Booster, data: xgboost.DMatrix) -> Matrix:
    """The contributions (rows, features) of some rows as XGBoost computes them."""
    found: Matrix = booster.predict(data, pred_contribs=True)
    # The last column is the model's mean, the same for every row.
    return found[:, :-1]


def _asked(booster: xgboost.Booster, rows: Matrix) -> Matrix:
    import xgboost

    return exact_contributions(booster, xgboost.DMatrix(rows, feature_names=booster.feature_names))


def _trees(learner: Mapping[str, Any]) -> list[_Tree] | None:
    """The trees of a model; None for one of another make."""
    made, kind = learner["gradient_booster"], learner["learner_model_param"]
    if made["name"] != "gbtree" or int(kind["num_class"]) > 1 or int(kind["num_target"]) > 1:
        return None
    if made["model"]["gbtree_model_param"]["num_parallel_tree"] != "1":
        return None
    found = []
    for tree in made["model"]["trees"]:
        if any(tree["split_type"]):  # by category
            return None
        asked: dict[int, list[tuple[float, bool]]] = {}
        parts = ("left_children", "split_indices", "split_conditions", "default_left")
        for child, number, threshold, left in zip(*(tree[part] for part in parts), strict=True):
            if child >= 0:
                asked.setdefault(number, []).append((threshold, bool(left)))
        features = {number: _Feature.of(asked[number]) for number in sorted(asked)}
        # A leaf has its value where a node has its threshold.
        found.append(_Tree(features, np.array(tree["split_conditions"], np.float32)))
    return found


def _reached(values: Matrix, thresholds: Matrix) -> Whole:
    """How many of the rising thresholds each value reaches."""
    if len(thresholds) > _FEW_THRESHOLDS:
        return np.searchsorted(thresholds, values, side="right")
    found: Whole = (values >= thresholds[:, np.newaxis]).sum(axis=0, dtype=np.uint8)
    return found


def _merged(values: Iterable[Matrix]) -> Matrix:
    return np.unique(np.concatenate([np.empty(0, np.float32), *values]))


def _sums(at: Whole, table: Any) -> Any:
    """For each row of `at` the sum of the table's rows that it names, from left to right."""
    import scipy.sparse

    rows, terms = at.shape
    ends = np.arange(rows + 1, dtype=np.int32) * np.int32(terms)
    ones = np.ones(at.size, table.dtype)
    return scipy.sparse.csr_array((ones, at.ravel(), ends), shape=(rows, len(table))) @ table


def _starts(sizes: Sequence[int]) -> Whole:
    return np.cumsum([0, *sizes[:-1]], dtype=np.int32)


def _trial(merged: Sequence[Matrix]) -> Matrix:
    """Rows on all sides of the thresholds, to compare with XGBoost."""
    rng = np.random.default_rng(0)
    columns = []
    for values in merged:
        around = [np.float32(0), np.float32(np.nan)]
        for away in (-np.inf, np.inf):
            around.extend(np.nextafter(values, np.float32(away)))
        columns.append(rng.choice(np.array([*around, *values], np.float32), _TRIED_SCORES))
    return np.stack(columns, axis=1)
