"""kill -9 against a process that journals: what it was told is durable must be found."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest

from overnight.store import StoreConfig
from tests.journal_child import TABLES, TOTAL, journal_in
from tests.journal_records import number_of, wanted
from tests.moto_server import REGION, moto_server, new_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.journal import Journal

ROOT = Path(__file__).parent.parent
SEED = int(os.environ.get("OVERNIGHT_TEST_SEED", "20261122"))


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


def child(config: StoreConfig, attempt: int, crash_at: str = "") -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}:{ROOT / 'platform'}",
        "OVERNIGHT_CRASH_AT": crash_at,
    }
    program = str(ROOT / "tests" / "journal_child.py")
    where = [config.url, config.endpoint_url or "", REGION]
    command = [sys.executable, program, *where, str(attempt)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def acknowledged(process: subprocess.Popen[str], kill_after: int | None = None) -> int:
    """What the process said is durable until it ended, or was killed after so many lines."""
    assert process.stdout is not None
    durable = 0
    with process, process.stdout:
        for count, line in enumerate(process.stdout, start=1):
            # A kill may tear the last line.
            if line.endswith("\n"):
                durable = int(line)
            if count == kill_after:
                process.kill()
    return durable


def check(journal: Journal, durable: int) -> None:
    """Nothing acknowledged is lost, nothing unexpected is there, each record once and right."""
    done = {number_of(value) for value in journal.done()["input_hash"]}
    assert done >= set(range(durable))
    assert done <= set(range(TOTAL))
    frames = list(journal.records(wanted(range(TOTAL))))
    found = (
        pl.concat(frames) if frames else pl.DataFrame(schema={"_line": pl.Int64, "text": pl.String})
    )
    assert sorted(found["_line"]) == sorted(done)
    assert found["text"].to_list() == [f"text of {number}" for number in found["_line"]]


POINTS = [
    pytest.param("store.before_rename:1", marks=pytest.mark.sweep),
    "store.before_rename:9",
    "store.after_rename:9",
    pytest.param("journal.before_put:1", marks=pytest.mark.sweep),
    "journal.before_put:17",  # the merged shard's
    pytest.param("journal.after_put:2", marks=pytest.mark.sweep),
    "journal.after_put:17",
    "journal.before_merge_delete:1",
    pytest.param("journal.before_merge_delete:3", marks=pytest.mark.sweep),
    "journal.after_merge_delete:2",
]


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_any_step_of_a_write_everything_acknowledged_is_found(
    tmp_path: Path, point: str
) -> None:
    config = StoreConfig(tmp_path.as_uri())
    process = child(config, 1, crash_at=point)
    durable = acknowledged(process)
    assert process.returncode == -signal.SIGKILL
    check(journal_in(config), durable)


@pytest.mark.parametrize("round_", range(1))
def test_killed_again_and_again_at_random_the_journal_completes(
    tmp_path: Path, round_: int
) -> None:
    kill_often(StoreConfig(tmp_path.as_uri()), seed=SEED + round_)


@pytest.mark.sweep
@pytest.mark.parametrize("round_", range(60))
def test_killed_at_many_random_moments_the_journal_completes(tmp_path: Path, round_: int) -> None:
    kill_often(StoreConfig(tmp_path.as_uri()), seed=SEED + 1000 + round_)


def test_killed_at_random_on_a_bucket_the_journal_completes(endpoint: str) -> None:
    kill_often(new_bucket(endpoint), seed=SEED + 100)


def kill_often(config: StoreConfig, *, seed: int) -> None:
    """The seed is an argument, so that a failure shows it."""
    rng = random.Random(seed)
    durable = 0
    for attempt in (1, 2):
        process = child(config, attempt)
        durable = max(durable, acknowledged(process, kill_after=rng.randrange(1, TABLES)))
        check(journal_in(config), durable)
    process = child(config, 3)
    assert acknowledged(process) == TOTAL
    assert process.returncode == 0
    check(journal_in(config), TOTAL)
