"""Which crash points the ways of a partition pass, and at which passages a process is killed.

`PASSES` is on record rather than counted in each session, so that a case's id says all that
reproduces it; `check` holds a count against it. How a way is gone is its test's business.
"""

from __future__ import annotations

import datetime as dt
import os
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections import Counter

SEED = int(os.environ.get("OVERNIGHT_TEST_SEED", "20270101"))
LATER = 3
"""Passages besides the first at which a process is killed, if it comes there so often."""


def around(*names: str, passes: int = 1) -> dict[str, int]:
    """`around("a.b")`: before and after `b`."""
    parts = [name.split(".") for name in names]
    return {f"{at}.{when}_{do}": passes for at, do in parts for when in ("before", "after")}


# Each at the least: the store decides how often a worker flushes, and a busy one is slow.
PASSES: dict[str, dict[str, int]] = {
    "replace": {
        **around("warehouse.commit", passes=11),
        **around("lease.take", "attempt.start", "attempt.finish", "lease.release"),
        **around("plan.spool", "pool.hand_out", passes=3),
        **around("stage.copy", passes=2),
        **around("compute.commit", "ledger.write", "publish.commit"),
        **around("partial.forget", "journal.collect"),
    },
    "merge": {
        **around("warehouse.commit", passes=10),
        **around("stage.copy", passes=2),
        **around("merge.keep", "publish.commit", "attempt.finish"),
    },
    "worker": {
        **around("store.rename", "journal.put", passes=10),
        **around("journal.merge_delete", "worker.lease", "worker.release"),
    },
    "machine": {
        **around("partial.put", passes=6),
        **around("drain.take_out", "drain.end"),
        **around("drain.flush", "drain.refuse", passes=2),
    },
    "market": {
        **around("attempt.decision", "pool.requeue", passes=2),
    },
    "training": {
        **around("store.rename", passes=3),
        **around("registry.card", "registry.in_service"),
    },
}
BY_DEFAULT = {
    "replace-attempt.after_start-1",
    "replace-publish.before_commit-1",
    "replace-publish.after_commit-1",
    "merge-merge.after_keep-1",
    "worker-journal.after_merge_delete-1",
    "worker-worker.before_release-1",
    "machine-drain.before_refuse-1",
    "training-registry.before_in_service-1",
}


@dataclass(frozen=True, slots=True)
class Case:
    """Where to kill, and a partition of its own."""

    way: str
    point: str
    nth: int
    day: str

    def __str__(self) -> str:
        return f"{self.way}-{self.point}-{self.nth}"

    @property
    def setting(self) -> str:
        return f"{self.point}:{self.nth}"


def all_cases() -> list[Case]:
    """The first passage of each point, and some later ones that the seed chooses."""
    chosen = [
        (way, point, nth)
        for way, passes in PASSES.items()
        for point, most in passes.items()
        for nth in _nths(way, point, most)
    ]
    first = dt.date(2027, 1, 1)
    return [
        Case(way, point, nth, (first + dt.timedelta(days=number)).isoformat())
        for number, (way, point, nth) in enumerate(chosen)
    ]


def _nths(way: str, point: str, most: int) -> list[int]:
    later = range(2, most + 1)
    rng = random.Random(f"{SEED}-{way}-{point}")
    return [1, *sorted(rng.sample(later, min(LATER, len(later))))]


def cases(*ways: str) -> Any:
    """Run a test for every case of some ways: few by default, all in the sweep."""
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(
                case, id=str(case), marks=() if str(case) in BY_DEFAULT else pytest.mark.sweep
            )
            for case in all_cases()
            if case.way in ways
        ],
    )


def check(way: str, count: Counter[str]) -> None:
    """Raise AssertionError if a point was passed less often than `PASSES` says."""
    print(way, dict(sorted(count.items())))  # noqa: T201
    short = {
        point: (least, count[point]) for point, least in PASSES[way].items() if count[point] < least
    }
    assert not short, f"point: (passages on record, passages of a {way} run): {short}"
