"""How far a worker is: counters and compact histograms that travel and add up."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt
    import pyarrow as pa

# Seconds, eight bounds a decade from 1 ms to 3 hours: any quantile is right within 15%.
EDGES = 10.0 ** (np.arange(-24, 33) / 8.0)


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of durations in seconds, in fixed logarithmic bins; add two with `+`."""

    counts: tuple[int, ...] = (0,) * (len(EDGES) + 1)

    def __add__(self, other: Histogram) -> Histogram:
        """The histogram of both samples."""
        pairs = zip(self.counts, other.counts, strict=True)
        return Histogram(tuple(mine + theirs for mine, theirs in pairs))

    @classmethod
    def of(cls, seconds: npt.NDArray[np.float64]) -> Histogram:
        """The histogram of some durations."""
        bins = np.searchsorted(EDGES, seconds)
        return cls(tuple(np.bincount(bins, minlength=len(EDGES) + 1).tolist()))

    def quantile(self, q: float) -> float | None:
        """The `q`-quantile in seconds (an upper bound, within 34%); None without samples."""
        total = sum(self.counts)
        if not total:
            return None
        index = int(np.searchsorted(np.cumsum(self.counts), q * total))
        return float(EDGES[min(index, len(EDGES) - 1)])


@dataclass(frozen=True, slots=True)
class Progress:
    """A worker's state at one moment, for one attempt or for all.

    Attributes:
        rows: rows decided (finished or failed), appended to the journal.
        failed: those of them that have a failure.
        prompt_tokens: tokens read for finished rows.
        output_tokens: tokens generated for finished rows.
        in_flight: rows that the engine holds.
        waiting: rows that were handed over and are not with the engine.
        engine_starts: starts of the engine since the worker began, failed ones included.
        engine_deaths: deaths of the engine since the worker began.
        ttft: seconds from a row's admission to its first token.
        latency: seconds from a row's admission to its last token.
        gauges: the engine's own gauges.
        advised: whether the machine is likely to be taken away: new rows are better off elsewhere.
        seconds: of one attempt, by what the worker's time went into: see `meter.KINDS`.
    """

    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    in_flight: int = 0
    waiting: int = 0
    engine_starts: int = 0
    engine_deaths: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    gauges: dict[str, float] = field(default_factory=dict)
    advised: bool = False
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PoolProgress:
    """How far the inference of one partition is.

    Attributes:
        seconds: since the first worker was asked for.
        rows: rows finished or failed, in the journal or about to be.
        total: rows to infer.
        prompt_tokens: tokens read so far.
        output_tokens: tokens generated so far.
        in_flight: rows that engines hold.
        workers: workers that are ready.
        lost: workers lost so far.
        waited: seconds until the first worker and its engine were ready.
        interrupted: workers lost so far because their machine was taken away.
        waiting: rows that workers hold and have not handed to their engines.
        ttft: seconds from a row's admission to its first token.
        latency: seconds from a row's admission to its last token.
        gauges: the engines' own: shares and the like as the mean over the workers that are
            ready, counts of rows (`running`, `waiting`) as their sum.
    """

    seconds: float
    rows: int
    total: int
    prompt_tokens: int
    output_tokens: int
    in_flight: int
    workers: int
    lost: int
    waited: float = 0.0
    interrupted: int = 0
    waiting: int = 0
    ttft: Histogram = field(default_factory=Histogram)
    latency: Histogram = field(default_factory=Histogram)
    gauges: dict[str, float] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        """Rows that are computed at once; where engines do not say, those that they hold."""
        return round(self.gauges.get("running", self.in_flight))

    @property
    def queue(self) -> int:
        """Rows that wait for their turn, with the engines or before them."""
        return round(self.waiting + self.gauges.get("waiting", 0.0))

    @property
    def shares(self) -> dict[str, float]:
        """The gauges that are shares, 0 to 1, such as `kv_cache_usage`."""
        return {name: value for name, value in self.gauges.items() if name not in _COUNTED}


_COUNTED = frozenset({"running", "waiting"})


def joined(gauges: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Gauges of several engines as one: counts of rows add up, of the others it is the mean."""
    names = {
        name: [each[name] for each in gauges if name in each] for each in gauges for name in each
    }
    return {
        name: sum(values) / (1 if name in _COUNTED else len(values))
        for name, values in names.items()
    }


class Tally:
    """Running counts; written by the loop's thread, read by any."""

    def __init__(self) -> None:
        self.rows = 0
        self.failed = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self._ttft = np.zeros(len(EDGES) + 1, np.int64)
        self._latency = np.zeros(len(EDGES) + 1, np.int64)

    def count(self, results: pa.Table) -> None:
        """Add rows as an engine hands them back."""
        self.failed += results.num_rows - results["failure"].null_count
        self.prompt_tokens += _total(results, "prompt_tokens")
        self.output_tokens += _total(results, "output_tokens")
        _bin(self._ttft, results, "ttft_s")
        _bin(self._latency, results, "latency_s")
        self.rows += results.num_rows

    def histograms(self) -> tuple[Histogram, Histogram]:
        """Time to first token, and latency."""
        return Histogram(tuple(self._ttft.tolist())), Histogram(tuple(self._latency.tolist()))


def _total(results: pa.Table, name: str) -> int:
    if name not in results.column_names:
        return 0
    return int(np.nansum(results[name].to_numpy()))


def _bin(counts: npt.NDArray[np.int64], results: pa.Table, name: str) -> None:
    if name in results.column_names:
        seconds = results[name].drop_null().to_numpy()
        np.add.at(counts, np.searchsorted(EDGES, seconds), 1)
