"""What became of a partition's rows, in Jepsen's words; and what the loss cost."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.journal.writer import SHORTEST_INTERVAL
from tests.chaos.step import BATCH, STEP_SECONDS
from tests.chaos.watch import digest

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.chaos.engine import Event

_STEPS_BESIDES = 2
"""One that is noted and not journalled yet, one that fits in what a flush itself takes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """All numbers are rows, unless they say otherwise.

    Attributes:
        lost: landed, and neither published nor a dead letter.
        duplicated: published or dead-lettered more than once.
        unexpected: published with another content than the landed row's, or without one.
        recovered: inferred before the kill, published, and not inferred again.
        twice: inferred more than once, each repetition counted.
        bound: what may be inferred twice: see `bound`.
        mixtures: contents that the reader saw, and that were neither the old nor the new.
        went_back: whether the reader saw the old content after the new one.
        interval_s: the longest time between two flushes, in seconds.
    """

    lost: int
    duplicated: int
    unexpected: int
    recovered: int
    twice: int
    bound: int
    mixtures: int
    went_back: bool
    interval_s: float

    def check(self) -> None:
        """Raise AssertionError unless the promises 1, 2, 4 and 5 were kept."""
        assert (self.lost, self.duplicated, self.unexpected) == (0, 0, 0), self
        assert (self.mixtures, self.went_back) == (0, False), self
        assert self.twice <= self.bound, self


def bound(interval_s: float) -> int:
    """The most rows that fit in one flush interval, at the pace of the engine.

    The writer flushes every 0.1 s, or less often where a flush is so slow that this would cost
    more than 5% of the time; `interval_s` is what it was. A kill just before a flush is durable
    costs what the engine finished since the one before: the interval's steps, the one that
    fits in what the flush takes, and the one that is noted in the log and not appended yet.
    """
    interval = max(interval_s, SHORTEST_INTERVAL)
    return BATCH * (math.ceil(interval / STEP_SECONDS) + _STEPS_BESIDES)


def verdict(
    *,
    expected: Mapping[str, str],
    dead: Sequence[str],
    published: Sequence[tuple[str, str]],
    dead_lettered: Sequence[str],
    before: Mapping[str, str],
    seen: Sequence[str],
    inferred: Sequence[Event],
    killed_at: float,
    interval_s: float,
) -> Verdict:
    """Hold what is there against what has landed.

    Args:
        expected: key -> content of the rows that should be published.
        dead: keys of the rows that cannot be inferred.
        published: (key, content) of each published row.
        dead_lettered: the key of each dead letter.
        before: key -> content of what was published before.
        seen: what a reader saw, in order: see `watch.Reader`.
        inferred: what the engine's log says.
        killed_at: seconds since the epoch.
        interval_s: see `bound`.
    """
    keys = Counter([key for key, _ in published]) + Counter(dead_lettered)
    times = Counter(event.text for event in inferred)
    early = {event.text for event in inferred if event.at <= killed_at}
    old, new = digest(before), digest(expected)
    return Verdict(
        lost=len((expected.keys() | set(dead)) - keys.keys()),
        duplicated=sum(count - 1 for count in keys.values()),
        unexpected=sum(expected.get(key) != content for key, content in published)
        + len(set(dead_lettered) - set(dead)),
        recovered=sum(times[text] == 1 for text in early),
        twice=sum(count - 1 for count in times.values()),
        bound=bound(interval_s),
        mixtures=len(set(seen) - {old, new}),
        went_back=list(seen) not in ([old], [new], [old, new]),
        interval_s=interval_s,
    )
