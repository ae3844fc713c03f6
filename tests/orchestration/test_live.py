"""Progress as observations: they arrive while the run infers, and never get in its way."""

from __future__ import annotations

import dataclasses
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from overnight.orchestration import inference_asset, live
from overnight.orchestration.live import Observer
from overnight.workers.progress import PoolProgress
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import DAY, Paced, PacedEngine, line, reversing, write_lines
from tests.support.waiting import until

if TYPE_CHECKING:
    import pyarrow as pa

DAILY = dg.DailyPartitionsDefinition("2026-11-01", timezone="Europe/Berlin")
KEY = dg.AssetKey("watched_lines")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Held(Paced):
    """Hands back a few rows a step, and its last ones when a file appears.

    Attributes:
        until: that file.
    """

    until: str

    def start(self) -> HeldEngine:
        return HeldEngine(self)


class HeldEngine(PacedEngine):
    def __init__(self, spec: Held) -> None:
        super().__init__(spec)
        self._until = Path(spec.until)

    def step(self) -> pa.Table:
        while self.in_flight <= self._batch and not self._until.exists():
            time.sleep(0.05)  # between two looks
        return super().step()


def observations(instance: dg.DagsterInstance) -> list[dg.AssetObservation]:
    records = instance.fetch_observations(KEY, limit=100).records
    found = [record.asset_observation for record in reversed(records)]
    return [observation for observation in found if observation is not None]


@pytest.mark.usefixtures("ray_head")
def test_observations_arrive_while_the_run_infers(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    monkeypatch.setattr(live, "EVERY_S", 2.0)
    write_lines(home, map(line, range(40)))
    release = home / "release"
    engine = Held(window=40, batch=10, step_seconds=0.2, until=str(release))
    made = dg.Definitions.merge(
        dg.Definitions(
            resources={
                "warehouse": WarehouseResource(),
                "store": StoreResource(),
                "cluster": ClusterResource(),
            }
        ),
        inference_asset(
            reversing(name="watched_lines", engine=engine), partitions=DAILY, group="tests"
        ),
    )
    job = made.resolve_job_def("watched_lines_job")
    during: list[tuple[dg.AssetObservation, str]] = []

    def watch() -> None:
        """Let the engine finish once it was seen how far it is, or nothing comes."""
        deadline = time.monotonic() + 90
        while time.monotonic() < deadline and not any(
            seen.metadata["rows"].value == 30 for seen in observations(instance)
        ):
            time.sleep(0.1)
        (run,) = instance.get_runs()
        during.extend((seen, run.status.value) for seen in observations(instance))
        release.touch()

    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        watcher = threading.Thread(target=watch)
        watcher.start()
        result = job.execute_in_process(instance=instance, partition_key=DAY)
        watcher.join()
    assert result.success
    assert len(during) >= 2
    assert {status for _, status in during} == {"STARTED"}
    seen = [observation for observation, _ in during]
    assert {observation.partition for observation in seen} == {DAY}
    shown = {name: value.value for name, value in seen[-1].metadata.items()}
    assert (shown["rows"], shown["total"], shown["workers"]) == (30, 40, 1)
    assert shown["batch"] == 10
    assert {"rows_per_s", "tokens_per_s", "queue", "seconds", "interruptions"} <= set(shown)
    assert "30/40 rows (75%)" in (seen[-1].description or "")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def progress(seconds: float, rows: int, **more: Any) -> PoolProgress:
    settings: dict[str, Any] = {
        "total": 100, "prompt_tokens": 10 * rows, "output_tokens": 0, "in_flight": 8, "workers": 1,
        "lost": 0,
    }  # fmt: skip
    return PoolProgress(seconds=seconds, rows=rows, **{**settings, **more})


def told(written: list[dg.AssetObservation]) -> list[Any]:
    return [observation.metadata["rows"].value for observation in written]


def test_it_is_told_every_ten_seconds() -> None:
    clock, written = Clock(), []
    with Observer(written.append, asset="a", partition=None, clock=clock) as observer:
        for seconds in range(0, 41, 2):
            clock.now = float(seconds)
            observer(progress(clock.now, seconds))
            until(lambda due=seconds // 10: len(written) >= due, "it was not told", seconds=10)
    assert told(written) == [10, 20, 30, 40]
    shown = {name: value.value for name, value in written[1].metadata.items()}
    assert (shown["rows_per_s"], shown["tokens_per_s"], shown["eta_s"]) == (1.0, 10.0, 80.0)


def test_an_event_log_that_breaks_or_stalls_keeps_nobody_from_working() -> None:
    clock, written, stall = Clock(), [], threading.Event()

    def broken(observation: dg.AssetObservation) -> None:
        if observation.metadata["rows"].value == 10:
            raise RuntimeError("the event log is gone")
        stall.wait(60)
        written.append(observation)

    with Observer(broken, asset="a", partition=None, clock=clock) as observer:
        for seconds in (10, 20, 30, 40, 50):
            clock.now = float(seconds)
            observer(progress(clock.now, seconds))
        # All were taken although nothing is written; what is out of date is left out.
        assert not written
        stall.set()
    assert told(written)[-1] == 50
    assert len(written) < 4
