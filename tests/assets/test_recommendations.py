"""Nightly recommendations, the whole way: landed, trained, recommended, published."""

from __future__ import annotations

import dataclasses
import datetime as dt
import io
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
import pytest
import sqlalchemy as sa

from assets.demo.clicks import interactions as clicks
from assets.demo.visits import land_visits
from assets.histories import histories, user_histories
from assets.recommendations import ITEMS, recommendations
from assets.recommender_model import recommender_model
from assets.sources import EVENT_WEIGHTS, TIMEZONE, interactions
from overnight.engines.factors import FILE, FactorModel, FoldIn
from overnight.errors import ModelError, NotLandedError, TooManyRejectsError
from overnight.landing import mark_complete, reader_of
from overnight.run import run_partition
from overnight.training import train_model
from overnight.warehouse.connect import Warehouse
from tests.support.shop import house as house_in
from tests.support.visitors import DAYS_TO_TRAIN, LAST, SHELVES, land_days, trained
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.report import PartitionReport
    from overnight.run import House
    from overnight.training import TrainingReport

DAY = LAST + dt.timedelta(days=1)
NOON = dt.datetime(2026, 11, 23, 11, tzinfo=dt.UTC)


def frame(*rows: tuple[str, int | None, str, dt.datetime], day: dt.date = DAY) -> pl.DataFrame:
    names = ["user_id", "item_id", "event", "timestamp"]
    schema = {"user_id": pl.String, "item_id": pl.Int64, "event": pl.String,
              "timestamp": pl.Datetime("us", "UTC")}  # fmt: skip
    return (
        pl.DataFrame(rows, schema=schema, orient="row")
        .select(names)
        .with_columns(
            _input_id=pl.lit(7, pl.Int64),
            _line=pl.int_range(1, pl.len() + 1, dtype=pl.Int64),
            _day=pl.lit(day),
        )
    )


def folded(*frames: pl.DataFrame, day: dt.date = DAY) -> pl.DataFrame:
    return histories(day.isoformat(), {"interactions": pl.concat(frames).lazy()}).collect()


def test_a_history_is_all_that_was_done_with_each_item() -> None:
    minute = dt.timedelta(minutes=1)
    before = frame(("a", 5, "view", NOON - dt.timedelta(days=3)), day=DAY - dt.timedelta(days=3))
    today = frame(
        ("a", None, "visit", NOON),
        ("a", 9, "view", NOON),
        ("a", 5, "purchase", NOON + minute),
        ("b", None, "visit", NOON),
        ("a", 5, "view", NOON + 2 * minute),
    )
    rows = folded(before, today)
    assert rows.select("user_id", "items", "weights").rows() == [
        ("a", [5, 9], [7.0, 1.0]),
        ("b", [], []),
    ]
    assert rows["_line"].to_list() == [5, 4]


def test_what_was_delivered_twice_counts_once() -> None:
    row = ("a", 5, "view", NOON)
    assert folded(frame(row, row))["weights"].to_list() == [[1.0]]


def test_what_is_of_another_day_is_rejected_on_its_day_and_never_counts() -> None:
    wrong = ("a", 5, "view", NOON - dt.timedelta(days=1))
    rows = folded(frame(wrong, ("a", 6, "view", NOON)))
    bad, good = rows.rows(named=True)
    assert (bad["_reject_column"], bad["_line"]) == ("timestamp", 1)
    assert bad["_reject_reason"] == f"is not within the day in {TIMEZONE}"
    assert (good["items"], good["_reject_reason"]) == ([6], None)
    tomorrow = DAY + dt.timedelta(days=1)
    later = folded(frame(wrong, ("a", 6, "view", NOON)), day=tomorrow)
    assert later["items"].to_list() == [[6]]


@pytest.fixture(scope="module")
def house() -> Iterator[House]:
    """An installation in which everything has landed up to `DAY`."""
    with open_home() as home, Warehouse.open(home=home) as warehouse:
        made = house_in(warehouse, home)
        land_days(made.store.open(), DAYS_TO_TRAIN + 1, last=DAY)
        yield made


