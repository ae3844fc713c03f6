"""What is told about a partition once it is published: counts, speed, timings, a sample.

A plain record; how it is shown is the business of whoever shows it.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight.workers.progress import Histogram

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from overnight.audit import Audit
    from overnight.job import Fingerprint, InferenceJob
    from overnight.ledger import Entry
    from overnight.monitoring.traces import Trace
    from overnight.plan import Plan
    from overnight.results import Filled
    from overnight.workers.progress import PoolProgress

QUANTILES = (0.5, 0.95, 0.99)


class Timings:
    """Seconds spent in each phase of a run.

    Args:
        clock: monotonic seconds.
        trace: gets a span for each phase.
    """

    def __init__(self, clock: Callable[[], float], trace: Trace) -> None:
        self._clock = clock
        self._trace = trace
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the time of a `with` block towards a phase."""
        started = self._clock()
        try:
            with self._trace.span(phase):
                yield
        finally:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + self._clock() - started


@dataclass(frozen=True, slots=True)
class Inference:
    """How the rows that this attempt inferred went.

    Attributes:
        rows: rows inferred.
        seconds: from asking for workers until the last row was journalled, engine start included.
        busy_seconds: from the first engine's being ready to the last row's being journalled.
        prompt_tokens: tokens read.
        output_tokens: tokens generated.
        cached_tokens: prompt tokens that were found in the prefix cache.
        ttft_s: time to first token at the quantiles of `QUANTILES`, seconds; empty if unknown.
        latency_s: time from submission to the last token, likewise.
        ttft: times to first token of all rows (`binned`); None if unknown.
        latency: times to the last token, likewise.
        samples: progress over time.
        output_lengths: how many rows (`rows`) had an output of so many tokens (`tokens`).
    """

    rows: int
    seconds: float
    busy_seconds: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    ttft_s: Sequence[float] = ()
    latency_s: Sequence[float] = ()
    ttft: Mapping[str, Any] | None = None
    latency: Mapping[str, Any] | None = None
    samples: Sequence[PoolProgress] = ()
    output_lengths: pl.DataFrame = field(default_factory=pl.DataFrame)

    @property
    def tokens_per_s(self) -> float:
        """Tokens read and generated for each second that engines were busy."""
        tokens = self.prompt_tokens + self.output_tokens
        return tokens / self.busy_seconds if self.busy_seconds else 0.0

    @property
    def prefix_cache_hits(self) -> float:
        """The share of prompt tokens that were found in the prefix cache, 0 to 1."""
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def busy_samples(self) -> Sequence[PoolProgress]:
        """The progress while engines had rows."""
        return [sample for sample in self.samples if sample.in_flight]

    @property
    def rows_per_s(self) -> float:
        """Rows for each second that engines were busy."""
        return self.rows / self.busy_seconds if self.busy_seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionReport:
    """What became of one partition.

    Attributes:
        rows_in: rows read from landing files.
        rejected: rows that broke the input contract.
        published: input rows that are published now.
        dead_lettered: rows that could not be inferred.
        inferred: rows that this attempt inferred.
        reused: rows that had been inferred before.
        staged: rows that this attempt wrote; others, published before, stayed in their place.
        rows: rows of the output table; more than `published` where one input gives several.
        data_version: changes if and only if the published rows may have changed.
        cost: what each machine did and cost.
        seconds: seconds for each phase.
        sample: a few published rows.
    """

    job: InferenceJob
    partition: str
    attempt: int
    fingerprint: Fingerprint
    rows_in: int
    rejected: int
    published: int
    dead_lettered: int
    inferred: int
    reused: int
    staged: int
    rows: int
    data_version: str
    audit: Audit
    inference: Inference
    cost: Sequence[Entry]
    seconds: dict[str, float]
    sample: pl.DataFrame


def measured(
    plan: Plan, filled: Filled, samples: Sequence[PoolProgress], seconds: float
) -> Inference:
    """Sum up how the inference of a plan went.

    Args:
        plan: what was to be inferred.
        filled: what the journal held in the end.
        samples: progress over time.
        seconds: the phase as a whole.
    """
    fresh = filled.measures
    # Starting the engines is not part of how fast they are.
    busy = samples[-1].seconds - samples[-1].waited if samples else 0.0
    return Inference(
        rows=filled.inferred,
        seconds=seconds if plan.splits else 0.0,
        busy_seconds=busy if filled.inferred else 0.0,
        prompt_tokens=_total(fresh, "prompt_tokens"),
        output_tokens=_total(fresh, "output_tokens"),
        cached_tokens=_total(fresh, "cached_tokens"),
        ttft_s=_quantiles(fresh, "ttft_s"),
        latency_s=_quantiles(fresh, "latency_s"),
        ttft=binned(fresh, "ttft_s"),
        latency=binned(fresh, "latency_s"),
        samples=samples,
        output_lengths=_lengths(fresh),
    )


def _total(measures: pl.DataFrame, column: str) -> int:
    return int(measures[column].sum()) if column in measures.columns else 0


def _quantiles(measures: pl.DataFrame, column: str) -> list[float]:
    if column not in measures.columns or measures[column].drop_nulls().is_empty():
        return []
    return [float(measures[column].quantile(q) or 0.0) for q in QUANTILES]


def binned(measures: pl.DataFrame, column: str) -> dict[str, Any] | None:
    """Durations as a JSON-able histogram: `bins` as in `Histogram`, and their `sum` in seconds."""
    if column not in measures.columns:
        return None
    seconds = measures[column].drop_nulls()
    if seconds.is_empty():
        return None
    bins = Histogram.of(seconds.to_numpy()).counts
    return {"bins": list(bins), "sum": float(seconds.sum())}


def _lengths(measures: pl.DataFrame) -> pl.DataFrame:
    if "output_tokens" not in measures.columns:
        return pl.DataFrame(schema={"tokens": pl.Int64, "rows": pl.Int64})
    return (
        # A row that failed has no length.
        measures.drop_nulls("output_tokens")
        .group_by(tokens=pl.col("output_tokens").cast(pl.Int64))
        .agg(rows=pl.len().cast(pl.Int64))
        .sort("tokens")
    )
