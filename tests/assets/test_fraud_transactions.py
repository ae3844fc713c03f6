"""From landed files to transactions with features: what counts, and what is told apart as bad."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest

from assets.fraud_features import FEATURES
from assets.fraud_transactions import ScorableTransaction, scorable_transactions
from assets.sources import fraud_labels, terminals, transactions
from overnight.contract import polars_schema
from overnight.errors import NotLandedError
from overnight.landing import mark_complete, reader_of
from overnight.landing.deriving import SOURCED_REJECTS
from overnight.store import StoreConfig

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.landing import Source

DAY = dt.date(2026, 11, 20)
DELAY = dt.timedelta(days=7)
NO_REJECTS = SOURCED_REJECTS.to_frame()


class Landing:
    """A landing zone with one customer and one terminal, one payment each noon."""

    def __init__(self, folder: Path) -> None:
        self.store = StoreConfig(url=folder.as_uri()).open()
        self._folder = folder
        self.put(terminals, DAY - dt.timedelta(days=60), [{"terminal_id": "p1"}])

    def put(self, source: Source, day: dt.date, rows: list[dict[str, Any]]) -> None:
        folder = self._folder / "landing" / source.name / day.isoformat()
        folder.mkdir(parents=True, exist_ok=True)
        schema: Any = polars_schema(source.contract)
        pl.DataFrame(rows, schema=schema).write_parquet(folder / "rows.parquet")

    def pay(self, day: dt.date, *rows: dict[str, Any]) -> None:
        """Land a day's transactions, and no labels yet."""
        noon = dt.datetime.combine(day, dt.time(11), dt.UTC)
        usual = {
            "transaction_id": f"t-{day}",
            "occurred_at": noon,
            "customer_id": "c1",
            "terminal_id": "p1",
            "amount": 10.0,
        }
        self.put(transactions, day, [usual, *({**usual, **row} for row in rows)])
        mark_complete(self.store, fraud_labels, day.isoformat())

    def report(self, day: dt.date, *rows: dict[str, Any]) -> None:
        usual = {"fraud": True, "reported_at": dt.datetime.combine(day, dt.time(8), dt.UTC)}
        self.put(fraud_labels, day, [{**usual, **row} for row in rows])

    def read(self, day: dt.date = DAY) -> tuple[pl.DataFrame, pl.DataFrame]:
        """Rows with their features as columns, and rejects."""
        batches = list(reader_of(self.store, scorable_transactions, day.isoformat()).batches())
        place = {"_input_id": pl.Int64(), "_line": pl.Int64()}
        no_rows = pl.Schema({**polars_schema(ScorableTransaction), **place}).to_frame()
        rows = pl.concat([no_rows, *(batch.frame for batch in batches)])
        names = [
            pl.col("features").list.get(at).alias(name)
            for at, name in enumerate(FEATURES)
            if name != "amount"
        ]
        return rows.with_columns(names), pl.concat([NO_REJECTS, *(b.rejects for b in batches)])


@pytest.fixture
def landing(tmp_path: Path) -> Landing:
    made = Landing(tmp_path)
    for ago in range(40, -1, -1):
        made.pay(DAY - dt.timedelta(days=ago))
    return made


def label(day: dt.date, **changes: Any) -> dict[str, Any]:
    return {"transaction_id": f"t-{day}", "transaction_date": day, **changes}


def share(rows: pl.DataFrame) -> float:
    """What is known of the terminal's last thirty days before the delay."""
    value: float = rows["terminal_fraud_share_30d"].item()
    return value


def test_a_day_has_the_features_of_the_days_before_it(landing: Landing) -> None:
    rows, rejects = landing.read()
    assert rejects.is_empty()
    (row,) = rows.iter_rows(named=True)
    assert row["transaction_id"] == f"t-{DAY}"
    assert row["_line"] == 1
    assert row["customer_count_7d"] == 7
    assert row["customer_mean_30d"] == 10
    assert row["terminal_count_30d"] == 30
    assert row["weekend"] == 0
    assert landing.read(DAY + dt.timedelta(days=-5))[0]["weekend"].item() == 1


def test_a_report_counts_once_the_delay_has_passed(landing: Landing) -> None:
    about = DAY - DELAY
    landing.report(DAY - dt.timedelta(days=3), label(about))
    assert share(landing.read()[0]) == pytest.approx(1 / 30)
    for day in range(1, 4):
        assert share(landing.read(DAY - dt.timedelta(days=day))[0]) == 0


def test_a_report_that_lands_later_than_the_day_is_not_known_on_it(landing: Landing) -> None:
    landing.report(DAY + dt.timedelta(days=1), label(DAY - DELAY))
    assert share(landing.read()[0]) == 0


