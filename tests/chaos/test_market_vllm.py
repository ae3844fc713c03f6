"""Real vLLM on a spot market: what is published is, byte for byte, what an undisturbed run gives.

The machines of each zone come and go as a trace says, some with a notice from an emulated
metadata service and some without, down to none at all and back. A trace's values are not
spread over time here but over the rows that are done, so that a slow computer sees the same.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import math
import random
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from assets.summaries import DailySummary
from overnight.contract import polars_schema
from overnight.journal import Journal
from overnight.spot.traces import Trace, read_trace
from overnight.store import StoreConfig
from tests.chaos.lab import Lab, open_lab, wait_for
from tests.chaos.market import SpotMarket, open_market
from tests.chaos.verdict import verdict
from tests.chaos.watch import digest
from tests.spot.imds import Imds
from tests.support.summaries import Paced, land, summarizing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from tests.chaos.lab import Step
    from tests.chaos.market import Machine

pytestmark = pytest.mark.timeout(400)

DAY = dt.date(2026, 8, 1)
ROWS = 240
BAD_ROWS = 4
STEP_S = 0.05  # about what a model of some billion weights takes; a summary has 30 tokens
WAITING_S = 1.0  # or a computer that is slow to start machines has all rows done before they come


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SpotMarket]:
    with open_market(tmp_path_factory.mktemp("market")) as opened:
        yield opened


class Zone:
    """Where one machine is to be had at times; its notices come from a metadata service."""

    def __init__(self, trace: Trace, market: SpotMarket) -> None:
        self.trace = trace
        self.machine: Machine | None = None
        self._market = market
        self._service = contextlib.ExitStack()

    def come(self) -> None:
        self._imds = self._service.enter_context(Imds())
        self.machine = self._market.launch(
            zone=self.trace.place,
            OVERNIGHT_NOTICE="ec2",
            AWS_EC2_METADATA_SERVICE_ENDPOINT=self._imds.url,
            OVERNIGHT_NOTICE_POLL_S="0.5",
        )

    def go(self, notice_s: float | None) -> None:
        """Its machine is taken away; `notice_s` None: without notice."""
        if notice_s is not None:
            goes_at = math.ceil(time.time() + notice_s)
            self._imds.interrupt(at=goes_at)
            wait_for(lambda: time.time() >= goes_at, every_s=0.1)
        self.close()

    def close(self) -> None:
        if self.machine is not None:
            self._market.take_away(self.machine)
            self.machine = None
        self._service.close()


class Night:
    """A day's summaries, and the market that they are made on.

    Args:
        traces: one for each zone, equally long.
        notices: seconds of notice that the machines that go get, one after the other.
    """

    def __init__(
        self,
        market: SpotMarket,
        traces: Sequence[Trace],
        notices: Sequence[float | None],
        seed: int,
    ) -> None:
        self.zones = [Zone(trace, market) for trace in traces]
        self.offers = list(zip(*(trace.available for trace in traces), strict=True))
        self.notices = iter(notices)
        self.gone: Counter[str] = Counter()
        self._seed = seed
        self._labs = contextlib.ExitStack()
        self.undisturbed, self.disturbed = (
            self._labs.enter_context(open_lab(market.address)) for _ in range(2)
        )
        self._pace = self.undisturbed.home / "pace"
        for lab in (self.undisturbed, self.disturbed):
            land(lab.home, DAY, count=ROWS, bad_rows=BAD_ROWS, seed=seed)
        job = summarizing(Paced, at_once=16, split_rows=16, pace=str(self._pace))
        store = StoreConfig(url=(self.disturbed.home / "store").as_uri()).open()
        self.journal = Journal(store, job.name, job.fingerprint().id, DAY.isoformat())

    def close(self) -> None:
        for zone in self.zones:
            zone.close()
        self._labs.close()

    def run(self) -> None:
        """The undisturbed run, as fast as it goes; then the one on the market."""
        self.zones[0].come()
        self._set_pace(0)
        assert self._start(self.undisturbed).wait() == 0
        self._set_pace(STEP_S)
        step = self._start(self.disturbed)
        ticks, done = sum(map(any, self.offers)), 0
        for offer in self.offers:
            self._await(ROWS * done // ticks, step)
            self._offer(offer, step)
            done += any(offer)
        assert step.wait() == 0, step.output

    def _await(self, rows: int, step: Step) -> None:
        """Until so many are done; with no machine there is, until the run has noticed."""

        def reached() -> bool:
            if any(zone.machine for zone in self.zones):
                return self.journal.done().height >= rows
            return _workers(step) == 0

        assert wait_for(reached, step, every_s=0.1), step.output

    def _start(self, lab: Lab) -> Step:
        return lab.start(DAY.isoformat(), str(self._pace), module="tests.chaos.summaries_step")

    def _offer(self, offer: Sequence[bool], step: Step) -> None:
        for zone, available in zip(self.zones, offer, strict=True):
            if zone.machine is not None and not available:
                with self._waiting():
                    assert wait_for(zone.machine.has_engine, step, every_s=0.1), step.output
                zone.go(next(self.notices))
                self.gone[zone.trace.place] += 1
        for zone, available in zip(self.zones, offer, strict=True):
            if zone.machine is None and available:
                with self._waiting():
                    zone.come()

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Rows hardly go on meanwhile."""
        self._set_pace(WAITING_S)
        yield
        self._set_pace(STEP_S)

    def _set_pace(self, seconds: float) -> None:
        whole = self._pace.with_suffix(".new")
        whole.write_text(str(seconds))
        whole.replace(self._pace)


