"""Jobs over derived sources, run by run: days with their past, and everything as a whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from overnight.errors import ConfigError, NotLandedError, TooManyRejectsError
from overnight.job import WHOLE
from overnight.landing import DerivedSource, Lookback
from overnight.plan import MaxRejects
from overnight.run import run_partition
from tests.support import shop
from tests.support.shop import DAY, Known, line, lines, newest, newest_lines, write_lines
from tests.warehouse.helpers import forget_lineage

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.report import PartitionReport
    from overnight.warehouse.connect import Warehouse

BEFORE = "2026-11-19"


@pytest.fixture(autouse=True)
def fresh_table(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.newest_lines")
        forget_lineage(connection)


def run(
    warehouse: Warehouse, home: Path, partition: str = WHOLE, **changes: Any
) -> PartitionReport:
    house = shop.house(warehouse, home)
    return run_partition(newest_lines(**changes), partition, run_id="r", house=house)


def of_two_days() -> dict[str, Any]:
    source = DerivedSource(
        name="known_lines",
        contract=Known,
        key="line_id",
        inputs=(Lookback(source=lines, first=-1),),
        derive=newest,
    )
    return {"partitioned": True, "publish": "replace", "source": source}


def read(warehouse: Warehouse, query: str) -> list[Any]:
    with warehouse.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def published(warehouse: Warehouse) -> dict[str, tuple[str, str, int]]:
    query = "SELECT line_id, partition_key, reversed, versions FROM published.newest_lines"
    return {key: tuple(rest) for key, *rest in read(warehouse, query)}


@pytest.mark.usefixtures("ray_head")
def test_everything_that_landed_is_one_partition_refreshed_by_what_changed(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, [line(n, f"first {n}") for n in range(30)], BEFORE)
    first = run(warehouse, home)
    assert (first.rows_in, first.inferred, first.partition) == (30, 30, "all")
    write_lines(home, [line(n, f"second {n}") for n in (3, 40)], DAY)
    second = run(warehouse, home)
    assert (second.rows_in, second.inferred, second.staged, second.rows) == (31, 2, 2, 31)
    found = published(warehouse)
    assert found["l3"] == ("all", "3 dnoces", 2)
    assert found["l4"] == ("all", "4 tsrif", 1)
    sources = read(warehouse, "SELECT DISTINCT source FROM lineage.inputs")
    assert sources == [("lines",)]


@pytest.mark.usefixtures("ray_head")
def test_rejects_name_the_landed_source_file_and_line(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [*map(line, range(30)), "{broken"], BEFORE)
    write_lines(home, [line(7, "nobody"), *map(line, range(40, 50))], DAY)
    report = run(warehouse, home)
    assert (report.rows_in, report.rejected, report.published) == (41, 2, 39)
    query = 'SELECT source, file, line, key, "column", value, reason FROM lineage.current_rejects'
    broken, nobody = sorted(read(warehouse, query))
    assert broken[0] == nobody[0] == "lines"
    assert (BEFORE in broken[1], broken[2]) == (True, 31)
    assert (DAY in nobody[1], *nobody[2:]) == (
        True, 1, "l7", "text", "'nobody'", "stands for nobody",
    )  # fmt: skip


@pytest.mark.usefixtures("ray_head")
def test_a_day_is_derived_from_the_day_before_as_well(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [line(1, "old"), line(2, "old"), "{broken"], BEFORE)
    write_lines(home, [line(2, "new"), line(3, "new")], DAY)
    report = run(warehouse, home, DAY, **of_two_days())
    # What was broken the day before was rejected the day before.
    assert (report.rows_in, report.rejected, report.published) == (3, 0, 3)
    assert published(warehouse) == {
        "l1": (DAY, "dlo", 1),
        "l2": (DAY, "wen", 2),
        "l3": (DAY, "wen", 1),
    }
    traced = read(
        warehouse,
        "SELECT t.line_id, i.uri, t._line FROM published.newest_lines t "
        "JOIN lineage.latest_runs r ON r.job = 'newest_lines' "
        "JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = t._input_id ORDER BY 1",
    )
    assert [(key, BEFORE in uri, number) for key, uri, number in traced] == [
        ("l1", True, 1),
        ("l2", False, 1),
        ("l3", False, 2),
    ]
    before = report.data_version
    write_lines(home, [line(1, "older"), line(2, "old")], BEFORE)
    assert run(warehouse, home, DAY, **of_two_days()).data_version != before


def test_too_many_rejects_of_a_derived_source_are_on_record(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, [*map(line, range(5)), *(line(n, "nobody") for n in range(10, 15))])
    with pytest.raises(TooManyRejectsError, match="5 of 10 source rows rejected"):
        run(warehouse, home, max_rejects=MaxRejects(share=0.2))
    found = read(warehouse, "SELECT source, partition_key, line FROM lineage.current_rejects")
    assert sorted(found) == [("lines", "all", n) for n in range(6, 11)]
    assert list((home / "scratch").iterdir()) == []


def test_nothing_that_landed_is_no_partition(warehouse: Warehouse, home: Path) -> None:
    with pytest.raises(NotLandedError, match="'lines' has not landed at all"):
        run(warehouse, home)
    write_lines(home, [line(1)], BEFORE)
    with pytest.raises(NotLandedError, match=f"'lines' has not landed for {DAY}"):
        run(warehouse, home, DAY, **of_two_days())


@pytest.mark.parametrize(("partition", "days"), [(DAY, False), ("all", True), ("../x", False)])
def test_a_job_takes_its_own_partitions_alone(
    warehouse: Warehouse, home: Path, partition: str, days: bool
) -> None:
    with pytest.raises(ConfigError, match=r"its only one is 'all'|is not a date"):
        run(warehouse, home, partition, **(of_two_days() if days else {}))


def test_a_source_with_days_is_not_read_as_a_whole() -> None:
    with pytest.raises(ConfigError, match=r"Lookback\(first=None\)"):
        newest_lines(source=of_two_days()["source"])
    with pytest.raises(ConfigError, match="'lines' has daily partitions"):
        shop.reversing(partitioned=False)


def test_the_text_of_derive_is_part_of_what_made_the_requests() -> None:
    fingerprint = newest_lines().fingerprint()
    assert "def newest(" in fingerprint.prepare_source
    assert "def text_of(" in fingerprint.prepare_source
