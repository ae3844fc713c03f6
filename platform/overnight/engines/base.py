"""The protocol between a worker and whatever does the arithmetic.

An engine turns requests into results and hands each back as it finishes. It knows nothing
of journals, splits, Ray, SQL or Dagster. Requests and results cross this border as Arrow
tables, because an engine may finish one row in a step or ten thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    import pyarrow as pa

ROW = "row"
REQUEST = "request"
FAILURE = "failure"
PARTIAL = "partial"


class Engine(Protocol):
    """A started engine. Not thread-safe: one thread submits and steps."""

    @property
    def capacity(self) -> int:
        """How many rows it should hold at once to be kept busy, waiting ones included."""

    @property
    def in_flight(self) -> int:
        """How many submitted rows have not been handed back yet."""

    def submit(self, requests: pa.Table) -> None:
        """Take rows in: columns `row` (int64, unique among those in flight) and `request`.

        A row that cannot be inferred is handed back by a later `step` with its `failure`.

        Raises:
            EngineDied: if the engine is gone.
        """

    def step(self) -> pa.Table:
        """Advance, and hand back the rows that finished, in any order; may be empty.

        Columns: `row` (int64), `failure` (string, null for a finished row), then the
        columns of `EngineSpec.result_schema` (null where `failure` is set).

        Raises:
            EngineDied: if the engine is gone; every row in flight is undecided.
        """

    def abort(self, rows: Sequence[int]) -> None:
        """Forget rows that nobody wants any more; they are not handed back.

        Raises:
            EngineDied: if the engine is gone.
        """

    def suspects(self) -> list[int]:
        """After `EngineDied`: the rows that were being computed, so that may have caused it."""

    def stats(self) -> Mapping[str, float]:
        """Gauges for progress and metrics (occupancy, queue depth, cache use...)."""

    def close(self) -> None:
        """Free everything, child processes included. Safe to call twice, or on a dead engine."""


@runtime_checkable
class EngineSpec(Protocol):
    """A picklable description of an engine: what a job declares and a worker starts."""

    @property
    def kind(self) -> str:
        """The engine's name in lineage, e.g. `vllm.generate`."""

    @property
    def result_schema(self) -> pa.Schema:
        """The columns that a finished row brings, besides `row` and `failure`."""

    @property
    def probe(self) -> Any:
        """A request that any healthy engine answers: tells a broken engine from a bad row."""

    def identity(self) -> dict[str, Any]:
        """What decides a result besides the row (JSON-able): model digest, parameters.

        Sizes that only decide speed do not belong in it.

        Raises:
            ModelError: if the model is missing or its digest differs.
        """

    def start(self) -> Engine:
        """Load the model and be ready; imports the heavy package.

        Raises:
            ModelError: if the model is missing or its digest differs.
        """


@runtime_checkable
class ResumableSpec(EngineSpec, Protocol):
    """An engine whose rows can stop half-way and go on elsewhere; it starts a `Resumable`."""

    @property
    def partial_type(self) -> pa.DataType | None:
        """Of a row that has begun, as it travels; null if rows cannot go on after all."""


@runtime_checkable
class Resumable(Engine, Protocol):
    """A started engine whose rows can stop half-way; `submit` takes a column `partial` too."""

    def partials(self) -> pa.Table:
        """How far the rows in flight are: `row`, `progress` (int64, grows), `partial`.

        Rows that have not begun are left out.
        """

    def suspend(self, rows: Collection[int]) -> pa.Table:
        """Take rows out as `abort` does, and say exactly how far they were, as `partials`.

        Rows that turn out to be finished are handed back by the next `step` instead.

        Raises:
            EngineDied: if the engine is gone.
        """

    def time_left(self) -> Mapping[int, float]:
        """Seconds that each row in flight will probably still take."""
