"""The plan of a partition, and the splits in which its rows are handed to workers.

Requests and carried columns wait on local disk, one file for each split; in memory a row costs
about a hundred bytes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import polars as pl
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from overnight.landing import InputFile

STATE = pl.Enum(["published", "journal", "infer"])
"""Where the result of an accepted row is, or that it is still to be inferred."""

CUT_BY = ("row", "_read", "input_hash", "_split", "_size", "_prefix")
"""The columns that `cut` needs."""


@dataclass(frozen=True, slots=True)
class Split:
    """A unit of work: `rows` to infer, of `weight` bytes of requests."""

    index: int
    rows: int
    weight: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done for a partition. A context manager: leaving it removes its files.

    Attributes:
        rows_in: Every row read, rejects included.
        rejected: How many of them were rejected, duplicate keys included.
        rejects: The first 10,000 reasons: file, line, key, column, value, reason.
        inputs: The files that were read.
        wanted: One line for each accepted row, in the order of reading: `input_hash` (Binary,
            unique), `key` (String, unique), `_input_id`, `_line` (Int64), `state` (`STATE`).
        splits: The rows to infer, largest weight first; none if every row is reused.
    """

    rows_in: int
    rejected: int
    rejects: pl.DataFrame
    inputs: list[InputFile]
    wanted: pl.DataFrame
    splits: list[Split]
    _order: pl.DataFrame = field(repr=False)
    _offsets: Mapping[int, int] = field(repr=False)
    _files: Path = field(repr=False)

    def __enter__(self) -> Self:
        """The plan itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    def close(self) -> None:
        """Remove the files of the splits; safe to call twice."""
        shutil.rmtree(self._files, ignore_errors=True)

    def hashes(self, split: Split) -> pl.DataFrame:
        """The `input_hash` of each row of a split, in the order of `table`."""
        return self._rows(split).select("input_hash")

    def table(self, split: Split, hashes: pl.DataFrame | None = None) -> pa.Table:
        """The rows of a split, in the order in which an engine should take them.

        Args:
            split: One of `splits`.
            hashes: Only the rows with these `input_hash`es; all by default.

        Returns:
            `row` (int64, index into `wanted`), `key` (string), `input_hash` (binary(16)),
            `request`, then the carried columns.
        """
        order = self._rows(split)
        if hashes is not None:
            order = order.join(hashes, on="input_hash", how="semi", maintain_order="left")
        with pa.OSFile(str(split_file(self._files, split.index))) as file:
            table = pa.ipc.open_file(file).read_all()
        # In the file rows are in the order of reading.
        read, wanted = table.column("_read").to_numpy(), order["_read"].to_numpy()
        if not np.array_equal(read, wanted):
            table = table.take(pa.array(np.searchsorted(read, wanted)))
        rows = pa.array(order["row"].to_numpy(), pa.int64())
        return table.set_column(0, "row", rows).combine_chunks()

    def _rows(self, split: Split) -> pl.DataFrame:
        return self._order.slice(self._offsets[split.index], split.rows)


def split_file(folder: Path, index: int) -> Path:
    """Where a split's rows wait."""
    return folder / f"split-{index:06d}.arrow"


def cut(infer: pl.DataFrame) -> tuple[pl.DataFrame, list[Split], dict[int, int]]:
    """Order the rows to infer within their splits, and weigh the splits.

    Requests with a common prefix come one after the other, so that the prefix is computed
    once; and long requests start early, so that none is left running alone at the end.

    Args:
        infer: `CUT_BY`: `_size` is the request's bytes, `_prefix` equal for requests that
            begin alike.

    Returns:
        The rows in order, the splits by falling weight, and each split's first row therein.
    """
    longest = pl.col("_size").max().over("_split", "_prefix").alias("_longest")
    keys = infer.select("_split", longest, "_prefix", "_size", "_read")
    # Only the order is sorted: a sorted copy of all columns is what the planner's memory peaks at.
    places = keys.select(pl.arg_sort_by(keys.columns, descending=[False, True, False, True, False]))
    del keys
    totals = (
        infer.group_by("_split")
        .agg(pl.len().alias("rows"), pl.col("_size").sum())
        .sort("_split")
        .with_columns((pl.col("rows").cum_sum() - pl.col("rows")).alias("_offset"))
        .sort("_size", "_split", descending=[True, False])
    )
    splits = [Split(*row) for row in totals.select("_split", "rows", "_size").iter_rows()]
    offsets = dict(totals.select("_split", "_offset").iter_rows())
    order = infer.select("row", "_read", "input_hash")[places.to_series()]
    return order, splits, offsets
