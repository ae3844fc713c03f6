"""Nightly fraud scores: how suspicious each card transaction of a day is, and why."""

from __future__ import annotations

import numpy as np
import polars as pl

from assets.fraud_features import FEATURES
from assets.fraud_transactions import scorable_transactions
from assets.sources import in_the_morning
from overnight.contract import Contract, Field
from overnight.engines.xgboost import XgboostScore
from overnight.expectations import Expectations
from overnight.job import InferenceJob
from overnight.ranking import Rank
from overnight.registry import RegistryRef

REASONS = 3


class FraudScore(Contract):
    """How suspicious each card transaction of a day is, and what made it so."""

    transaction_id: str = Field(description="The transaction; key of the source `transactions`.")
    customer_id: str = Field(description="Whose card it was.")
    amount: float = Field(description="What was paid, in euros.")
    score: float = Field(description="The model's probability of fraud.", ge=0, le=1)
    day_rank: int = Field(description="1 for the day's most suspicious transaction.", ge=1)
    feature_1: str = Field(description="The feature that moved the score most.")
    contribution_1: float = Field(description="How far it did, in log-odds; up if positive.")
    feature_2: str = Field(description="The feature that moved the score second most.")
    contribution_2: float = Field(description="How far it did, in log-odds.")
    feature_3: str = Field(description="The feature that moved the score third most.")
    contribution_3: float = Field(description="How far it did, in log-odds.")
    model_version: str = Field(description="The version of `fraud_model` that said so.")


def model_input(transactions: pl.DataFrame) -> pl.Series:
    """Ask for the score of each transaction's features."""
    return transactions["features"]


def parse_score(results: pl.DataFrame) -> pl.DataFrame:
    """Keep the features that contributed most, in whichever direction."""
    contributions = results["contributions"].list.to_array(len(FEATURES)).to_numpy()
    names, rows = pl.Series(FEATURES), np.arange(len(contributions))
    left = np.abs(contributions)
    reasons = []
    for nth in range(1, REASONS + 1):
        most = left.argmax(axis=1)
        left[rows, most] = -1
        reasons.append(names.gather(most).alias(f"feature_{nth}"))
        reasons.append(pl.Series(f"contribution_{nth}", contributions[rows, most]))
    return results.with_columns(reasons)


fraud_scores = InferenceJob(
    name="fraud_scores",
    source=scorable_transactions,
    engine=XgboostScore(model=RegistryRef("fraud_model"), features=FEATURES),
    prepare=model_input,
    parse=parse_score,
    output=FraudScore,
    expects=Expectations(due=in_the_morning(7)),
    # Handing out 2,000 rows takes longer than scoring them.
    split_rows=20_000,
    over_partition={"day_rank": Rank(by=("-score", "transaction_id"))},
)
