"""Rows that somebody wants inferred again: what is known of them counts for nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

__all__ = ["void"]


def void(records: pl.DataFrame, again: pl.DataFrame) -> pl.Series:
    """Which records count for nothing.

    Args:
        records: `input_hash` and `attempt`, the one that inferred it.
        again: unique `input_hash`, and `until`, the last attempt whose record is void.

    Returns:
        A Boolean for each record.
    """
    joined = records.select("input_hash", "attempt").join(
        again, on="input_hash", how="left", maintain_order="left"
    )
    return (joined["attempt"] <= joined["until"]).fill_null(value=False)
