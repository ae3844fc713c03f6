"""kill -9 at every named crash point on the way of a partition, and at later passages of it.

A case kills the process that comes there (a step, a worker, a training) for the nth time, does
what the orchestrator would do next, and holds what is published against what has landed. Its
id says where: `pytest "tests/chaos/test_crash_points.py::...[replace-publish.before_commit-1]"`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests import test_training as training
from tests.chaos.crash_cases import PASSES, SEED, Case, all_cases, cases, check
from tests.chaos.lab import Lab, Landed, environment, open_lab, wait_for
from tests.chaos.passages import Passages
from tests.chaos.step import PUBLISHED, job_of, length
from tests.chaos.test_kill import retried
from tests.chaos.trial import Trial
from tests.support import shop
from tests.warehouse.helpers import python

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.lab import Step

_KILLED = -signal.SIGKILL
_SLOWLY_S = 0.04
"""Slow enough for a worker to merge what it has journalled."""
_FEW = 8


class Shop:
    """Partitions whose rows change, in an installation with warm engines."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self._letterbox = lab.home / "letterbox"
        self.arguments = {
            "replace": ("--computed", "--retention-days", "0"),
            "merge": ("--publish", "merge", "--retention-days", "0"),
            "worker": ("--step-seconds", str(_SLOWLY_S), "--letterbox", str(self._letterbox)),
        }

    def land(self, way: str, day: str) -> Trial:
        """Publish a version, and land the next."""
        if way == "worker":
            # By the engine that will be armed: it is warm then.
            job = job_of(self.lab.log, _SLOWLY_S, letterbox=str(self._letterbox))
            lines = [shop.line(n, f"{day} a {n}") for n in range(_FEW)]
            shop.write_lines(self.lab.home, lines, day)
            self.lab.publish(day, engine=job.engine)
            old = Landed({line["line_id"]: line["text"][::-1] for line in lines}, dead=())
            return Trial(self.lab, day, old, self.lab.land(day, "b"))
        old = self.lab.land(day, "a")
        changes: dict[str, Any] = {"publish": "merge"}
        if way == "replace":
            changes = {"over_partition": {"length": length}}
        self.lab.publish(day, **changes)
        return Trial(self.lab, day, old, self.lab.land_changes(day, old, "b"))

    def start(self, way: str, day: str, passages: Passages) -> Step:
        """Start the step, and have one of the two processes armed: it, or its worker."""
        if way != "worker":
            return self.lab.start(day, *self.arguments[way], variables=passages.variables)
        passages.post(self._letterbox)
        assert wait_for(lambda: not self._letterbox.exists())
        return self.lab.start(day, *self.arguments[way])


@pytest.fixture(scope="module")
def town(ray_head: str) -> Iterator[Shop]:
    with open_lab(ray_head) as lab:
        yield Shop(lab)


@cases("replace", "merge", "worker")
def test_a_kill_at_a_point_loses_nothing(town: Shop, tmp_path: Path, case: Case) -> None:
    print(f"seed {SEED}: {case}")  # noqa: T201
    passages = Passages(tmp_path / "passages", case.setting)
    with town.land(case.way, case.day) as trial:
        step = town.start(case.way, case.day, passages)
        wait_for(passages.killed, step)
        trial.killed_at = time.time()
        codes = retried(town.lab, case.day, step, *town.arguments[case.way])
    assert passages.killed(), f"{case.setting} was not passed: {passages.count()}"
    assert (codes[0] == _KILLED) == (case.way != "worker"), codes
    trial.verdict().check()


@cases("training")
def test_a_kill_while_a_model_goes_into_service_leaves_one_that_works(
    tmp_path: Path, case: Case
) -> None:
    print(f"seed {SEED}: {case}")  # noqa: T201
    old, code = retrained(tmp_path, Passages(tmp_path / "passages", case.setting))
    assert code == _KILLED
    found = training.registry(tmp_path)
    now = found.in_service(training.NAME)
    assert now is not None
    assert now.fetch().is_dir()
    # The file, the card, the entry that puts it in service.
    made = case.setting in {"registry.after_in_service:1", "store.after_rename:3"}
    assert (now == old.version) == (not made)
    new = training.trained(tmp_path).version
    assert found.in_service(training.NAME) == new != old.version
    assert [version.version for version in found.versions(training.NAME)] == [
        old.version.version,
        new.version,
    ]


TRAINING = """
import sys
from pathlib import Path
from tests.chaos import passages
from tests.test_training import trained
passages.from_environment()
trained(Path(sys.argv[1]))
"""


def retrained(home: Path, passages: Passages) -> tuple[Any, int]:
    """Train on other data in a process that is armed; the report before, its exit code."""
    (home / "store").mkdir()
    training.land(home, 10, 10)
    old = training.trained(home)
    training.land(home, 12, 12)
    process = subprocess.run(
        [sys.executable, "-c", TRAINING, str(home)],
        env={**environment(home), **passages.variables},
        check=False,
    )
    return old, process.returncode


@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.sweep) for way in ("replace", "merge", "worker")]
)
def test_a_partition_passes_the_points_on_record(town: Shop, tmp_path: Path, way: str) -> None:
    day = {"replace": "2026-12-01", "merge": "2026-12-02", "worker": "2026-12-03"}[way]
    passages = Passages(tmp_path / "passages")
    with town.land(way, day) as trial:
        step = town.start(way, day, passages)
        assert step.wait() == PUBLISHED, step.output
    trial.verdict().check()
    check(way, passages.count())


@pytest.mark.sweep
def test_a_training_passes_the_points_on_record(tmp_path: Path) -> None:
    passages = Passages(tmp_path / "passages")
    assert retrained(tmp_path, passages)[1] == 0
    check("training", passages.count())


REGISTERED = """
import importlib, pkgutil
import overnight
from overnight import crashpoints
for module in pkgutil.walk_packages(overnight.__path__, "overnight."):
    # Engines compute, and some take long to import.
    if not module.name.startswith("overnight.engines."):
        importlib.import_module(module.name)
print(*crashpoints.registered())
"""


def test_a_process_is_killed_at_every_point_there_is() -> None:
    said, _ = python(REGISTERED).communicate(timeout=60)
    points = {point for passes in PASSES.values() for point in passes}
    assert set(said.split()) == points
    assert {case.point for case in all_cases() if case.nth == 1} == points
    assert len({case.day for case in all_cases()}) == len(all_cases())
