"""Spot or on-demand: each rule, the reasons it gives, and what holds whatever the market does."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import logging
import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from overnight.errors import ConfigError
from overnight.spot.deadline import DeadlinePolicy, market_policy
from overnight.spot.decision import Decision, OneMarket
from overnight.spot.policy import SpotPolicy
from overnight.spot.replay import Greedy, Market, Task, least_cost, replay
from overnight.spot.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Sequence

ZONES = ("us-west-2a", "us-west-2b", "us-west-2c")
A, B, C = ZONES
HOUR = 3600.0


def policy(**changes: Any) -> DeadlinePolicy:
    """Two hours from the start; machines come up in 180 s; polls every 30 s."""
    fields = {"started": 0.0, "ends": 2 * HOUR, "uncertainty": 0.0, "places": ZONES}
    return DeadlinePolicy(**{**fields, **changes})


def decide(
    by: DeadlinePolicy, minute: float, left_min: float, spot: Sequence[str], *, of: float = 60
) -> Decision:
    """Ask after some minutes, with some minutes of an hour's work left."""
    return by.decide(minute * 60, work_left_s=left_min * 60, share_left=left_min / of, spot=spot)


def test_the_preferred_place_that_has_spot_is_taken_and_kept() -> None:
    by = policy()
    first = decide(by, 0, 60, [B, A])
    assert (first.market, first.place, first.reason) == ("spot", B, "spot in us-west-2b")
    assert decide(by, 10, 53, [A, B]) is first
    assert by.decisions.history == [first]


def test_spot_that_is_lost_is_sought_elsewhere() -> None:
    by = policy()
    decide(by, 0, 60, [A])
    moved = decide(by, 10, 53, [B, C])
    assert (moved.market, moved.place, moved.rule) == ("spot", B, "moved")
    assert moved.reason == "lost in us-west-2a: spot in us-west-2b"


def test_work_that_is_on_schedule_waits_and_work_behind_schedule_goes_on_on_demand() -> None:
    by = policy()
    decide(by, 0, 60, [A])
    # 20 minutes of work are due after 40 minutes.
    waiting = decide(by, 30, 40, [])
    assert (waiting.market, waiting.rule) == ("wait", "waiting")
    assert waiting.reason == (
        "no spot in us-west-2a, us-west-2b, us-west-2c, but not behind schedule: waiting until "
        "00:40 at most"
    )
    assert decide(by, 39, 40, []) is waiting
    behind = decide(by, 43, 40, [])
    assert (behind.market, behind.rule) == ("on_demand", "behind")
    # A minute of work is two of the schedule: 3 late, 3 to start, 6 to be ahead.
    assert behind.reason == (
        "behind schedule by 3 min and no spot in us-west-2a, us-west-2b, us-west-2c: on-demand "
        "until about 00:58"
    )


def test_on_demand_is_left_for_spot_only_two_changeovers_ahead_of_schedule() -> None:
    by = policy()
    behind = decide(by, 1, 60, [])
    assert behind.market == "on_demand"
    assert decide(by, 16, 49.5, [A]) is behind  # five minutes ahead
    assert decide(by, 16, 49, []) is behind
    back = decide(by, 16, 49, [A])
    assert (back.market, back.place, back.rule) == ("spot", A, "caught_up")
    assert back.reason == "ahead of schedule by 6 min: spot in us-west-2a"


def test_the_safety_net_catches_while_on_demand_can_still_make_it() -> None:
    by = policy()
    # A start on spot needs two changeovers (6 min) and a poll (30 s) to spare.
    assert decide(by, 53.5, 60, [A]).market == "spot"
    by = policy()
    caught = decide(by, 53.6, 60, [A])
    assert (caught.market, caught.rule) == ("on_demand", "safety_net")
    assert caught.reason == (
        "66 min left for 60 min of work: on-demand to the end, to be done by 02:00"
    )
    assert decide(by, 115, 2, list(ZONES)) is caught


def test_a_held_spot_machine_is_given_up_when_its_loss_would_cost_the_deadline() -> None:
    by = policy()
    held = decide(by, 50, 60, [A])
    assert decide(by, 56.4, 60, [A]) is held
    assert decide(by, 56.6, 60, [A]).rule == "safety_net"


