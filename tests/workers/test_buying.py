"""Which market is asked for when EC2 has no spot machine: what the deadline says, and no error.

That a refused group leads to the next one is shown in `tests/infra/test_autoscaler.py`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from overnight.spot.deadline import DeadlinePolicy
from overnight.spot.decision import OneMarket
from overnight.workers.buying import ON_DEMAND, SPOT, Buyer
from overnight.workers.member import Member

if TYPE_CHECKING:
    from overnight.spot.decision import MarketPolicy

HOUR = 3600.0
START = 1_800_000_000.0
PATIENCE_S = 180.0


class Night:
    """A job whose only worker waits for a spot machine that does not come."""

    def __init__(self, policy: MarketPolicy, ends_in_s: float | None) -> None:
        self.now = START
        self.notes: list[Any] = []
        self.worker = Member(name="w", handle=None, market=SPOT, placing=None, leasing=None)
        self.buyer = Buyer(
            policy,
            ends_in_s=ends_in_s,
            pace=1.0,
            note=self.notes.append,
            patience_s=PATIENCE_S,
            clock=lambda: self.now,
        )

    def market(self, at: float) -> str:
        """What is asked for, with half an hour of work left."""
        self.now = START + at
        return self.buyer.decide([self.worker], left=1800, total=1800, pace=None)


@pytest.fixture
def dated() -> Night:
    return Night(DeadlinePolicy(started=START, ends=START + HOUR, uncertainty=0.0), HOUR)


def test_without_spot_machines_the_deadline_leads_to_on_demand(dated: Night) -> None:
    assert dated.market(0) == SPOT
    assert dated.market(PATIENCE_S - 1) == SPOT
    assert dated.market(PATIENCE_S + 1) == ON_DEMAND
    assert dated.buyer.selector(ON_DEMAND) == {"ray.io/market-type": "on-demand"}
    assert dated.notes[-1]["market"] == "on_demand"
    assert "behind schedule" in dated.notes[-1]["reason"]


def test_a_spot_machine_that_comes_in_time_is_kept(dated: Night) -> None:
    assert dated.market(0) == SPOT
    dated.worker.node = "n1"
    assert dated.market(PATIENCE_S + 1) == SPOT


def test_without_a_deadline_it_waits_for_spot() -> None:
    night = Night(OneMarket(market="spot"), None)
    assert [night.market(at) for at in (0, PATIENCE_S + 1, 10 * HOUR)] == [SPOT] * 3
    assert "no spot, and the job takes nothing else" in [note["reason"] for note in night.notes]
