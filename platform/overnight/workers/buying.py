"""On which market the next workers are asked for: what the policy decides, in Ray's words.

Ray's autoscaler finds the machine, in whatever zone and of whatever type the cluster file
allows; here is only said which market it should come from. A market that has no machine within
a changeover counts as empty until it is asked again.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from overnight.spot.deadline import CHANGEOVER_S
from overnight.workers.machines import INSTANCE_LABEL, MARKET_LABEL

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from overnight.spot.decision import MarketPolicy
    from overnight.workers.member import Member

SPOT, ON_DEMAND = "spot", "on-demand"
_ANY_ZONE = "any zone"
_ASK_AGAIN_S = 300.0


class Buyer:
    """Asks the policy, and remembers when spot machines could not be had.

    Args:
        policy: decides.
        instance_types: those that will do; empty: any.
        ends_in_s: seconds until the deadline; None for no deadline.
        pace: rows that one worker infers in a second, as far as is known before any has.
        note: puts a decision on record.
        patience_s: seconds in which a machine comes, if there is one.
        clock: Unix seconds.
    """

    def __init__(
        self,
        policy: MarketPolicy,
        *,
        instance_types: tuple[str, ...] = (),
        ends_in_s: float | None = None,
        pace: float | None = None,
        note: Callable[[Mapping[str, Any]], None] = lambda _: None,
        patience_s: float = CHANGEOVER_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._policy = policy
        self._types = instance_types
        self._clock = clock
        self._ends = None if ends_in_s is None else clock() + ends_in_s
        self._pace = pace
        self._note = note
        self._patience_s = patience_s
        self._asked: float | None = None
        self._empty_since: float | None = None
        self._last: object = None

    def decide(
        self, members: Iterable[Member], *, left: int, total: int, pace: float | None
    ) -> str:
        """The market to ask for workers on now: `SPOT` or `ON_DEMAND`.

        Args:
            members: the pool's workers.
            left: rows that are not done.
            total: rows in all.
            pace: rows that one worker infers in a second, if it has been measured.
        """
        now = self._clock()
        decision = self._policy.decide(
            now,
            work_left_s=self._work_left(now, left, pace),
            share_left=left / total if total else 0.0,
            spot=[_ANY_ZONE] if self._spot_can_be_had(now, members) else [],
        )
        if decision is not self._last:
            self._last = decision
            self._note(decision.as_record())
        return ON_DEMAND if decision.market == "on_demand" else SPOT

    def selector(self, market: str) -> dict[str, str]:
        """What Ray has to look for in a machine's labels."""
        selector = {MARKET_LABEL: market}
        if self._types:
            selector[INSTANCE_LABEL] = f"in({','.join(self._types)})"
        return selector

    def _work_left(self, now: float, left: int, pace: float | None) -> float:
        known = pace or self._pace
        if known:
            return left / known
        # Nothing is known: neither to be late nor to have all the time in the world is assumed.
        return 0.5 * max(1.0, self._ends - now) if self._ends is not None else float(left)

    def _spot_can_be_had(self, now: float, members: Iterable[Member]) -> bool:
        mine = [m for m in members if m.market == SPOT and m.stays]
        if any(member.node is not None for member in mine):
            self._asked = self._empty_since = None
            return True
        if mine:
            self._asked = self._asked or now
            if now - self._asked > self._patience_s:
                self._empty_since = self._empty_since or now
        else:
            self._asked = None
        if self._empty_since is not None and now - self._empty_since > _ASK_AGAIN_S:
            self._asked = self._empty_since = None
        return self._empty_since is None
