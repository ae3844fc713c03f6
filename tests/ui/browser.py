"""The Chromium that the tests drive: whichever this machine has."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


def executable() -> str:
    """The browser's path; without one the tests fail, they are never skipped."""
    named = os.environ.get("OVERNIGHT_BROWSER")
    for name in (named,) if named else NAMES:
        if found := shutil.which(name):
            return found
    pytest.fail(
        f"OVERNIGHT_BROWSER={named!r} is no program that can be run"
        if named
        else f"the UI tests need a browser, and none of {', '.join(NAMES)} is on the PATH: "
        "`apt-get install chromium`, or name one in OVERNIGHT_BROWSER",
        pytrace=False,
    )


@contextlib.contextmanager
def launched() -> Iterator[Browser]:
    """The browser, headless, with a user directory of its own (Playwright makes one)."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable(), headless=True, args=list(ARGUMENTS)
        )
        with contextlib.closing(browser):
            yield browser
