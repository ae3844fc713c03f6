"""`overnight cost`, and the SQL that answers the same questions."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from overnight.cli import main
from overnight.cost import Period, spent
from overnight.errors import ConfigError
from overnight.ledger import MachineTime, entries, record_ledger
from overnight.lineage.record import finish_attempt
from overnight.spot.market import Market
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import new_table, start

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import sqlalchemy as sa
    from click.testing import Result

TODAY = dt.date(2026, 11, 25)
LAST_NIGHT = dt.datetime(2026, 11, 25, 2, tzinfo=dt.UTC)
SPOT = MachineTime(
    machine="a", instance_type="g5.xlarge", market="spot", useful_s=2700.0, recomputed_s=360.0,
    draining_s=180.0, idle_s=360.0, prompt_tokens=900, output_tokens=100, interruptions=1,
)  # fmt: skip
ON_DEMAND = MachineTime(
    machine="b", instance_type="g5.xlarge", market="on_demand", useful_s=3600.0, output_tokens=50
)
OWN = MachineTime(machine="c", useful_s=36.0)


def overnight(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    with Warehouse.open(home=home) as warehouse:
        yield warehouse


@pytest.fixture
def nights(installation: Warehouse) -> Warehouse:
    """Three nights: a quiet one long ago, one on demand, and the last with an interruption."""
    summaries = new_table(installation, name="summaries")
    fraud = new_table(installation, name="fraud")
    for table, days_ago, *times in (
        (summaries, 20, ON_DEMAND),
        (summaries, 1, ON_DEMAND),
        (summaries, 0, SPOT, ON_DEMAND),
        (fraud, 0, OWN),
    ):
        spend(installation, table, LAST_NIGHT - dt.timedelta(days=days_ago), *times)
    return installation


def spend(warehouse: Warehouse, table: sa.Table, when: dt.datetime, *times: MachineTime) -> None:
    attempt = start(warehouse, table)
    then = dataclasses.replace(attempt, started_at=when)
    with warehouse.begin() as connection:
        record_ledger(connection, then, entries(then, times, Market(), when))
    finish_attempt(warehouse, attempt, outcome="failed")


def lines(result: Result) -> dict[str, list[str]]:
    """The cells of a printed table, by the first of each line."""
    assert result.exit_code == 0, result.output
    cells = [
        [cell.strip() for cell in line.strip("│┃ ").replace("┃", "│").split("│")]
        for line in result.output.splitlines()
        if "│" in line or "┃" in line
    ]
    return {first: rest for first, *rest in cells}


@pytest.mark.usefixtures("nights")
def test_the_cost_of_days_adds_up_and_listed_prices_are_marked() -> None:
    result = overnight("cost", "--since", "2026-11-18")
    table = lines(result)
    assert list(table) == ["day", "2026-11-24", "2026-11-25", "total"]
    assert table["day"] == [
        "attempts", "dollars", "saved", "interruptions", "their dollars", "goodput", "GPU hours",
        "tokens",
    ]  # fmt: skip
    assert table["2026-11-24"] == ["1", "1.01*", "0.00", "0", "0.00", "100.0%", "1.000", "50"]
    assert table["2026-11-25"] == [
        "2", "1.46*?", "0.5533", "1", "0.0679", "87.6%", "2.010", "1,050",
    ]  # fmt: skip
    assert table["total"][:2] == ["3", "2.46*?"]
    assert "* with list prices from a dated table" in result.output
    assert "? without machines that no price is known of (machines: 1;" in result.output


@pytest.mark.usefixtures("nights")
def test_the_cost_of_jobs_and_of_instances() -> None:
    by_job = lines(overnight("cost", "--since", "2026-11-25", "--by", "job"))
    assert list(by_job) == ["job", "fraud", "summaries", "total"]
    assert by_job["fraud"][1] == "?"
    by_instance = lines(
        overnight("cost", "--since", "2026-11-01", "--until", "2026-11-25", "--by", "instance")
    )
    assert list(by_instance) == [
        "instance", "g5.xlarge on_demand", "g5.xlarge spot", "own machine", "total",
    ]  # fmt: skip
    assert by_instance["g5.xlarge on_demand"][:2] == ["3", "3.02*"]


def test_a_period_has_both_its_ends(nights: Warehouse) -> None:
    period = Period.parse("2026-11-05", "1d", today=TODAY)
    with nights.connect() as connection:
        days = [cost.name for cost in spent(connection, period, "day")]
    assert days == ["2026-11-05", "2026-11-24", None]


@pytest.mark.usefixtures("installation")
def test_nothing_spent_is_said() -> None:
    result = overnight("cost", "--since", "2026-11-01", "--until", "2026-11-02")
    assert result.exit_code == 0
    assert result.output == "no cost recorded since 2026-11-01 until 2026-11-02\n"
    week_ago = dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=7)
    assert overnight("cost").output == f"no cost recorded since {week_ago}\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--since", "yesterday"), "--since 'yesterday' is neither a date such as"),
        (("--since", "2026-02-30"), "'2026-02-30'"),
        (("--since", "-3d"), "'-3d'"),
        (("--until", "7 days"), "--until '7 days'"),
        (("--since", "2026-11-02", "--until", "2026-11-01"), "2026-11-01 is before"),
    ],
)
def test_a_wrong_period_says_what_is_wrong(arguments: tuple[str, ...], says: str) -> None:
    result = overnight("cost", *arguments)
    assert result.exit_code == 1
    assert says in result.output


def test_what_it_may_be_grouped_by_is_told() -> None:
    result = overnight("cost", "--by", "week")
    assert result.exit_code == 2
    assert "'job', 'day', 'instance'" in result.output


def test_days_ago_are_counted_from_today() -> None:
    assert Period.parse("7d", None, today=TODAY) == Period(dt.date(2026, 11, 18))
    with pytest.raises(ConfigError, match="999999d"):
        Period.parse("999999d", None, today=TODAY)


@pytest.mark.usefixtures("nights")
def test_sql_answers_what_last_night_cost_and_what_interruptions_cost_of_it() -> None:
    query = """
        select sum(dollars) as cost, sum(interruption_dollars) as of_interruptions,
               sum(saved_dollars) as saved, sum(interruptions) as interruptions
        from lineage.nightly_cost
        where day = (select max(day) from lineage.nightly_cost)
    """
    answer = json.loads(overnight("sql", query, "--format", "json").output)
    # An hour on demand, and one at the spot price, of which 540 s were lost.
    assert float(answer["cost"]) == pytest.approx(1.006 + 1.006 * 0.45)
    assert float(answer["of_interruptions"]) == pytest.approx(1.006 * 0.45 * 540 / 3600, abs=1e-6)
    assert float(answer["saved"]) == pytest.approx(1.006 * 0.55)
    assert int(answer["interruptions"]) == 1
