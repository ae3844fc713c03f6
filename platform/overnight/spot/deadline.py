"""Spot or on-demand, now? Decided by how much work and how much time is left.

Spot machines cost about a third and may be taken away; a deadline must be kept whatever
happens. The rules are those of Uniform Progress (Wu et al., "Can't Be Late: Optimizing Spot
Instance Savings under Deadlines", NSDI 2024), with several places to find spot machines in:

* **On schedule** is whoever has no larger share of the work left than of the time.
* A spot machine that is held is kept until it is taken away; then the next place that has one
  is asked, cheapest first. Work that is on schedule waits for spot; work behind schedule goes
  on on-demand.
* On-demand is left for spot only when the work is ahead by two changeovers. That is the
  hysteresis: a market that comes and goes every minute cannot make a job change every minute.
* **The safety net.** Any state but on-demand may turn out useless until the next poll. So if an
  on-demand machine that starts one poll from now could just still make it, it is asked for now.
  To start a spot machine takes a changeover more: one that is given up before it has started is
  money lost. `uncertainty` keeps a share of the work left in reserve, because how long the rest
  takes is an estimate; released again only at twice that, so that an estimate which swings does
  not swing the job.

The deadline is kept if on-demand machines can be had, start within `changeover_s`, if polls are
at most `poll_s` apart, if nothing that counted as done is lost, and if the work left is never
underestimated by more than `uncertainty`; and if on-demand from the start could have kept it.

Pure: time and what the market has are passed in, nothing is asked or started.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overnight.errors import ConfigError
from overnight.spot.decision import Decisions, OneMarket

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.spot.decision import Decision
    from overnight.spot.policy import SpotPolicy

CHANGEOVER_S = 180.0
POLL_S = 30.0
UNCERTAINTY = 0.05


@dataclass(slots=True, kw_only=True)
class DeadlinePolicy:
    """Uniform Progress over several places, with a safety net.

    Attributes:
        started: when the job started, in seconds since 1970.
        ends: by when it has to be done, likewise.
        changeover_s: seconds from asking for a machine until it works.
        poll_s: the most seconds between two calls of `decide`.
        uncertainty: by what share `work_left_s` may be too low.
        places: every place that may have spot machines; only named in reasons.
        timezone: in which reasons tell the time.
        decisions: what was decided so far.
    """

    started: float
    ends: float
    changeover_s: float = CHANGEOVER_S
    poll_s: float = POLL_S
    uncertainty: float = UNCERTAINTY
    places: tuple[str, ...] = ()
    timezone: dt.tzinfo = dt.UTC
    decisions: Decisions = field(default_factory=Decisions)
    _share_at_start: float | None = None

    def __post_init__(self) -> None:
        if self.ends <= self.started:
            raise ConfigError(
                f"the deadline {self._clock(self.ends)} is not after the start of the job, "
                f"{self._clock(self.started)}; set a later one"
            )
        for name in ("changeover_s", "poll_s", "uncertainty"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}, must be 0 or more")

    def decide(  # noqa: PLR0911 - one for each rule
        self,
        now: float,
        *,
        work_left_s: float,
        share_left: float,
        spot: Sequence[str],
        on_demand: bool = True,
    ) -> Decision:
        """As `MarketPolicy.decide`."""
        if self._share_at_start is None:
            # What an earlier attempt did is no head start: the schedule is made for the rest.
            self._share_at_start = share_left or 1.0
        if work_left_s <= 0:
            return self.decisions.settle(now, "wait", "done", "nothing is left to do")
        if not on_demand:
            return self._without_on_demand(now, spot)
        last, d = self.decisions.last, self.changeover_s
        # What may be lost, beyond all until the next poll, with on-demand still making it.
        reserve = work_left_s * self.uncertainty
        spare = self.ends - now - self.poll_s - d - work_left_s - reserve
        if last and last.market == "on_demand":
            ahead = self._ahead(now, share_left)
            if not spot or ahead < 2 * d or spare - reserve < 2 * d:
                return last
            why = f"ahead of schedule by {_minutes(ahead)}"
            return self.decisions.take(now, spot[0], why=why, rule="caught_up")
        holds = self.decisions.held in spot
        if last and holds and spare >= 0:
            return last
        if holds or spare < d:
            left, work = _minutes(self.ends - now), _minutes(work_left_s)
            until = f"on-demand to the end, to be done by {self._clock(self.ends)}"
            reason = f"{left} left for {work} of work: {until}"
            return self.decisions.settle(now, "on_demand", "safety_net", reason)
        if spot:
            return self.decisions.take(now, spot[0])
        return self._without_spot(now, spare - d, work_left_s, share_left)

    def _without_spot(
        self, now: float, spare: float, work_left_s: float, share_left: float
    ) -> Decision:
        ahead = self._ahead(now, share_left)
        if ahead < 0:
            until = self._catches_up(now, work_left_s, share_left)
            late = f"behind schedule by {_minutes(-ahead)}"
            reason = f"{late} and {self._nowhere()}: on-demand until {until}"
            return self.decisions.settle(now, "on_demand", "behind", reason)
        until = self._clock(now + min(ahead, spare))
        reason = f"{self._nowhere()}, but not behind schedule: waiting until {until} at most"
        return self.decisions.settle(now, "wait", "waiting", reason)

    def _without_on_demand(self, now: float, spot: Sequence[str]) -> Decision:
        last = self.decisions.last
        if last and self.decisions.held in spot:
            return last
        if spot:
            return self.decisions.take(now, spot[0])
        reason = f"{self._nowhere()}, and no on-demand machine either: asking on"
        return self.decisions.settle(now, "wait", "nothing", reason)

    def _ahead(self, now: float, share_left: float) -> float:
        """Seconds between now and when this much should be done; negative when late."""
        assert self._share_at_start is not None
        done = 1 - share_left / self._share_at_start
        return done * (self.ends - self.started) - (now - self.started)

    def _catches_up(self, now: float, work_left_s: float, share_left: float) -> str:
        """When on-demand will be ahead enough for spot, if work goes as estimated."""
        assert self._share_at_start is not None
        d = self.changeover_s
        # A second of work moves what is done this far on the schedule.
        pace = (self.ends - self.started) * share_left / self._share_at_start / work_left_s
        if pace > 1:
            working = (3 * d - self._ahead(now, share_left)) / (pace - 1)
            if working < work_left_s:
                return f"about {self._clock(now + d + working)}"
        return "it is done"

    def _nowhere(self) -> str:
        return f"no spot in {', '.join(self.places)}" if self.places else "no spot"

    def _clock(self, at: float) -> str:
        return dt.datetime.fromtimestamp(at, self.timezone).strftime("%H:%M")


def market_policy(
    policy: SpotPolicy,
    *,
    started: dt.datetime,
    changeover_s: float = CHANGEOVER_S,
    poll_s: float = POLL_S,
    uncertainty: float = UNCERTAINTY,
    places: tuple[str, ...] = (),
) -> DeadlinePolicy | OneMarket:
    """What decides for a run of a job with this policy.

    Args:
        policy: the job's.
        started: when the run started; aware.
        changeover_s: seconds from asking for a machine until it works.
        poll_s: the most seconds between two decisions.
        uncertainty: by what share the estimate of the work left may be too low.
        places: every place that may have spot machines; only named in reasons.

    Raises:
        ConfigError: if the deadline had passed when the run started.
    """
    ends = policy.ends_at(started)
    if policy.pricing != "deadline":
        return OneMarket(market=policy.pricing)
    assert ends is not None  # such a policy does not exist without
    return DeadlinePolicy(
        started=started.timestamp(),
        ends=ends.timestamp(),
        changeover_s=changeover_s,
        poll_s=poll_s,
        uncertainty=uncertainty,
        places=places,
        timezone=started.tzinfo or dt.UTC,
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min"
