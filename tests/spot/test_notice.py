"""The watcher: what it watches, whom it tells, and what it says about itself."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from overnight.errors import ConfigError
from overnight.spot.notice import NoticeConfig, NoticeWatcher, WatcherState
from tests.spot.gce_metadata import GceMetadata
from tests.spot.imds import ACTION, Imds
from tests.spot.metadata_server import MISBEHAVIOURS, Misbehaviour
from tests.spot.watching import config_in, watching
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.spot.notice import Notice

OFF = WatcherState(source=None, last_poll=None, last_notice=None, error=None)


@pytest.fixture
def imds() -> Iterator[Imds]:
    with Imds() as server:
        yield server


def ec2(directory: Path, imds: Imds) -> NoticeConfig:
    return config_in(directory, AWS_EC2_METADATA_SERVICE_ENDPOINT=imds.url)


def write(path: Path, told: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(told))
    new.replace(path)


def test_an_interruption_is_told_once_from_the_watchers_own_thread(
    tmp_path: Path, imds: Imds
) -> None:
    at = time.time() // 1 + 120
    with watching(ec2(tmp_path, imds)) as seen:
        until(lambda: seen.watcher.state().last_poll)
        assert seen.watcher.notice() is None
        imds.interrupt(at=at)
        until(lambda: seen.notices)
        asked = imds.asked(ACTION)
        until(lambda: imds.asked(ACTION) > asked + 3)
        (notice,) = seen.notices
        assert (notice.kind, notice.source, notice.deadline) == ("interruption", "ec2", at)
        state = seen.watcher.state()
        assert (state.source, state.last_notice, state.error) == ("ec2", notice, None)
        assert seen.watcher.notice() == notice
        assert threading.current_thread().name not in seen.threads


def test_the_graver_notice_counts_and_none_is_taken_back(tmp_path: Path, imds: Imds) -> None:
    now = time.time() // 1
    with watching(ec2(tmp_path, imds)) as seen:

        def settle() -> list[tuple[str, float | None]]:
            asked = imds.asked(ACTION)
            until(lambda: imds.asked(ACTION) > asked + 2)
            return [(notice.kind, notice.deadline) for notice in seen.notices]

        imds.recommend_rebalance(since=now)
        until(lambda: seen.notices)
        imds.interrupt(at=now + 120)
        until(lambda: len(seen.notices) == 2)
        imds.recommend_rebalance(since=now + 5)
        imds.interrupt(at=now + 200)
        assert len(settle()) == 2
        imds.interrupt(at=now + 60)
        expected = [("rebalance", None), ("interruption", now + 120), ("interruption", now + 60)]
        until(lambda: settle() == expected)
        imds.tell(ACTION, None)
        assert settle() == expected
        assert seen.watcher.notice() == seen.notices[-1]


def test_gce_is_watched_where_its_variable_names_a_server(tmp_path: Path) -> None:
    with GceMetadata() as gce, watching(config_in(tmp_path, GCE_METADATA_HOST=gce.address)) as seen:
        until(lambda: seen.watcher.state().last_poll)
        assert seen.watcher.state().source == "gce"
        gce.preempted = True
        (notice,) = until(lambda: seen.notices)
        assert notice.source == "gce"


def test_where_nothing_is_to_be_watched_nobody_is_asked_and_it_says_so(
    tmp_path: Path, imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever asked anyway would ask this one.
    monkeypatch.setattr("overnight.spot.notice.EC2_ADDRESS", ec2(tmp_path, imds).ec2_endpoint)
    monkeypatch.setattr("overnight.spot.notice.GCE_ADDRESS", ec2(tmp_path, imds).ec2_endpoint)
    config = config_in(tmp_path)
    with watching(config) as seen:
        until(lambda: list(config.machine_directory.glob("worker-*")))
        write(config.machine_directory / "notice.json", {"in_s": 90})
        # The machine's own file is looked at all the same.
        (notice,) = until(lambda: seen.notices)
        assert notice.source == "file"
        assert seen.watcher.state() == replace(OFF, last_notice=notice)
    assert not imds.requests
    # The same on a machine of Amazon's asks.
    config.dmi.mkdir()
    (config.dmi / "sys_vendor").write_text("Amazon EC2\n")
    (config.machine_directory / "notice.json").unlink()
    with watching(config) as seen:
        until(lambda: imds.asked(ACTION))


def test_off_is_off(tmp_path: Path) -> None:
    config = config_in(tmp_path, OVERNIGHT_NOTICE="off")
    with watching(config) as seen:
        seen.watcher.drained()
        assert seen.watcher.state() == OFF
        assert seen.watcher._thread is None
    assert not config.machine_directory.exists()


def test_a_file_is_watched_beside_the_machines_own(tmp_path: Path) -> None:
    path = tmp_path / "notice"
    config = config_in(tmp_path, OVERNIGHT_NOTICE=f"file:{path}")
    with watching(config) as seen:
        until(lambda: seen.watcher.state().last_poll)
        assert seen.watcher.state().source == f"file:{path}"
        write(path, {"in_s": 600})
        until(lambda: len(seen.notices) == 1)
        write(config.machine_directory / "notice.json", {"in_s": 5, "source": "sigterm"})
        until(lambda: len(seen.notices) == 2)
        assert [notice.source for notice in seen.notices] == ["file", "sigterm"]


def test_an_on_demand_instance_is_left_alone_and_the_state_says_so(
    tmp_path: Path, imds: Imds
) -> None:
    imds.life_cycle = "on-demand"
    with watching(ec2(tmp_path, imds)) as seen:
        state = until(lambda: seen.watcher.state() if seen.watcher.state().error else None)
        assert state.source is None
        assert state.error is not None
        assert "on-demand" in state.error
        requests = imds.requests.copy()
        write(tmp_path / "machine" / "notice.json", {})
        until(lambda: seen.notices)
        assert imds.requests == requests


@pytest.mark.parametrize("how", [how for how in MISBEHAVIOURS if how != "slow"])
def test_a_bad_service_is_logged_once_and_recovered_from(
    tmp_path: Path, imds: Imds, caplog: pytest.LogCaptureFixture, how: Misbehaviour
) -> None:
    imds.misbehave(how)
    with caplog.at_level(logging.WARNING), watching(ec2(tmp_path, imds)) as seen:
        first = until(lambda: seen.watcher.state().last_poll if imds.asked("/") else None)
        assert seen.watcher.state().error is not None
        until(lambda: (seen.watcher.state().last_poll or 0) > first)
        asked = imds.asked("/")
        until(lambda: imds.asked("/") > asked)
        warnings = [record for record in caplog.records if "no notices can be had" in record.msg]
        assert len(warnings) == 1
        imds.misbehave(None)
        imds.interrupt(at=time.time() + 120)
        until(lambda: seen.notices)
        until(lambda: seen.watcher.state().error is None)


def test_garbage_in_a_file_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "notice"
    path.write_text("soon")
    config = config_in(tmp_path, OVERNIGHT_NOTICE=f"file:{path}")
    with caplog.at_level(logging.WARNING), watching(config) as seen:
        first = until(lambda: seen.watcher.state().last_poll if seen.watcher.state().error else 0)
        until(lambda: (seen.watcher.state().last_poll or 0) > first + 0.2)
        assert len([record for record in caplog.records if str(path) in record.getMessage()]) == 1
        assert not seen.notices


def test_what_the_reaction_raises_does_not_end_the_watching(
    tmp_path: Path, imds: Imds, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[Notice] = []

    def fail(notice: Notice) -> None:
        calls.append(notice)
        raise RuntimeError("not ready")

    watcher = NoticeWatcher(on_notice=fail, config=ec2(tmp_path, imds))
    watcher.start()
    try:
        imds.recommend_rebalance(since=time.time())
        until(lambda: len(calls) == 1)
        imds.interrupt(at=time.time() + 60)
        until(lambda: len(calls) == 2)
    finally:
        watcher.close()
    assert "not ready" in caplog.text


def test_a_watcher_can_be_closed_at_any_time_from_anywhere(tmp_path: Path, imds: Imds) -> None:
    imds.interrupt(at=time.time() + 60)
    never = NoticeWatcher(on_notice=lambda _: None, config=ec2(tmp_path, imds))
    never.close()
    never.start()
    assert never.state() == OFF
    closed = threading.Event()

    def close(_: Notice) -> None:
        watcher.close()
        closed.set()

    watcher = NoticeWatcher(on_notice=close, config=ec2(tmp_path, imds))
    watcher.start()
    watcher.start()
    assert closed.wait(30)
    watcher.close()
    watcher.close()
    assert not list((tmp_path / "machine").glob("worker-*"))


def test_a_worker_can_say_that_it_is_drained_before_its_watcher_is_ready(
    tmp_path: Path, imds: Imds
) -> None:
    watcher = NoticeWatcher(on_notice=lambda _: None, config=ec2(tmp_path, imds))
    watcher.drained()
    watcher.start()
    try:
        until((tmp_path / "machine" / f"drained-{os.getpid()}").exists)
    finally:
        watcher.close()
    assert not list((tmp_path / "machine").glob("*ed-*"))


def test_a_directory_that_others_can_write_in_is_not_used(
    tmp_path: Path, imds: Imds, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "machine").mkdir()
    (tmp_path / "machine").chmod(0o777)
    write(tmp_path / "machine" / "notice.json", {"in_s": 60})
    with watching(ec2(tmp_path, imds)) as seen:
        # The cloud is asked all the same.
        until(lambda: seen.watcher.state().last_poll)
        error = seen.watcher.state().error
        assert error is not None
        assert "OVERNIGHT_NOTICE_DIR" in error
        imds.interrupt(at=time.time() + 600)
        until(lambda: seen.notices)
        assert [notice.source for notice in seen.notices] == ["ec2"]
    assert "OVERNIGHT_NOTICE_DIR" in caplog.text


def test_a_link_in_the_directorys_place_is_not_used(tmp_path: Path, imds: Imds) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    (tmp_path / "machine").symlink_to(tmp_path / "elsewhere")
    with watching(ec2(tmp_path, imds)) as seen:
        until(lambda: seen.watcher.state().last_poll)
        assert seen.watcher.state().error is not None
    assert not os.listdir(tmp_path / "elsewhere")  # noqa: PTH208 - hidden ones, too


def test_the_directory_is_its_owners_alone(tmp_path: Path, imds: Imds) -> None:
    with watching(ec2(tmp_path, imds)) as seen:
        until(lambda: seen.watcher.state().last_poll)
        assert (tmp_path / "machine").stat().st_mode & 0o777 == 0o700


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_NOTICE", "nonsense")
    with pytest.raises(ConfigError, match="nonsense"):
        NoticeWatcher(on_notice=lambda _: None)
    with pytest.raises(ConfigError, match="poll_s"):
        NoticeWatcher(on_notice=lambda _: None, config=NoticeConfig(), poll_s=0)
