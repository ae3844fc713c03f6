"""A morning's repairs: what failed, why, and getting it through after all."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest
from click.testing import CliRunner

from overnight.cli import main
from overnight.errors import AuditFailedError
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.support import shop
from tests.support.shop import DAY, line, write_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

JOB = "reversed_lines"
LOCATION = "tests.support.repair_location"
pytestmark = pytest.mark.usefixtures("ray_head", "installation")


@pytest.fixture
def installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    monkeypatch.setenv("DAGSTER_HOME", str(home / "dagster"))
    monkeypatch.setenv("OVERNIGHT_DEFINITIONS", LOCATION)
    sys.modules.pop(LOCATION, None)
    yield home
    sys.modules.pop(LOCATION, None)


def overnight(*arguments: str, status: int = 0) -> Result:
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == status, result.output
    return result


def night(home: Path, *, ill: int = 2, well: int = 40) -> None:
    """Land and run a day on which some rows are ill, and one breaks the contract."""
    rows: list[Any] = [*map(line, range(well)), *(line(100 + n, f"ill {n}") for n in range(ill))]
    write_lines(home, [*rows, '{"line_id": "bad"}'])
    run(home)


def run(home: Path) -> None:
    job = importlib.import_module(LOCATION).JOB
    with Warehouse.open(home=home) as warehouse:
        run_partition(job, DAY, run_id="night", house=shop.house(warehouse, home))


def inferred(home: Path) -> list[str]:
    return [json.loads(text)[::-1] for text in (home / "inferred").read_text().splitlines()]


def query(text: str) -> list[dict[str, Any]]:
    return [
        json.loads(row) for row in overnight("sql", text, "--format", "json").stdout.splitlines()
    ]


def test_a_retry_infers_only_the_rows_asked_for_and_publishes_them(home: Path) -> None:
    night(home)
    before = inferred(home)
    (home / "well").touch()
    said = overnight("dead-letters", "retry", JOB, "--key", "l100", "--reason", "it is well").stdout
    assert "1 of 1 rows came through" in said
    assert inferred(home)[len(before) :] == ["ill 0"]
    (now,) = query("select * from lineage.latest_runs")
    assert (now["published"], now["dead_lettered"], now["inferred"]) == (41, 1, 1)
    with (
        Warehouse.open(home=home),
        dg.DagsterInstance.from_config(str(home / "dagster")) as instance,
    ):
        (run_,) = instance.get_runs()
        assert run_.run_id == now["run_id"]
        event = instance.get_latest_materialization_event(dg.AssetKey(JOB))
        assert event is not None
        assert event.asset_materialization is not None
        assert event.asset_materialization.metadata["published"].value == 41
    assert "it is well" in overnight("why", JOB, DAY).stdout


def test_a_row_that_fails_again_stays_a_dead_letter(home: Path) -> None:
    night(home)
    said = overnight("dead-letters", "retry", JOB, "--partition", DAY).stdout
    assert "0 of 2 rows came through" in said
    assert "still a dead letter: l100: told: ill 0" in said
    (now,) = query("select * from lineage.latest_runs")
    assert (now["published"], now["dead_lettered"], now["inferred"]) == (40, 2, 2)
    letters = query("select run_id from lineage.current_dead_letters")
    assert {letter["run_id"] for letter in letters} == {now["run_id"]}


def test_dropping_lets_a_partition_with_too_many_dead_letters_through(home: Path) -> None:
    with pytest.raises(AuditFailedError):
        night(home, ill=8)
    assert "ill 7" in overnight("dead-letters", JOB).stdout
    assert "dead_letter_share" in overnight("status").stdout
    story = overnight("why", JOB, DAY).stdout
    assert "failed after reading 49 rows in, 1 rejected" in story
    assert "Readers see nothing of it" in story
    keys = [part for n in range(8) for part in ("--key", f"l{100 + n}")]
    said = overnight("dead-letters", "drop", JOB, *keys, "--reason", "spam").stdout
    assert "is not published yet: run it again" in said
    assert "no dead letters" in overnight("dead-letters", "list", JOB).stdout
    assert "spam" in overnight("dead-letters", "list", JOB, "--dropped").stdout
    assert "spam" in overnight("dead-letters", "show", JOB, "l103").stdout
    run(home)
    (now,) = query("select * from lineage.latest_runs")
    assert now["rows_in"] == now["published"] + now["rejected"] + now["dead_lettered"] == 49
    assert now["dead_lettered"] == 8
    assert "no dead letters" in overnight("dead-letters", JOB).stdout


def test_rejects_are_exported_with_the_text_of_their_rows(home: Path, tmp_path: Path) -> None:
    night(home)
    file = tmp_path / "fix.csv"
    overnight("rejects", "export", "lines", "--partition", DAY, "-o", str(file))
    (row,) = csv.DictReader(file.read_text().splitlines())
    assert row["row"] == '{"line_id": "bad"}'
    assert (row["line"], row["key"]) == ("43", "bad")
    assert json.loads(overnight("rejects", "export", "lines", "--format", "jsonl").stdout)["row"]
    write_lines(home, map(line, range(3)))
    result = overnight("rejects", "export", "lines", "--format", "jsonl")
    assert "was replaced since" in result.stderr
    assert json.loads(result.stdout)["row"] is None


def test_status_shows_every_table_within_a_hundred_columns(home: Path) -> None:
    assert "never run" in overnight("status").stdout
    night(home)
    said = overnight("status").stdout
    assert max(map(len, said.splitlines())) <= 100
    assert "Nothing runs now." in said
    (table,) = json.loads(overnight("status", "--format", "json").stdout)["tables"]
    assert (table["job"], table["newest"], table["outcome"]) == (JOB, DAY, "published")
    assert [table[n] for n in ("rows_in", "published", "rejected", "dead_lettered")] == [
        43, 40, 1, 2,
    ]  # fmt: skip
    assert table["checks"] >= 4
    assert table["failed_checks"] == ["reject_share"]
    assert "is published, but checks failed: reject_share" in said
    assert "check reject_share failed:" in overnight("why", JOB, DAY).stdout


def test_an_attempt_whose_process_is_gone_is_shown_as_such(home: Path) -> None:
    night(home)
    with Warehouse.open(home=home) as warehouse, warehouse.begin() as connection:
        connection.exec_driver_sql(
            "UPDATE lineage.attempts SET outcome = 'running', ended_at = NULL"
        )
    assert "its process is gone" in overnight("status").stdout
    (one,) = json.loads(overnight("status", "--format", "json").stdout)["running"]
    assert one["alive"] is False
    assert "its process is gone" in overnight("why", JOB, DAY).stdout


def test_what_is_unknown_is_named_and_changes_nothing(home: Path) -> None:
    night(home, well=20, ill=1)
    for arguments, says in (
        (("dead-letters", "retry", "nothing"), "there is no job 'nothing'"),
        (("dead-letters", "retry", JOB, "--partition", "2026-11-01"), f"it ran for: {DAY}"),
        (("dead-letters", "retry", JOB, "--key", "l5"), "the key(s) l5"),
        (("dead-letters", "show", JOB, "l5"), "the key(s) l5"),
        (("dead-letters", "drop", JOB, "--key", "l5", "--reason", "x"), "the key(s) l5"),
        (("rejects", "export", "nothing"), "there is no source 'nothing'"),
        (("rejects", "export", "lines", "--partition", "2026-11-01"), f"it ran for: {DAY}"),
        (("why", "nothing", DAY), "there is no job 'nothing'"),
        (("why", JOB, "yesterday"), "'yesterday' is not a date"),
        (("why", JOB, "2026-11-01"), f"it ran for: {DAY}"),
    ):
        assert says in overnight(*arguments, status=1).output
    assert query("select count(*) as n from lineage.repairs") == [{"n": 0}]
    assert query("select count(*) as n from lineage.attempts") == [{"n": 1}]
