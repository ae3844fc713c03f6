"""Sensors on the landing zone: what starts, when, how often, and what they say otherwise."""

from __future__ import annotations

import datetime as dt
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from overnight.errors import ConfigError, StoreError
from overnight.landing import landing_version
from overnight.landing.watch import COLD_DAYS_A_LOOK, Cursor, Watch
from overnight.orchestration import landing_sensor
from overnight.store import Store, StoreConfig
from tests.moto_server import moto_server, new_bucket
from tests.orchestration.landed import DAILY, SETTLE_S, Zone, both, notes
from tests.support.shop import lines, newest_lines, reversing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DAY = "2024-11-24"
RUN = ("reversed_lines_job", DAY)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    (tmp_path / "dagster").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "dagster")) as made:
        yield made


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "store"
    made.mkdir()
    return made


@pytest.fixture
def local(directory: Path) -> Store:
    return StoreConfig(directory.as_uri()).open()


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, local: Store) -> Store:
    if request.param == "file":
        return local
    return new_bucket(request.getfixturevalue("endpoint")).open()


@pytest.fixture
def zone(store: Store, instance: dg.DagsterInstance) -> Zone:
    return Zone(store, instance)


@pytest.fixture
def local_zone(local: Store, instance: dg.DagsterInstance) -> Zone:
    return Zone(local, instance)


def test_a_partition_starts_once_when_its_producer_says_it_is_complete(zone: Zone) -> None:
    assert "there is no folder in" in zone.tick().why_not
    zone.land(DAY, "a.jsonl")
    quiet = zone.tick()
    assert not quiet.runs
    assert f"lines of {DAY}: 1 files" in quiet.why_not
    assert "waits for _SUCCESS, or until they are for 300 s" in quiet.why_not
    zone.land(DAY, "_SUCCESS", content=b"")
    ready = zone.tick()
    assert ready.runs == [RUN]
    (request,) = ready.result.run_requests
    assert request.run_key.startswith(f"reversed_lines:{DAY}:")
    assert request.tags["overnight/why"] == f"1 files of lines have landed for {DAY}"
    zone.wait(SETTLE_S)
    again = zone.tick()
    assert not again.runs
    assert "nothing new in" in again.why_not
    assert again.result.asset_events == []


def test_without_a_mark_it_starts_when_no_file_came_for_the_settle_time(zone: Zone) -> None:
    zone.land(DAY, "a.jsonl")
    assert not zone.tick().runs
    zone.wait(SETTLE_S - 1)
    zone.land(DAY, "b.jsonl")
    assert not zone.tick().runs
    zone.wait(SETTLE_S - 1)
    assert not zone.tick().runs, "the second file has not settled"
    zone.wait(1)
    assert zone.tick().runs == [RUN]


def test_a_late_file_and_a_replaced_one_run_their_day_again(zone: Zone) -> None:
    zone.land(DAY, "a.jsonl")
    zone.land("2024-11-10", "a.jsonl", "b.jsonl")
    zone.tick()
    zone.wait(SETTLE_S)
    assert zone.tick().runs == [RUN]
    zone.wait(86400)
    for name, content in (("c.jsonl", b"{}\n"), ("a.jsonl", b'{"replaced": 1}\n')):
        zone.land("2024-11-10", name, content=content)
        assert not zone.tick().runs
        zone.wait(SETTLE_S)
        assert zone.tick().runs == [("reversed_lines_job", "2024-11-10")]
        assert not zone.tick().runs


def test_a_file_that_lands_after_the_mark_waits_for_others(local_zone: Zone) -> None:
    local_zone.land(DAY, "_SUCCESS", content=b"")
    local_zone.land(DAY, "late.jsonl")
    mark = local_zone.store.head(f"landing/lines/{DAY}/_SUCCESS").modified.timestamp()
    os.utime(_path(local_zone, "late.jsonl"), (mark + 1, mark + 1))
    assert not local_zone.tick().runs
    local_zone.land(DAY, "_SUCCESS", content=b"")
    os.utime(_path(local_zone, "_SUCCESS"), (mark + 1, mark + 1))
    assert local_zone.tick().runs == [RUN]


