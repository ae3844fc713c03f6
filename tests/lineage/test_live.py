"""What a running attempt tells of its progress, and what is left of one that was killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overnight.lineage import live, record
from overnight.workers.progress import Histogram, PoolProgress, joined
from tests.warehouse.helpers import DAY, new_table, start

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def now(warehouse: Warehouse, attempt: record.Attempt) -> list[live.Running]:
    """What is known of an attempt, beside whatever else runs."""
    with warehouse.connect() as connection:
        return [each for each in live.running(connection) if each.attempt == attempt.attempt]


def at(seconds: float, rows: int) -> PoolProgress:
    return PoolProgress(
        seconds=seconds,
        rows=rows,
        total=100,
        prompt_tokens=10 * rows,
        output_tokens=rows,
        in_flight=4,
        workers=1,
        lost=0,
        gauges={"kv_cache_usage": 0.25},
        ttft=Histogram((rows, *[0] * 57)),
    )


def test_an_attempt_tells_every_few_seconds_how_far_it_is(warehouse: Warehouse) -> None:
    attempt = start(warehouse, new_table(warehouse))
    clock = Clock()
    tell = live.Teller(warehouse, attempt, clock)
    tell(at(1.0, 5))
    assert [(each.progress, each.eta_s) for each in now(warehouse, attempt)] == [({}, None)]
    for seconds, rows in ((10.0, 20), (20.0, 60)):
        clock.now = seconds
        tell(at(seconds, rows))
    (seen,) = now(warehouse, attempt)
    assert (seen.job, seen.partition_key, seen.alive) == (attempt.job, DAY, True)
    assert (seen.progress["rows"], seen.progress["rows_per_s"]) == (60, 4.0)
    assert seen.progress["gauges"] == {"kv_cache_usage": 0.25}
    assert seen.progress["ttft"][0] == 60
    assert seen.eta_s == 10.0
    record.finish_attempt(warehouse, attempt, outcome="failed", error=ValueError("no"))
    assert now(warehouse, attempt) == []


def test_an_attempt_without_its_lease_is_not_alive(warehouse: Warehouse) -> None:
    attempt = start(warehouse, new_table(warehouse))
    attempt.lease.release()
    assert [each.alive for each in now(warehouse, attempt)] == [False]
    record.finish_attempt(warehouse, attempt, outcome="failed")


def test_gauges_of_several_engines_are_one() -> None:
    one, other = {"running": 3.0, "kv_cache_usage": 0.2}, {"running": 5.0, "kv_cache_usage": 0.4}
    shared = joined([one, other, {}])
    assert shared["running"] == 8.0
    assert abs(shared["kv_cache_usage"] - 0.3) < 1e-9
