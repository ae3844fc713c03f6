"""How good ranked lists are, given what their readers wanted."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_Ints = npt.NDArray[np.int64]


def recall_at(ranked: _Ints, wanted: list[_Ints]) -> float:
    """The share of what was wanted that is in the lists, averaged over users.

    At most as many items as a list holds can be found, so no more are asked for: hits / min(k,
    wanted items), as in Liang et al., "Variational Autoencoders for Collaborative Filtering",
    2018, section 4.2.

    Args:
        ranked: items, (users, k), the best first; negative for none.
        wanted: items, for each user at least one, each once.
    """
    hits = _hits(ranked, wanted)
    possible = np.minimum(ranked.shape[1], [len(items) for items in wanted])
    return float((hits.sum(axis=1) / possible).mean())


def ndcg_at(ranked: _Ints, wanted: list[_Ints]) -> float:
    """Normalized discounted cumulative gain with gains of 0 and 1, averaged over users.

    Jaervelin, Kekaelaeinen, "Cumulated gain-based evaluation of IR techniques", 2002: a hit at
    rank r counts 1 / log2(r + 1), and the sum is divided by that of the best possible list.

    Args:
        ranked: items, (users, k), the best first; negative for none.
        wanted: items, for each user at least one, each once.
    """
    discount = 1 / np.log2(np.arange(2, ranked.shape[1] + 2))
    possible = np.minimum(ranked.shape[1], [len(items) for items in wanted])
    best = discount.cumsum()[possible - 1]
    return float(((_hits(ranked, wanted) * discount).sum(axis=1) / best).mean())


def _hits(ranked: _Ints, wanted: list[_Ints]) -> npt.NDArray[np.bool_]:
    return np.stack([np.isin(row, items) for row, items in zip(ranked, wanted, strict=True)])
