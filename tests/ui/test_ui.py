"""What a person sees and does in the Dagster UI, in a real browser, with real engines."""

from __future__ import annotations

import datetime as dt
import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from assets.demo.articles import articles as demo_articles

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import Locator, Page

    from tests.ui.conftest import Installation

pytestmark = [pytest.mark.ui, pytest.mark.timeout(600)]
RUN_MS = 420_000  # on a machine that is busy with something else
GROUP = "/locations/assets.definitions/asset-groups/magazine"
expect.set_options(timeout=60_000)

ROWS = 24
WITHOUT_TEXT = 6


def days_ago(number: int) -> str:
    """A day that has ended; the UI offers the last 90 of them."""
    return (dt.datetime.now(tz=dt.UTC).date() - dt.timedelta(days=number)).isoformat()


DAY = days_ago(3)
BACKFILL = (days_ago(7), days_ago(6), days_ago(5))
SPOILED = days_ago(2)


def articles(day: str, *, bad_rows: int = 0) -> list[dict[str, object]]:
    return list(demo_articles(dt.date.fromisoformat(day), count=ROWS, bad_rows=bad_rows))


def launch(page: Page, partitions: str, button: str) -> None:
    """Ask for partitions of `daily_summaries`, as a person does."""
    page.goto("/assets/daily_summaries")
    page.get_by_role("button", name="Materialize…").click()
    dialog = page.get_by_role("dialog")
    box = dialog.get_by_role("textbox").first
    box.fill(partitions)
    box.press("Enter")
    dialog.get_by_role("button", name=button).click()
    expect(dialog).to_be_hidden()


def show_partition(page: Page, day: str) -> None:
    page.goto(f"/assets/daily_summaries?view=partitions&partition={day}")


def finish(page: Page, status: str, *, of: str = "/runs") -> None:
    """Watch the list of runs, which keeps itself up to date, until the newest is done."""
    page.goto(of)
    expect(page.get_by_text(status, exact=True).first).to_be_visible(timeout=RUN_MS)


def panel(page: Page, title: str) -> Locator:
    """What stands under a title in the column at the right."""
    return page.get_by_text(title, exact=True).locator("..")


def row(page: Page, key: str) -> Locator:
    return page.get_by_role("row").filter(has=page.get_by_role("cell", name=key, exact=True))


def show_plot(page: Page, key: str) -> None:
    row(page, key).get_by_text("Show Markdown").click()
    plot = page.get_by_role("dialog").get_by_role("img", name=key.replace("_", " "), exact=True)
    expect(plot).to_be_visible()
    assert plot.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100


def close(page: Page) -> None:
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def picture(page: Page, file: Path) -> None:
    """A picture for the README, once nothing moves any more."""
    page.screenshot(path=file, animations="disabled")


def test_the_graph_shows_what_there_is(page: Page) -> None:
    page.goto(GROUP)
    for name in ("articles", "summary_model", "daily_summaries"):
        expect(page.get_by_text(name, exact=True).first).to_be_visible()
    for kind in ("Postgres", "vllm"):
        expect(page.get_by_text(kind, exact=True).first).to_be_visible()

    page.goto("/assets/daily_summaries")
    expect(page.get_by_text("One summary for each article of a day.")).to_be_visible()
    expect(panel(page, "Group")).to_contain_text("magazine")
    expect(panel(page, "Owners")).to_contain_text("magazine")
    expect(panel(page, "Kinds")).to_contain_text("vllm")


def test_a_partition_is_materialized(
    page: Page, installation: Installation, artifacts: Path
) -> None:
    installation.land(DAY, articles(DAY, bad_rows=1))
    launch(page, DAY, "Launch 1 run")
    finish(page, "Success")
    show_partition(page, DAY)
    expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
    expect(row(page, "rows_in")).to_contain_text(str(ROWS + 1))
    expect(row(page, "published")).to_contain_text(str(ROWS))
    expect(row(page, "tokens_per_s")).to_contain_text(re.compile(r"\d"))
    show_plot(page, "throughput")
    close(page)
    show_plot(page, "output_length")
    picture(page, artifacts / "metadata.png")
    close(page)


def test_its_checks_have_passed(page: Page) -> None:
    page.goto("/assets/daily_summaries?view=checks&checkDetail=reconciliation")
    expect(page.get_by_text(f"{ROWS + 1} rows in = {ROWS} published + 1 rejected")).to_be_visible()
    expect(page.get_by_text("Passed", exact=True)).to_be_visible()


def test_three_days_are_backfilled(page: Page, installation: Installation, artifacts: Path) -> None:
    for day in BACKFILL:
        installation.land(day, articles(day))
    launch(page, f"[{BACKFILL[0]}...{BACKFILL[-1]}]", "Launch backfill")
    finish(page, "Success", of="/runs?view=backfills")
    expect(page.get_by_role("button", name="3 partitions")).to_be_visible()
    for day in BACKFILL:
        show_partition(page, day)
        expect(page.get_by_text("Materialized", exact=True)).to_be_visible()
        expect(row(page, "published")).to_contain_text(str(ROWS))
    page.goto(GROUP)
    expect(page.get_by_text("% filled").last).to_be_visible()
    expect(page.get_by_text("Loading")).to_have_count(0)
    picture(page, artifacts / "asset-graph.png")


def test_a_check_that_failed_is_red_and_says_why(
    page: Page, installation: Installation, artifacts: Path
) -> None:
    without_text = [{**row, "body": ""} for row in articles(SPOILED)[:WITHOUT_TEXT]]
    installation.land(SPOILED, [*without_text, *articles(SPOILED)[WITHOUT_TEXT:]])
    launch(page, SPOILED, "Launch 1 run")
    finish(page, "Failure")
    page.goto("/assets/daily_summaries?view=checks&checkDetail=dead_letter_share")
    why = page.get_by_text(re.compile(rf"{WITHOUT_TEXT} of {ROWS} rows \(25\.00%"))
    expect(why).to_be_visible()
    verdict = page.get_by_text("Failed", exact=True).last
    expect(verdict).to_be_visible()
    color = verdict.evaluate("element => getComputedStyle(element).color")
    red, green, blue = (int(part) for part in re.findall(r"\d+", color)[:3])
    assert red > 2 * max(green, blue), color
    picture(page, artifacts / "failing-check.png")
    show_partition(page, SPOILED)
    expect(page.get_by_text("failed, and did not materialize this asset.")).to_be_visible()
