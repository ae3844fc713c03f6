"""Rows derived from landed rows of several sources and days: what is read, and accounted for."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.contract import Contract, Field, polars_schema
from overnight.errors import ConfigError, ContractError, NotLandedError, SourceError
from overnight.landing import (
    WHOLE,
    DerivedSource,
    Lookback,
    Source,
    landed_sources,
    mark_complete,
    reader_of,
)
from overnight.landing.deriving import SOURCED_REJECTS
from overnight.plan import MaxRejects, build_plan
from overnight.store import StoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from overnight.landing import DerivedReader, Reader
    from overnight.store import Store

DAY = "2026-01-10"
NOTHING = pl.DataFrame(schema={"input_hash": pl.Binary})


class Sale(Contract):
    """Sales."""

    sale_id: str = Field(description="Names the sale.")
    shop: str = Field(description="Where it was made.")
    amount: float = Field(description="What was paid.", ge=0)


class Shop(Contract):
    """Shops."""

    shop: str = Field(description="Names the shop.")


class Featured(Contract):
    """Sales with what was sold before."""

    sale_id: str = Field(description="Names the sale.")
    amount: float = Field(description="What was paid.")
    before: float = Field(description="What the shop took in the days before.", le=100)


sales = Source(name="sales", contract=Sale, key="sale_id")
shops = Source(name="shops", contract=Shop, key="shop")


def with_history(partition: str, frames: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    today = pl.col("_day") == pl.lit(partition).str.to_date()
    rows = frames["sales"].collect()
    before = rows.filter(~today).group_by("shop").agg(before=pl.col("amount").sum())
    return (
        rows.filter(today)
        .join(before, on="shop", how="left", maintain_order="left")
        .select("sale_id", "amount", pl.col("before").fill_null(0.0), "_input_id", "_line")
    )


def as_they_are(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    return frames["sales"].with_columns(before=pl.lit(0.0))


def derived(**changes: Any) -> DerivedSource:
    settings: dict[str, Any] = {
        "name": "sales_with_history",
        "contract": Featured,
        "key": "sale_id",
        "inputs": (Lookback(source=sales, first=-2),),
        "derive": with_history,
    }
    return DerivedSource(**{**settings, **changes})


def of_all(**changes: Any) -> DerivedSource:
    everything = (Lookback(source=sales, first=None),)
    return derived(**{"inputs": everything, "derive": as_they_are, **changes})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return StoreConfig((tmp_path / "store").as_uri()).open()


def land(store: Store, day: str, *rows: tuple[str, str, float], name: str = "a.csv") -> None:
    lines = ["sale_id,shop,amount", *(f"{one},{two},{three}" for one, two, three in rows)]
    store.put(f"landing/sales/{day}/{name}", "\n".join(lines).encode() + b"\n")


def read(
    store: Store, source: DerivedSource, partition: str = DAY
) -> tuple[pl.DataFrame, pl.DataFrame, Reader | DerivedReader]:
    reader = reader_of(store, source, partition)
    batches = list(reader.batches())
    rejects = [SOURCED_REJECTS.to_frame(), *(batch.rejects for batch in batches)]
    empty = pl.DataFrame(
        schema={**polars_schema(Featured), "_input_id": pl.Int64, "_line": pl.Int64}
    )
    frames = [empty, *(batch.frame for batch in batches)]
    return pl.concat(frames), pl.concat(rejects), reader


def keys(store: Store, source: DerivedSource, partition: str = DAY) -> list[str]:
    return sorted(read(store, source, partition)[0]["sale_id"])


def test_rows_are_derived_from_the_days_before(store: Store) -> None:
    land(store, "2026-01-07", ("s0", "north", 64.0))
    land(store, "2026-01-08", ("s1", "north", 3.0), ("s2", "south", 4.0))
    land(store, DAY, ("s3", "north", 5.0), ("s4", "east", 6.0))
    frame, rejects, reader = read(store, derived())
    assert frame.drop("_input_id").rows() == [("s3", 5.0, 3.0, 2), ("s4", 6.0, 0.0, 3)]
    assert rejects.is_empty()
    assert [(file.source, file.rows) for file in reader.inputs] == [("sales", 2), ("sales", 2)]
    assert set(frame["_input_id"]) == {reader.inputs[-1].input_id}


def test_each_landed_row_says_on_which_day_it_landed(store: Store) -> None:
    land(store, "2026-01-09", ("s1", "north", 1.0))
    land(store, DAY, ("s2", "north", 2.0))
    seen: list[Any] = []

    def derive(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
        rows = frames["sales"].collect()
        seen.extend(rows.select("sale_id", pl.col("_day").cast(pl.String)).rows())
        return rows.with_columns(before=pl.lit(0.0))

    read(store, derived(derive=derive))
    assert seen == [("s1", "2026-01-09"), ("s2", DAY)]


@pytest.mark.parametrize(
    ("look", "found"),
    [
        ({"first": 0}, ["s10"]),
        ({"first": -1}, ["s10", "s9"]),
        ({"first": -5, "last": -1}, ["s8", "s9"]),
        ({"first": None}, ["s1", "s10", "s8", "s9"]),
        ({"first": None, "last": -2}, ["s1", "s8"]),
    ],
)
def test_only_the_days_that_were_asked_for_are_read(
    store: Store, look: dict[str, Any], found: list[str]
) -> None:
    for day in (1, 8, 9, 10, 11):
        land(store, f"2026-01-{day:02d}", (f"s{day}", "north", 1.0))
    source = derived(inputs=(Lookback(source=sales, **look),), derive=as_they_are)
    assert keys(store, source) == found


def test_without_partitions_everything_is_read(store: Store) -> None:
    for day in (1, 11):
        land(store, f"2026-01-{day:02d}", (f"s{day}", "north", 1.0))
    assert keys(store, of_all(), WHOLE) == ["s1", "s11"]


def test_the_day_itself_must_have_landed_and_no_other(store: Store) -> None:
    land(store, "2026-01-09", ("s1", "north", 1.0))
    for source in (derived(), of_all()):
        with pytest.raises(NotLandedError, match=f"'sales' has not landed for {DAY}"):
            read(store, source)
    optional = Lookback(source=sales, first=-1, required=False)
    assert keys(store, derived(inputs=(optional,), derive=as_they_are)) == ["s1"]
    mark_complete(store, sales, DAY)
    assert read(store, derived())[0].is_empty()


def test_something_must_have_landed_where_all_is_read(store: Store) -> None:
    with pytest.raises(NotLandedError, match=r"'sales' has not landed at all.*landing/sales"):
        read(store, of_all(), WHOLE)
    optional = of_all(inputs=(Lookback(source=sales, first=None, required=False),))
    assert read(store, optional, WHOLE)[0].is_empty()


def test_a_source_that_did_not_land_is_an_empty_frame(store: Store) -> None:
    land(store, DAY, ("s1", "north", 1.0))

    def derive(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
        known = frames["shops"].collect()
        assert known.schema.names() == ["shop", "_input_id", "_line", "_day"]
        rows = frames["sales"].collect().with_columns(before=pl.lit(0.0))
        unknown = ~pl.col("shop").is_in(known["shop"].implode())
        return rows.with_columns(
            _reject_column=pl.when(unknown).then(pl.lit("shop")),
            _reject_reason=pl.when(unknown).then(pl.lit("is no known shop")),
        )

    looks = (Lookback(source=sales), Lookback(source=shops, first=-3, required=False))
    source = derived(inputs=looks, derive=derive)
    frame, rejects, reader = read(store, source)
    assert frame.is_empty()
    uri = reader.inputs[0].uri
    expected = ("sales", uri, 2, "s1", "shop", "'north'", "is no known shop")
    assert rejects.rows() == [expected]
    store.put(f"landing/shops/{DAY}/shops.csv", b"shop\nnorth\n")
    frame, rejects, reader = read(store, source)
    assert (frame.height, rejects.height) == (1, 0)
    assert [file.source for file in reader.inputs] == ["sales", "shops"]


def test_landed_rejects_count_on_their_own_day_alone(store: Store) -> None:
    land(store, "2026-01-09", ("s1", "north", 1.0), ("s2", "north", -1.0))
    land(store, DAY, ("s3", "north", 2.0), ("s4", "north", -2.0))
    rejected = {
        source.derive.__name__: read(store, source)[1]["key"].to_list()
        for source in (derived(), of_all())
    }
    assert rejected == {"with_history": ["s4"], "as_they_are": ["s4"]}
    (reject,) = read(store, derived())[1].rows(named=True)
    assert (reject["source"], reject["line"], reject["column"]) == ("sales", 3, "amount")
    assert reject["reason"] == "must be >= 0"


def test_a_derived_row_that_breaks_its_contract_is_a_reject_of_the_landed_line(
    store: Store,
) -> None:
    land(store, "2026-01-09", ("s1", "north", 500.0))
    land(store, DAY, ("s2", "south", 1.0), ("s3", "north", 2.0))
    frame, rejects, reader = read(store, derived())
    assert frame["sale_id"].to_list() == ["s2"]
    uri = reader.inputs[-1].uri
    assert rejects.rows() == [("sales", uri, 3, "s3", "before", "500.0", "must be <= 100")]


@pytest.mark.parametrize("how", ["frame", "lazy", "several"])
def test_rows_may_come_as_one_frame_as_a_lazy_one_or_as_several(store: Store, how: str) -> None:
    land(store, DAY, *((f"s{n}", "north", float(n)) for n in range(5)))

    def derive(_: str, frames: Mapping[str, pl.LazyFrame]) -> Any:
        rows = frames["sales"].with_columns(before=pl.lit(0.0))
        return {
            "frame": rows.collect(),
            "lazy": rows,
            "several": rows.collect().iter_slices(2),
        }[how]

    assert keys(store, derived(derive=derive)) == [f"s{n}" for n in range(5)]


def raising(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    return frames["nothing"].collect()


def late(_: str, frames: Mapping[str, pl.LazyFrame]) -> Iterator[pl.DataFrame]:
    yield as_they_are("", frames).collect()
    raise ValueError("no good")


def nothing(_: str, frames: Mapping[str, pl.LazyFrame]) -> Any:
    return [None]


def placeless(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.DataFrame:
    return as_they_are("", frames).drop("_line").collect()


def lost(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    return as_they_are("", frames).with_columns(_input_id=pl.lit(7))


def narrow(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    return frames["sales"]


def refusing(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    raise SourceError("the feed deletes what it never had")


@pytest.mark.parametrize(
    ("derive", "error", "says"),
    [
        (raising, ConfigError, f"derive raised KeyError for {DAY}: 'nothing'"),
        (late, ConfigError, f"derive raised ValueError for {DAY}: no good"),
        (nothing, ConfigError, "derive gave NoneType instead of a DataFrame"),
        (placeless, ContractError, r"without \['_line'\]"),
        (lost, ContractError, r"sale_id='s1'\) that is traced to _input_id=7, _line=2"),
        (narrow, ContractError, "'before' must be Float64, the frame has no such column"),
        (refusing, SourceError, "^the feed deletes what it never had$"),
    ],
)
def test_what_derive_does_wrong_is_told_by_name(
    store: Store, tmp_path: Path, derive: Any, error: type[Exception], says: str
) -> None:
    land(store, DAY, ("s1", "north", 1.0))
    source = derived(derive=derive)
    scratch = tmp_path / "scratch"
    with pytest.raises(error, match=says) as caught:
        list(reader_of(store, source, DAY, scratch=scratch).batches())
    if error is not SourceError:
        assert str(caught.value).startswith("derived source 'sales_with_history'")
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda: Lookback(source=sales, first=1),
        lambda: Lookback(source=sales, first=-1, last=-2),
        lambda: Lookback(source=sales, last=1),
        lambda: derived(inputs=()),
        lambda: derived(inputs=(Lookback(source=sales), Lookback(source=sales, first=-2))),
        lambda: derived(name="Has Spaces"),
        lambda: derived(key="nothing"),
    ],
)
def test_a_declaration_that_means_nothing_is_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"sales|Has Spaces"):
        make()


@pytest.mark.parametrize("source", [sales, derived()])
def test_what_has_days_cannot_be_read_as_a_whole(store: Store, source: Any) -> None:
    with pytest.raises(ConfigError, match=r"is none of them|is not a date"):
        reader_of(store, source, WHOLE)


def test_the_landed_sources_behind_a_derived_one_are_known() -> None:
    looks = (Lookback(source=sales), Lookback(source=shops))
    assert landed_sources(derived(inputs=looks)) == (sales, shops)
    assert landed_sources(sales) == (sales,)


DAYS = st.lists(
    st.lists(
        st.tuples(st.sampled_from(["north", "south", "odd"]), st.integers(-3, 60)), max_size=8
    ),
    min_size=3,
    max_size=3,
)


def fanned(partition: str, frames: Mapping[str, pl.LazyFrame]) -> Iterator[pl.DataFrame]:
    """As many rows for each sale as the remainder of its amount says; an odd shop is refused."""
    for frame in with_history(partition, frames).iter_slices(3):
        rows = frame.join(frames["sales"].select("sale_id", "shop").collect(), on="sale_id")
        times = (pl.col("amount") % 3).cast(pl.Int64)
        yield (
            rows.with_columns(part=pl.int_ranges(times))
            .explode("part", empty_as_null=False)
            .with_columns(
                sale_id=pl.format("{}-{}", "sale_id", "part"),
                _reject_column=pl.when(pl.col("shop") == "odd").then(pl.lit("shop")),
                _reject_reason=pl.when(pl.col("shop") == "odd").then(pl.lit("is odd")),
            )
        )


@given(days=DAYS)
@settings(
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_every_derived_row_and_every_landed_reject_of_the_day_is_accounted_for(
    tmp_path_factory: pytest.TempPathFactory, days: list[list[tuple[str, int]]]
) -> None:
    root = tmp_path_factory.mktemp("store")
    store = StoreConfig(root.as_uri()).open()
    for number, rows in enumerate(days):
        landed = [(f"d{number}r{n}", shop, amount) for n, (shop, amount) in enumerate(rows)]
        land(store, f"2026-01-{8 + number:02d}", *landed)
    plan = build_plan(
        reader_of(store, derived(derive=fanned), DAY),
        key="sale_id",
        prepare=lambda frame: frame["sale_id"],
        carry=[],
        done=NOTHING,
        published=NOTHING,
        scratch=tmp_path_factory.mktemp("scratch"),
        split_rows=4,
        max_rejects=MaxRejects(share=1),
    )
    before = dict.fromkeys(("north", "south", "odd"), 0)
    for shop, amount in (sale for rows in days[:2] for sale in rows if sale[1] >= 0):
        before[shop] += amount
    broken = sum(amount < 0 for _, amount in days[2])
    refused = 0
    expected: dict[str, int] = {}
    for n, (shop, amount) in enumerate(days[2]):
        for part in range(amount % 3 if amount >= 0 else 0):
            if shop == "odd" or before[shop] > 100:
                refused += 1
            else:
                expected[f"d2r{n}-{part}"] = n + 2
    with plan:
        assert dict(plan.wanted.select("key", "_line").rows()) == expected
        assert plan.rejected == plan.rejects.height == broken + refused
        assert plan.rows_in == len(expected) + broken + refused
        assert sum(split.rows for split in plan.splits) == len(expected)


BIG = """
import sys
from pathlib import Path
import polars as pl
from overnight.landing import reader_of
from tests.landing.test_derived import DAY, derived, open_store
def peak():
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) >> 10
def first_rows(_, frames):
    return frames["sales"].head(10).with_columns(before=pl.lit(0.0))
before = peak()
reader = reader_of(open_store(sys.argv[1]), derived(derive=first_rows), DAY)
rows = sum(batch.frame.height for batch in reader.batches())
print(rows, sum(file.rows for file in reader.inputs), peak() - before)
"""


def open_store(root: str) -> Store:
    return StoreConfig(root).open()


def test_landed_rows_wait_on_disk(store: Store, tmp_path: Path) -> None:
    wide = "x" * 2000
    day = tmp_path / "store" / "landing" / "sales" / DAY
    day.mkdir(parents=True)
    with (day / "a.csv").open("w") as file:
        file.write("sale_id,shop,amount\n")
        file.writelines(f"s{n},{n}{wide},1\n" for n in range(300_000))
    done = subprocess.run(
        [sys.executable, "-c", BIG, (tmp_path / "store").as_uri()],
        capture_output=True,
        text=True,
        check=True,
    )
    rows, landed, grown_mib = map(int, done.stdout.split())
    assert (rows, landed) == (10, 300_000)
    # 600 MB have landed; what a reader holds levels off at about 250 MiB.
    assert grown_mib < 350, grown_mib