def test_the_net_keeps_a_share_of_the_work_in_reserve_and_lets_go_only_at_twice_that() -> None:
    by = policy(uncertainty=0.1)
    held = decide(by, 0, 60, [A])
    assert decide(by, 43, 66, [A]) is held  # the estimate grew
    caught = by.decide(45 * 60, work_left_s=66 * 60, share_left=0.5, spot=[A])
    assert caught.rule == "safety_net"
    # The estimate swings back by less than the reserve: the work stays where it is.
    assert by.decide(46 * 60, work_left_s=55 * 60, share_left=0.49, spot=[A]) is caught
    back = by.decide(47 * 60, work_left_s=50 * 60, share_left=0.48, spot=[A])
    assert back.market == "spot"


def test_a_retry_makes_its_schedule_for_what_is_left() -> None:
    by = policy(started=HOUR, ends=2 * HOUR)
    # Half was done before; of the other half, nothing is due at the start.
    assert decide(by, 60, 30, []).rule == "waiting"
    assert decide(by, 62, 30, []).rule == "behind"


def test_without_any_on_demand_machine_spot_is_asked_for_past_the_net() -> None:
    by = policy()
    ask: dict[str, Any] = {"work_left_s": HOUR, "share_left": 1.0, "on_demand": False}
    nothing = by.decide(1.5 * HOUR, spot=[], **ask)
    assert (nothing.market, nothing.rule) == ("wait", "nothing")
    taken = by.decide(1.6 * HOUR, spot=[C], **ask)
    assert (taken.market, taken.place) == ("spot", C)
    assert by.decide(1.7 * HOUR, spot=[B, C], **ask) is taken
    assert by.decide(1.8 * HOUR, **{**ask, "on_demand": True}, spot=[B]).rule == "safety_net"


def test_a_decision_is_logged_once_and_becomes_a_record(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    start = dt.datetime(2025, 7, 1, 22, 0, tzinfo=dt.timezone(dt.timedelta(hours=2)))
    spot = SpotPolicy(pricing="deadline", deadline=dt.time(2, tzinfo=start.tzinfo))
    by = market_policy(spot, started=start, places=ZONES)
    for minute in range(3):
        made = by.decide(
            start.timestamp() + 60 * minute, work_left_s=3 * HOUR, share_left=1.0, spot=[]
        )
    assert [record.message for record in caplog.records] == [
        f"Market: {decision.reason}" for decision in by.decisions.history
    ]
    assert len(by.decisions.history) == 2
    assert json.loads(json.dumps(made.as_record())) == {
        "decision": "market",
        "at": "2025-07-01T20:01:00+00:00",
        "market": "on_demand",
        "place": None,
        "rule": "behind",
        "reason": "behind schedule by 1 min and no spot in us-west-2a, us-west-2b, us-west-2c: "
        "on-demand until about 22:34",
    }


def test_the_pricing_of_a_job_says_what_decides() -> None:
    start = dt.datetime(2025, 7, 1, 22, 0, tzinfo=dt.UTC)
    by = market_policy(SpotPolicy(pricing="deadline", max_runtime_min=90), started=start)
    assert isinstance(by, DeadlinePolicy)
    assert by.ends - by.started == 90 * 60
    ask: dict[str, Any] = {"work_left_s": 2 * HOUR, "share_left": 1.0}
    for pricing in ("spot", "on_demand"):
        fixed = market_policy(SpotPolicy(pricing=pricing, max_runtime_min=90), started=start)
        assert fixed == OneMarket(market=pricing)
    spot = OneMarket(market="spot")
    decided = [spot.decide(n, **ask, spot=offers) for n, offers in enumerate(([], [A], [B], [B]))]
    assert [(one.market, one.place) for one in decided] == [
        ("wait", None), ("spot", A), ("spot", B), ("spot", B)
    ]  # fmt: skip
    assert OneMarket(market="on_demand").decide(0, **ask, spot=[A]).market == "on_demand"


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"ends": 0.0}, "the deadline 00:00 is not after the start"),
        ({"changeover_s": -1}, "changeover_s is -1"),
        ({"poll_s": float("nan")}, "poll_s is nan"),
        ({"uncertainty": -0.1}, "uncertainty is -0.1"),
    ],
)
def test_numbers_that_cannot_be_are_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        policy(**changes)


# Whatever the market does.

GAP = 100.0


