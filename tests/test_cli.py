"""The command line, as a person types it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from click.testing import CliRunner

from overnight.cli import main
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.support import shop
from tests.support.shop import DAY, line, reversing, write_lines

if TYPE_CHECKING:
    from click.testing import Result


@pytest.fixture(autouse=True)
def installation(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    monkeypatch.setenv("OVERNIGHT_DEFINITIONS", "tests.support.location")
    return home


def overnight(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def test_land_checks_copies_and_says_what_it_did(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line(n)) + "\n" for n in range(30)) + "{broken\n")
    result = overnight("land", "lines", DAY, str(file))
    assert result.exit_code == 0, result.output
    assert "31 rows, 1 rejected" in result.output
    assert "31" in result.output
    landed = home / "store" / "landing" / "lines" / DAY / "a.jsonl"
    assert landed.read_bytes() == file.read_bytes()


def test_land_refuses_a_file_with_too_many_rejects_and_copies_nothing(
    home: Path, tmp_path: Path
) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"line_id": "l1", "text": 5, "weight": 1}\n')
    result = overnight("land", "lines", DAY, str(file))
    assert result.exit_code == 1
    assert "'text'" in result.output or "text" in result.output
    assert not (home / "store" / "landing").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("land", "nothing", DAY, "x.jsonl"), "there is no source 'nothing'; there are: lines"),
        (("land", "lines", "2026-02-30", "x.jsonl"), "2026-02-30"),
        (("land", "lines", DAY, "missing.jsonl"), "missing.jsonl"),
        (
            ("dead-letters", "nothing"),
            "there is no job 'nothing'; there are: newest_lines, reversed_lines",
        ),
        (("dead-letters", "reversed_lines", "--partition", "../x"), "../x"),
        (("dead-letters", "reversed_lines", "--partition", "all"), "'all' is not a date"),
        (("dead-letters", "newest_lines", "--partition", DAY), "its only one is 'all'"),
        (("rejects", "lines", "--partition", "../x"), "../x"),
        (("rejects", "known_lines"), "there is no source 'known_lines'; there are: lines"),
        (("sql", "select * from nowhere"), 'relation "nowhere" does not exist'),
        (("sql", "create table x (a int)"), "read-only transaction"),
    ],
)
def test_a_wrong_command_says_what_is_wrong(arguments: tuple[str, ...], says: str) -> None:
    result = overnight(*arguments)
    assert result.exit_code == 1
    assert says in result.output
    assert "Traceback" not in result.output


def test_a_wrong_setting_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERNIGHT_WORKERS", "two")
    result = overnight("status")
    assert result.exit_code == 1
    assert "OVERNIGHT_WORKERS is 'two': give a number of engines" in result.output


@pytest.mark.usefixtures("ray_head")
def test_rows_rejects_and_dead_letters_are_read_back(home: Path) -> None:
    write_lines(home, [*map(line, range(40)), '{"line_id": "bad"}', line(77, "!fail on purpose")])
    with Warehouse.open(home=home) as warehouse:
        run_partition(reversing(), DAY, run_id="r", house=shop.house(warehouse, home))
    count = "select count(*) as n from published.reversed_lines"
    rows = overnight("sql", count, "--format", "json")
    assert json.loads(rows.output) == {"n": 40}
    nines = "select reversed from published.reversed_lines where reversed like '%9%'"
    table = overnight("sql", nines)
    assert "93 rebmun enil" in table.output
    rejected = overnight("rejects", "lines")
    assert "lines.jsonl" in rejected.output
    assert "bad" in rejected.output
    assert "no rejects" in overnight("rejects", "lines", "--partition", "all").output
    dead = overnight("dead-letters", "reversed_lines")
    assert "told: on purpose" in dead.output
    unknown = overnight("dead-letters", "reversed_lines", "--partition", "2026-11-01")
    assert unknown.exit_code == 1
    assert f"has never run for 2026-11-01; it ran for: {DAY}" in unknown.output


def test_url_with_tcp_lets_any_client_in_until_ctrl_c(home: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "overnight.cli", "url", "--tcp"],
        env={**os.environ, "PYTHONPATH": f"{Path.cwd()}:{Path.cwd() / 'platform'}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert "@127.0.0.1:" in url
        with psycopg.connect(url) as connection:
            assert connection.execute("select count(*) from lineage.runs").fetchone() == (0,)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
    process.stdout.close()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url, connect_timeout=5)


def test_url_is_one_that_sqlalchemy_takes() -> None:
    import sqlalchemy as sa

    printed = overnight("url").output.strip()
    assert sa.make_url(printed).get_backend_name() == "postgresql"