@pytest.mark.parametrize("hours", [-24 * 400, -1, 1, 24 * 400])
def test_a_producers_wrong_clock_neither_starts_a_partition_early_nor_holds_it_up(
    local_zone: Zone, hours: int
) -> None:
    local_zone.land(DAY, "a.jsonl")
    dated = (local_zone.now + dt.timedelta(hours=hours)).timestamp()
    os.utime(_path(local_zone, "a.jsonl"), (dated, dated))
    assert not local_zone.tick().runs
    local_zone.wait(SETTLE_S - 1)
    assert not local_zone.tick().runs
    local_zone.wait(1)
    assert local_zone.tick().runs == [RUN]


def test_our_own_clock_may_be_set_back(local_zone: Zone) -> None:
    local_zone.land(DAY, "a.jsonl")
    local_zone.tick()
    local_zone.wait(-3600)
    assert not local_zone.tick().runs
    local_zone.wait(SETTLE_S)
    assert local_zone.tick().runs == [RUN]


def test_a_tick_that_is_lost_asks_for_the_same_runs_again(zone: Zone) -> None:
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    lost = [request.run_key for request in zone.evaluate().run_requests]
    assert lost == [request.run_key for request in zone.tick().result.run_requests]


def test_a_sensor_that_has_forgotten_all_starts_nothing_twice(zone: Zone) -> None:
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    assert zone.tick().runs == [RUN]
    zone.cursor = None
    assert not zone.tick().runs
    zone.cursor = "not a cursor"
    assert not zone.tick().runs


def test_what_somebody_made_before_the_first_tick_is_left_alone(local_zone: Zone) -> None:
    local_zone.land(DAY, "a.jsonl", "_SUCCESS")
    local_zone.land("2024-11-23", "a.jsonl", "_SUCCESS")
    local_zone.land("2024-11-02", "a.jsonl", "_SUCCESS")
    local_zone.instance.report_runless_asset_event(
        dg.AssetMaterialization("reversed_lines", partition="2024-11-23")
    )
    assert local_zone.tick().runs == [RUN], "nor what landed long ago"
    local_zone.land("2024-11-23", "b.jsonl")
    local_zone.tick()
    local_zone.wait(SETTLE_S)
    assert local_zone.tick().runs == [("reversed_lines_job", "2024-11-23")]


def test_a_day_that_has_not_ended_is_waited_for(local_zone: Zone) -> None:
    local_zone.land("2024-11-25", "a.jsonl", "_SUCCESS")
    early = local_zone.tick()
    assert not early.runs
    assert "the day ends at 2024-11-26 00:00+01:00" in early.why_not
    assert len(early.result.asset_events) == 1
    again = local_zone.tick()
    assert not again.result.asset_events, "its data version was told"
    local_zone.wait(24 * 3600)
    assert local_zone.tick().runs == [("reversed_lines_job", "2024-11-25")]


def test_a_job_of_several_sources_starts_with_the_last_of_them(
    local: Store, instance: dg.DagsterInstance
) -> None:
    of_lines = Zone(local, instance, jobs=(both(),))
    of_notes = Zone(local, instance, jobs=(both(),), source=notes)
    run = ("noted_lines_job", DAY)
    of_lines.land(DAY, "a.jsonl", "_SUCCESS")
    waiting = of_lines.tick()
    assert not waiting.runs
    assert f"noted_lines of {DAY} waits for notes of {DAY}: nothing has landed in" in (
        waiting.why_not
    )
    of_notes.land(DAY, "a.jsonl", "_SUCCESS", source=notes)
    assert of_notes.tick().runs == [run]
    assert not of_lines.tick().runs, "it has been started for these files"
    of_lines.land(DAY, "b.jsonl", "_SUCCESS")
    assert of_lines.tick().runs == [run]
    assert not of_notes.tick().runs


