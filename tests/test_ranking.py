"""A rank is the same whether Postgres or polars tells it, and whatever came from where."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.errors import ConfigError
from overnight.ranking import Rank
from overnight.run import run_partition
from overnight.warehouse.copy import copy_in
from overnight.warehouse.stage import Stage
from tests.support import shop
from tests.support.shop import DAY, line, reversing, write_lines
from tests.test_over_partition import Ranked
from tests.warehouse.helpers import read

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.job import InferenceJob
    from overnight.warehouse.connect import Warehouse

SCHEMA = {"key": pl.String, "score": pl.Float64, "text": pl.String, "count": pl.Int64}
TABLE = sa.Table(
    "ranked",
    sa.MetaData(),
    sa.Column("key", sa.Text),
    sa.Column("score", sa.Double),
    sa.Column("text", sa.Text),
    sa.Column("count", sa.BigInteger),
)
VALUES = st.tuples(
    st.none() | st.sampled_from([0.0, -0.0, 0.1, 1e300]) | st.floats(allow_nan=True, width=32),
    st.none() | st.sampled_from(["", "a", "B", "é", "Z", "~", "\uffff", "\U0001f600", "a b"]),
    st.none() | st.integers(-3, 3),
)
ORDERS = st.permutations(["score", "text", "count"]).flatmap(
    lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names))
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(values=st.lists(VALUES, min_size=1, max_size=30), order=ORDERS)
def test_memory_and_sql_agree(warehouse: Warehouse, values: list[Any], order: Any) -> None:
    frame = pl.DataFrame(
        [(f"k{n}", *row) for n, row in enumerate(values)], schema=SCHEMA, orient="row"
    )
    rank = Rank(by=(*order, "key"))
    with warehouse.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TEMPORARY TABLE ranked (key text, score float8, text text, count bigint) "
            "ON COMMIT DROP"
        )
        copy_in(connection, TABLE, frame)
        found = connection.execute(sa.select(TABLE.c.key, rank(TABLE.c))).all()
    assert dict(zip(frame["key"], rank.of(frame), strict=True)) == dict(map(tuple, found))


@pytest.mark.parametrize("by", [(), ("",), ("-",), ("score", "-score")])
def test_an_order_that_means_nothing_is_refused(by: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match="must name columns, each once"):
        Rank(by=by)


def ranked() -> InferenceJob:
    rank = Rank(by=("-length", "line_id"))
    return reversing(name="ranked_lines", output=Ranked, over_partition={"place": rank})


def places(warehouse: Warehouse) -> dict[str, int]:
    return dict(read(warehouse, "SELECT line_id, place FROM published.ranked_lines"))


@pytest.mark.usefixtures("ray_head")
def test_only_rows_that_were_reused_need_postgres_for_the_ranks(
    warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed = []
    compute = Stage.compute

    def counting(stage: Stage, columns: Any) -> None:
        computed.append(sorted(columns))
        compute(stage, columns)

    monkeypatch.setattr(Stage, "compute", counting)
    house = shop.house(warehouse, home)
    write_lines(home, [line(n, "x" * n) for n in range(1, 31)])
    first = run_partition(ranked(), DAY, run_id="r", house=house)
    assert (first.inferred, first.audit.passed, computed) == (30, True, [])
    assert places(warehouse) == {f"l{n}": 31 - n for n in range(1, 31)}
    write_lines(home, [line(n, "x" * (100 if n == 7 else n)) for n in range(1, 31)])
    second = run_partition(ranked(), DAY, run_id="r2", house=house)
    assert (second.inferred, second.reused, computed) == (1, 29, [["place"]])
    longest_first = [7, *(n for n in range(30, 0, -1) if n != 7)]
    assert places(warehouse) == {f"l{n}": place for place, n in enumerate(longest_first, 1)}
