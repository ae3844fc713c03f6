"""`overnight node`: the first process of a container, with real children and real signals."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.spot.watching import Worker, environment
from tests.support.processes import alive
from tests.support.waiting import until

if TYPE_CHECKING:
    from pathlib import Path

# Longer than any of these tests may take: only its end by other means can end them in time.
LONG = "3600"
PYTHON = [sys.executable, "-c"]


def node(grace: str = LONG) -> list[str]:
    return [sys.executable, "-m", "overnight.cli", "node", "--grace", grace, "--"]


def env_in(directory: Path) -> dict[str, str]:
    return environment(OVERNIGHT_NOTICE_DIR=str(directory / "machine"))


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*node(), *command], env=env_in(directory), capture_output=True, text=True, check=False
    )


class Speaking:
    """A command under `overnight node` that says a line when it is ready."""

    def __init__(self, directory: Path, code: str, *, grace: str = LONG) -> None:
        self.process = subprocess.Popen(
            [*node(grace), *PYTHON, f"import os, signal, sys, time\n{code}"],
            env=env_in(directory),
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline().strip()

    def ends(self) -> int:
        with self.process:
            return self.process.wait(60)


WAIT = "print(os.getpid(), flush=True)\ntime.sleep(100)"


@pytest.mark.parametrize(
    ("code", "status"),
    [("", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 128 + 9)],
)
def test_it_exits_as_its_command_does(tmp_path: Path, code: str, status: int) -> None:
    assert run(tmp_path, *PYTHON, code).returncode == status


def test_a_command_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = run(tmp_path, "no-such-command", "--block")
    assert done.returncode == 1
    assert "cannot run 'no-such-command'" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "machine").write_text("")
    done = run(tmp_path, "true")
    assert done.returncode == 1
    assert "OVERNIGHT_NOTICE_DIR" in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_becomes_a_notice_and_the_command_ends_when_its_worker_is_drained(
    tmp_path: Path,
) -> None:
    with Worker(env_in(tmp_path), under=node()) as worker:
        until(lambda: [state for state in worker.states() if state["source"] == "sigterm"])
        before = time.time()
        worker.process.send_signal(signal.SIGTERM)
        (notice,) = until(worker.notices)
        assert (notice["kind"], notice["source"]) == ("interruption", "sigterm")
        assert before + 3600 <= notice["deadline"] <= time.time() + 3600
        assert "SIGTERM" in notice["detail"]
        assert worker.process.poll() is None
        worker.tell("drained")
        assert worker.process.wait(60) == 128 + signal.SIGTERM


def test_it_waits_for_every_living_worker_and_for_no_dead_one(tmp_path: Path) -> None:
    env = env_in(tmp_path)
    (tmp_path / "machine").mkdir(mode=0o700)
    dead = {"worker-4194000": "1", f"worker-{os.getpid()}": "another process's start"}
    for name, start in dead.items():
        (tmp_path / "machine" / name).write_text(start)
    with Worker(env, under=node()) as first, Worker(env) as second, Worker(env) as doomed:
        workers = (first, second, doomed)
        until(lambda: all(worker.states() for worker in workers))
        marks = (tmp_path / "machine").glob
        until(lambda: len({mark.name for mark in marks("worker-*")} - dead.keys()) == 3)
        first.process.send_signal(signal.SIGTERM)
        for worker in workers:
            until(worker.notices)
        first.tell("drained")
        until(lambda: list((tmp_path / "machine").glob("drained-*")))
        assert first.process.poll() is None
        doomed.process.kill()
        doomed.process.wait()
        assert first.process.poll() is None
        second.tell("drained")
        assert first.process.wait(60) == 128 + signal.SIGTERM


def test_without_workers_the_command_is_ended_at_once(tmp_path: Path) -> None:
    running = Speaking(tmp_path, WAIT)
    running.process.send_signal(signal.SIGTERM)
    assert running.ends() == 128 + signal.SIGTERM


def test_a_worker_that_is_not_drained_in_time_is_ended_before_the_grace_is_over(
    tmp_path: Path,
) -> None:
    with Worker(env_in(tmp_path), under=node("3")) as worker:
        until(worker.states)
        until(lambda: list((tmp_path / "machine").glob("worker-*")))
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 128 + signal.SIGTERM
        assert worker.notices()


def test_a_command_that_ignores_sigterm_is_killed_with_its_whole_group(tmp_path: Path) -> None:
    code = (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(100)"
    )
    running = Speaking(tmp_path, code, grace="2")
    running.process.send_signal(signal.SIGTERM)
    assert running.ends() == 128 + signal.SIGKILL
    until(lambda: not alive(int(running.ready)))


def test_a_second_sigterm_does_not_wait_for_workers(tmp_path: Path) -> None:
    with Worker(env_in(tmp_path), under=node()) as worker:
        until(lambda: list((tmp_path / "machine").glob("worker-*")))
        worker.process.send_signal(signal.SIGTERM)
        until(worker.notices)
        worker.process.send_signal(signal.SIGTERM)
        assert worker.process.wait(60) == 128 + signal.SIGTERM


def test_a_command_that_ends_by_itself_after_sigterm_gives_its_status(tmp_path: Path) -> None:
    code = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))\n"
    running = Speaking(tmp_path, code + WAIT)
    running.process.send_signal(signal.SIGTERM)
    assert running.ends() == 5


def test_sigint_is_passed_on(tmp_path: Path) -> None:
    running = Speaking(tmp_path, f"signal.signal(signal.SIGINT, lambda *_: sys.exit(6))\n{WAIT}")
    running.process.send_signal(signal.SIGINT)
    assert running.ends() == 6
    assert not (tmp_path / "machine" / "notice.json").exists()


def test_the_notice_of_a_containers_earlier_life_is_forgotten(tmp_path: Path) -> None:
    first = Speaking(tmp_path, WAIT)
    first.process.send_signal(signal.SIGTERM)
    first.ends()
    notice = tmp_path / "machine" / "notice.json"
    assert json.loads(notice.read_text())["source"] == "sigterm"
    assert run(tmp_path, *PYTHON, "").returncode == 0
    assert not notice.exists()


def test_what_somebody_else_announced_is_kept(tmp_path: Path) -> None:
    (tmp_path / "machine").mkdir(mode=0o700)
    notice = tmp_path / "machine" / "notice.json"
    for content in ('{"in_s": 60}', "", "garbage", '["sigterm"]', '{"source": "sigterm"}'):
        notice.write_text(content)
        assert run(tmp_path, "true").returncode == 0
        assert notice.read_text() == content


def test_orphans_are_buried_as_a_containers_first_process_has_to(tmp_path: Path) -> None:
    code = (
        "if os.fork() == 0:\n"
        "    if os.fork() == 0: print(os.getpid(), flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "time.sleep(100)\n"
    )
    process = subprocess.Popen(
        [*node(), *PYTHON, f"import os, time\n{code}"],
        env=env_in(tmp_path),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=_adopt_orphans,  # noqa: PLW1509 - no other thread runs here
    )
    with process:
        assert process.stdout is not None
        orphan = int(process.stdout.readline())
        until(lambda: not psutil.pid_exists(orphan))
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 128 + signal.SIGTERM


def _adopt_orphans() -> None:
    """What the first process of a container does by nature (PR_SET_CHILD_SUBREAPER)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
