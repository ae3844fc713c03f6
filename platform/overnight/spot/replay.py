"""What a market policy would have cost, and kept, on spot traces.

A machine is paid from the moment it is asked for, and works after a changeover. When a trace
has no machine any more, one that is held there is lost; what it did is kept, as journalled rows
are. The policy is polled, and sees what the moment has to offer, not what comes. Idle time costs
nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.spot.deadline import POLL_S, DeadlinePolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.spot.decision import Decision, MarketPolicy
    from overnight.spot.traces import Trace

_DONE_S = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Work with a deadline.

    Attributes:
        work_s: seconds of work on one machine, on-demand or spot.
        ends_s: seconds from the start to the deadline.
        changeover_s: seconds from asking for a machine until it works.
        on_demand_usd: an on-demand machine's price, USD an hour.
        spot_usd: a spot machine's, where the trace does not say.
    """

    work_s: float
    ends_s: float
    changeover_s: float
    on_demand_usd: float = 3.0
    spot_usd: float = 1.0

    @property
    def on_demand_cost(self) -> float:
        """What one on-demand machine from start to end costs, USD."""
        return (self.work_s + self.changeover_s) * self.on_demand_usd / 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a task.

    Attributes:
        cost: USD.
        ended_s: seconds from the start to the end of the work; None: the trace ended first.
        missed: whether the deadline was missed.
        machines: how many were started.
    """

    cost: float
    ended_s: float | None
    missed: bool
    machines: int


class Market:
    """Several places' traces, moment by moment.

    Attributes:
        places: the places, the preferred first.
        gap_s: seconds from one moment to the next.
        offers: for each moment, the places that have a spot machine.
    """

    def __init__(self, traces: Sequence[Trace]) -> None:
        self.places = tuple(trace.place for trace in traces)
        self.gap_s = traces[0].gap_s
        self._prices = {trace.place: trace.prices for trace in traces if trace.prices}
        columns = zip(*(trace.available for trace in traces), strict=False)
        self.offers = [
            tuple(place for place, has in zip(self.places, row, strict=True) if has)
            for row in columns
        ]

    def price(self, task: Task, decision: Decision, moment: int) -> float:
        """Of the machine that was decided for, in USD a second.

        Raises:
            ValueError: if that is a spot machine which is not to be had.
        """
        if decision.place is None:
            return task.on_demand_usd / 3600
        if decision.place not in self.offers[moment]:
            raise ValueError(f"{decision} takes what is not on offer: {self.offers[moment]}")
        return self.spot_price(task, decision.place, moment)

    def spot_price(self, task: Task, place: str, moment: int) -> float:
        """Of a spot machine, in USD a second."""
        prices = self._prices.get(place)
        return (prices[moment] if prices else task.spot_usd) / 3600


def replay(
    market: Market, task: Task, start: int, policy: MarketPolicy, *, poll_s: float = POLL_S
) -> Outcome:
    """Work a task off, from a moment of the traces on, as a policy decides.

    Args:
        market: the traces.
        task: the work.
        start: the moment at which it starts.
        policy: a fresh one, whose clock shows 0 at the start.
        poll_s: the most seconds between two decisions.
    """
    polls = math.ceil(market.gap_s / poll_s)
    step, now, left = market.gap_s / polls, 0.0, task.work_s
    cost, machines, starting, usd = 0.0, 0, 0.0, 0.0
    runs: Decision | None = None
    for poll in range(start * polls, len(market.offers) * polls):
        moment, later = divmod(poll, polls)
        decision = policy.decide(
            now, work_left_s=left, share_left=left / task.work_s, spot=market.offers[moment]
        )
        if decision is not runs or not later:
            if runs is None or (decision.market, decision.place) != (runs.market, runs.place):
                starting = task.changeover_s
                machines += decision.market != "wait"
            runs, usd = decision, market.price(task, decision, moment)
        if decision.market != "wait":
            spent = min(step, starting + left)
            worked = max(0.0, spent - starting)
            starting, left, cost = starting - (spent - worked), left - worked, cost + spent * usd
            if left <= _DONE_S:
                missed = now + spent > task.ends_s + _DONE_S
                return Outcome(cost=cost, ended_s=now + spent, missed=missed, machines=machines)
        now += step
    return Outcome(cost=cost, ended_s=None, missed=True, machines=machines)


def least_cost(market: Market, task: Task, start: int) -> float:
    """What nobody can go below, even knowing the future, in USD.

    Every moment that has a spot machine anywhere is worked, the cheapest first, and only one
    changeover is paid.
    """
    end = start + math.ceil(task.ends_s / market.gap_s)
    usable = [
        min(market.spot_price(task, place, moment) for place in market.offers[moment])
        for moment in range(start, min(len(market.offers), end))
        if market.offers[moment]
    ]
    dear = task.on_demand_usd / 3600
    left = task.work_s
    cost = task.changeover_s * min([*usable, dear])
    for price in sorted(usable):
        worked = min(left, market.gap_s)
        cost += worked * min(price, dear)
        left -= worked
    return cost + left * dear


class Greedy(DeadlinePolicy):
    """Spot or nothing until the safety net catches: what Uniform Progress is compared with."""

    def _ahead(self, now: float, share_left: float) -> float:  # noqa: ARG002 - as its parent
        return float("inf")