def test_sources_whose_clocks_are_both_wrong_do_not_wait_for_each_other_forever(
    local: Store, instance: dg.DagsterInstance
) -> None:
    of_lines = Zone(local, instance, jobs=(both(),))
    of_notes = Zone(local, instance, jobs=(both(),), source=notes)
    for source in (lines, notes):
        of_lines.land(DAY, "a.jsonl", source=source)
        path = Path(local.url.removeprefix("file://"), "landing", source.name, DAY, "a.jsonl")
        os.utime(path, (4e9, 4e9))
    of_lines.tick(), of_notes.tick()
    for zone in (of_lines, of_notes):
        zone.wait(SETTLE_S)
    assert "is dated" in of_lines.tick().why_not
    assert of_notes.tick().runs == [("noted_lines_job", DAY)]
    assert not of_lines.tick().runs


def test_only_the_same_day_of_what_looks_back_is_run(
    local: Store, instance: dg.DagsterInstance
) -> None:
    zone = Zone(local, instance, jobs=(both(),))
    for day in ("2024-11-20", "2024-11-21"):
        for source in (lines, notes):
            zone.land(day, "a.jsonl", "_SUCCESS", source=source)
    assert len(zone.tick().runs) == 2
    zone.land("2024-11-20", "b.jsonl", "_SUCCESS")
    assert zone.tick().runs == [("noted_lines_job", "2024-11-20")]


def test_a_whole_table_runs_when_any_day_lands(local: Store, instance: dg.DagsterInstance) -> None:
    zone = Zone(local, instance, jobs=(newest_lines(),))
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    assert zone.tick().runs == [("newest_lines_job", None)]
    zone.land("2024-11-22", "a.jsonl", "_SUCCESS")
    assert zone.tick().runs == [("newest_lines_job", None)]
    assert not zone.tick().runs


def test_dagster_is_told_the_data_version_that_observing_would_find(zone: Zone) -> None:
    zone.land(DAY, "a.jsonl", "b.jsonl", "_SUCCESS")
    (told,) = zone.tick().result.asset_events
    assert (told.asset_key, told.partition) == (dg.AssetKey("lines"), DAY)
    assert told.data_version == landing_version(zone.store, lines, DAY)
    assert told.metadata["files"].value == 2


def test_ten_thousand_new_files_are_one_tick(local_zone: Zone, directory: Path) -> None:
    day = directory / "landing" / "lines" / DAY
    day.mkdir(parents=True)
    for number in range(10_000):
        (day / f"{number}.jsonl").write_bytes(b"{}\n")
    (day / "_SUCCESS").touch()
    (request,) = local_zone.tick().result.run_requests
    assert request.tags["overnight/why"] == f"10000 files of lines have landed for {DAY}"
    assert local_zone.cursor is not None
    assert len(local_zone.cursor) < 100, "files are not remembered one by one"


def test_what_there_is_no_time_for_comes_in_the_next_ticks(
    local: Store, instance: dg.DagsterInstance
) -> None:
    zone = Zone(local, instance, tick_s=0)
    days = [f"2024-11-{number}" for number in range(20, 25)]
    for day in days:
        zone.land(day, "a.jsonl", "_SUCCESS")
    started: list[str | None] = []
    tick = zone.tick()
    assert len(tick.runs) == 1
    zone = Zone(local, instance, cursor=zone.cursor)
    started += [partition for _, partition in [*tick.runs, *zone.tick().runs]]
    assert sorted(map(str, started)) == days


