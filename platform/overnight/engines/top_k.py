"""The k items that fit a history best, by a factor model; none that is in the history.

A whole batch is computed in one step, on the GPU where there is one. Products of people and items
exist for a block at a time: see `overnight.engines.inner_product`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from overnight.engines.base import FAILURE, ROW
from overnight.engines.batch_queue import BatchQueue
from overnight.engines.cores import usable_cores
from overnight.engines.factors import FactorModel
from overnight.engines.recommend import Histories, Recommended, Recommender
from overnight.engines.sizes import BatchSizes
from overnight.errors import ConfigError, EngineDied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overnight.model import ModelRef
    from overnight.registry import RegistryRef

Device = Literal["auto", "cuda", "cpu"]

_DEVICES = ("auto", "cuda", "cpu")
_HISTORY = pa.struct([("items", pa.list_(pa.int64())), ("weights", pa.list_(pa.float32()))])
_RESULT = pa.schema(
    [
        ("items", pa.list_(pa.int64())),
        ("scores", pa.list_(pa.float32())),
        ("personal", pa.bool_()),
        ("model_version", pa.string()),
    ]
)
_STEP = pa.schema([(ROW, pa.int64()), (FAILURE, pa.string()), *_RESULT])
# Among 50,000 items a row takes about 100 us of a core, and folding in 35: a batch is less than
# 0.3 s of a core's work.
_SIZES = BatchSizes(batch_rows=2048, window_rows=8192)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopK:
    """Recommends items; the request is a history: a struct of the lists `items` and `weights`.

    A weight says how much an interaction tells of a taste; one of 0 tells nothing, and the item is
    only left out. A history of which the model knows nothing gets what is popular.

    Attributes:
        model: a directory with a `FactorModel`.
        k: how many items; fewer are found where fewer are left.
        device: "auto" is CUDA where there is a GPU, else CPU.
        sizes: how the machine is used.
    """

    model: ModelRef | RegistryRef
    k: int = 20
    device: Device = "auto"
    sizes: BatchSizes = _SIZES

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ConfigError(f"top-k engine: k={self.k}, must be at least 1")
        if self.device not in _DEVICES:
            raise ConfigError(
                f"top-k engine: device={self.device!r} must be one of {', '.join(_DEVICES)}"
            )

    @property
    def kind(self) -> str:
        """The engine's name in lineage."""
        return "implicit.top_k"

    @property
    def result_schema(self) -> pa.Schema:
        """What a finished row brings.

        `items` (list of int64), the best first, and their `scores` (list of float32): the inner
        product of person and item, or the popularity. `personal` (bool) is false where it is that.
        `model_version` (string) names the model.
        """
        return _RESULT

    @property
    def probe(self) -> dict[str, list[float]]:
        """A request that any healthy engine of this kind answers."""
        return {"items": [], "weights": []}

    def identity(self) -> dict[str, Any]:
        """Model digest and k.

        Raises:
            ModelError: if the model is missing or its digest differs.
        """
        return {"kind": self.kind, "model": self.model.resolve().digest, "k": self.k}

    def start(self) -> TopKEngine:
        """Load the model.

        Raises:
            ModelError: if the model is missing, is not the declared one, is truncated, or has
                another shape than a factor model.
        """
        return TopKEngine(self)


