"""Machines that are lost: what a kill costs, how soon others go on, and what comes out of a night.

Machines are nodes of a real Ray cluster (`tests.chaos.market`), or a step with a Ray of its own.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

import psutil

from tests.benchmarks.harness import Case, Figure
from tests.chaos.lab import Lab, Step, open_lab
from tests.chaos.market import Machine, SpotMarket, open_market
from tests.support import shop

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

DAY = "2026-01-05"
KILLED_ROWS, KILLED_AT = 2000, 0.8
# Measured on a machine like this one (Ray Data 2.60, `CheckpointConfig`, 2,000 rows).
PEER_BY_DEFAULT, PEER_TUNED = 1.0, 0.031
GOODPUT_ROWS = 9000
EVERY_S, NOTICE_S = 60.0, 30.0


def figures(case: Case) -> list[Figure]:
    """All three."""
    again = statistics.median(killed(case) for _ in range(case.runs))
    seconds = statistics.median(recovered() for _ in range(case.runs))
    calm = night(case, disturbed=False)
    rough = night(case, disturbed=True)
    return [
        Figure(
            name=f"rows inferred again after kill -9 at {KILLED_AT:.0%} of {KILLED_ROWS}; Ray Data",
            ours=f"{again:.2%}",
            peer=f"{PEER_BY_DEFAULT:.0%}, tuned {PEER_TUNED:.1%}",
            ratio=again,
            most=0.005,
            decimals=4,
        ),
        Figure(
            name="a worker lost, a spare machine ready: its rows run again after seconds",
            ours=f"{seconds:.1f} s",
            ratio=seconds,
            most=3,
        ),
        Figure(
            name=f"goodput, a machine taken every {EVERY_S:.0f} s with {NOTICE_S:.0f} s notice",
            ours=f"{rough['seconds']:.0f} s",
            peer=f"{calm['seconds']:.0f} s",
            ratio=calm["seconds"] / rough["seconds"],
            least=0.90,
        ),
    ]


def killed(case: Case) -> float:
    """Share of rows inferred again after everything was killed at once; settings by default."""
    from tests.benchmarks.bench_static_batches import requests

    with open_lab(None) as lab:
        finished = land(lab, *requests(2, KILLED_ROWS))
        step = start(lab, case, finished)
        until(lambda: finished.stat().st_size >= KILLED_AT * KILLED_ROWS, step)
        kill_all(step)
        step = start(lab, case, finished)
        if step.wait():
            raise RuntimeError(step.output)
        again = finished.stat().st_size - KILLED_ROWS
    print(f"  {again} of {KILLED_ROWS} rows inferred again", file=sys.stderr, flush=True)
    return again / KILLED_ROWS


def recovered() -> float:
    """Seconds from a worker's loss until its rows run elsewhere; the engine starts at once."""
    with cluster() as (market, lab):
        market.launch()
        market.launch()
        counter = lab.home / "letters"
        counter.touch()
        shop.write_lines(lab.home, [shop.line(n, "x" * 2000) for n in range(16)], DAY)
        step = lab.start(
            DAY, "--counter", str(counter), "--workers", "1", module="tests.chaos.market_step"
        )
        until(lambda: counter.stat().st_size > 0, step)
        (busy,) = [machine for machine in market.machines if machine.workers()]
        busy.end()
        lost = time.monotonic()
        size = counter.stat().st_size
        until(lambda: counter.stat().st_size > size, step)
        seconds = time.monotonic() - lost
        kill_all(step)
    print(f"  running again after {seconds:.1f} s", file=sys.stderr, flush=True)
    return seconds


def night(case: Case, *, disturbed: bool) -> dict[str, float]:
    """Seconds from the first finished row to the last, with a machine at a time."""
    from tests.benchmarks.bench_static_batches import requests

    with cluster() as (market, lab):
        machine = market.launch()
        finished = land(lab, *requests(3, GOODPUT_ROWS))
        # One thread: the other core is the one of the machine that comes.
        step = start(lab, case, finished, "--threads", "1", "--seqs", "64")
        until(lambda: finished.stat().st_size > 0, step)
        began = time.monotonic()
        next_notice = began + EVERY_S - NOTICE_S
        taken: list[tuple[float, Machine]] = []
        interruptions = 0
        while finished.stat().st_size < GOODPUT_ROWS:
            now = time.monotonic()
            if not step.running:
                raise RuntimeError(step.output)
            if disturbed and now >= next_notice:
                machine.notify(NOTICE_S)
                taken.append((now + NOTICE_S, machine))
                machine = market.launch()
                next_notice += EVERY_S
                interruptions += 1
            for at, old in list(taken):
                if now >= at:
                    market.take_away(old)
                    taken.remove((at, old))
            time.sleep(0.05)
        seconds = time.monotonic() - began
        if step.wait():
            raise RuntimeError(step.output)
    print(f"  {seconds:.0f} s, {interruptions} interruptions", file=sys.stderr, flush=True)
    return {"seconds": seconds, "interruptions": interruptions}


@contextlib.contextmanager
def cluster() -> Iterator[tuple[SpotMarket, Lab]]:
    """A market without machines, and an installation that uses it."""
    import tempfile
    from pathlib import Path

    with (
        tempfile.TemporaryDirectory() as folder,
        open_market(Path(folder)) as market,
        open_lab(market.address) as lab,
    ):
        try:
            yield market, lab
        finally:
            for machine in market.machines:
                market.take_away(machine)


def land(lab: Lab, texts: list[str], lengths: list[int]) -> Path:
    """Land the rows; the file that will tell how many were finished."""
    rows: list[Any] = [
        shop.line(n, f"{length} {text}")
        for n, (length, text) in enumerate(zip(lengths, texts, strict=True))
    ]
    shop.write_lines(lab.home, rows, DAY)
    finished = lab.home / "finished"
    finished.touch()
    return finished


def start(lab: Lab, case: Case, finished: Path, *arguments: str) -> Step:
    """Start a step that infers what has landed."""
    told = ("--model", case.model, "--finished", str(finished), *arguments)
    return lab.start(DAY, *told, module="tests.benchmarks.spot_step")


def until(condition: Callable[[], bool], step: Step) -> None:
    """Wait until something holds; the step must not end before."""
    give_up = time.monotonic() + 300
    while not condition():
        if not step.running or time.monotonic() > give_up:
            raise RuntimeError(step.output)
        time.sleep(0.002)


def kill_all(step: Step) -> None:
    """Kill a step with all that it has started, at once."""
    process = psutil.Process(step.process.pid)
    for one in (*process.children(recursive=True), process):
        with contextlib.suppress(psutil.Error):
            one.kill()
    step.process.wait()
