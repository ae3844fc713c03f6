"""What is decided about machines, and on record why; the policies that need no deadline.

When a deadline decides, see `overnight.spot.deadline`.
"""

from __future__ import annotations

import datetime as dt
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

_log = logging.getLogger(__name__)

Market = Literal["spot", "on_demand", "wait"]
Rule = Literal[
    "spot", "moved", "caught_up", "waiting", "behind", "safety_net", "on_demand", "nothing", "done"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What to run on from now on.

    Attributes:
        at: when it was decided, in seconds since 1970.
        market: `spot`, `on_demand`, or `wait`: hold no machine.
        place: where the spot machine is, as it was offered; None for other markets.
        rule: the rule that decided, for programs.
        reason: why, for people.
    """

    at: float
    market: Market
    place: str | None
    rule: Rule
    reason: str

    def as_record(self) -> dict[str, Any]:
        """JSON-able, for `lineage.attempts.decisions`."""
        return {
            "decision": "market",
            "at": dt.datetime.fromtimestamp(self.at, dt.UTC).isoformat(timespec="seconds"),
            "market": self.market,
            "place": self.place,
            "rule": self.rule,
            "reason": self.reason,
        }


class MarketPolicy(Protocol):
    """Whatever can say on which market to run."""

    def decide(
        self,
        now: float,
        *,
        work_left_s: float,
        share_left: float,
        spot: Sequence[str],
        on_demand: bool = True,
    ) -> Decision:
        """Say what to run on from now until the next call.

        Args:
            now: seconds since 1970.
            work_left_s: seconds that on-demand machines would need for what is not yet done.
            share_left: share of the whole work that is not yet done, 0 to 1: exact where
                `work_left_s` is an estimate.
            spot: places that have a spot machine, the preferred first; the one that is held
                belongs to them for as long as it lives.
            on_demand: whether an on-demand machine can be had; true if one is held.

        Returns:
            The decision; the same object as before for as long as nothing changes.
        """
        ...


@dataclass(slots=True)
class Decisions:
    """The decisions of one run: each that changed something, logged when it is made.

    Attributes:
        history: all of them, the last one last.
    """

    history: list[Decision] = field(default_factory=list)

    @property
    def last(self) -> Decision | None:
        """What counts now."""
        return self.history[-1] if self.history else None

    @property
    def held(self) -> str | None:
        """Where a spot machine was taken, unless it was given up since."""
        return self.last.place if self.last else None

    def settle(self, now: float, market: Market, rule: Rule, reason: str) -> Decision:
        """Decide for a market; the same decision again is the one that counts already."""
        return self._keep(Decision(at=now, market=market, place=None, rule=rule, reason=reason))

    def take(self, now: float, place: str, *, why: str = "", rule: Rule = "spot") -> Decision:
        """Decide for the spot machine in a place."""
        if self.held:
            rule, why = "moved", f"lost in {self.held}"
        reason = f"{why}: spot in {place}" if why else f"spot in {place}"
        return self._keep(Decision(at=now, market="spot", place=place, rule=rule, reason=reason))

    def _keep(self, made: Decision) -> Decision:
        last = self.last
        if last and (last.market, last.place, last.rule) == (made.market, made.place, made.rule):
            return last
        self.history.append(made)
        _log.info("Market: %s", made.reason)
        return made


@dataclass(slots=True, kw_only=True)
class OneMarket:
    """Only spot, waiting while there is none; or only on-demand.

    Attributes:
        market: the one.
        decisions: what was decided so far.
    """

    market: Literal["spot", "on_demand"]
    decisions: Decisions = field(default_factory=Decisions)

    def decide(
        self,
        now: float,
        *,
        work_left_s: float,
        share_left: float,  # noqa: ARG002 - the protocol's, as is on_demand
        spot: Sequence[str],
        on_demand: bool = True,  # noqa: ARG002 - likewise
    ) -> Decision:
        """As `MarketPolicy.decide`."""
        settle = self.decisions.settle
        last = self.decisions.last
        if work_left_s <= 0:
            return settle(now, "wait", "done", "nothing is left to do")
        if self.market == "on_demand":
            return settle(now, "on_demand", "on_demand", "the job asks for on-demand machines")
        if last and last.place in spot:
            return last
        if spot:
            return self.decisions.take(now, spot[0])
        return settle(now, "wait", "waiting", "no spot, and the job takes nothing else")
