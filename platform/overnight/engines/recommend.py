"""From histories to the best items that are not in them, or to what is popular.

The engine and whoever judges a model share it, so what was measured is what is served.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from overnight.engines.factors import FactorModel, FoldIn
from overnight.engines.inner_product import NO_ITEM, Ints, ItemIndex, Matrix

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Histories", "Recommended", "Recommender"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """What some people have done.

    Attributes:
        starts: where each history begins in `items`, and where the last one ends.
        items: item ids, each once in a history; unknown ones are passed over.
        weights: how much each says of its person's taste; of 0 it says nothing, and is only not
            to be recommended again.
    """

    starts: Ints
    items: Ints
    weights: Matrix


@dataclass(frozen=True, slots=True, kw_only=True)
class Recommended:
    """The best items for each history.

    Attributes:
        items: item ids, (histories, k), the best first; see `there`.
        scores: (histories, k): the inner product, or the popularity.
        there: (histories, k), false where no item was left.
        personal: (histories), false for those that got what is popular.
    """

    items: Ints
    scores: Matrix
    there: npt.NDArray[np.bool_]
    personal: npt.NDArray[np.bool_]


class Recommender:
    """Finds the k best items that are not in a history; `close` ends its threads.

    Args:
        model: the items.
        k: how many to find.
        threads: to use at once.
        device: "cuda", "cpu", or "auto" for a GPU where there is one.
    """

    def __init__(
        self,
        model: FactorModel,
        *,
        k: int,
        threads: int,
        device: Literal["auto", "cuda", "cpu"] = "auto",
    ) -> None:
        self._model = model
        self._k = k
        self._fold_in = FoldIn(model, threads=threads)
        self._index = ItemIndex(model.factors, k=k, threads=threads, device=device)
        self._popular = np.argsort(-model.popularity, kind="stable")

    def best(self, histories: Histories) -> Recommended:
        """The best items for each history, those in it left out."""
        count = len(histories.starts) - 1
        places = self._model.place(histories.items)
        owner = np.repeat(np.arange(count), np.diff(histories.starts))[places >= 0]
        weights, places = histories.weights[places >= 0], places[places >= 0]
        liked = weights > 0
        vectors = self._fold_in.vectors(_starts(owner[liked], count), places[liked], weights[liked])
        personal: npt.NDArray[np.bool_] = np.asarray(vectors.any(axis=1))
        starts = _starts(owner, count)
        found = np.full((count, self._k), NO_ITEM, np.int64)
        scores = np.zeros((count, self._k), np.float32)
        if personal.any():
            ours = places[personal[owner]]
            begins = np.concatenate([[0], np.diff(starts)[personal].cumsum()])
            found[personal], scores[personal] = self._index.best(vectors[personal], begins, ours)
        for row in np.flatnonzero(~personal):
            first = self._most_popular(places[starts[row] : starts[row + 1]])
            found[row, : len(first)] = first
            scores[row, : len(first)] = self._model.popularity[first]
        return Recommended(
            items=np.where(found == NO_ITEM, NO_ITEM, self._model.item_ids[found]),
            scores=scores,
            there=found != NO_ITEM,
            personal=personal,
        )

    def close(self) -> None:
        """End the threads."""
        self._index.close()

    def _most_popular(self, seen: Ints) -> Ints:
        first = self._popular[: self._k + len(seen)]
        return first[~np.isin(first, seen)][: self._k] if len(seen) else first


def _starts(owner: Ints, count: int) -> Ints:
    """Where each owner's part begins, given owners in order."""
    return np.concatenate([[0], np.bincount(owner, minlength=count).cumsum()])
