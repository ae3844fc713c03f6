"""What attempts cost, recorded with their publication or their failure."""

from __future__ import annotations

import datetime as dt
import functools
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from overnight.ledger import MachineTime, entries, metadata, record_ledger
from overnight.lineage import tables
from overnight.lineage.record import finish_attempt
from overnight.spot import price_table
from overnight.spot.market import Market, Price
from overnight.warehouse.connect import Warehouse
from overnight.warehouse.publish import publish
from overnight.warehouse.stage import Stage
from tests.warehouse.helpers import new_table, publication, read, rows, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.lineage.record import Attempt

AT = dt.datetime(2026, 11, 21, 3, tzinfo=dt.UTC)
SPOT = MachineTime(
    machine="spot-1",
    instance_type="g6.2xlarge",
    market="spot",
    gpus=2.0,
    useful_s=2400.0,
    recomputed_s=300.0,
    cold_start_s=600.0,
    restart_s=200.0,
    idle_s=200.0,
    draining_s=100.0,
    rows=50,
    prompt_tokens=1000,
    output_tokens=400,
    recomputed_tokens=40,
    interruptions=1,
)
ON_DEMAND = MachineTime(
    machine="od-1", instance_type="g6.2xlarge", market="on_demand", useful_s=3600.0, rows=60
)
LAPTOP = MachineTime(machine="laptop", useful_s=9.0, idle_s=1.0)
HOURLY = 0.9776
SPOT_HOURLY = price_table.list_price("g6.2xlarge").spot


@pytest.fixture
def attempt(warehouse: Warehouse) -> Iterator[Attempt]:
    started = start(warehouse, new_table(warehouse))
    yield started
    finish_attempt(warehouse, started, outcome="failed")


def keep(warehouse: Warehouse, attempt: Attempt, *times: MachineTime) -> None:
    priced = entries(attempt, times, Market(), AT)
    with warehouse.begin() as connection:
        record_ledger(connection, attempt, priced)


def test_dollars_are_split_saved_and_told_apart(warehouse: Warehouse, attempt: Attempt) -> None:
    keep(warehouse, attempt, SPOT, ON_DEMAND)
    columns = (
        "machine, job, table_name, machine_s, useful_gpu_s, recomputed_gpu_s, cold_start_gpu_s, "
        "idle_gpu_s, draining_gpu_s, dollars::float, saved_dollars::float, "
        "interruption_dollars::float, price_per_hour::float, price_source, price_as_of, price_note"
    )
    query = f"SELECT {columns} FROM lineage.ledger WHERE attempt = %s ORDER BY machine DESC"
    spot, on_demand = read(warehouse, query, attempt.attempt)
    assert spot[:9] == (
        "spot-1", attempt.job, attempt.table, 3600.0, 4800.0, 600.0, 1200.0, 400.0, 200.0,
    )  # fmt: skip
    # Recomputed, drained and started anew: 600 of 3600 seconds.
    assert spot[9:12] == pytest.approx(
        (SPOT_HOURLY, HOURLY - SPOT_HOURLY, SPOT_HOURLY / 6), abs=1e-6
    )
    assert spot[12:] == (pytest.approx(SPOT_HOURLY), "table", price_table.AS_OF, None)
    assert on_demand[9:12] == pytest.approx((HOURLY, 0.0, 0.0))


