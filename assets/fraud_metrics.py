"""How good fraud scores are.

The Fraud Detection Handbook's three figures (Le Borgne et al., chapter 4, "Performance metrics").
Plain functions of scores and labels; nothing here knows where those come from.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

TOP_CARDS = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Quality:
    """Figures of scored transactions whose labels are known; each 0 to 1, more is better.

    Attributes:
        auc_roc: the chance that a fraud scores higher than a genuine transaction.
        average_precision: the area under the precision-recall curve.
        card_precision: the share of compromised ones among each day's `TOP_CARDS` most
            suspicious cards, the mean over days.
    """

    auc_roc: float
    average_precision: float
    card_precision: float

    def as_dict(self) -> dict[str, float]:
        """For a model's card and for metadata."""
        return asdict(self)


def quality(scored: pl.DataFrame) -> Quality:
    """All three figures.

    Args:
        scored: `day`, `customer_id`, `score`, `fraud` (Boolean); both kinds occur.
    """
    frauds, scores = scored["fraud"].to_numpy(), scored["score"].to_numpy()
    return Quality(
        auc_roc=auc_roc(frauds, scores),
        average_precision=average_precision(frauds, scores),
        card_precision=card_precision(scored),
    )


def auc_roc(frauds: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> float:
    """The area under the ROC curve, as the Mann-Whitney statistic; ties count half."""
    ranks = pl.Series(scores).rank("average").to_numpy()
    bad, good = frauds.sum(), (~frauds).sum()
    return float((ranks[frauds].sum() - bad * (bad + 1) / 2) / (bad * good))


def average_precision(frauds: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]) -> float:
    """The sum of precisions, each weighted by the recall that its threshold adds."""
    precision, recall = precision_recall(frauds, scores)
    return float(np.sum(np.diff(recall, prepend=0.0) * precision))


def precision_recall(
    frauds: npt.NDArray[np.bool_], scores: npt.NDArray[np.floating]
) -> tuple[Floats, Floats]:
    """Precision and recall at every score that occurs, from the highest to the lowest."""
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(frauds[order])
    # Transactions of one score are reported together or not at all.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(order) - 1)
    return hits[last] / (last + 1), hits[last] / hits[-1]


def card_precision(scored: pl.DataFrame, top: int = TOP_CARDS) -> float:
    """Card precision@`top`, the mean over days; a card that was found is not looked at again."""
    found = pl.DataFrame(schema={"customer_id": scored.schema["customer_id"]})
    shares = []
    for _, transactions in scored.sort("day").group_by("day", maintain_order=True):
        cards = (
            transactions.join(found, on="customer_id", how="anti")
            .group_by("customer_id")
            .agg(pl.col("score").max(), pl.col("fraud").any())
            .sort("score", "customer_id", descending=[True, False])
            .head(top)
        )
        hits = cards.filter("fraud").select("customer_id")
        shares.append(hits.height / top)
        found = pl.concat([found, hits])
    return float(np.mean(shares))
