"""Partitions published by merge, run by run: what is inferred, staged, kept and traced."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from overnight.errors import AuditFailedError
from overnight.job import OutputCheck
from overnight.run import run_partition
from tests.support import shop
from tests.support.shop import DAY, line, reversing, write_lines
from tests.warehouse.helpers import forget_lineage

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.report import PartitionReport
    from overnight.warehouse.connect import Warehouse

pytestmark = pytest.mark.usefixtures("ray_head")

TABLE = "merged_lines"


@pytest.fixture(autouse=True)
def fresh_table(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE IF EXISTS published.{TABLE}")
        forget_lineage(connection)


def run(warehouse: Warehouse, home: Path, run_id: str = "run-1", **changes: Any) -> PartitionReport:
    job = reversing(name=TABLE, publish="merge", **changes)
    return run_partition(job, DAY, run_id=run_id, house=shop.house(warehouse, home))


def read(warehouse: Warehouse, query: str) -> list[Any]:
    with warehouse.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query))]


def published(warehouse: Warehouse) -> dict[str, str]:
    return dict(read(warehouse, f"SELECT line_id, reversed FROM published.{TABLE}"))


def places(warehouse: Warehouse) -> dict[str, str]:
    """Where each row's one version lies: an UPDATE would make another."""
    return dict(read(warehouse, f"SELECT line_id, ctid::text || xmin FROM published.{TABLE}"))


def test_only_what_changed_is_inferred_and_written(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, map(line, range(100)))
    first = run(warehouse, home)
    assert (first.inferred, first.staged, first.rows) == (100, 100, 100)
    before = places(warehouse)
    changed = {7: "changed 7", 42: "changed 42", 99: "changed 99"}
    write_lines(home, [line(n, changed.get(n)) for n in range(2, 104)])
    second = run(warehouse, home, "run-2")
    assert (second.inferred, second.reused, second.staged) == (7, 95, 7)
    assert (second.rows, second.published, second.rows_in) == (102, 102, 102)
    assert published(warehouse) == {
        f"l{n}": (changed.get(n) or f"line number {n}")[::-1] for n in range(2, 104)
    }
    assert len(places(warehouse).items() & before.items()) == 95


def test_an_unchanged_partition_writes_no_row(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_lines(home, [*map(line, range(50)), line(51, "!fail told")])
    first = run(warehouse, home)
    before = places(warehouse)
    monkeypatch.setattr("overnight.workers.pool.connected", lambda _: pytest.fail("asked"))
    second = run(warehouse, home, "run-2")
    assert (second.inferred, second.staged, second.rows, second.dead_lettered) == (0, 0, 50, 1)
    assert second.data_version == first.data_version
    assert places(warehouse) == before
    assert read(warehouse, "SELECT key FROM lineage.current_dead_letters") == [("l51",)]


def test_rows_that_stay_lead_to_the_file_they_were_read_from(
    warehouse: Warehouse, home: Path
) -> None:
    """Although that has been replaced since, twice."""
    digests = []
    for number in range(3):
        texts = [line(n, f"changed {number}" if n == number else None) for n in range(5)]
        file = write_lines(home, texts)
        digests.append(f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}")
        run(warehouse, home, f"run-{number}")
    found = read(
        warehouse,
        f"SELECT t.line_id, t._run_id, i.digest FROM published.{TABLE} t "
        f"JOIN lineage.latest_runs r ON r.job = '{TABLE}' AND r.partition_key = t.partition_key "
        "JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = t._input_id ORDER BY 1",
    )
    # A row that was changed for a while was inferred before, and is read from where it is back.
    assert found == [
        ("l0", "run-1", digests[1]),
        ("l1", "run-0", digests[2]),
        ("l2", "run-2", digests[2]),
        ("l3", "run-0", digests[0]),
        ("l4", "run-0", digests[0]),
    ]


def test_another_version_is_inferred_beside_the_old_and_switched(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, map(line, range(20)))
    run(warehouse, home)
    before = places(warehouse)
    seen = []

    def look(_: object) -> None:
        seen.append(places(warehouse))

    job = reversing(name=TABLE, publish="merge", version="2")
    report = run_partition(job, DAY, run_id="run-2", house=shop.house(warehouse, home), report=look)
    assert (report.inferred, report.staged, report.rows) == (20, 20, 20)
    assert seen
    assert all(one == before for one in seen)
    assert not places(warehouse).items() & before.items()


def test_checks_hold_for_all_that_readers_would_see(warehouse: Warehouse, home: Path) -> None:
    long = OutputCheck(
        name="long_share", description="Long.", breaks=lambda row: row.length > 30, max_share=0.25
    )
    write_lines(home, [line(n, "x" * 40 if n < 20 else None) for n in range(100)])
    run(warehouse, home, checks=(long,))
    before = published(warehouse)
    write_lines(home, [line(n, "x" * 40 if n < 30 else None) for n in range(100)])
    with pytest.raises(AuditFailedError, match="long_share: 30 of 100 rows"):
        run(warehouse, home, "run-2", checks=(long,))
    assert published(warehouse) == before


@pytest.mark.parametrize("seed", range(2))
def test_merging_again_and_again_is_as_good_as_replacing(
    warehouse: Warehouse, home: Path, seed: int
) -> None:
    rng = random.Random(seed)
    texts: dict[int, str] = {}
    for step in range(6):
        for n in rng.sample(range(60), 20):
            if rng.random() < 0.3:
                texts.pop(n, None)
            else:
                texts[n] = rng.choice(["why?", "!fail", f"text {rng.randrange(3)} of {n}"])
        write_lines(home, [line(n, text) for n, text in sorted(texts.items())])
        report = run(warehouse, home, f"run-{step}", max_dead_letter_share=1.0)
        good = {f"l{n}": text[::-1] for n, text in texts.items() if text.startswith("text")}
        assert published(warehouse) == good
        assert (report.rows, report.published) == (len(good), len(good))
        assert report.dead_lettered == len(texts) - len(good)
        untraced = (
            f"SELECT count(*) FROM published.{TABLE} t JOIN lineage.latest_runs r "
            f"ON r.job = '{TABLE}' LEFT JOIN lineage.inputs i ON i.attempt = r.attempt "
            "AND i.input_id = t._input_id WHERE i.uri IS NULL"
        )
        assert read(warehouse, untraced) == [(0,)]