@pytest.fixture(scope="module")
def model(house: House) -> TrainingReport:
    return trained(house)


@pytest.fixture(scope="module")
def done(house: House, model: TrainingReport, ray_head: str) -> PartitionReport:
    assert model.check.passed, model.check.message
    return recommend(house)


def recommend(house: House, day: dt.date = DAY, run_id: str = "test") -> PartitionReport:
    return run_partition(recommendations, day.isoformat(), run_id=run_id, house=house)


def read(house: House, query: str, **values: Any) -> list[Any]:
    with house.warehouse.connect() as connection:
        return [tuple(row) for row in connection.execute(sa.text(query), values)]


def published(house: House, day: dt.date = DAY) -> pl.DataFrame:
    names = ["user_id", "rank", "item_id", "score", "basis", "model_version"]
    query = f"SELECT {', '.join(names)} FROM published.recommendations WHERE partition_key = :day"
    rows = read(house, query, day=day.isoformat())
    return pl.DataFrame(rows, schema=names, orient="row").sort("user_id", "rank")


def known_by(house: House, day: dt.date = DAY) -> pl.DataFrame:
    reader = reader_of(house.store.open(), user_histories, day.isoformat())
    return pl.concat([batch.frame for batch in reader.batches()])


def test_the_model_beats_popularity_by_far_on_a_week_it_has_not_seen(
    model: TrainingReport,
) -> None:
    assert model.check.passed, model.check.message
    for name in ("recall_at_10", "ndcg_at_10"):
        assert model.metrics[name] > 2 * model.metrics[f"popularity_{name}"] > 0
    card = model.version.card
    assert card.last_day == (LAST - dt.timedelta(days=7)).isoformat()
    assert card.parameters["factors"] == 16
    assert len(card.inputs) == DAYS_TO_TRAIN


def test_training_again_gives_the_same_model(house: House, model: TrainingReport) -> None:
    assert trained(house).version.digest == model.version.digest


def test_every_user_has_the_best_of_what_he_has_not_seen(
    house: House, done: PartitionReport, model: TrainingReport
) -> None:
    users = known_by(house)
    rows = published(house)
    assert done.rows_in == done.published == users.height
    assert set(rows["user_id"]) == set(users["user_id"])
    assert rows.height == ITEMS * users.height
    assert rows["model_version"].unique().to_list() == [model.version.version]
    factors = FactorModel.read(model.version.fetch())
    popular = factors.item_ids[np.argsort(-factors.popularity, kind="stable")]
    lists = {key[0]: part for key, part in rows.group_by("user_id", maintain_order=True)}
    for user in users.iter_rows(named=True):
        part = lists[user["user_id"]]
        assert part["rank"].to_list() == list(range(1, ITEMS + 1))
        places = factors.place(np.array(user["items"], np.int64))
        weights = np.array(user["weights"], np.float32)[places >= 0]
        places = places[places >= 0]
        if not len(places):
            assert part["basis"].unique().to_list() == ["popularity"]
            assert part["item_id"].to_list() == popular[:ITEMS].tolist()
            continue
        vector = FoldIn(factors, threads=1).vectors(np.array([0, len(places)]), places, weights)
        scores = (vector.astype(float) @ factors.factors.T.astype(float))[0].astype(np.float32)
        scores[places] = -np.inf
        best = np.argsort(-scores, kind="stable")[:ITEMS]
        assert part["basis"].unique().to_list() == ["history"]
        assert part["item_id"].to_list() == factors.item_ids[best].tolist()
        assert part["score"].to_list() == pytest.approx(scores[best].tolist(), rel=1e-5)
    assert set(rows["basis"]) == {"history", "popularity"}


