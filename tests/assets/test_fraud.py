"""Nightly fraud scores, the whole way: landed, trained, scored, published, reviewed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa
import xgboost

from assets.demo.cards import transactions as simulated
from assets.demo.payments import land_day
from assets.fraud import fraud_scores
from assets.fraud_features import FEATURES
from assets.fraud_reviews import detection, drift
from assets.fraud_transactions import scorable_transactions
from assets.sources import TIMEZONE, fraud_labels, transactions
from overnight.engines.xgboost import MODEL_FILE
from overnight.errors import ModelError, TooManyRejectsError
from overnight.landing import mark_complete, reader_of
from overnight.orchestration.review import Place
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.support.payments import DAYS_TO_TRAIN, LAST, TOWN, land_days, trained
from tests.support.shop import house as house_in
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.report import PartitionReport
    from overnight.run import House
    from overnight.training import TrainingReport

pytestmark = pytest.mark.usefixtures("ray_head")
SCORED_DAYS = 8


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """An installation in which everything has landed up to `LAST`."""
    with open_home() as home, Warehouse.open(home=home) as warehouse:
        made = house_in(warehouse, home)
        land_days(made.store.open(), DAYS_TO_TRAIN + SCORED_DAYS)
        yield made


@pytest.fixture(scope="module")
def model(house: House) -> TrainingReport:
    """A model that was trained before the days that are scored."""
    return trained(house, last=LAST - dt.timedelta(days=SCORED_DAYS))


@pytest.fixture(scope="module")
def scored(house: House, model: TrainingReport) -> PartitionReport:
    assert model.check.passed
    return score(house)


def score(house: House, day: dt.date = LAST, run_id: str = "test") -> PartitionReport:
    return run_partition(fraud_scores, day.isoformat(), run_id=run_id, house=house)


def published(house: House, day: dt.date = LAST) -> pl.DataFrame:
    query = sa.text("SELECT * FROM published.fraud_scores WHERE partition_key = :day")
    with house.warehouse.connect() as connection:
        result = connection.execute(query, {"day": day.isoformat()})
        names = list(result.keys())
        return pl.DataFrame([tuple(row) for row in result], schema=names, orient="row",
                            infer_schema_length=None).sort("day_rank")  # fmt: skip


def test_every_transaction_has_the_models_own_score_and_rank(
    house: House, scored: PartitionReport, model: TrainingReport
) -> None:
    known = simulated(TOWN, [LAST], timezone=TIMEZONE)
    rows = published(house)
    assert scored.rows_in == scored.published == rows.height == known.height
    assert set(rows["transaction_id"]) == set(known["transaction_id"])
    assert rows["day_rank"].to_list() == list(range(1, rows.height + 1))
    assert rows["score"].is_sorted(descending=True)
    assert rows["model_version"].unique().to_list() == [model.version.version]
    reader = reader_of(house.store.open(), scorable_transactions, LAST.isoformat())
    frame = pl.concat([batch.frame for batch in reader.batches()])
    booster = xgboost.Booster(model_file=str(model.version.fetch() / MODEL_FILE))
    matrix = np.array(frame["features"].to_list(), np.float32)
    data = xgboost.DMatrix(matrix, feature_names=list(FEATURES))
    plain = dict(zip(frame["transaction_id"], booster.predict(data).tolist(), strict=True))
    assert dict(rows.select("transaction_id", "score").iter_rows()) == pytest.approx(plain)
    # What is said to have contributed most is what XGBoost says.
    contributions = booster.predict(data, pred_contribs=True)[:, :-1]
    expected = dict(zip(frame["transaction_id"], contributions, strict=True))
    for row in rows.iter_rows(named=True):
        whole = expected[row["transaction_id"]]
        told = [(row[f"feature_{n}"], row[f"contribution_{n}"]) for n in (1, 2, 3)]
        for name, value in told:
            assert value == pytest.approx(float(whole[FEATURES.index(name)]))
        sizes = sorted(np.abs(whole).tolist(), reverse=True)
        assert [abs(value) for _, value in told] == pytest.approx(sizes[:3])


def test_a_second_run_infers_nothing(house: House, scored: PartitionReport) -> None:
    again = score(house, run_id="again")
    assert again.inferred == 0
    assert again.reused == scored.published
    assert again.fingerprint.id == scored.fingerprint.id


def test_every_row_leads_to_its_model_and_its_line(house: House, scored: PartitionReport) -> None:
    query = sa.text(
        "SELECT s.transaction_id, f.model_digest, i.uri, s._line, s.model_version "
        "FROM published.fraud_scores s JOIN lineage.attempts a ON a.attempt = s._attempt "
        "JOIN lineage.fingerprints f USING (fingerprint) "
        "JOIN lineage.latest_runs r ON r.job = a.job AND r.partition_key = s.partition_key "
        "JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = s._input_id "
        "WHERE s.partition_key = :day"
    )
    landed = simulated(TOWN, [LAST], timezone=TIMEZONE)["transaction_id"].to_list()
    with house.warehouse.connect() as connection:
        rows = connection.execute(query, {"day": LAST.isoformat()}).all()
    assert len(rows) == scored.published
    for row in rows:
        assert landed[row._line - 1] == row.transaction_id
        assert f"/transactions/{LAST}/" in row.uri
        assert row.model_digest.removeprefix("sha256:").startswith(row.model_version)


def test_a_corrected_label_costs_only_the_rows_that_it_changes(
    house: House, model: TrainingReport
) -> None:
    day = LAST - dt.timedelta(days=1)
    before = score(house, day)
    about = day - dt.timedelta(days=10)
    with_terminal = simulated(TOWN, [about], timezone=TIMEZONE).filter(~pl.col("fraud"))
    today = simulated(TOWN, [day], timezone=TIMEZONE)
    wrong = with_terminal.join(today, on="terminal_id", how="semi").row(0, named=True)
    late = io.BytesIO()
    pl.DataFrame(
        {
            "transaction_id": [wrong["transaction_id"]],
            "transaction_date": [about],
            "fraud": [True],
            "reported_at": [dt.datetime.combine(day, dt.time(12), dt.UTC)],
        }
    ).write_parquet(late)
    house.store.open().put(f"landing/fraud_labels/{day}/late.parquet", late.getvalue())
    after = score(house, day, run_id="corrected")
    assert after.published == before.published
    touched = today.filter(pl.col("terminal_id") == wrong["terminal_id"]).height
    assert 0 < after.inferred <= touched


def test_bad_transactions_and_labels_are_rejected_and_the_rest_is_scored(
    house: House, model: TrainingReport
) -> None:
    day = LAST - dt.timedelta(days=2)
    store = house.store.open()
    land_day(store, day, world=TOWN, mistakes=4)
    report = score(house, day)
    good = simulated(TOWN, [day], timezone=TIMEZONE).height
    assert report.published == good
    assert report.rejected == 8
    assert report.rows_in == good + 8
    query = sa.text(
        'SELECT source, key, "column", reason FROM lineage.current_rejects '
        "WHERE job = 'fraud_scores' AND partition_key = :day ORDER BY source, key"
    )
    with house.warehouse.connect() as connection:
        told = [tuple(row) for row in connection.execute(query, {"day": day.isoformat()})]
    never = "no such transaction landed on its transaction_date"
    assert told == [
        *(("fraud_labels", f"never-{n}", "transaction_id", never) for n in range(4)),
        ("transactions", f"bad-{day:%Y%m%d}-0", "amount", "must be >= 0"),
        ("transactions", f"bad-{day:%Y%m%d}-1", "amount", "is not a finite number"),
        ("transactions", f"bad-{day:%Y%m%d}-2", "terminal_id", "is not among the terminals"),
        (
            *("transactions", f"bad-{day:%Y%m%d}-3", "occurred_at"),
            "is not within the day in Europe/Berlin",
        ),
    ]


def test_too_many_bad_rows_stop_the_run_and_change_nothing(
    house: House, model: TrainingReport
) -> None:
    day = LAST - dt.timedelta(days=3)
    score(house, day)
    before = published(house, day)
    land_day(house.store.open(), day, world=TOWN, mistakes=14)
    with pytest.raises(TooManyRejectsError, match=r"column amount value -\d+\.\d+: must be >= 0"):
        score(house, day, run_id="too-many")
    assert published(house, day).equals(before)
    land_day(house.store.open(), day, world=TOWN)
    assert score(house, day, run_id="corrected").inferred == 0


def test_a_day_without_transactions_is_an_empty_partition(
    house: House, model: TrainingReport
) -> None:
    quiet = LAST + dt.timedelta(days=1)
    for source in (transactions, fraud_labels):
        mark_complete(house.store.open(), source, quiet.isoformat())
    report = score(house, quiet)
    assert (report.rows_in, report.published) == (0, 0)


def test_a_truncated_model_is_refused_before_anything_is_inferred(
    house: House, scored: PartitionReport, model: TrainingReport, home: Path
) -> None:
    before = published(house)
    key = f"models/fraud_model/{model.version.version}/{MODEL_FILE}"
    store = house.store.open()
    whole = store.get(key)
    store.put(key, whole[:-100])
    # Another machine, which has not fetched it before.
    elsewhere = dataclasses.replace(house, scratch=home / "scratch")
    try:
        with pytest.raises(ModelError, match=rf"{MODEL_FILE}: declared {len(whole)} bytes") as told:
            score(elsewhere, run_id="truncated")
    finally:
        store.put(key, whole)
    assert f"found {len(whole) - 100} bytes" in str(told.value)
    assert published(house).equals(before)


def test_a_model_of_other_features_is_refused_before_anything_is_inferred(
    house: House, scored: PartitionReport
) -> None:
    before = published(house)
    other: Any = dataclasses.replace(
        fraud_scores.engine,  # type: ignore[type-var]
        features=(*FEATURES[:-1], "phase_of_the_moon"),
    )
    job = dataclasses.replace(fraud_scores, engine=other)
    with pytest.raises(ModelError, match=r"only the job has \['phase_of_the_moon'\]"):
        run_partition(job, LAST.isoformat(), run_id="other", house=house)
    assert published(house).equals(before)


def place(house: House, day: dt.date = LAST) -> Place:
    return Place(
        partition=day.isoformat(),
        warehouse=house.warehouse,
        store=house.store.open(),
        scratch=house.scratch,
    )


def test_reviews_judge_by_the_labels_that_have_landed_since(
    house: House, scored: PartitionReport
) -> None:
    early = detection(place(house))
    assert early.passed
    assert "nothing to judge by yet" in early.message
    for ago in range(SCORED_DAYS):
        score(house, LAST - dt.timedelta(days=ago), run_id="week")
    later = LAST + dt.timedelta(days=7)
    for ahead in range(1, 8):
        land_day(house.store.open(), LAST + dt.timedelta(days=ahead), world=TOWN)
    found = detection(place(house, later))
    days = [LAST - dt.timedelta(days=ago) for ago in range(7)]
    world = simulated(TOWN, days, timezone=TIMEZONE)
    assert found.figures["scored"] == world.height
    assert found.figures["frauds"] >= int(world["fraud"].sum())
    assert found.passed, found.message
    assert found.figures["auc_roc"] > 0.7
    assert found.plots["precision_recall"].startswith("![precision-recall curve](data:image/png")


def test_drift_is_found_where_scores_have_moved(house: House, scored: PartitionReport) -> None:
    for ago in range(SCORED_DAYS):
        score(house, LAST - dt.timedelta(days=ago), run_id="week")
    rescored(house, "abs(hashtext(transaction_id)::float8) / 2147483648", "partition_key")
    same = drift(place(house))
    assert same.passed, same.message
    assert same.figures["psi"] < 0.2
    rescored(house, "least(1, score * 3)", f"'{LAST}'")
    moved = drift(place(house))
    assert not moved.passed
    assert "PSI" in moved.message


def rescored(house: House, score: str, day: str) -> None:
    """Give rows other scores, whose distribution is known."""
    query = f"UPDATE published.fraud_scores SET score = {score} WHERE partition_key = {day}"
    with house.warehouse.begin() as connection:
        connection.exec_driver_sql(query)
