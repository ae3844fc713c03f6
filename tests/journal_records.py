"""Records for tests of the journal: everything in one follows from its number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Iterable


def hash_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def number_of(input_hash: bytes) -> int:
    return int.from_bytes(input_hash, "big")


def records(numbers: Iterable[int], *, failure: str | None = None, note: str = "") -> pa.Table:
    numbers = list(numbers)
    return pa.table(
        {
            "key": pa.array([f"key {number}" for number in numbers], pa.string()),
            "input_hash": pa.array([hash_of(number) for number in numbers], pa.binary(16)),
            "failure": pa.array([failure] * len(numbers), pa.string()),
            "run_id": pa.array(["run"] * len(numbers), pa.string()),
            "attempt": pa.array([1] * len(numbers), pa.int64()),
            "machine": pa.array(["m"] * len(numbers), pa.string()),
            "text": pa.array([f"text of {number}{note}" for number in numbers], pa.string()),
        }
    )


def wanted(numbers: Iterable[int]) -> pl.DataFrame:
    numbers = list(numbers)
    return pl.DataFrame(
        {
            "input_hash": [hash_of(number) for number in numbers],
            "_line": numbers,
        },
        schema={"input_hash": pl.Binary, "_line": pl.Int64},
    )