def test_a_second_run_infers_nothing_and_a_further_click_one_user(
    house: House, done: PartitionReport
) -> None:
    again = recommend(house, run_id="again")
    assert (again.inferred, again.reused) == (0, done.published)
    before = published(house)
    user, new = before.row(0, named=True)["user_id"], before.row(0, named=True)["item_id"]
    late = io.BytesIO()
    frame((user, new, "purchase", NOON)).drop("_input_id", "_line", "_day").write_parquet(late)
    key = f"landing/interactions/{DAY}/late.parquet"
    house.store.open().put(key, late.getvalue())
    try:
        third = recommend(house, run_id="late")
        after = published(house)
    finally:
        house.store.open().delete([key])
    assert (third.inferred, third.published) == (1, done.published)
    assert new not in after.filter(pl.col("user_id") == user)["item_id"]
    assert after.filter(pl.col("user_id") != user).equals(before.filter(pl.col("user_id") != user))
    recommend(house, run_id="as before")


def test_every_row_leads_to_its_model_and_to_what_its_user_did_last(
    house: House, done: PartitionReport
) -> None:
    rows = read(
        house,
        "SELECT s.user_id, f.model_digest, i.uri, i.source, s._line, s.model_version "
        "FROM published.recommendations s JOIN lineage.attempts a ON a.attempt = s._attempt "
        "JOIN lineage.fingerprints f USING (fingerprint) "
        "JOIN lineage.latest_runs r ON r.job = a.job AND r.partition_key = s.partition_key "
        "JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = s._input_id "
        "WHERE s.partition_key = :day AND s.rank = 1",
        day=DAY.isoformat(),
    )
    assert len(rows) == done.published
    landed: dict[str, list[str]] = {}
    for user, digest, uri, source, line, version in rows:
        day = uri.split("/")[-2]
        if day not in landed:
            made = clicks(SHELVES, dt.date.fromisoformat(day), timezone=TIMEZONE)
            landed[day] = made["user_id"].to_list()
        assert landed[day][line - 1] == user
        assert source == "interactions"
        assert digest.removeprefix("sha256:").startswith(version)


@pytest.mark.usefixtures("done")
def test_bad_interactions_are_rejected_on_their_day_alone(house: House) -> None:
    day, next_day = DAY + dt.timedelta(days=1), DAY + dt.timedelta(days=2)
    land_visits(house.store.open(), day, shelves=SHELVES, mistakes=3)
    land_visits(house.store.open(), next_day, shelves=SHELVES)
    report = recommend(house, day)
    assert report.rejected == 3
    assert report.rows_in == report.published + 3
    told = read(
        house,
        'SELECT source, line, "column", value, reason FROM lineage.current_rejects '
        "WHERE job = 'recommendations' AND partition_key = :day ORDER BY line",
        day=day.isoformat(),
    )
    first = clicks(SHELVES, day, timezone=TIMEZONE).height + 1
    events = ", ".join(map(repr, EVENT_WEIGHTS))
    assert [row[:3] for row in told] == [
        ("interactions", first, "event"),
        ("interactions", first + 1, None),
        ("interactions", first + 2, "timestamp"),
    ]
    assert told[0][3] == "'stare'"
    assert events in told[0][4].replace("[", "").replace("]", "")
    assert "A visit has no item, and every other event has one" in told[1][4]
    assert told[2][4] == f"is not within the day in {TIMEZONE}"
    assert recommend(house, next_day).rejected == 0


@pytest.mark.usefixtures("done")
def test_who_has_seen_everything_is_a_dead_letter(house: House) -> None:
    day = dt.date(2026, 12, 20)
    noon = dt.datetime.combine(day, dt.time(12), dt.UTC)
    land_visits(house.store.open(), day, shelves=SHELVES)
    everything = frame(*(("all-seeing", item, "view", noon) for item in range(SHELVES.items)))
    late = io.BytesIO()
    everything.drop("_input_id", "_line", "_day").write_parquet(late)
    house.store.open().put(f"landing/interactions/{day}/late.parquet", late.getvalue())
    report = recommend(house, day)
    assert (report.dead_lettered, report.published) == (1, report.rows_in - 1)
    assert "all-seeing" not in published(house, day)["user_id"]
    told = read(
        house,
        "SELECT key, reason FROM lineage.current_dead_letters WHERE partition_key = :day",
        day=day.isoformat(),
    )
    left = "nothing_left: every item that the model knows is in the history"
    assert told == [("all-seeing", left)]


