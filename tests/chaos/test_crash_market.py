"""kill -9 at the crash points that are passed when machines are taken away with notice.

One machine stays, the other one goes; killed is the worker on the one that goes (`machine`),
or the step that has to hand its rows to others (`market`). Ids: see `test_crash_points`.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.chaos.crash_cases import SEED, Case, cases, check
from tests.chaos.lab import Lab, Landed, open_lab, wait_for
from tests.chaos.market import Machine, SpotMarket, open_market
from tests.chaos.market_step import PUBLISHED
from tests.chaos.passages import Passages
from tests.chaos.trial import Trial
from tests.support import shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.chaos.lab import Step

ROWS = 64
_KILLED = -signal.SIGKILL
_NOTICE_S = 2.5


class Spot:
    """Partitions on a market."""

    def __init__(self, lab: Lab, market: SpotMarket) -> None:
        self.lab, self.market = lab, market
        market.launch()

    def land(self, day: str) -> Trial:
        """Publish a version, and land the next."""
        rng = random.Random(day)
        old = {f"l{n}": f"{day} a {n}" for n in range(ROWS)}
        new = {key: f"{day} b {key} " + "x" * rng.randrange(50, 140) for key in old}
        self._write(day, old)
        self.lab.publish(day)
        self._write(day, new)
        return Trial(self.lab, day, _reversed(old), _reversed(new))

    def start(self, day: str, passages: Passages | None = None) -> Step:
        return self.lab.start(
            day,
            *("--counter", str(self.lab.home / "letters"), "--log", str(self.lab.log)),
            module="tests.chaos.market_step",
            variables=passages.variables if passages else {},
        )

    def go(self, trial: Trial, on_machine: Passages, in_step: Passages | None = None) -> Step:
        """Work the partition through while a machine is taken away; the last step.

        Args:
            trial: the partition.
            on_machine: arms the workers of the machine that goes.
            in_step: arms the step; it is started again if it is killed.
        """
        with self._machine(on_machine) as goes:
            step = self.start(trial.day, in_step)
            if wait_for(lambda: _at_work(on_machine), step) and not on_machine.killed():
                goes.notify(_NOTICE_S)
                wait_for(lambda: on_machine.killed() or not goes.workers(), step)
            trial.killed_at = time.time()
            if in_step is not None and step.wait() == _KILLED:
                trial.killed_at = time.time()
                step = self.start(trial.day)
        assert step.wait() == PUBLISHED, step.output
        return step

    @contextlib.contextmanager
    def _machine(self, armed: Passages) -> Iterator[Machine]:
        machine = self.market.launch(**armed.variables)
        try:
            yield machine
        finally:
            self.market.take_away(machine)

    def _write(self, day: str, texts: dict[str, str]) -> None:
        rows = [{"line_id": key, "text": text, "weight": 1} for key, text in texts.items()]
        shop.write_lines(self.lab.home, rows, day)


def _at_work(passages: Passages) -> bool:
    return passages.killed() or passages.count()["partial.after_put"] > 0


def _reversed(texts: dict[str, str]) -> Landed:
    return Landed({key: text[::-1] for key, text in texts.items()}, dead=())


@pytest.fixture(scope="module")
def spot(ray_head: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spot]:
    assert ray_head  # carries what this process publishes itself
    with (
        open_market(tmp_path_factory.mktemp("market")) as market,
        open_lab(market.address) as lab,
    ):
        yield Spot(lab, market)


@cases("machine", "market")
def test_a_kill_while_a_machine_goes_loses_nothing(spot: Spot, tmp_path: Path, case: Case) -> None:
    print(f"seed {SEED}: {case}")  # noqa: T201
    armed, other = Passages(tmp_path / "armed", case.setting), Passages(tmp_path / "other")
    with spot.land(case.day) as trial:
        if case.way == "machine":
            spot.go(trial, armed)
        else:
            spot.go(trial, other, armed)
    assert armed.killed(), f"{case.setting} was not passed: {armed.count()}"
    trial.verdict().check()


@pytest.mark.sweep
def test_a_machine_that_goes_passes_the_points_on_record(spot: Spot, tmp_path: Path) -> None:
    on_machine, in_step = Passages(tmp_path / "machine"), Passages(tmp_path / "step")
    with spot.land("2026-12-04") as trial:
        step = spot.go(trial, on_machine, in_step)
    trial.verdict().check()
    assert "loses its machine" in step.output
    check("machine", on_machine.count())
    check("market", in_step.count())
