"""kill -9 at seeded random moments, of everything that can be killed.

A partition is published in one version, lands again with every row changed, and while that is
worked through, something is killed. What the orchestrator does then is done here: the step is
started again until it succeeds.

The seed decides the moment: `pytest "tests/chaos/test_kill.py::...[step-7]"` kills there again.
"""

from __future__ import annotations

import datetime as dt
import random
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.chaos.lab import ROWS, rows_of, wait_for
from tests.chaos.step import PUBLISHED, RETRY
from tests.chaos.verdict import Verdict, verdict
from tests.chaos.watch import Flushes, Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chaos.engine import Log
    from tests.chaos.lab import Lab, Step

VICTIMS = ("step", "worker", "postgres")
BY_DEFAULT = range(2)
ALL = range(25)
TRIES = 4
_KILLED = -signal.SIGKILL
_STARTING_S, _ENDING_S, _BETWEEN_S = 3.0, 0.5, 0.1


@dataclass(frozen=True, slots=True)
class Moment:
    """When to kill: `delay` seconds after so many rows have been inferred."""

    rows: int
    delay: float


def moment(victim: str, seed: int) -> Moment:
    """Of five kills one is at the start (imports, plan), one at the end (staging, publishing)."""
    rng = random.Random(f"{victim}-{seed}")
    phase = rng.choices(("start", "inference", "end"), (1, 3, 1))[0]
    if phase == "start":
        return Moment(0, rng.uniform(0, _STARTING_S))
    if phase == "end":
        return Moment(ROWS, rng.uniform(0, _ENDING_S))
    return Moment(rng.randrange(1, ROWS), rng.uniform(0, _BETWEEN_S))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a case came to: the verdict, the steps' exit codes, whether the kill came in time."""

    verdict: Verdict
    codes: tuple[int, ...]
    hit: bool


@pytest.fixture(scope="module")
def outcomes() -> Iterator[dict[str, list[Outcome]]]:
    """Collects what the cases came to, and says it at the end."""
    found: dict[str, list[Outcome]] = defaultdict(list)
    yield found
    for victim, cases in found.items():
        print(f"\n{victim}: {summary(cases)}")  # noqa: T201


def summary(cases: list[Outcome]) -> str:
    verdicts = [case.verdict for case in cases]
    worst = max(verdicts, key=lambda one: one.twice)
    return (
        f"{len(cases)} cases, {sum(case.hit for case in cases)} hit, "
        f"{sum(len(case.codes) for case in cases)} tries; "
        f"lost {sum(v.lost for v in verdicts)}, "
        f"duplicated {sum(v.duplicated for v in verdicts)}, "
        f"unexpected {sum(v.unexpected for v in verdicts)}, "
        f"recovered {sum(v.recovered for v in verdicts)}; "
        f"mixtures {sum(v.mixtures for v in verdicts)}; inferred twice at most {worst.twice} of "
        f"{ROWS} (bound {worst.bound}, bounds {min(v.bound for v in verdicts)} to "
        f"{max(v.bound for v in verdicts)}, flush interval up to "
        f"{max(v.interval_s for v in verdicts):.2f} s)"
    )


@pytest.mark.parametrize("seed", BY_DEFAULT)
@pytest.mark.parametrize("victim", VICTIMS)
def test_a_kill_loses_nothing_and_costs_one_flush_interval(
    lab: Lab, victim: str, seed: int, outcomes: dict[str, list[Outcome]]
) -> None:
    outcome = case(lab, victim, seed)
    outcomes[victim].append(outcome)
    outcome.verdict.check()


@pytest.mark.sweep
@pytest.mark.parametrize("seed", ALL)
@pytest.mark.parametrize("victim", VICTIMS)
def test_no_kill_at_any_seeded_moment_loses_anything(
    lab: Lab, victim: str, seed: int, outcomes: dict[str, list[Outcome]]
) -> None:
    outcome = case(lab, victim, seed)
    outcomes[victim].append(outcome)
    outcome.verdict.check()


def case(lab: Lab, victim: str, seed: int) -> Outcome:
    """Publish a version, land the next, kill, try again until it is published."""
    when = moment(victim, seed)
    day = day_of(victim, seed)
    print(f"{victim}-{seed}: {when}")  # noqa: T201
    before = lab.land(day, "a")
    lab.publish(day)
    landed = lab.land(day, "b")
    log = lab.tail()
    url = lab.warehouse.url(hide_password=False)
    with Reader(url, day) as reader, Flushes(lab.journal, day) as flushes:
        step = lab.start(day)
        killed_at = kill(lab, victim, step, log, when)
        codes = retried(lab, day, step)
    outcome = Outcome(
        verdict(
            expected=landed.expected,
            dead=landed.dead,
            published=lab.published(day),
            dead_lettered=lab.dead_letters(day),
            before=before.expected,
            seen=reader.seen,
            inferred=log.inferred(),
            killed_at=killed_at or time.time(),
            interval_s=flushes.longest_gap(),
        ),
        codes,
        hit=killed_at is not None,
    )
    print(outcome, f"{reader.polls} polls, {flushes.count} flushes")  # noqa: T201
    return outcome


def day_of(victim: str, seed: int) -> str:
    """A partition for each case: none is touched by what another one left."""
    first = dt.date(2026, 1, 1) + dt.timedelta(days=40 * VICTIMS.index(victim))
    return (first + dt.timedelta(days=seed)).isoformat()


def kill(lab: Lab, victim: str, step: Step, log: Log, when: Moment) -> float | None:
    """Wait for the moment and kill; the time, or None if there was nothing left to kill."""
    if not wait_for(lambda: rows_of(log.inferred()) >= when.rows, step):
        return None
    time.sleep(when.delay)
    if not step.running:
        return None
    if victim == "step":
        step.signal(signal.SIGKILL)
    elif victim == "worker":
        worker = lab.worker()
        if worker is None:
            return None
        worker.kill()
    else:
        pid = lab.warehouse.server_pid
        assert pid is not None
        psutil.Process(pid).kill()
    return time.time()


def retried(lab: Lab, day: str, step: Step, *arguments: str) -> tuple[int, ...]:
    """Start the step again as long as its end is one that passes; the exit codes."""
    codes = [step.wait()]
    while codes[-1] in {RETRY, _KILLED} and len(codes) < TRIES:
        print(step.output)  # noqa: T201
        step = lab.start(day, *arguments)
        codes.append(step.wait())
    assert codes[-1] == PUBLISHED, step.output
    return tuple(codes)