def test_many_runs_are_asked_for_in_steps(
    local: Store, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("overnight.orchestration.sensor.RUNS_A_TICK", 10)
    jobs = tuple(reversing(name=f"reversed_{number}") for number in range(6))
    zone = Zone(local, instance, jobs=jobs)
    for day in ("2024-11-23", DAY):
        zone.land(day, "a.jsonl", "_SUCCESS")
    first, second = zone.tick(), zone.tick()
    assert (len(first.runs), len(second.runs)) == (10, 2)
    assert len({*first.runs, *second.runs}) == 12


def test_history_is_not_listed_again_but_in_turns(store: Store) -> None:
    watch, cursor = Watch(source=lines), Cursor()
    now = dt.datetime(2024, 11, 25, tzinfo=dt.UTC)
    days = [(now - dt.timedelta(days=ago)).date().isoformat() for ago in range(60)]
    for day in days:
        store.put(f"landing/lines/{day}/a.jsonl", b"{}")
    assert watch.look(store, cursor, now=now).listed == 60
    now += dt.timedelta(seconds=SETTLE_S)
    watch.look(store, cursor, now=now)
    for day in days[:8]:
        cursor.days[day].state = "done"
    quiet = watch.look(store, cursor, now=now)
    assert (quiet.listed, quiet.ready) == (3 + COLD_DAYS_A_LOOK, [])
    store.put(f"landing/lines/{days[-1]}/late.jsonl", b"{}")
    looks = 0
    while cursor.days[days[-1]].state == "done":
        watch.look(store, cursor, now=now)
        looks += 1
        assert looks <= 6, "every day has its turn"


def test_the_cursor_does_not_grow_with_history(local: Store) -> None:
    watch = Watch(source=lines, remembered_days=30)
    now = dt.datetime(2024, 11, 25, tzinfo=dt.UTC)
    cursor = Cursor()
    for ago in range(90):
        day = (now - dt.timedelta(days=ago)).date().isoformat()
        for number in range(5):
            local.put(f"landing/lines/{day}/{number}.jsonl", b"{}")
    watch.look(local, cursor, now=now)
    assert len(cursor.days) == 31
    watch.look(local, cursor, now=now + dt.timedelta(days=20))
    assert len(cursor.days) == 11
    assert Cursor.read(cursor.text()).text() == cursor.text()


def test_a_zone_that_does_not_exist_is_an_error_that_names_it(
    local: Store, directory: Path, instance: dg.DagsterInstance
) -> None:
    zone = Zone(local, instance)
    directory.rmdir()
    with pytest.raises(StoreError, match=rf"{local.url}: there is no such directory; create it"):
        zone.evaluate()


def test_a_bucket_that_does_not_exist_is_an_error_that_names_it(
    endpoint: str, instance: dg.DagsterInstance
) -> None:
    missing = StoreConfig("s3://no-such-bucket/x", endpoint_url=endpoint, region="eu-central-1")
    with pytest.raises(StoreError, match=r"cannot list .*no-such-bucket.*create it, or correct"):
        Zone(missing.open(), instance).evaluate()


def test_a_zone_that_may_not_be_listed_is_an_error_that_names_it(home: Path) -> None:
    directory = home / "store"
    (directory / "landing" / "lines" / DAY).mkdir(parents=True)
    (directory / "landing" / "lines").chmod(0o700)
    for parent in (directory, home):
        parent.chmod(0o755)
    program = (
        "import os, datetime as dt\n"
        "from overnight.landing.watch import Cursor, Watch\n"
        "from overnight.store import StoreConfig\n"
        "from tests.support.shop import lines\n"
        "os.setuid(65534)\n"
        f"store = StoreConfig({directory.as_uri()!r}).open()\n"
        "Watch(source=lines).look(store, Cursor(), now=dt.datetime.now(tz=dt.UTC))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stderr.strip().splitlines()[-1]
    assert "StoreError: cannot list" in last
    assert "landing/lines" in last
    assert "denied" in last


def test_settings_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ConfigError, match="watching source 'lines': settle_s=-1 must be >= 0"):
        landing_sensor(lines, [reversing()], partitions=DAILY, settle_s=-1)


def _path(zone: Zone, name: str) -> Path:
    return Path(zone.store.url.removeprefix("file://"), "landing", "lines", DAY, name)
