"""`overnight dev`: everything up on one command, and nothing left after Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
MARK = "OVERNIGHT_TEST_MARK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def marked(mark: str) -> dict[int, str]:
    """The processes that inherited the mark, by pid."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environment = (entry / "environ").read_bytes()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment:
                found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace")
    return found


def wait_until_answering(url: str, process: subprocess.Popen[bytes], seconds: float) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"{url} did not answer within {seconds} s")


def said(home: Path) -> Path:
    return home / "stderr.txt"


@contextlib.contextmanager
def dev(home: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """`overnight dev` with its UI at a port; nothing may be left of it afterwards."""
    mark = str(home)
    with said(home).open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "overnight.cli", "dev", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "OVERNIGHT_HOME": str(home), MARK: mark},
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 15
    while (left := marked(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == {}
    assert not (home / "ray.json").exists()
    assert not (home / "warehouse" / "postmaster.pid").exists()


def parts_of(process: subprocess.Popen[bytes], named: str) -> list[psutil.Process]:
    """The parts of `overnight dev`, while it runs, with something in their command lines."""
    assert process.poll() is None
    found = []
    for part in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += [part] * (named in " ".join(part.cmdline()))
    return found


def test_dev_serves_the_ui_and_leaves_nothing_running_after_ctrl_c(home: Path) -> None:
    port = free_port()
    with dev(home, port) as process:
        page = wait_until_answering(f"http://127.0.0.1:{port}/server_info", process, 120)
        assert "dagster_version" in page
        assert (home / "ray.json").exists()
        assert len(marked(str(home))) > 3
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert "has ended" not in said(home).read_text()


def test_dev_stops_and_says_which_part_of_it_has_ended(home: Path) -> None:
    with dev(home, free_port()) as process:
        [daemon] = until(lambda: parts_of(process, "/overnight daemon "), "no daemon", seconds=120)
        daemon.kill()
        assert process.wait(60) == 1
    assert "Dagster's daemon has ended by SIGKILL: everything stops." in said(home).read_text()


def test_dev_says_that_its_port_is_taken(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = subprocess.run(
            [sys.executable, "-m", "overnight.cli", "dev", "--port", str(taken.getsockname()[1])],
            cwd=ROOT,
            env={**os.environ, "OVERNIGHT_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "is taken by another program" in done.stderr
