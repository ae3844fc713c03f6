"""One installation for all tests of the UI: `overnight dev`, and a browser."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.waiting import until
from tests.test_dev import MARK, free_port, marked
from tests.ui.browser import launched
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).parents[2]
READY_S = 180
WAIT_MS = 60_000
SIZE = {"width": 1440, "height": 900}


@pytest.fixture(scope="session")
def artifacts() -> Path:
    """Where each test leaves a picture, passed or failed."""
    folder = Path(os.environ.get("OVERNIGHT_TEST_ARTIFACTS") or ROOT / "test-artifacts")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@dataclass(frozen=True)
class Installation:
    """An installation that is up."""

    url: str
    home: Path
    environment: dict[str, str]

    def land(self, day: str, rows: Sequence[Mapping[str, object]]) -> None:
        """Land articles, as a person would; not complete, so that nobody else starts the day."""
        file = self.home / f"{day}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        done = subprocess.run(
            [sys.executable, "-m", "overnight.cli", "land", "articles", day, str(file)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """An installation with real engines; nothing of it is left running."""
    with open_home() as home:
        environment = {**os.environ, "OVERNIGHT_HOME": str(home), MARK: str(home)}
        for variable in ("DAGSTER_HOME", "OVERNIGHT_RAY_ADDRESS"):
            environment.pop(variable, None)
        with serving(home, environment) as url:
            yield Installation(url, home, environment)


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
    until(lambda: marked(str(home)) == {}, "something is left running", seconds=15)


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
def visitor(browser: Browser, installation: Installation) -> Iterator[Page]:
    """Somebody who has just opened the UI and has sent away what Dagster asks of newcomers."""
    page = browser.new_context(
        base_url=installation.url, viewport=SIZE, timezone_id="Europe/Berlin"
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