@st.composite
def markets(draw: st.DrawFn) -> Market:
    """Up to three places, each with machines coming and going, at times at every moment."""
    moments = draw(st.integers(1, 60))
    stays = draw(st.sampled_from([1, 2, 10]))
    values = st.lists(st.booleans(), min_size=moments, max_size=moments)
    available = [
        tuple(value for value in draw(values) for _ in range(stays))
        for _ in range(draw(st.integers(1, 3)))
    ]
    # Long enough for any task: nothing is on offer after the drawn moments.
    return Market(
        [
            Trace(place=place, kind="drawn", gap_s=GAP, available=(*one, *[False] * 400))
            for place, one in zip(ZONES, available, strict=False)
        ]
    )


@st.composite
def tasks(draw: st.DrawFn) -> Task:
    """Work that one on-demand machine can do by the deadline, at times just so."""
    work = draw(st.floats(1, 8000))
    changeover = draw(st.floats(0, 600))
    slack = draw(st.one_of(st.just(0.0), st.floats(0, 600), st.floats(0, 8000)))
    return Task(work_s=work, ends_s=work + changeover + slack, changeover_s=changeover)


def deadline_policy(task: Task, *, greedy: bool = False, **changes: Any) -> DeadlinePolicy:
    kind = Greedy if greedy else DeadlinePolicy
    return kind(
        started=0.0, ends=task.ends_s, changeover_s=task.changeover_s,
        **{"poll_s": GAP, "uncertainty": 0.0, **changes},
    )  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    markets(), tasks(), st.sampled_from([0.0, 0.05, 0.3]), st.booleans(), st.sampled_from([30, 100])
)
def test_a_deadline_that_on_demand_can_keep_is_kept_at_no_more_than_its_price(
    market: Market, task: Task, uncertainty: float, greedy: bool, poll: float
) -> None:
    by = deadline_policy(task, greedy=greedy, uncertainty=uncertainty, poll_s=poll)
    done = replay(market, task, 0, by, poll_s=poll)
    assert not done.missed
    # Beyond the work, only changeovers are paid, the last one perhaps not in full.
    most = (task.work_s + done.machines * task.changeover_s) * task.on_demand_usd / 3600
    assert done.cost <= most + 1e-9
    assert done.cost >= least_cost(market, task, 0) - 1e-9


@settings(max_examples=150, deadline=None)
@given(markets(), tasks(), st.integers(0, 2**32))
def test_an_estimate_that_is_off_by_no_more_than_it_says_costs_no_deadline(
    market: Market, task: Task, seed: int
) -> None:
    """Each time it is asked, the work left looks up to a tenth shorter or a third longer."""
    rng = random.Random(seed)
    by = deadline_policy(task, uncertainty=1 / 9)

    class Estimated:
        def decide(self, now: float, *, work_left_s: float, **rest: Any) -> Decision:
            return by.decide(now, work_left_s=work_left_s * rng.uniform(0.9, 1.3), **rest)

    assert not replay(market, task, 0, Estimated()).missed


@settings(max_examples=150, deadline=None)
@given(markets(), tasks())
def test_no_market_makes_a_job_flap(market: Market, task: Task) -> None:
    assume(task.changeover_s > 1)
    by = deadline_policy(task)
    replay(market, task, 0, by)
    history = by.decisions.history
    pace = task.ends_s / task.work_s
    # From behind schedule, through a changeover, to two changeovers ahead of it.
    shortest = task.changeover_s * (1 + 3 / (pace - 1)) if pace > 1 else float("inf")
    phases = [
        after.at - before.at
        for before, after in itertools.pairwise(history)
        if after.rule == "caught_up"
    ]
    assert all(phase >= shortest - 1e-6 for phase in phases)
    # And a spot machine is not left for another one that is no better.
    assert all(
        before.place not in market.offers[int((after.at + 1e-6) // GAP)]
        for before, after in itertools.pairwise(history)
        if before.market == after.market == "spot"
    )


@given(markets(), tasks())
def test_the_same_market_leads_to_the_same_decisions(market: Market, task: Task) -> None:
    histories = []
    for _ in range(2):
        by = deadline_policy(task)
        outcome = replay(market, task, 0, by)
        histories.append((outcome, by.decisions.history))
    assert histories[0] == histories[1]
