"""Several worker processes on one machine: one asks, all know; whoever dies is replaced."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from overnight.spot.ec2 import Ec2
from overnight.spot.machine import CloudState, Machine
from overnight.spot.metadata import Endpoint
from overnight.spot.poller import SharedPoller
from tests.spot.imds import ACTION, REBALANCE, TOKEN, Imds
from tests.spot.watching import Worker, environment
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def imds() -> Iterator[Imds]:
    with Imds() as server:
        yield server


def on_machine(imds: Imds, directory: Path, poll_s: float = 0.1) -> dict[str, str]:
    return environment(
        OVERNIGHT_NOTICE="ec2",
        AWS_EC2_METADATA_SERVICE_ENDPOINT=imds.url,
        OVERNIGHT_NOTICE_DIR=str(directory),
        OVERNIGHT_NOTICE_POLL_S=str(poll_s),
    )


def polls(worker: Worker) -> list[float]:
    """When the source was looked at, as this process knows it."""
    known = {state["last_poll"] for state in worker.states()}
    return sorted(poll for poll in known if poll is not None)


def test_two_processes_cost_one_poller_and_both_are_told(imds: Imds, tmp_path: Path) -> None:
    env = on_machine(imds, tmp_path / "machine")
    with Worker(env) as first:
        until(lambda: polls(first))
        with Worker(env) as second:
            until(lambda: len(polls(second)) > 5)
            # Each process that asks has a token of its own.
            assert imds.requests[f"PUT {TOKEN}"] == 1
            imds.interrupt(at=time.time() + 120)
            (one,) = until(first.notices)
            (other,) = until(second.notices)
            assert one == other
            assert one["source"] == "ec2"
            assert second.states()[-1]["source"] == "ec2"


def test_emulated_machines_of_one_host_do_not_share(imds: Imds, tmp_path: Path) -> None:
    with (
        Imds() as other_imds,
        Worker(on_machine(imds, tmp_path / "a")) as one,
        Worker(on_machine(other_imds, tmp_path / "b")) as other,
    ):
        until(lambda: polls(one) and polls(other))
        imds.interrupt(at=time.time() + 120)
        until(one.notices)
        before = len(polls(other))
        until(lambda: len(polls(other)) > before + 2)
        assert not other.notices()


def test_when_the_poller_is_killed_another_goes_on(imds: Imds, tmp_path: Path) -> None:
    env = on_machine(imds, tmp_path / "machine")
    with Worker(env) as first:
        until(lambda: polls(first))
        imds.recommend_rebalance(since=time.time())
        until(first.notices)
        with Worker(env) as second:
            # What was told before it came holds for it, too.
            until(second.notices)
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()
            until(lambda: imds.requests[f"PUT {TOKEN}"] == 2)
            imds.interrupt(at=time.time() + 120)
            until(lambda: [told["kind"] for told in second.notices()][1:] == ["interruption"])


def test_what_a_killed_poller_was_told_is_known_to_the_next(imds: Imds, tmp_path: Path) -> None:
    env = on_machine(imds, tmp_path / "machine")
    with Worker(env) as first:
        imds.recommend_rebalance(since=time.time())
        until(lambda: [state for state in first.states() if state["last_notice"]])
    imds.tell(REBALANCE, None)
    with Worker(env) as second:
        (notice,) = until(second.notices)
        assert notice["kind"] == "rebalance"


def test_a_child_of_a_killed_poller_does_not_keep_its_place(imds: Imds, tmp_path: Path) -> None:
    env = on_machine(imds, tmp_path / "machine")
    with Worker(env) as first:
        until(lambda: polls(first))
        first.tell("fork")
        child = until(lambda: [said["forked"] for said in first.said if "forked" in said])[0]
        try:
            with Worker(env) as second:
                until(lambda: polls(second))
                os.kill(first.process.pid, signal.SIGKILL)
                first.process.wait()
                imds.interrupt(at=time.time() + 120)
                until(second.notices)
                # Only whoever has the poller's place tells the others.
                state = tmp_path / "machine" / "state.json"
                until(lambda: '"interruption"' in state.read_text())
                assert psutil.pid_exists(child)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_poller_that_closes_is_followed_by_another(imds: Imds, tmp_path: Path) -> None:
    env = on_machine(imds, tmp_path / "machine")
    with Worker(env) as first:
        until(lambda: polls(first))
        with Worker(env) as second:
            until(lambda: polls(second))
            first.tell("close")
            until(lambda: imds.requests[f"PUT {TOKEN}"] == 2)
            imds.interrupt(at=time.time() + 120)
            until(second.notices)
            assert not first.notices()


def test_a_poller_that_is_stuck_does_not_keep_the_others_in_the_dark(
    imds: Imds, tmp_path: Path
) -> None:
    stuck, machine = (Machine.open(tmp_path / "machine") for _ in range(2))
    assert stuck.lead()
    now = 0.0
    ec2 = Ec2(Endpoint.parse(imds.url, variable="here"))
    poller = SharedPoller(ec2, machine, poll_s=5, monotonic=lambda: now)

    def asked_at(*times: float) -> list[int]:
        nonlocal now
        counts = []
        for time_s in times:
            now = time_s
            poller.look()
            counts.append(imds.asked(ACTION))
        return counts

    stuck.publish(CloudState(last_poll=1.0))
    assert asked_at(0, 5, 10) == [0, 0, 0]
    stuck.publish(CloudState(last_poll=2.0))
    assert asked_at(20, 30, 40) == [0, 0, 0]
    imds.interrupt(at=time.time() + 120)
    # Now it has said nothing for too long; this one asks at its own pace, until it speaks again.
    assert asked_at(60, 61, 66) == [1, 1, 2]
    assert poller.look().notice is not None
    stuck.publish(CloudState(last_poll=3.0))
    assert asked_at(72, 80) == [2, 2]
    stuck.resign()


def test_garbage_in_the_shared_state_is_survived(imds: Imds, tmp_path: Path) -> None:
    machine = tmp_path / "machine"
    machine.mkdir(mode=0o700)
    (machine / "state.json").write_text("[" * 10_000)
    with Worker(on_machine(imds, machine)) as worker:
        imds.interrupt(at=time.time() + 120)
        until(worker.notices)


def test_what_was_told_before_the_machine_was_started_is_forgotten(
    imds: Imds, tmp_path: Path
) -> None:
    machine = tmp_path / "machine"
    with Worker(on_machine(imds, machine)) as worker:
        imds.interrupt(at=time.time() + 120)
        until(worker.notices)
        until(lambda: '"notice": {' in (machine / "state.json").read_text())
    state = machine / "state.json"
    boot = state.read_text().split('"boot": "')[1].split('"')[0]
    state.write_text(state.read_text().replace(boot, "another-boot"))
    imds.tell(ACTION, None)
    with Worker(on_machine(imds, machine)) as worker:
        until(lambda: len(polls(worker)) > 2)
        assert not worker.notices()
