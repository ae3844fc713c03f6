"""How far a distribution has moved: the population stability index. Plain functions of samples."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["counted", "stability_index"]

_LEAST_SHARE = 1e-4


def counted(values: pl.Series) -> pl.DataFrame:
    """A sample as `stability_index` takes it: each `value` and in how many `rows` it is."""
    return values.rename("value").to_frame().group_by("value").agg(rows=pl.len())


def stability_index(expected: pl.DataFrame, actual: pl.DataFrame, bins: int = 10) -> float:
    """The population stability index of `actual` against `expected`.

    The bins hold equal shares of `expected`, as far as its values allow. Below 0.1 nothing has
    changed, above 0.25 much has (Siddiqi, "Credit Risk Scorecards", 2006, ch. 9). Bins that are
    empty count as 0.01%.

    Args:
        expected: columns `value` (a number) and `rows`, in any order.
        actual: likewise.
        bins: how many.
    """
    known = expected.sort("value")
    seen = known["rows"].cum_sum().to_numpy()
    places = np.linspace(0, 1, bins + 1)[1:-1] * (seen[-1] if len(seen) else 0)
    # What lies exactly on an edge counts below it: see `searchsorted` in `_shares`.
    edges = np.unique(known["value"].to_numpy()[np.searchsorted(seen, places)])
    before, now = (np.maximum(_shares(sample, edges), _LEAST_SHARE) for sample in (known, actual))
    return float(np.sum((now - before) * np.log(now / before)))


def _shares(sample: pl.DataFrame, edges: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    bins = np.searchsorted(edges, sample["value"].to_numpy())
    rows = np.zeros(len(edges) + 1)
    np.add.at(rows, bins, sample["rows"].to_numpy())
    return rows / max(1.0, float(rows.sum()))
