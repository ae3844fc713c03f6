"""The pool on a real Ray: warm engines, dead workers, rows that kill them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
import sqlalchemy as sa

from overnight.engines.cores import usable_cores
from overnight.errors import ConfigError, EngineBrokenError
from overnight.plan.splits import cut
from overnight.run import House, run_partition
from overnight.warehouse.connect import Warehouse
from overnight.workers.cluster import NAMESPACE, ClusterConfig
from tests.support import shop
from tests.support.shop import DAY, Paced, PacedEngine, line, reversing, write_lines
from tests.support.waiting import until
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    import pyarrow as pa

    from overnight.job import InferenceJob

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadly(Paced):
    """Kills its own process when it meets a row that says so, as a driver's crash would."""

    def start(self) -> DeadlyEngine:
        return DeadlyEngine(self)


class DeadlyEngine(PacedEngine):
    def submit(self, requests: pa.Table) -> None:
        if any(str(text).startswith("!kill") for text in requests["request"].to_pylist()):
            os.kill(os.getpid(), signal.SIGKILL)
        super().submit(requests)


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(Paced):
    """Does not start."""

    def start(self) -> PacedEngine:
        raise OSError("no memory left for weights")


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling(Paced):
    """Appends to a file how many cores it may use."""

    cores: str

    def start(self) -> PacedEngine:
        with Path(self.cores).open("a") as file:
            file.write(f"{usable_cores()}\n")
        return PacedEngine(self)


def workers() -> list[str]:
    return [name for name in ray.util.list_named_actors() if name.startswith("engine:")]


def twenty_lines(home: Path, log: str) -> InferenceJob:
    """A job with a little to do; its log makes it one whose engine no other test has warm."""
    write_lines(home, map(line, range(20)))
    return reversing(engine=Paced(window=32, batch=16, log=str(home / log)))


def newcomer(before: set[str]) -> Any:
    """The worker that is not among those that were there before; its process runs."""
    until(lambda: set(workers()) - before, seconds=120)
    (name,) = set(workers()) - before
    worker = ray.get_actor(name, namespace=NAMESPACE)
    assert ray.get(worker.placed.remote())
    return worker


def fresh(warehouse: Warehouse, home: Path, **cluster: Any) -> House:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.reversed_lines")
        connection.exec_driver_sql("DELETE FROM lineage.partitions")
    made = shop.house(warehouse, home)
    return replace(made, cluster=replace(made.cluster, **cluster))


@pytest.mark.usefixtures("ray_head")
def test_a_second_partition_finds_the_engine_warm(warehouse: Warehouse, home: Path) -> None:
    house = fresh(warehouse, home)
    log = str(home / "log")
    job = reversing(engine=Paced(window=64, batch=16, log=log))
    for day in (DAY, "2026-11-21"):
        write_lines(home, map(line, range(20)), day=day)
        run_partition(job, day, run_id="r", house=house)
    machines = set()
    for name in workers():
        machines.add(ray.get(ray.get_actor(name, namespace=NAMESPACE).placed.remote()))
    assert len(machines) == 1
    with warehouse.connect() as connection:
        count = connection.execute(sa.text("SELECT count(*) FROM published.reversed_lines"))
        assert count.scalar_one() == 40


@pytest.mark.usefixtures("ray_head")
def test_an_idle_engine_is_released(warehouse: Warehouse, home: Path) -> None:
    house = fresh(warehouse, home, idle_timeout_s=0.5)
    job, before = twenty_lines(home, "idle"), set(workers())
    run_partition(job, DAY, run_id="r", house=house)
    until(lambda: set(workers()) <= before, seconds=120)