def test_the_publish_transaction_writes_it_or_nothing(
    warehouse: Warehouse, attempt: Attempt
) -> None:
    published = new_table(warehouse, name=attempt.job)
    write = functools.partial(
        record_ledger, attempt=attempt, ledger_entries=entries(attempt, [SPOT], Market(), AT)
    )

    def fail(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT FROM nowhere")

    count = "SELECT count(*) FROM lineage.ledger WHERE attempt = %s"
    with Stage(warehouse, published, attempt) as stage:
        stage.copy(rows([1, 2], "new", attempt))
        with pytest.raises(sa.exc.ProgrammingError):
            publish(warehouse, publication(stage, 2, also=[write, fail]))
        assert read(warehouse, count, attempt.attempt) == [(0,)]
        publish(warehouse, publication(stage, 2, also=[write]))
    assert read(warehouse, count, attempt.attempt) == [(1,)]


def test_recording_again_replaces(warehouse: Warehouse, attempt: Attempt) -> None:
    keep(warehouse, attempt, LAPTOP, ON_DEMAND)
    keep(warehouse, attempt, SPOT)
    query = "SELECT machine FROM lineage.ledger WHERE attempt = %s"
    assert read(warehouse, query, attempt.attempt) == [("spot-1",)]


@pytest.mark.parametrize(
    ("time", "note"),
    [
        (LAPTOP, "it is not a machine of a cloud: OVERNIGHT_PRICE_PER_HOUR can say"),
        (
            MachineTime(machine="m", instance_type="g6.2xlrge", market="spot", useful_s=5),
            "No price is known for instance type 'g6.2xlrge'; did you mean g6.2xlarge",
        ),
    ],
)
def test_what_has_no_price_has_no_dollars_and_says_why(
    warehouse: Warehouse, attempt: Attempt, time: MachineTime, note: str
) -> None:
    keep(warehouse, attempt, time)
    query = (
        "SELECT dollars, saved_dollars, interruption_dollars, price_source, price_note "
        "FROM lineage.ledger WHERE attempt = %s"
    )
    ((*dollars, source, said),) = read(warehouse, query, attempt.attempt)
    assert (dollars, source) == ([None] * 3, "none")
    assert said.startswith(note)


def test_an_own_price_replaces_the_markets(attempt: Attempt) -> None:
    laptop, rented = entries(attempt, [LAPTOP, ON_DEMAND], Market(own_price=0.5), AT)
    assert laptop.dollars == pytest.approx(10 / 3600 * 0.5)
    assert (laptop.saved_dollars, laptop.paid.source) == (None, "setting")
    assert rented.dollars == pytest.approx(0.5)
    assert rented.saved_dollars == pytest.approx(HOURLY - 0.5)


def test_a_machine_bought_nobody_knows_how_is_priced_on_demand(attempt: Attempt) -> None:
    time = MachineTime(machine="m", instance_type="g6.2xlarge", useful_s=3600.0)
    (entry,) = entries(attempt, [time], Market(), AT)
    assert entry.dollars == pytest.approx(HOURLY)
    assert entry.note == "how it was bought is not known: priced on demand"


def test_what_the_table_refuses_does_not_end_the_transaction(
    warehouse: Warehouse, attempt: Attempt, caplog: pytest.LogCaptureFixture
) -> None:
    broken = MachineTime(machine="nul\0byte", useful_s=1)
    too_much = MachineTime(machine="m", rows=2**64, useful_s=-0.1)
    with warehouse.begin() as connection:
        for time in (broken, too_much):
            record_ledger(connection, attempt, entries(attempt, [time], Market(), AT))
        connection.execute(
            sa.update(tables.attempts)
            .where(tables.attempts.c.attempt == attempt.attempt)
            .values(error="still written")
        )
    assert caplog.text.count("was not recorded") == 2
    query = "SELECT error FROM lineage.attempts WHERE attempt = %s"
    assert read(warehouse, query, attempt.attempt) == [("still written",)]


def test_metadata_adds_up_and_says_where_prices_are_from(attempt: Attempt) -> None:
    shown = metadata(entries(attempt, [SPOT, ON_DEMAND], Market(), AT))
    assert shown["dollars"] == pytest.approx(SPOT_HOURLY + HOURLY, abs=1e-6)
    assert shown["interruption_dollars"] == pytest.approx(SPOT_HOURLY / 6, abs=1e-6)
    assert shown["goodput"] == pytest.approx((4800 + 3600) / (7200 + 3600), abs=1e-4)
    assert (shown["recomputed_gpu_s"], shown["interruptions"]) == (600.0, 1)
    assert "g6.2xlarge: $0.43992 an hour, from the price table of 2026-06-01" in shown["price"]
    partly = metadata(entries(attempt, [SPOT, LAPTOP], Market(), AT))
    assert "dollars" not in partly
    assert "laptop: unknown, it is not a machine of a cloud" in partly["price"]
    assert metadata([]) == {}


def test_readers_see_nights_by_job(warehouse: Warehouse) -> None:
    table = new_table(warehouse)
    for partition in ("2026-11-20", "2026-11-21"):
        attempt = start(warehouse, table, day=partition)
        keep(warehouse, attempt, SPOT, LAPTOP)
        finish_attempt(warehouse, attempt, outcome="failed")
    query = (
        "SELECT day, table_name, dollars::float, interruption_dollars::float, goodput, "
        "prompt_tokens, attempts, machines_without_price, machines_priced_by_table "
        "FROM lineage.nightly_cost WHERE job = %s"
    )
    with warehouse.begin() as connection:
        connection.exec_driver_sql("SET LOCAL ROLE overnight_reader")
        (night,) = connection.exec_driver_sql(query, (table.name,)).all()
    assert tuple(night) == (
        attempt.started_at.astimezone(dt.UTC).date(),
        table.fullname,
        pytest.approx(2 * SPOT_HOURLY, abs=1e-5),
        pytest.approx(SPOT_HOURLY / 3, abs=1e-5),
        pytest.approx(4809 / 7210),
        2000,
        2,
        2,
        2,
    )


def test_a_warehouse_from_before_gets_the_ledger(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse, warehouse.begin() as connection:
        connection.exec_driver_sql("DROP VIEW lineage.nightly_cost")
        connection.exec_driver_sql("DROP TABLE lineage.ledger")
        connection.exec_driver_sql("COMMENT ON SCHEMA lineage IS 'of an older version'")
    with Warehouse.open(home=home) as warehouse:
        assert read(warehouse, "SELECT count(*) FROM lineage.nightly_cost") == [(0,)]


def test_a_spot_price_from_aws_is_kept_with_its_date(
    attempt: Attempt, warehouse: Warehouse
) -> None:
    class Asked(Market):
        def spot_price(self, instance_type: str, zone: str | None, at: dt.datetime) -> Price:
            assert (instance_type, zone, at) == ("trn1.32xlarge", "us-east-1a", AT)
            return Price(7.2, "aws", AT)

    time = MachineTime(
        machine="m", instance_type="trn1.32xlarge", zone="us-east-1a", market="spot", useful_s=1800
    )
    with warehouse.begin() as connection:
        record_ledger(connection, attempt, entries(attempt, [time], Asked(), AT))
    query = (
        "SELECT dollars::float, saved_dollars, price_source, price_as_of, on_demand_source "
        "FROM lineage.ledger WHERE attempt = %s"
    )
    assert read(warehouse, query, attempt.attempt) == [(3.6, None, "aws", AT, "none")]
