"""Columns that need the whole partition: computed in SQL once everything is staged."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Any

import pandera.polars as pandera
import polars as pl
import pytest
import sqlalchemy as sa

from overnight import crashpoints
from overnight.contract import Contract, Field
from overnight.errors import AuditFailedError, ConfigError
from overnight.lineage.record import finish_attempt
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from overnight.warehouse.stage import Stage
from tests.support import shop
from tests.support.shop import DAY, line, reversing, write_lines
from tests.warehouse.helpers import forget_lineage, new_table, python, read, rows, start

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.job import InferenceJob
    from overnight.report import PartitionReport


class Ranked(Contract):
    """Lines of text, reversed and ranked."""

    line_id: str = Field(description="Names the line.")
    weight: int | None = Field(description="The line's number.")
    reversed: str = Field(description="The text, last letter first.")
    length: int = Field(description="Characters.", ge=0)
    place: int = Field(description="The place by length, the longest first.", ge=1)


class Checked(Ranked):
    """With a check on whole rows."""

    @pandera.dataframe_check
    @classmethod
    def never_longer_than_heavy(cls, data: Any) -> Any:
        return data.lazyframe.select(pl.col("length") <= pl.col("weight"))


def by_length(row: Any) -> Any:
    return sa.func.row_number().over(order_by=(row.length.desc(), row.line_id))


def ranked(place: Any = by_length, **changes: Any) -> InferenceJob:
    settings: dict[str, Any] = {
        "name": "ranked_lines",
        "output": Ranked,
        "over_partition": {"place": place},
    }
    return reversing(**{**settings, **changes})


def run(warehouse: Warehouse, home: Path, place: Any = by_length, **changes: Any) -> Any:
    house = shop.house(warehouse, home)
    return run_partition(ranked(place, **changes), DAY, run_id="r", house=house)


def places(warehouse: Warehouse) -> dict[str, int]:
    return dict(read(warehouse, "SELECT line_id, place FROM published.ranked_lines"))


@pytest.fixture(autouse=True)
def fresh_table(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.ranked_lines")
        forget_lineage(connection)


@pytest.mark.usefixtures("ray_head")
def test_every_row_is_ranked_reused_ones_included(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [line(n, "x" * n) for n in range(1, 31)])
    first: PartitionReport = run(warehouse, home)
    assert places(warehouse) == {f"l{n}": 31 - n for n in range(1, 31)}
    assert first.audit.passed
    write_lines(home, [line(n, "x" * (100 if n == 7 else n)) for n in range(1, 31)])
    second: PartitionReport = run(warehouse, home)
    assert (second.inferred, second.reused) == (1, 29)
    longest_first = [7, *(n for n in range(30, 0, -1) if n != 7)]
    assert places(warehouse) == {f"l{n}": place for place, n in enumerate(longest_first, 1)}
    assert "place" in second.sample.columns


@pytest.mark.usefixtures("ray_head")
def test_another_expression_is_applied_without_inferring(warehouse: Warehouse, home: Path) -> None:
    write_lines(home, [line(n, "x" * n) for n in range(1, 6)])
    run(warehouse, home)
    report = run(warehouse, home, lambda row: sa.func.rank().over(order_by=row.length))
    assert report.inferred == 0
    assert places(warehouse) == {f"l{n}": n for n in range(1, 6)}


@pytest.mark.usefixtures("ray_head")
@pytest.mark.parametrize(
    ("place", "says"),
    [
        (lambda row: sa.func.nullif(row.length, 3), "column place is null: is null"),
        (lambda row: row.length - 2, "column place is -1: must be >= 1"),
    ],
)
def test_what_is_computed_must_keep_the_contract(
    warehouse: Warehouse, home: Path, place: Any, says: str
) -> None:
    write_lines(home, [line(n, "x" * n) for n in (1, 3)])
    with pytest.raises(AuditFailedError, match=f"contract: .*breaks Ranked: {says}"):
        run(warehouse, home, place)
    assert places(warehouse) == {}


@pytest.mark.usefixtures("ray_head")
def test_what_postgres_cannot_compute_is_told_in_its_words(
    warehouse: Warehouse, home: Path
) -> None:
    write_lines(home, [line(1)])
    with pytest.raises(ConfigError, match=r"\['place'\] cannot be computed .*no_such_function"):
        run(warehouse, home, lambda row: sa.func.no_such_function(row.length))
    with pytest.raises(ConfigError, match=r"\['place'\] cannot be computed .*division by zero"):
        run(warehouse, home, lambda row: row.length / 0)
    assert read(warehouse, "SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'") == [(0,)]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"over_partition": {"nothing": by_length}}, "names ['nothing'], which Ranked does not"),
        ({"over_partition": {"line_id": by_length}}, "names the key column(s) ['line_id']"),
        ({"output": Checked}, "Checked cannot have checks on whole rows"),
        ({"publish": "merge"}, "cannot go with merge"),
        ({"place": lambda row: row.nothing}, "over_partition['place'] is no SQL expression"),
        ({"place": lambda row: row.place}, "over_partition['place'] is no SQL expression"),
        ({"place": lambda _: 7}, "over_partition['place'] is no SQL expression"),
        ({"publish": "sideways"}, "publish is 'sideways', must be one of replace, merge"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        ranked(**changes)
    assert says in str(caught.value)


def test_the_expression_is_part_of_the_output_version_alone() -> None:
    before = ranked().fingerprint()
    assert ranked().fingerprint() == before
    other = ranked(lambda row: sa.func.rank().over(order_by=row.length)).fingerprint()
    assert other.id == before.id
    assert other.output_version != before.output_version
    values = [ranked(lambda row, n=n: row.length + n).fingerprint().output_version for n in (1, 2)]
    assert values[0] != values[1]


CHILD = """
import sys
from pathlib import Path
from overnight.warehouse.connect import Warehouse
from tests.test_over_partition import stage_and_compute
with Warehouse.open(home=Path(sys.argv[1])) as warehouse:
    stage_and_compute(warehouse)
"""


def stage_and_compute(warehouse: Warehouse) -> list[Any]:
    table = new_table(
        warehouse,
        sa.Column("id", sa.Text, nullable=False, comment="The key"),
        sa.Column("text", sa.Text, comment="What was inferred"),
        sa.Column("place", sa.BigInteger, nullable=False, comment="The place"),
        name="t",
    )
    attempt = start(warehouse, table)
    with Stage(warehouse, table, attempt, computed=["place"]) as stage:
        stage.copy(rows(range(5), "x", attempt))
        stage.compute({"place": lambda row: sa.func.row_number().over(order_by=row.id)})
        stage.check_held(5)
        found = stage.preview.frame(9).select("id", "place").rows()
    finish_attempt(warehouse, attempt, outcome="failed")
    return found


@pytest.mark.parametrize("point", ["compute.before_commit", "compute.after_commit"])
def test_a_kill_while_computing_leaves_nothing_behind(home: Path, point: str) -> None:
    child = python(CHILD, str(home), **{crashpoints.VARIABLE: f"{point}:1"})
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    with Warehouse.open(home=home) as warehouse:
        assert stage_and_compute(warehouse) == [(f"k{n}", n + 1) for n in range(5)]
        left = "SELECT count(*) FROM pg_tables WHERE schemaname = 'staging'"
        assert read(warehouse, left) == [(0,)]