@pytest.mark.usefixtures("done")
def test_too_many_bad_interactions_stop_the_run_and_change_nothing(house: House) -> None:
    before = published(house)
    land_visits(house.store.open(), DAY, shelves=SHELVES, mistakes=24)
    try:
        with pytest.raises(TooManyRejectsError, match="column event value 'stare': must be one of"):
            recommend(house, run_id="too-many")
    finally:
        land_visits(house.store.open(), DAY, shelves=SHELVES)
    assert published(house).equals(before)
    assert recommend(house, run_id="corrected").inferred == 0


@pytest.mark.usefixtures("done")
def test_a_day_without_interactions_recommends_by_what_was_done_before(house: House) -> None:
    quiet = dt.date(2026, 11, 1) - dt.timedelta(days=1)
    with pytest.raises(NotLandedError, match=f"'interactions' has not landed for {quiet}"):
        recommend(house, quiet)
    mark_complete(house.store.open(), interactions, quiet.isoformat())
    nobody = recommend(house, quiet)
    assert (nobody.rows_in, nobody.published) == (0, 0)
    later = DAY + dt.timedelta(days=10)
    mark_complete(house.store.open(), interactions, later.isoformat())
    report = recommend(house, later)
    assert report.published == known_by(house, later).height > 0


def test_a_truncated_model_is_refused_before_anything_is_inferred(
    house: House, done: PartitionReport, model: TrainingReport, home: Path
) -> None:
    before = published(house)
    key = f"models/recommender_model/{model.version.version}/{FILE}"
    store = house.store.open()
    whole = store.get(key)
    store.put(key, whole[:-100])
    # Another machine, which has not fetched it before.
    elsewhere = dataclasses.replace(house, scratch=home / "scratch")
    try:
        with pytest.raises(ModelError, match=rf"{FILE}: declared {len(whole)} bytes") as told:
            recommend(elsewhere, run_id="truncated")
    finally:
        store.put(key, whole)
    assert f"found {len(whole) - 100} bytes" in str(told.value)
    assert published(house).equals(before)


def test_a_model_of_another_shape_is_refused_and_the_one_in_service_serves_again(
    house: House, done: PartitionReport, model: TrainingReport
) -> None:
    before = published(house)
    registry = house.registry
    other = registry.save(
        "recommender_model", files={FILE: b"not factors"}, card=model.version.card
    )
    registry.put_in_service("recommender_model", other, instead_of=model.version)
    try:
        with pytest.raises(ModelError, match=f"{FILE}: 11 bytes that are no whole Arrow file"):
            recommend(house, run_id="other")
    finally:
        registry.put_in_service("recommender_model", model.version, instead_of=other)
    assert published(house).equals(before)
    assert recommend(house, run_id="back").inferred == 0


def test_a_model_that_is_no_better_does_not_replace_the_one_in_service(
    house: House, model: TrainingReport
) -> None:
    """One trained on two days only is judged by the same week, and loses."""

    def on_less(day: str, landed: Any) -> Any:
        since = pl.col("_day") >= LAST - dt.timedelta(days=8)
        less = {name: rows.filter(since) for name, rows in landed.items()}
        whole = recommender_model.train(day, landed)
        return dataclasses.replace(recommender_model.train(day, less), held_out=whole.held_out)

    report = train_model(
        dataclasses.replace(recommender_model, train=on_less, at_least={}),
        LAST.isoformat(),
        store=house.store,
        registry=house.registry,
        scratch=house.scratch,
    )
    assert not report.check.passed
    assert report.metrics["ndcg_at_10"] < model.metrics["ndcg_at_10"]
    assert house.registry.in_service("recommender_model") == model.version


def test_what_there_is_too_little_of_is_told(house: House) -> None:
    early = LAST - dt.timedelta(days=DAYS_TO_TRAIN - 5)
    with pytest.raises(ModelError, match="no interaction with an item has landed before"):
        trained(house, last=early)
    with pytest.raises(NotLandedError, match="'interactions' has not landed for 2026-12-30"):
        trained(house, last=dt.date(2026, 12, 30))
