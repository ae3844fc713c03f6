"""Machines of a real Ray cluster are taken away, with and without notice, down to none."""

from __future__ import annotations

import json
import random
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.chaos.lab import Lab, open_lab, wait_for
from tests.chaos.market import SpotMarket, open_market
from tests.chaos.market_step import INTERRUPTED, MISSED, PUBLISHED
from tests.support import shop

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.chaos.lab import Step

LETTERS = 300


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpotMarket]:
    with open_market(tmp_path_factory.mktemp("market")) as opened:
        yield opened


@pytest.fixture
def lab(market: SpotMarket) -> Iterator[Lab]:
    with open_lab(market.address) as opened:
        yield opened
    for machine in market.machines:
        market.take_away(machine)
    market.machines.clear()


class Night:
    """A partition under way, and what has been typed for it."""

    def __init__(self, lab: Lab, day: str, rows: int = 40) -> None:
        rng = random.Random(day)
        self.lab, self.day = lab, day
        self.counter = lab.home / f"letters-{day}"
        self.counter.touch()
        self.texts = {
            f"l{n}": f"{n} " + "x" * rng.randrange(LETTERS // 2, LETTERS) for n in range(rows)
        }
        shop.write_lines(
            lab.home,
            [{"line_id": k, "text": t, "weight": 1} for k, t in self.texts.items()],
            day,
        )

    @property
    def letters(self) -> int:
        return sum(map(len, self.texts.values()))

    @property
    def typed(self) -> int:
        return self.counter.stat().st_size

    def start(self, *arguments: str, variables: Mapping[str, str] | None = None) -> Step:
        return self.lab.start(
            self.day,
            *("--counter", str(self.counter), *arguments),
            module="tests.chaos.market_step",
            variables=variables,
        )

    def until_typed(self, share: float, step: Step) -> None:
        assert wait_for(lambda: self.typed >= share * self.letters, step), step.output

    def until_kept(self, step: Step) -> None:
        """Wait until what is being typed has been kept once more."""
        began = time.time()
        partials = self.lab.home / "store" / "partial"

        def is_kept() -> bool:
            return any(file.stat().st_mtime > began for file in partials.rglob("*.arrow"))

        assert wait_for(is_kept, step), step.output

    def attempts(self) -> set[int]:
        query = sa.text("SELECT _attempts FROM published.reversed_lines WHERE partition_key = :day")
        with self.lab.warehouse.connect() as connection:
            return set(connection.execute(query, {"day": self.day}).scalars())

    def check(self) -> None:
        expected = {key: text[::-1] for key, text in self.texts.items()}
        assert dict(self.lab.published(self.day)) == expected


def test_an_interruption_with_notice_costs_no_letter(lab: Lab, market: SpotMarket) -> None:
    goes, _ = market.launch(), market.launch()
    night = Night(lab, "2026-07-01")
    step = night.start()
    night.until_typed(0.3, step)
    goes.notify(3.0)
    assert wait_for(lambda: not goes.workers(), step), step.output
    market.take_away(goes)
    assert step.wait() == PUBLISHED, step.output
    night.check()
    assert night.typed == night.letters
    assert "interrupted=1" in step.output


@pytest.mark.sweep
def test_without_notice_a_row_costs_at_most_what_was_typed_since_the_last_flush(
    lab: Lab, market: SpotMarket
) -> None:
    goes, _ = market.launch(), market.launch()
    night = Night(lab, "2026-07-02")
    step = night.start()
    night.until_typed(0.4, step)
    market.take_away(goes)
    assert step.wait() == PUBLISHED, step.output
    night.check()
    # Eight rows at once, a letter in 10 ms: two seconds of one machine's work.
    assert 0 <= night.typed - night.letters <= 8 * 200


def test_a_machine_that_is_lost_is_replaced_by_one_that_was_spare(
    lab: Lab, market: SpotMarket
) -> None:
    market.launch()
    market.launch()
    night = Night(lab, "2026-07-09")
    step = night.start("--workers", "1")
    night.until_typed(0.3, step)
    night.until_kept(step)
    (busy,) = [machine for machine in market.machines if machine.workers()]
    market.take_away(busy)
    assert step.wait() == PUBLISHED, step.output
    night.check()
    assert 0 <= night.typed - night.letters <= 8 * 200
    assert "interrupted=1" in step.output
    # Those that were cut off went on where they were, and it shows.
    assert night.attempts() == {1, 2}


@pytest.mark.sweep
def test_a_worker_that_was_only_out_of_reach_types_nothing_twice(
    lab: Lab, market: SpotMarket
) -> None:
    market.launch()
    night = Night(lab, "2026-07-10")
    # Ray's own fault injection: calls arrive, and their callers are told that they failed.
    faults = {
        "CoreWorkerService.grpc_client.PushTask": {
            "num_failures": 12,
            "in_flight_failure_prob": 50,
        }
    }
    step = night.start(variables={"RAY_testing_rpc_failure": json.dumps(faults)})
    assert step.wait() == PUBLISHED, step.output
    night.check()
    back = step.output.count("answers again")
    assert back
    # Each time it drops what it typed since the last flush: two seconds of its work.
    assert 0 <= night.typed - night.letters <= back * 8 * 200


@pytest.mark.sweep
def test_with_no_machine_left_the_run_waits_for_one(lab: Lab, market: SpotMarket) -> None:
    first = market.launch()
    night = Night(lab, "2026-07-03")
    step = night.start()
    night.until_typed(0.3, step)
    first.notify(2.0)
    assert wait_for(lambda: not first.workers(), step), step.output
    market.take_away(first)
    assert wait_for(lambda: "workers=0" in step.output.splitlines()[-1], step), step.output
    market.launch()
    assert step.wait() == PUBLISHED, step.output
    night.check()
    assert night.typed == night.letters


@pytest.mark.sweep
def test_at_its_deadline_it_fails_and_keeps_what_it_has(lab: Lab, market: SpotMarket) -> None:
    only = market.launch()
    night = Night(lab, "2026-07-04")
    step = night.start("--max-runtime-min", "0.25")
    night.until_typed(0.3, step)
    market.take_away(only)
    assert step.wait() == MISSED, step.output
    assert "the deadline has passed with" in step.output
    market.launch()
    again = night.start()
    assert again.wait() == PUBLISHED, again.output
    night.check()
    assert night.typed - night.letters <= 8 * 200


@pytest.mark.sweep
def test_a_job_that_does_not_go_on_after_an_interruption(lab: Lab, market: SpotMarket) -> None:
    goes, _ = market.launch(), market.launch()
    night = Night(lab, "2026-07-05")
    step = night.start("--once")
    night.until_typed(0.3, step)
    goes.notify(3.0)
    assert step.wait() == INTERRUPTED, step.output
    assert "retry_on_interrupt=False" in step.output
    assert lab.attempts(night.day) == ["failed"]


@pytest.mark.sweep
def test_a_machine_that_may_go_gets_no_new_splits(lab: Lab, market: SpotMarket) -> None:
    may_go, _ = market.launch(), market.launch()
    night = Night(lab, "2026-07-06", rows=80)
    step = night.start()
    night.until_typed(0.2, step)
    may_go.notify(600.0, kind="rebalance")
    assert step.wait() == PUBLISHED, step.output
    night.check()
    assert night.typed == night.letters
    with lab.warehouse.connect() as connection:
        query = sa.text("SELECT count(*) FROM published.reversed_lines WHERE partition_key = :day")
        assert connection.execute(query, {"day": night.day}).scalar_one() == 80


@pytest.mark.sweep
def test_on_demand_keeps_the_deadline_when_spot_is_lost(lab: Lab, market: SpotMarket) -> None:
    spot = market.launch()
    # So that it is known how fast rows are inferred.
    assert Night(lab, "2026-07-08").start().wait() == PUBLISHED
    night = Night(lab, "2026-07-07")
    # Hardly more than two changeovers, a poll and the work.
    step = night.start("--pricing", "deadline", "--max-runtime-min", "1.5")
    night.until_typed(0.3, step)
    spot.notify(2.0)
    assert wait_for(lambda: not spot.workers(), step), step.output
    market.take_away(spot)
    market.launch(market="on-demand")
    assert step.wait() == PUBLISHED, step.output
    night.check()
    assert night.typed == night.letters
    with lab.warehouse.connect() as connection:
        ((decisions,),) = connection.execute(
            sa.text("SELECT decisions FROM lineage.attempts WHERE partition_key = :day"),
            {"day": night.day},
        )
        ledger = connection.execute(
            sa.text(
                "SELECT market, interruptions, recomputed_tokens FROM lineage.ledger "
                "WHERE partition_key = :day"
            ),
            {"day": night.day},
        ).all()
    told = [(d["decision"], d.get("market"), d["reason"]) for d in decisions]
    assert [kind for kind in told if kind[0] == "interruption"] == [
        ("interruption", "spot", told[1][2])
    ], told
    markets = [market for kind, market, _ in told if kind == "market"]
    assert markets[0] == "spot", told
    assert "on_demand" in markets, told
    assert all(d["reason"] for d in decisions)
    assert sorted(map(tuple, ledger)) == [("on_demand", 0, 0), ("spot", 1, 0)]
