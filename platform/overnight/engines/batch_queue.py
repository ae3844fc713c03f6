"""Rows that wait for an engine that computes whole batches; which of them is not its business."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from overnight.engines.base import REQUEST, ROW

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class BatchQueue:
    """First come, first served.

    Args:
        request: the type that requests are cast to.
        batch_rows: the most rows in a batch.
    """

    def __init__(self, request: pa.DataType, batch_rows: int) -> None:
        self._schema = pa.schema([(ROW, pa.int64()), (REQUEST, request)])
        self._batch_rows = batch_rows
        self._waiting = self._schema.empty_table()

    def __len__(self) -> int:
        """Rows that wait."""
        return int(self._waiting.num_rows)

    def add(self, requests: pa.Table) -> None:
        """Append rows: `row` and `request`; other columns are left out.

        Raises:
            pyarrow.ArrowInvalid: if a request cannot be cast.
        """
        added = requests.select(self._schema.names).cast(self._schema)
        self._waiting = pa.concat_tables([self._waiting, added])

    def next(self) -> tuple[pa.Array, pa.Array]:
        """Take out the oldest batch: its rows and its requests."""
        batch = self._waiting.slice(0, self._batch_rows).combine_chunks()
        self._waiting = self._waiting.slice(batch.num_rows)
        return batch[ROW].combine_chunks(), batch[REQUEST].combine_chunks()

    def forget(self, rows: Sequence[int]) -> None:
        """Take out rows that nobody wants any more."""
        keep = pc.invert(pc.is_in(self._waiting[ROW], pa.array(rows, pa.int64())))
        self._waiting = self._waiting.filter(keep)

    def stats(self) -> Mapping[str, float]:
        """Queue depth, the one figure that such an engine has."""
        return {"waiting": float(len(self))}