def check(night: Night) -> None:
    expected, published = published_in(night.undisturbed), published_in(night.disturbed)
    assert published == expected, "not the bytes of an undisturbed run"
    assert published.count(b"\n") == ROWS
    rows = dict(_by_key(expected))
    verdict(
        expected=rows,
        dead=_dead(night.undisturbed),
        published=_by_key(published),
        dead_lettered=_dead(night.disturbed),
        before={},
        seen=[digest(dict(_by_key(published)))],
        inferred=[],
        killed_at=0.0,
        interval_s=0.0,
    ).check()
    assert len(_dead(night.disturbed)) == BAD_ROWS // 2

    records = [row for table in night.journal.tables() for row in table.to_pylist()]
    assert len({row["input_hash"] for row in records}) == len(records), "a row was finished twice"
    resumed = [row for row in records if (row["attempts"] or 0) > 1]
    assert resumed, "no row was interrupted in mid-generation"

    (decisions,) = _read(night.disturbed, "SELECT decisions FROM lineage.attempts")[0]
    lost = Counter(d["zone"] for d in decisions if d["decision"] == "interruption")
    assert lost == night.gone, decisions
    ledger = _read(night.disturbed, "SELECT zone, market, interruptions FROM lineage.ledger")
    assert {market for _, market, _ in ledger} == {"spot"}
    assert Counter(zone for zone, _, count in ledger for _ in range(count)) == night.gone
    print(f"\nlost {dict(night.gone)}: {len(resumed)} of {ROWS} rows resumed")  # noqa: T201


def published_in(lab: Lab) -> bytes:
    """Every column of the contract, row by row in the order of the key, as Postgres writes it."""
    columns = ", ".join(polars_schema(DailySummary).names())
    query = (
        f"COPY (SELECT {columns} FROM published.daily_summaries "
        f"WHERE partition_key = '{DAY}' ORDER BY article_id) TO STDOUT"
    )
    with lab.warehouse.connect() as connection:
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(query) as copy:
            return b"".join(map(bytes, copy))


def _by_key(content: bytes) -> list[tuple[str, str]]:
    lines = content.decode().splitlines()
    return [(line.partition("\t")[0], line) for line in lines]


def _dead(lab: Lab) -> list[str]:
    return sorted(key for (key,) in _read(lab, "SELECT key FROM lineage.current_dead_letters"))


def _read(lab: Lab, query: str) -> list[Any]:
    with lab.warehouse.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def _workers(step: Step) -> int:
    """How many it said that it has, the last time."""
    said = [line for line in step.output.splitlines() if line.startswith("PoolProgress(")]
    return int(said[-1].partition(" workers=")[2].partition(",")[0]) if said else -1


def seeded(seed: int) -> tuple[list[Trace], list[float | None]]:
    """Two zones lose their machines, one after the other; then one of them, or both, come back."""
    rng = random.Random(seed)
    first, second, rest = (rng.randint(1, 2) for _ in range(3))
    both = seed % 2
    values = {
        "zone-a": [1] * (first + second) + [0] + [1] * (1 + rest),
        "zone-b": [1] * first + [0] * (second + 1) + [both] + [0] * rest,
    }
    notices: list[float | None] = [3.0, None, rng.choice([2.0, 4.0, None])]
    if rng.random() < 0.5:
        notices[:2] = reversed(notices[:2])
    traces = [
        Trace(place=place, kind="made", gap_s=1.0, available=tuple(map(bool, data)))
        for place, data in values.items()
    ]
    return traces, notices


@pytest.mark.parametrize("seed", [pytest.param(n, marks=pytest.mark.sweep) for n in range(6)])
def test_a_night_on_the_market_publishes_what_an_undisturbed_one_does(
    market: SpotMarket, seed: int
) -> None:
    with contextlib.closing(Night(market, *seeded(seed), seed=seed)) as night:
        night.run()
        check(night)


@pytest.mark.sweep
def test_a_night_along_a_trace(market: SpotMarket, tmp_path: Path) -> None:
    traces = []
    for zone, data in {
        "us-east-1a": [1, 1, 0, 0, 1, 1, 0, 1],
        "us-east-1b": [0, 1, 1, 0, 0, 1, 1, 0],
    }.items():
        file = tmp_path / f"{zone}_v100_1.json"
        file.write_text(json.dumps({"metadata": {"gap_seconds": 60}, "data": data}))
        traces.append(read_trace(file))
    with contextlib.closing(Night(market, traces, [2.0, None, 3.0, None], seed=99)) as night:
        night.run()
        check(night)