def test_the_newest_report_on_a_transaction_counts(landing: Landing) -> None:
    about = DAY - dt.timedelta(days=20)
    landing.report(DAY - dt.timedelta(days=15), label(about))
    landing.report(DAY - dt.timedelta(days=10), label(about, fraud=False))
    assert share(landing.read()[0]) == 0
    # It came later, and is older: the correction stands.
    late = dt.datetime.combine(DAY - dt.timedelta(days=12), dt.time(), dt.UTC)
    landing.report(DAY - dt.timedelta(days=5), label(about, reported_at=late))
    assert share(landing.read()[0]) == 0
    landing.report(DAY - dt.timedelta(days=4), label(about))
    assert share(landing.read()[0]) == pytest.approx(1 / 30)


def test_bad_rows_name_file_line_column_and_value_and_count_nowhere(landing: Landing) -> None:
    before = landing.read()[0]
    yesterday = dt.datetime.combine(DAY - dt.timedelta(days=1), dt.time(22, 59), ZoneInfo("UTC"))
    landing.pay(
        DAY,
        {"transaction_id": "negative", "amount": -1.0},
        {"transaction_id": "nan", "amount": float("nan")},
        {"transaction_id": "unknown", "terminal_id": "p9"},
        {"transaction_id": "early", "occurred_at": yesterday},
        {"transaction_id": "both", "occurred_at": yesterday, "terminal_id": "p9"},
    )
    landing.report(
        DAY,
        label(DAY, transaction_id="never"),
        label(DAY - dt.timedelta(days=3)),
        label(DAY + dt.timedelta(days=1)),
        label(DAY - dt.timedelta(days=38), transaction_id="too old to be known here"),
    )
    rows, rejects = landing.read()
    assert rows.drop("_input_id").equals(before.drop("_input_id"))
    assert rejects.sort("source", "line").select(
        "source", "line", "key", "column", "value", "reason"
    ).rows() == [
        (
            *("fraud_labels", 1, "never", "transaction_id", "'never'"),
            "no such transaction landed on its transaction_date",
        ),
        (
            *("fraud_labels", 3, f"t-{DAY + dt.timedelta(days=1)}", "transaction_date"),
            *("datetime.date(2026, 11, 21)", "is after the day of the label itself"),
        ),
        ("transactions", 2, "negative", "amount", "-1.0", "must be >= 0"),
        ("transactions", 3, "nan", "amount", "nan", "is not a finite number"),
        ("transactions", 4, "unknown", "terminal_id", "'p9'", "is not among the terminals"),
        *(
            ("transactions", line, key, "occurred_at", repr(yesterday), OUTSIDE)
            for line, key in ((5, "early"), (6, "both"))
        ),
    ]
    assert all(f"/{DAY}/rows.parquet" in file for file in rejects["file"])


OUTSIDE = "is not within the day in Europe/Berlin"


def test_bad_rows_of_other_days_neither_count_nor_are_told_again(landing: Landing) -> None:
    before = landing.read()[0]
    landing.pay(DAY - dt.timedelta(days=2), {"transaction_id": "unknown", "terminal_id": "p9"})
    landing.report(DAY - dt.timedelta(days=1), label(DAY, transaction_id="never"))
    rows, rejects = landing.read()
    assert rejects.is_empty()
    assert rows.drop("_input_id").equals(before.drop("_input_id"))


def test_a_transaction_that_landed_twice_counts_once(landing: Landing) -> None:
    landing.pay(DAY, {})
    rows, _ = landing.read()
    # Both are planned, where the same row twice is told apart from two rows of one key.
    assert rows.height == 2
    assert rows["customer_count_1d"].to_list() == [1, 1]


def test_a_day_without_transactions_has_no_rows(landing: Landing) -> None:
    quiet = DAY + dt.timedelta(days=1)
    for source in (transactions, fraud_labels):
        mark_complete(landing.store, source, quiet.isoformat())
    rows, rejects = landing.read(quiet)
    assert rows.is_empty()
    assert rejects.is_empty()


def test_the_first_day_ever_has_features_too(tmp_path: Path) -> None:
    made = Landing(tmp_path)
    made.pay(DAY)
    rows, rejects = made.read()
    assert rejects.is_empty()
    assert rows["terminal_count_30d"].item() == 0


@pytest.mark.parametrize("source", [transactions, fraud_labels])
def test_a_day_that_has_not_landed_is_waited_for(landing: Landing, source: Source) -> None:
    missing = DAY + dt.timedelta(days=1)
    landing.pay(missing)
    folder = landing._folder / "landing" / source.name / missing.isoformat()
    for file in folder.iterdir():
        file.unlink()
    with pytest.raises(NotLandedError, match=f"'{source.name}' has not landed for {missing}"):
        landing.read(missing)


def test_without_terminals_every_transaction_is_at_an_unknown_one(tmp_path: Path) -> None:
    made = Landing(tmp_path)
    (
        tmp_path / "landing" / "terminals" / f"{DAY - dt.timedelta(days=60)}" / "rows.parquet"
    ).unlink()
    made.pay(DAY)
    rows, rejects = made.read()
    assert rows.is_empty()
    assert rejects["reason"].to_list() == ["is not among the terminals"]
