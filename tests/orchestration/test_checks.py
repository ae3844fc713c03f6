"""Every check that people rely on, failing with its message: what it found and what to do."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
import sqlalchemy as sa

from overnight.contract import Contract, Field
from overnight.errors import ConfigError
from overnight.expectations import Expectations, Limit, TextOutput
from overnight.job import EmptyOutput, InferenceJob, OutputCheck, each_result
from overnight.orchestration import inference_asset
from overnight.plan import MaxRejects
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from resources import ClusterResource, StoreResource, WarehouseResource
from tests.support.shop import house, line, reversing, write_lines
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("ray_head")

FRIDAY = dt.date(2026, 11, 20)
DAILY = dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin")
WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


class Said(Contract):
    """What was said, backwards."""

    line_id: str = Field(description="Names the line.")
    said: str = Field(description="The text, last letter first.")
    cut: bool = Field(description="Whether it stopped in the middle.")


@each_result
def parse_said(result: dict[str, Any]) -> dict[str, Any]:
    """Say nothing of silence; be cut off where the text says so."""
    text = result["text"]
    if text == "-":
        raise EmptyOutput("nothing was said")
    if "?" in text:
        raise ValueError("a question has no answer")
    return {"said": text.replace("_", " "), "cut": text.startswith("…")}


TEXT = TextOutput(column="said", truncated="cut", drift_rows=50)


def saying(text: TextOutput = TEXT, **changes: Any) -> InferenceJob:
    settings: dict[str, Any] = {
        "name": "said_lines",
        "output": Said,
        "parse": parse_said,
        "checks": (),
        "expects": Expectations(text=text),
    }
    return reversing(**{**settings, **changes})


def sentences(count: int, words: int = 3) -> list[dict[str, Any]]:
    """Lines that are all different, of about so many words."""
    return [
        line(n, f"{n} " + " ".join(WORDS[(n + k) % 10] for k in range(words + n % 3)))
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    with open_home() as made, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVERNIGHT_HOME", str(made))
        # Kept up, so that runs find it running.
        with Warehouse.open(home=made):
            yield made


@pytest.fixture(autouse=True)
def fresh(home: Path) -> None:
    with Warehouse.open(home=home) as warehouse, warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.said_lines")
        connection.exec_driver_sql("TRUNCATE lineage.runs, lineage.partitions CASCADE")


def land(home: Path, rows: Iterable[Any], day: dt.date = FRIDAY) -> None:
    write_lines(home, rows, day=f"{day}")


def publish(home: Path, rows: Iterable[Any], *ago: int, job: InferenceJob | None = None) -> None:
    """Publish the same rows on some days before, without Dagster."""
    rows = list(rows)
    with Warehouse.open(home=home) as warehouse:
        for days in ago:
            day = FRIDAY - dt.timedelta(days=days)
            land(home, rows, day)
            run_partition(job or saying(), f"{day}", run_id="before", house=house(warehouse, home))


def materialize(job: InferenceJob) -> dg.ExecuteInProcessResult:
    definitions = dg.Definitions.merge(
        dg.Definitions(
            resources={
                "warehouse": WarehouseResource(),
                "store": StoreResource(),
                "cluster": ClusterResource(),
            }
        ),
        inference_asset(job, partitions=DAILY, group="tests"),
    )
    with dg.DagsterInstance.ephemeral() as instance:
        return definitions.resolve_job_def(f"{job.name}_job").execute_in_process(
            instance=instance, partition_key=f"{FRIDAY}", raise_on_error=False
        )


def failing(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    return {c.check_name: c for c in result.get_asset_check_evaluations() if not c.passed}


def only_failure(result: dg.ExecuteInProcessResult, name: str) -> tuple[str, dict[str, Any]]:
    found = failing(result)
    assert set(found) == {name}, {n: c.description for n, c in found.items()}
    figures = {key: value.value for key, value in found[name].metadata.items()}
    return found[name].description or "", figures


def warned(result: dg.ExecuteInProcessResult, name: str) -> tuple[str, dict[str, Any]]:
    """The one check that failed; as a warning, and the partition is published."""
    assert result.success
    told = only_failure(result, name)
    assert failing(result)[name].severity == dg.AssetCheckSeverity.WARN
    return told


def blocked(result: dg.ExecuteInProcessResult, name: str) -> tuple[str, dict[str, Any]]:
    """The one check that failed; as an error, and nothing is published."""
    assert not result.success
    assert not result.asset_materializations_for_node("said_lines")
    told = only_failure(result, name)
    assert failing(result)[name].severity == dg.AssetCheckSeverity.ERROR
    return told


def shown_by(home: Path, message: str) -> list[Any]:
    """What the SQL in a message shows."""
    query = message.split('`overnight sql "')[1].split('"`', maxsplit=1)[0]
    with Warehouse.open(home=home) as warehouse, warehouse.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query.replace("%", "%%"))]


def test_an_ordinary_day_passes_every_check(home: Path) -> None:
    land(home, sentences(60))
    result = materialize(saying())
    checks = {c.check_name: c for c in result.get_asset_check_evaluations()}
    assert set(checks) == {
        "reconciliation", "contract", "dead_letter_share", "reject_share", "row_count",
        "truncated_share", "empty_share", "duplicate_share", "length_drift",
    }  # fmt: skip
    assert all(check.passed for check in checks.values())
    assert "not enough history" in (checks["row_count"].description or "")
    assert "not enough history" in (checks["length_drift"].description or "")
    blocking = {name for name, check in checks.items() if check.blocking}
    assert set(checks) - blocking == {"row_count", "length_drift"}


def test_fewer_rows_than_on_the_same_weekday_are_a_warning(home: Path) -> None:
    publish(home, sentences(60), 7, 14, 21)
    land(home, sentences(25))
    message, figures = warned(materialize(saying()), "row_count")
    assert figures == {"rows": 25, "usual_rows": 60, "change": pytest.approx(-35 / 60)}
    assert "25 rows, 60 as a rule (a Friday: 2026-10-30, 2026-11-06, 2026-11-13): -58%" in message
    ((uri, rows),) = shown_by(home, message)
    assert (f"/lines/{FRIDAY}/" in uri, rows) == (True, 25)
    assert "land them and run the partition again" in message


def test_another_weekday_or_a_single_friday_says_nothing_of_the_rows(home: Path) -> None:
    publish(home, sentences(60), 1, 2, 7)
    land(home, sentences(5))
    result = materialize(saying())
    (check,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "row_count")
    assert check.passed
    assert "not enough history: 1 of the 4 weeks before" in (check.description or "")


def test_the_median_bears_one_odd_week(home: Path) -> None:
    publish(home, sentences(40), 7, 14, 28)
    publish(home, sentences(2), 21)
    land(home, sentences(50))
    result = materialize(saying())
    assert not failing(result)


def test_rejects_beyond_one_percent_are_a_warning_with_the_command_that_lists_them(
    home: Path,
) -> None:
    land(home, [*sentences(60), "{broken"])
    message, figures = warned(materialize(saying()), "reject_share")
    assert (figures["rows"], figures["of"]) == (1, 61)
    assert "1 of 61 rows (1.64%; at most 1.00% allowed)" in message
    assert f"`overnight rejects lines --partition {FRIDAY}`" in message
    assert "`Expectations.reject_share`" in message


def test_too_many_rejects_are_a_failed_check_and_nothing_is_inferred(home: Path) -> None:
    land(home, [*sentences(10), *["{broken"] * 5])
    message, _ = blocked(materialize(saying(max_rejects=MaxRejects(share=0.1))), "reject_share")
    assert "5 of 15 source rows rejected" in message


def test_too_many_dead_letters_come_with_their_reasons(home: Path) -> None:
    land(home, [*sentences(20), line(98, "why?"), line(99, "!fail so it was")])
    message, _ = blocked(materialize(saying()), "dead_letter_share")
    assert "2 of 22 rows (9.09%; at most 5.00% allowed): dead letters" in message
    assert "1 'parse: a question has no answer', such as line_id l98" in message
    assert "1 'told: so it was', such as line_id l99" in message
    assert "`max_dead_letter_share`" in message


def test_some_truncated_outputs_are_a_warning_with_the_sql_that_shows_them(home: Path) -> None:
    land(home, [*sentences(38), line(98, "broken off…")])
    message, figures = warned(materialize(saying()), "truncated_share")
    assert figures["limit"] == 0.02
    assert "Raise `max_tokens`" in message
    ((line_id, said, cut, *_),) = shown_by(home, message)
    assert (line_id, said, cut) == ("l98", "…ffo nekorb", True)


def test_many_truncated_outputs_block_and_name_their_keys(home: Path) -> None:
    land(home, [*sentences(20), line(98, "one…"), line(99, "two…")])
    message, _ = blocked(materialize(saying()), "truncated_share")
    assert "2 of 22 rows (9.09%; at most 5.00% allowed)" in message
    assert "Nothing was published; line_id of some in `lines`: l98, l99" in message


def test_empty_outputs_are_counted_as_rows_and_as_dead_letters(home: Path) -> None:
    land(home, [*sentences(58), line(98, "___"), line(99, "-")])
    text = dataclasses.replace(TEXT, empty_share=Limit(warn=0.01, block=0.5))
    message, figures = warned(materialize(saying(text)), "empty_share")
    assert (figures["rows"], figures["of"]) == (2, 60)
    assert "Dead letters for that reason: l99" in message
    assert [row[0] for row in shown_by(home, message)] == ["l98"]


def test_a_model_that_answers_everything_alike_blocks(home: Path) -> None:
    land(home, [line(n, "the same answer") for n in range(30)])
    message, figures = blocked(materialize(saying()), "duplicate_share")
    assert (figures["rows"], figures["of"]) == (29, 30)
    assert "30 rows say 'rewsna emas eht'" in message


def test_some_repeated_outputs_are_a_warning_with_the_sql_that_shows_them(home: Path) -> None:
    land(home, [*sentences(26), *(line(n, "agency news") for n in range(90, 94))])
    message, _ = warned(materialize(saying()), "duplicate_share")
    assert "3 of 30 rows (10.00%; at most 5.00% allowed)" in message
    assert shown_by(home, message) == [("swen ycnega", 4)]


def test_a_handful_of_rows_says_nothing_of_repeated_texts(home: Path) -> None:
    land(home, [line(n, "the same answer") for n in range(5)])
    assert not failing(materialize(saying()))


def test_lengths_that_moved_from_those_of_the_week_before_are_a_warning(home: Path) -> None:
    publish(home, sentences(30), 1, 2, 3)
    land(home, sentences(60, words=9))
    text = dataclasses.replace(TEXT, truncated=None)
    job = saying(text, expects=Expectations(text=text, row_change=9.0))
    message, figures = warned(materialize(job), "length_drift")
    assert figures["psi"] > 0.25
    assert figures["mean_length"] > 1.5 * figures["mean_length_before"]
    assert (figures["rows"], figures["rows_before"]) == (60, 90)
    assert "in the week before (2026-11-17, 2026-11-18, 2026-11-19)" in message
    assert len(shown_by(home, message)) == 4
    assert "`TextOutput.drift`" in message


def test_lengths_as_in_the_week_before_pass(home: Path) -> None:
    publish(home, sentences(60), 1, 2)
    land(home, sentences(66))
    result = materialize(saying())
    (check,) = (c for c in result.get_asset_check_evaluations() if c.check_name == "length_drift")
    assert check.passed
    assert (check.description or "").startswith("PSI 0.0")


def test_a_check_of_the_jobs_own_may_only_warn(home: Path) -> None:
    shouted = OutputCheck(
        name="shouted_share",
        description="Lines that shout.",
        breaks=lambda row: row.said.like("!%"),
        max_share=0.1,
        blocking=False,
    )
    land(home, [*sentences(20), *(line(n, f"{n} now!") for n in range(90, 94))])
    message, _ = warned(materialize(saying(checks=(shouted,))), "shouted_share")
    assert "4 of 24 rows (16.67%; at most 10.00% allowed): Lines that shout" in message
    assert {row[0] for row in shown_by(home, message)} == {"l90", "l91", "l92", "l93"}


def test_what_the_checks_said_is_in_lineage(home: Path) -> None:
    land(home, [*sentences(60), "{broken"])
    assert materialize(saying()).success
    query = sa.text("SELECT summary -> 'checks' FROM lineage.latest_runs WHERE job = 'said_lines'")
    with Warehouse.open(home=home) as warehouse, warehouse.connect() as connection:
        checks = connection.execute(query).scalar_one()
    assert {name for name, check in checks.items() if not check["passed"]} == {"reject_share"}
    assert checks["reject_share"]["blocking"] is False


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (lambda: Limit(warn=1.5), "warn is 1.5, must be within 0 and 1"),
        (lambda: Limit(warn=0.2, block=0.1), "block is 0.1, which is below warn=0.2"),
        (lambda: Expectations(row_change=0), "row_change is 0, must be above 0"),
        (lambda: Expectations(reject_share=2), "reject_share is 2"),
        (lambda: Expectations(due=dt.time(6)), "due is 06:00 without a time zone"),
        (lambda: saying(TextOutput(column="words")), "'words', which must be text and is missing"),
        (
            lambda: saying(TextOutput(column="said", truncated="line_id")),
            "'line_id', which must be boolean and is text",
        ),
    ],
)
def test_expectations_that_mean_nothing_are_refused(mistake: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        mistake()
