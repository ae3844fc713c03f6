"""Keys that occur more than once in a partition, found before money is spent on them.

The same row twice is harmless: the first is kept. Different rows with one key are not: which
of them is meant would be a guess, so all of them are rejected, each naming another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from overnight.landing import InputFile

_VALUE_CHARACTERS = 200


def duplicate_keys(index: pl.DataFrame, inputs: list[InputFile], key: str) -> pl.DataFrame:
    """The rows to reject for their keys.

    Args:
        index: `_read` (rising), `key`, `input_hash`, `_input_id`, `_line` of each row read.
        inputs: The files, to name them.
        key: The key column, to name it.

    Returns:
        `_read` and the columns of a reject, in the order of reading.
    """
    twice = index.filter(pl.col("key").is_duplicated())
    place = ["_read", "input_hash", "_input_id", "_line"]
    first = twice.unique("key", keep="first", maintain_order=True).select("key", *place)
    marked = twice.join(first, on="key", suffix="_first", maintain_order="left")
    differs = pl.col("input_hash") != pl.col("input_hash_first")
    other = marked.filter(differs).unique("key", keep="first", maintain_order=True)
    marked = marked.join(
        other.select("key", *place), on="key", how="left", suffix="_other", maintain_order="left"
    )
    conflict = pl.col("_read_other").is_not_null()
    is_first = pl.col("_read") == pl.col("_read_first")

    def named(column: str) -> pl.Expr:
        use_other = conflict & ~differs
        return pl.when(use_other).then(f"{column}_other").otherwise(f"{column}_first")

    names = pl.DataFrame(
        [(file.input_id, file.uri, file.source) for file in inputs],
        schema={"_id": pl.Int64, "_uri": pl.String, "source": pl.String},
        orient="row",
    )
    place_named = pl.format("{}:{}", pl.col("named_uri"), named("_line"))
    reason = (
        pl.when(conflict)
        .then(pl.format("another row with this key is at {}; none of them is taken", place_named))
        .otherwise(pl.format("the same row as at {}, which is taken", place_named))
    )
    return (
        marked.filter(conflict | ~is_first)
        .with_columns(named("_input_id").alias("_named_id"))
        .join(names, left_on="_input_id", right_on="_id", how="left", maintain_order="left")
        .join(
            names.select("_id", named_uri="_uri"),
            left_on="_named_id",
            right_on="_id",
            how="left",
            maintain_order="left",
        )
        .select(
            "_read",
            "source",
            pl.col("_uri").alias("file"),
            pl.col("_line").alias("line"),
            "key",
            pl.lit(key).alias("column"),
            pl.col("key").str.head(_VALUE_CHARACTERS).alias("value"),
            reason.alias("reason"),
        )
    )
