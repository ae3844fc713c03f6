"""The job `daily_summaries` for tests: real vLLM, exact numbers, and a trait of their own."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.demo import articles
from assets.summaries import daily_summaries, summary_model
from overnight.engines import vllm_engine
from overnight.engines.vllm import VllmGenerate, VllmSizes

if TYPE_CHECKING:
    import datetime as dt
    from pathlib import Path

    from overnight.engines.base import Engine
    from overnight.job import InferenceJob

PACE = "OVERNIGHT_TEST_PACE"
KILLER = "OVERNIGHT_TEST_KILLER"
STARTS = "OVERNIGHT_TEST_STARTS"
"""What `vllm_core` is told in its process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced(VllmGenerate):
    """As slow as a larger model, so that its rows are in mid-generation for a while.

    Attributes:
        pace: a file that says how many seconds longer a step takes; read at each step.
    """

    pace: str

    def start(self) -> Engine:
        os.environ[PACE] = self.pace
        vllm_engine._EXECUTOR = "tests.support.vllm_core.PacedExecutor"
        return VllmGenerate.start(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadly(VllmGenerate):
    """Its process is killed whenever a certain row is in its batch.

    Attributes:
        killer: that row's request.
        starts: a file that gets a byte for each start of the process.
    """

    killer: str
    starts: str

    def start(self) -> Engine:
        os.environ |= {KILLER: self.killer, STARTS: self.starts}
        vllm_engine._EXECUTOR = "tests.support.vllm_core.DeadlyExecutor"
        return VllmGenerate.start(self)


def summarizing(
    kind: type[VllmGenerate], *, at_once: int, split_rows: int, **traits: Any
) -> InferenceJob:
    """The job, in float32, with a kind of engine that computes so many rows at once."""
    engine = kind(
        model=summary_model,
        max_tokens=128,
        temperature=0.0,
        dtype="float32",
        speculative_tokens=4,
        sizes=VllmSizes(
            max_num_seqs=at_once, max_num_batched_tokens=2048, kv_cache_gib=1, threads=1
        ),
        **traits,
    )
    return dataclasses.replace(daily_summaries, engine=engine, split_rows=split_rows)


def land(home: Path, day: dt.date, *, count: int, bad_rows: int = 0, seed: int = 0) -> Path:
    """Put invented articles into the landing zone."""
    file = home / "store" / "landing" / "articles" / day.isoformat() / "articles.jsonl"
    articles.write(day, file, count=count, bad_rows=bad_rows, seed=seed)
    return file
