"""What runs now: gauges for each attempt that has no end yet; they are gone when it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily

from overnight.lineage.live import running
from overnight.workers.progress import Histogram, PoolProgress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

    import sqlalchemy as sa
    from prometheus_client.core import Metric

    from overnight.lineage.live import Running

__all__ = ["now"]

_QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class _Told:
    """What an attempt has told last."""

    running: Running
    progress: PoolProgress
    row: Mapping[str, Any]


def _share(name: str) -> Callable[[_Told], float | None]:
    return lambda told: told.progress.shares.get(name)


# Name behind `overnight_running_`, help, value; None leaves it out.
_GAUGES: tuple[tuple[str, str, Callable[[_Told], float | None]], ...] = (
    ("rows_done", "Rows inferred so far", lambda t: t.progress.rows),
    ("rows_planned", "Rows to infer", lambda t: t.progress.total),
    ("rows_per_second", "Rows a second of late", lambda t: t.row["rows_per_s"]),
    (
        "tokens_per_second",
        "Tokens a second of late, read and generated",
        lambda t: t.row["tokens_per_s"],
    ),
    ("queue_depth_rows", "Rows that wait for their turn at workers", lambda t: t.progress.queue),
    ("in_flight_rows", "Rows that engines hold", lambda t: t.progress.in_flight),
    ("batch_rows", "Rows that are computed at once", lambda t: t.progress.batch),
    ("batch_occupancy_ratio", "Share of the batch that is used", _share("batch_occupancy")),
    ("kv_cache_usage_ratio", "Share of the KV cache that is used", _share("kv_cache_usage")),
    (
        "draft_acceptance_ratio",
        "Share of the tokens guessed ahead that were right",
        _share("draft_acceptance"),
    ),
    ("gpu_utilization_ratio", "Share of the time that GPUs compute", _share("gpu_utilization")),
    (
        "gpu_memory_usage_ratio",
        "Share of the GPUs' memory that is used",
        _share("gpu_memory_usage"),
    ),
    ("workers", "Workers that are ready", lambda t: t.progress.workers),
    ("lost_workers", "Workers lost so far", lambda t: t.progress.lost),
    (
        "interrupted_workers",
        "Workers lost so far because their machine was taken away",
        lambda t: t.progress.interrupted,
    ),
    ("eta_seconds", "Seconds until the last row at the present speed", lambda t: t.running.eta_s),
)


def now(connection: sa.Connection) -> Iterator[Metric]:
    """Gauges of attempts that run now, and how many have an end neither on record nor in sight."""
    attempts = running(connection)
    for name, meaning, alive in (
        ("overnight_running_attempts", "Attempts that run now", True),
        (
            "overnight_abandoned_attempts",
            "Attempts without an end on record whose process is gone: run their partition again",
            False,
        ),
    ):
        gauge = GaugeMetricFamily(name, meaning, labels=["job"])
        jobs = [one.job for one in attempts if one.alive is alive]
        for job in sorted({one.job for one in attempts}):
            gauge.add_metric([job], jobs.count(job))
        yield gauge
    told = [_told(one) for one in attempts if one.alive and one.progress]
    for name, meaning, value_of in _GAUGES:
        gauge = GaugeMetricFamily(f"overnight_running_{name}", meaning, labels=["job", "partition"])
        for one in told:
            if (value := value_of(one)) is not None:
                gauge.add_metric([one.running.job, one.running.partition_key], float(value))
        yield gauge
    for name, what in (("ttft", "first"), ("latency", "last")):
        gauge = GaugeMetricFamily(
            f"overnight_running_{name}_seconds",
            f"Seconds from a row's admission to its {what} token, within 34%",
            labels=["job", "partition", "quantile"],
        )
        for one in told:
            histogram: Histogram = getattr(one.progress, name)
            for q in _QUANTILES:
                if (seconds := histogram.quantile(q)) is not None:
                    labels = [one.running.job, one.running.partition_key, f"{q:g}"]
                    gauge.add_metric(labels, seconds)
        yield gauge


def _told(one: Running) -> _Told:
    row = one.progress
    same = ("seconds", "rows", "total", "prompt_tokens", "output_tokens", "in_flight", "workers")
    also = ("lost", "interrupted", "waiting", "gauges")
    progress = PoolProgress(
        **{name: row[name] for name in (*same, *also)},
        ttft=Histogram(tuple(row["ttft"])),
        latency=Histogram(tuple(row["latency"])),
    )
    return _Told(one, progress, row)