class TopKEngine:
    """A started `TopK`."""

    def __init__(self, spec: TopK) -> None:
        self.capacity = spec.sizes.window_rows
        model = spec.model.resolve()
        self._version = model.version
        self._recommender = Recommender(
            FactorModel.read(model.path),
            k=spec.k,
            threads=spec.sizes.threads or usable_cores(),
            device=spec.device,
        )
        self._queue = BatchQueue(_HISTORY, spec.sizes.batch_rows)
        self._suspects: list[int] = []

    @property
    def in_flight(self) -> int:
        """Rows submitted and not handed back yet."""
        return len(self._queue)

    def submit(self, requests: pa.Table) -> None:
        """Append to the queue; numbers of other types are cast."""
        self._queue.add(requests)

    def step(self) -> pa.Table:
        """Compute the oldest batch.

        Raises:
            EngineDied: if the arithmetic fails; every row of the batch is under suspicion.
        """
        rows, requests = self._queue.next()
        failures = _failures(requests)
        fine = pa.array([failure is None for failure in failures], pa.bool_())
        try:
            found = self._recommender.best(_histories(requests.filter(fine)))
        except Exception as error:
            self._suspects = rows.to_pylist()
            raise EngineDied(f"recommending failed: {error}") from error
        told = [failure for failure in failures if failure is not None]
        return pa.concat_tables(
            [
                _results(rows.filter(fine), found, self._version),
                _refused(rows.filter(pc.invert(fine)), told),
            ]
        )

    def abort(self, rows: Sequence[int]) -> None:
        """Forget these rows."""
        self._queue.forget(rows)

    def suspects(self) -> list[int]:
        """The rows of the step that died."""
        return self._suspects

    def stats(self) -> Mapping[str, float]:
        """Queue depth only."""
        return self._queue.stats()

    def close(self) -> None:
        """End the threads."""
        self._recommender.close()


def _failures(requests: pa.StructArray) -> list[str | None]:
    """Why nothing can be recommended for a request; None where it can."""
    items, weights = (pc.struct_field(requests, name) for name in ("items", "weights"))
    counts = [pc.fill_null(pc.list_value_length(part), -1).to_numpy() for part in (items, weights)]
    reasons: list[str | None] = [None] * len(requests)
    null = (counts[0] < 0) | (counts[1] < 0)
    for row in np.flatnonzero(null):
        reasons[row] = "null_request: the request, its items or its weights are null"
    for row in np.flatnonzero(~null & (counts[0] != counts[1])):
        reasons[row] = f"bad_request: {counts[0][row]} items and {counts[1][row]} weights"
    values = weights.flatten().to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    owners = pc.list_parent_indices(weights).to_numpy()
    for row, value in zip(owners[wrong], values[wrong], strict=True):
        reasons[row] = reasons[row] or f"bad_request: a weight is {value}, must be 0 or above"
    nameless = np.flatnonzero(items.flatten().is_null().to_numpy(zero_copy_only=False))
    for row in pc.list_parent_indices(items).to_numpy()[nameless]:
        reasons[row] = reasons[row] or "bad_request: an item is null"
    return reasons


def _histories(requests: pa.StructArray) -> Histories:
    items, weights = (pc.struct_field(requests, name) for name in ("items", "weights"))
    counts = pc.list_value_length(items).to_numpy().astype(np.int64)
    return Histories(
        starts=np.concatenate([[0], counts.cumsum()]),
        items=items.flatten().to_numpy(),
        weights=weights.flatten().to_numpy(),
    )


def _results(rows: pa.Array, found: Recommended, version: str) -> pa.Table:
    """Finished rows; nothing can be recommended to somebody who has seen everything."""
    some = pa.array(found.there.any(axis=1))
    left = pa.scalar("nothing_left: every item that the model knows is in the history")
    columns = {
        ROW: rows,
        FAILURE: pc.if_else(some, pa.scalar(None, pa.string()), left),
        "items": _lists(found.items, found.there, pa.int64()),
        "scores": _lists(found.scores, found.there, pa.float32()),
        "personal": pa.array(found.personal),
        "model_version": pa.repeat(version, len(rows)),
    }
    for name in _RESULT.names:
        columns[name] = pc.if_else(some, columns[name], pa.scalar(None, columns[name].type))
    return pa.table(columns, schema=_STEP)


def _refused(rows: pa.Array, failures: Sequence[str]) -> pa.Table:
    nothing = [pa.nulls(len(rows), column.type) for column in _RESULT]
    return pa.table([rows, pa.array(failures, pa.string()), *nothing], schema=_STEP)


def _lists(values: Any, there: Any, kind: pa.DataType) -> pa.Array:
    ends = np.concatenate([[0], there.sum(axis=1).cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.array(values[there], kind))
