"""One installation for all tests of the UI: landed days, `overnight dev`, and a browser."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from assets.demo.articles import articles
from tests.test_dev import MARK, free_port, marked
from tests.ui.browser import launched
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
READY_S = 180
WAIT_MS = 60_000
SIZE = {"width": 1440, "height": 900}


def days_ago(number: int) -> str:
    """A day that has ended; the UI offers the last 90 of them."""
    return (dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=number)).isoformat()


DAY = days_ago(3)
BACKFILL = (days_ago(7), days_ago(6), days_ago(5))
SPOILED = days_ago(2)
ROWS = 24
WITHOUT_TEXT = 6


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where each test leaves a picture, passed or failed."""
    folder = Path(os.environ.get("OVERNIGHT_TEST_ARTIFACTS") or ROOT / "test-artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The UI of an installation with real engines; nothing of it is left running."""
    with open_home() as home:
        environment = {**os.environ, "OVERNIGHT_HOME": str(home), MARK: str(home)}
        for variable in ("DAGSTER_HOME", "OVERNIGHT_RAY_ADDRESS"):
            environment.pop(variable, None)
        for day in (DAY, *BACKFILL):
            land(home, environment, day)
        land(home, environment, SPOILED, without_text=WITHOUT_TEXT)
        with serving(home, environment) as url:
            yield url


def land(home: Path, environment: dict[str, str], day: str, *, without_text: int = 0) -> None:
    """Land articles as a person would: one breaks the contract, or some cannot be summarized."""
    rows = list(articles(dt.date.fromisoformat(day), count=ROWS, bad_rows=0 if without_text else 1))
    for row in rows[:without_text]:
        row["body"] = ""
    file = home / f"{day}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overnight(environment, "land", "articles", day, str(file))


def overnight(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "overnight.cli", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@contextlib.contextmanager
def serving(home: Path, environment: dict[str, str]) -> Iterator[str]:
    """`overnight dev`, from the moment it answers until nothing of it is left."""
    port = free_port()
    log = home / "dev.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "overnight.cli", "dev", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_ready(url, process, log)
        yield url
        process.send_signal(signal.SIGINT)
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 15
    while (left := marked(str(home))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == {}


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the webserver answers and the daemons, which launch queued runs, are alive."""
    query = (
        '{instance {daemonHealth {daemonStatus(daemonType: "QUEUED_RUN_COORDINATOR") {healthy}}}}'
    )
    request = urllib.request.Request(
        f"{url}/graphql",
        data=json.dumps({"query": query}).encode(),
        headers={"Content-Type": "application/json"},
    )
    deadline = time.monotonic() + READY_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                health = json.load(answer)["data"]["instance"]["daemonHealth"]
                if health["daemonStatus"]["healthy"]:
                    return
        except OSError:
            pass
        time.sleep(0.2)
    pytest.fail(f"`overnight dev` was not ready after {READY_S} s:\n{log.read_text()[-4000:]}")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def visitor(browser: Browser, address: str) -> Iterator[Page]:
    """Somebody who has just opened the UI and has sent away what Dagster asks of newcomers."""
    page = browser.new_context(
        base_url=address, viewport=SIZE, timezone_id="Europe/Berlin"
    ).new_page()
    page.set_default_timeout(WAIT_MS)
    page.goto("/asset-groups", timeout=WAIT_MS)
    page.get_by_role("button", name="Skip").click()
    yield page
    page.context.close()


@pytest.fixture
def page(visitor: Page, artifacts: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    yield visitor
    visitor.screenshot(path=artifacts / f"{request.node.name}.png")