@pytest.mark.usefixtures("ray_head")
def test_a_worker_that_came_for_a_plan_that_failed_is_free_again(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = fresh(warehouse, home, idle_timeout_s=0.5, lease_timeout_s=300)
    job, before = twenty_lines(home, "in vain"), set(workers())

    def fail(*_: object) -> None:
        newcomer(before)
        raise OSError("the disk is full")

    monkeypatch.setattr("overnight.plan.build.cut", fail)
    with pytest.raises(OSError, match="disk is full"):
        run_partition(job, DAY, run_id="r", house=house)
    until(lambda: set(workers()) <= before, seconds=120)


@pytest.mark.usefixtures("ray_head")
def test_a_plan_that_takes_longer_than_a_lease_is_carried_out(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = fresh(warehouse, home, lease_timeout_s=5)
    job, before = twenty_lines(home, "long plan"), set(workers())

    def cut_late(*arguments: Any) -> Any:
        worker = newcomer(before)
        with warehouse.connect() as connection:
            attempt = connection.execute(sa.text("SELECT max(attempt) FROM lineage.attempts"))
            lease = worker.going.remote(attempt.scalar_one())
        assert ray.get(lease) == ""  # it has ended
        return cut(*arguments)

    monkeypatch.setattr("overnight.plan.build.cut", cut_late)
    report = run_partition(job, DAY, run_id="r", house=house)
    assert report.published == 20


@pytest.mark.usefixtures("ray_head")
@pytest.mark.parametrize("count", [1, 2])
def test_engines_on_a_machine_share_its_cores(warehouse: Warehouse, home: Path, count: int) -> None:
    house = fresh(warehouse, home, workers=count)
    write_lines(home, map(line, range(20)))
    told = home / "cores"
    job = reversing(engine=Telling(window=32, batch=16, cores=str(told)))
    run_partition(job, DAY, run_id="r", house=house)
    each = max(1, usable_cores() // count)
    assert {int(line) for line in told.read_text().splitlines()} == {each}


@pytest.mark.usefixtures("ray_head")
def test_two_workers_share_an_odd_number_of_rows(warehouse: Warehouse, home: Path) -> None:
    house = fresh(warehouse, home, workers=2)
    job = reversing(engine=Paced(window=16, batch=4), split_rows=1000)
    for day, rows in ((DAY, 101), ("2026-11-21", 7), ("2026-11-22", 1)):
        write_lines(home, map(line, range(rows)), day=day)
        report = run_partition(job, day, run_id="r", house=house)
        assert report.published == report.inferred == rows


@pytest.mark.usefixtures("ray_head")
def test_a_row_that_kills_its_worker_again_and_again_is_the_only_one_lost(
    warehouse: Warehouse, home: Path
) -> None:
    house = fresh(warehouse, home)
    rows = [line(n, "!kill" if n == 13 else None) for n in range(30)]
    write_lines(home, rows)
    job = reversing(engine=Deadly(window=32, batch=8, log=str(home / "log")), split_rows=10)
    report = run_partition(job, DAY, run_id="r", house=house)
    assert (report.published, report.dead_lettered) == (29, 1)
    with warehouse.connect() as connection:
        query = sa.text("SELECT key, reason FROM lineage.current_dead_letters")
        ((key, reason),) = connection.execute(query).all()
    assert key == "l13"
    assert "killed its worker" in reason


@pytest.mark.usefixtures("ray_head")
def test_an_engine_that_does_not_start_is_an_error_and_no_dead_letter(
    warehouse: Warehouse, home: Path
) -> None:
    house = fresh(warehouse, home)
    write_lines(home, map(line, range(5)))
    with pytest.raises(EngineBrokenError, match="no memory left for weights"):
        run_partition(reversing(engine=Broken()), DAY, run_id="r", house=house)


def test_an_address_where_no_head_answers_is_refused(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, map(line, range(5)))
    code = (
        "from overnight.workers.cluster import *; from pathlib import Path\n"
        "with connected(ClusterConfig(address='127.0.0.1:1', head_file=Path('x'))): pass"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert "no Ray head answers at '127.0.0.1:1' (OVERNIGHT_RAY_ADDRESS)" in done.stderr


@pytest.mark.parametrize("setting", ["workers", "idle_timeout_s", "lease_timeout_s"])
def test_a_setting_that_cannot_be_is_refused(setting: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{setting} is -1"):
        ClusterConfig(address=None, head_file=tmp_path / "x", **{setting: -1})  # type: ignore[arg-type]


def test_workers_are_not_shared_with_another_warehouse(
    warehouse: Warehouse, home: Path, ray_head: str
) -> None:
    """Its attempts have numbers of their own, by which a worker would confuse them with ours."""
    job = reversing(engine=Paced(window=8, batch=8))
    write_lines(home, [line(1)])
    run_partition(job, DAY, run_id="r", house=fresh(warehouse, home))
    ours = set(workers())
    with open_home() as other, Warehouse.open(home=other) as others:
        write_lines(other, [line(1)])
        run_partition(job, DAY, run_id="r", house=shop.house(others, other))
    assert set(workers()) - ours
