"""The market policies over spot traces: what they cost, what they miss, how often they change.

The cases are fixed beforehand: work of 2, 4, 8 and 24 hours (a night's partitions, a backfill);
deadlines of 1.1, 1.2, 1.5 and 2 times the work; changeovers of 2 and 5 minutes; starts spread
evenly over the traces. On-demand is a p3.2xlarge's 3.06 USD an hour of the time when the public
traces were recorded; spot costs a third of that where a trace has no prices of its own.
Policies are polled every 30 seconds at least and see that moment only; ours keeps a reserve for
estimates that are off by up to 5 % (here they are exact, and the paper's rules keep none). All
tasks count alike: a figure is the mean of what each costs, divided by what on-demand from start
to end costs; with one zone, that is each zone in turn. What nobody can go below, even knowing the
future, is shown beside it.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from overnight.spot.deadline import POLL_S, UNCERTAINTY, DeadlinePolicy
from overnight.spot.decision import OneMarket
from overnight.spot.replay import Greedy, Market, Task, least_cost, replay
from overnight.spot.traces import pools, read_trace
from tests.benchmarks.harness import ROOT, Case, Figure

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from overnight.spot.decision import MarketPolicy
    from overnight.spot.traces import Trace

VARIABLE = "OVERNIGHT_SPOT_TRACES"
WORK_H = (2.0, 4.0, 8.0, 24.0)
LOOSENESS = (1.1, 1.2, 1.5, 2.0)
CHANGEOVER_S = (120.0, 300.0)
ON_DEMAND_USD = 3.06
STARTS = 120
APART_S = 4 * 3600  # starts that are closer see the same machines come and go
_ZONES = 3
_WORST_CASE_S = max(WORK_H) * max(LOOSENESS) * 3600
_USUAL = ROOT.parent / "shared" / "data" / "spot-traces"
OURS = "ours, all zones"
LIMIT = "knowing the future"


class Kind(NamedTuple):
    """What a task is like."""

    work_h: float
    looseness: float
    changeover_s: float


class Sample(NamedTuple):
    """How one task ended: its cost / on-demand, and whether it was late."""

    cost: float
    missed: bool
    changes: int


Results = dict[str, dict[Kind, list[Sample]]]


def _net(task: Task, *, kind: type[DeadlinePolicy], uncertainty: float) -> DeadlinePolicy:
    return kind(
        started=0.0, ends=task.ends_s, changeover_s=task.changeover_s, poll_s=POLL_S,
        uncertainty=uncertainty,
    )  # fmt: skip


ONE_ZONE: dict[str, Callable[[Task], MarketPolicy]] = {
    "on-demand only": lambda _: OneMarket(market="on_demand"),
    "spot only, one zone": lambda _: OneMarket(market="spot"),
    "greedy with a safety net, one zone": lambda t: _net(t, kind=Greedy, uncertainty=0),
    "Uniform Progress, one zone": lambda t: _net(t, kind=DeadlinePolicy, uncertainty=0),
}
ALL_ZONES: dict[str, Callable[[Task], MarketPolicy]] = {
    "spot only, all zones": lambda _: OneMarket(market="spot"),
    "greedy with our net, all zones": lambda t: _net(t, kind=Greedy, uncertainty=UNCERTAINTY),
    "ours, were estimates exact": lambda t: _net(t, kind=DeadlinePolicy, uncertainty=0),
    OURS: lambda t: _net(t, kind=DeadlinePolicy, uncertainty=UNCERTAINTY),
}


def figures(case: Case) -> list[Figure]:
    """Every set of traces in the folder: its table on standard output, and what is bounded."""
    folder = _folder(case)
    if folder is None:
        return []
    files = sorted(folder.glob("*.json"))
    if not files:
        sys.exit(f"{folder} holds no spot traces (*.json)")
    found: list[Figure] = []
    for pool in pools([read_trace(file) for file in files]):
        if starts := _starts(pool):
            results = measure(pool, starts)
            print(report(pool, results), end="\n\n")
            found += _bounded(pool, results)
        else:
            days = _WORST_CASE_S / 86_400
            print(f"{pool[0].kind}: shorter than the longest deadline, {days:g} days", flush=True)
    return found


def measure(pool: Sequence[Trace], starts: Sequence[int]) -> Results:
    """Run every task from every start with every policy."""
    zones, everywhere = [Market([trace]) for trace in pool], Market(pool)
    results: Results = defaultdict(lambda: defaultdict(list))
    for kind, (number, start) in itertools.product(_kinds(), enumerate(starts)):
        task = Task(
            work_s=kind.work_h * 3600, ends_s=kind.work_h * kind.looseness * 3600,
            changeover_s=kind.changeover_s, on_demand_usd=ON_DEMAND_USD,
            spot_usd=ON_DEMAND_USD / 3,
        )  # fmt: skip
        for policies, market in ((ONE_ZONE, zones[number % len(zones)]), (ALL_ZONES, everywhere)):
            for name, policy in policies.items():
                done = replay(market, task, start, policy(task))
                sample = Sample(done.cost / task.on_demand_cost, done.missed, done.machines - 1)
                results[name][kind].append(sample)
        least = least_cost(everywhere, task, start) / task.on_demand_cost
        results[LIMIT][kind].append(Sample(least, missed=False, changes=0))
    return results


def report(pool: Sequence[Trace], results: Results) -> str:
    """The table of a set of traces: policies first, then what is ours, case by case."""
    trace = pool[0]
    days = len(trace.available) * trace.gap_s / 86_400
    zones = ", ".join(f"{one.place[-1]} {statistics.mean(one.available):.0%}" for one in pool)
    lines = [
        f"{trace.kind}: spot in {zones} of {days:.1f} days; cost / on-demand by deadline",
        _line("", [*(f"{ratio:g} x work" for ratio in LOOSENESS), "all", "missed", "changes"]),
    ]
    for name, samples in results.items():
        means = [_cost(samples, looseness=ratio) for ratio in LOOSENESS]
        every = [sample for kind in samples.values() for sample in kind]
        late = sum(sample.missed for sample in every)
        changes = statistics.mean(max(0, sample.changes) for sample in every)
        tail = ["", ""] if name == LIMIT else [f"{late} of {len(every)}", f"{changes:.1f}"]
        lines.append(_line(name, [*(f"{mean:.3f}" for mean in [*means, _cost(samples)]), *tail]))
    for hours, changeover in itertools.product(WORK_H, CHANGEOVER_S):
        fixed = {"work_h": hours, "changeover_s": changeover}
        cells = [_cost(results[OURS], looseness=ratio, **fixed) for ratio in LOOSENESS]
        name = f"  ours, {hours:g} h, changeovers of {changeover / 60:g} min"
        mean = _cost(results[OURS], **fixed)
        lines.append(_line(name, [f"{cell:.3f}" for cell in [*cells, mean]]))
    return "\n".join(lines)


def _bounded(pool: Sequence[Trace], results: Results) -> list[Figure]:
    ours = results[OURS]
    tasks = sum(len(samples) for samples in ours.values())
    missed = sum(sample.missed for samples in ours.values() for sample in samples)
    cost, least = _cost(ours), _cost(results[LIMIT])
    name = f"spot traces {pool[0].kind}, {len(pool)} zones"
    return [
        Figure(
            name=f"{name}: deadlines missed", ours=f"{missed} of {tasks}", ratio=missed, most=0,
            decimals=0,
        ),
        Figure(
            name=f"{name}: cost / on-demand; {LIMIT}", ours=f"{cost:.3f}", peer=f"{least:.3f}",
            ratio=cost, most=0.40 if len(pool) >= _ZONES else None, decimals=3,
        ),
    ]  # fmt: skip


def _cost(samples: dict[Kind, list[Sample]], **fixed: float) -> float:
    return statistics.mean(
        sample.cost
        for kind, found in samples.items()
        if all(getattr(kind, name) == value for name, value in fixed.items())
        for sample in found
    )


def _line(name: str, cells: Sequence[str]) -> str:
    return f"{name:36}" + "".join(f"{cell:>12}" for cell in cells)


def _kinds() -> Iterator[Kind]:
    return itertools.starmap(Kind, itertools.product(WORK_H, LOOSENESS, CHANGEOVER_S))


def _starts(pool: Sequence[Trace]) -> list[int]:
    """Moments from which even the longest task's deadline lies within the traces."""
    moments = min(len(trace.available) for trace in pool)
    last = moments - int(_WORST_CASE_S / pool[0].gap_s) - 1
    if last < 0:
        return []
    count = min(STARTS, 1 + int(last * pool[0].gap_s / APART_S))
    return [round(number * last / max(1, count - 1)) for number in range(count)]


def _folder(case: Case) -> Path | None:
    named = case.traces or os.environ.get(VARIABLE, "").strip()
    folder = Path(named).expanduser() if named else _USUAL
    if folder.is_dir():
        return folder
    told = f"no spot traces: {folder} is no directory; name one with --traces or {VARIABLE}"
    if named:
        sys.exit(told)
    print(f"  {told}", file=sys.stderr, flush=True)
    return None
