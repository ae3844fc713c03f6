"""What a materialization shows of its engines over time, from progress that is known."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from overnight.orchestration.metadata import of_inference
from overnight.report import Inference
from overnight.workers.progress import PoolProgress


def at(seconds: float, **settings: Any) -> PoolProgress:
    known: dict[str, Any] = {
        "rows": 0, "total": 100, "prompt_tokens": 0, "output_tokens": 0, "in_flight": 0,
        "workers": 1, "lost": 0,
    }  # fmt: skip
    return PoolProgress(seconds=seconds, **{**known, **settings})


def gauges(running: float, kv_cache: float, gpu: float | None = None) -> dict[str, float]:
    shown = {"running": running, "waiting": 2.0, "kv_cache_usage": kv_cache}
    return shown if gpu is None else {**shown, "gpu_utilization": gpu}


def shown(*samples: PoolProgress, **inference: Any) -> dict[str, Any]:
    lengths = pl.DataFrame({"tokens": [3, 5], "rows": [60, 40]})
    known = {"rows": 100, "seconds": 9.0, "busy_seconds": 6.0, "output_lengths": lengths}
    found = of_inference(Inference(samples=samples, **known, **inference))
    return {name: getattr(value, "value", value) for name, value in found.items()}


def test_figures_are_the_mean_and_the_largest_while_there_were_rows_in_engines() -> None:
    told = shown(
        at(2, workers=0),
        at(4, in_flight=30, waiting=70, gauges=gauges(20, 0.2, gpu=0.9)),
        at(6, in_flight=50, waiting=20, gauges=gauges(40, 0.6, gpu=0.7)),
        at(8, rows=100),
    )
    assert (told["batch_mean"], told["batch_max"]) == (30, 40)
    assert (told["queue_mean"], told["queue_max"]) == (47, 72)
    assert (told["kv_cache_usage_mean"], told["kv_cache_usage_max"]) == pytest.approx((0.4, 0.6))
    assert (told["gpu_utilization_mean"], told["gpu_utilization_max"]) == pytest.approx((0.8, 0.9))
    assert told["load"].startswith("![load](data:image/png;base64,")


def test_an_engine_that_says_nothing_of_itself_has_the_rows_that_it_holds() -> None:
    told = shown(at(2, in_flight=64, waiting=10), at(4, in_flight=32))
    assert (told["batch_mean"], told["batch_max"], told["queue_max"]) == (48, 64, 10)
    assert not {name for name in told if name.startswith(("gpu", "kv_cache"))}


def test_what_was_over_before_anybody_looked_has_no_such_figures() -> None:
    told = shown(at(1, rows=100))
    assert not {name for name in told if name.startswith(("batch", "queue", "load"))}


def test_prefix_cache_hits_are_a_share_of_the_prompt_tokens() -> None:
    told = shown(at(2, rows=100), prompt_tokens=200, cached_tokens=50, output_tokens=10)
    assert (told["cached_tokens"], told["prefix_cache_hits"]) == (50, 0.25)
