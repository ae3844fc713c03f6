"""kill -9 of the step that refreshes embeddings: the next attempt infers exactly what is left."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from assets.demo.documents import changes
from assets.documents import chunker
from overnight.job import WHOLE
from overnight.journal import Journal
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from tests.assets.test_embeddings import JOB, land
from tests.chaos.lab import PATIENCE_S, ROOT, environment
from tests.chaos.watch import POLL_S
from tests.support.shop import house
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(240)]

FIRST = dt.date(2026, 11, 1)
DOCUMENTS = 250
_SHARES = 0.05, 0.6
"""Of the chunks, journalled at the kill: enough are left for the next attempt to have work."""


@pytest.fixture(scope="module")
def place(ray_head: str) -> Iterator[tuple[Warehouse, Path]]:
    """An installation with a warm engine."""
    with open_home() as home, Warehouse.open(home=home) as warehouse:
        (home / "ray.json").write_text(json.dumps({"address": ray_head, "pid": os.getpid()}))
        land(home, "2026-10-31", *changes(FIRST, first=FIRST, count=3, seed=99))
        run_partition(JOB, WHOLE, run_id="warm", house=house(warehouse, home))
        yield warehouse, home


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(n, marks=pytest.mark.sweep) for n in range(1, 10))]
)
def test_nothing_is_lost_or_inferred_twice(place: tuple[Warehouse, Path], seed: int) -> None:
    warehouse, home = place
    day = FIRST + dt.timedelta(days=seed)
    rows: list[dict[str, Any]] = [
        {**row, "doc_id": f"{seed}-{row['doc_id']}"}
        for row in changes(day, first=day, count=DOCUMENTS, seed=seed)
    ]
    land(home, day.isoformat(), *rows)
    before = _published(warehouse)
    expected = {
        f"{row['doc_id']}#{number}": chunk.text
        for row in rows
        for number, chunk in enumerate(chunker.chunks(str(row["text"])))
    }
    journal = Journal(house(warehouse, home).store.open(), JOB.name, JOB.fingerprint().id, WHOLE)
    known = journal.done().height
    # The seed decides how much is to be durable when the kill comes.
    least = round(random.Random(seed).uniform(*_SHARES) * len(expected))
    with _step(home) as step:
        give_up = time.monotonic() + PATIENCE_S
        while journal.done().height - known < least:
            assert step.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < give_up
            time.sleep(POLL_S)
        step.kill()
    assert _published(warehouse) == before, "nothing is visible yet"

    report = run_partition(JOB, WHOLE, run_id="again", house=house(warehouse, home))

    after = _published(warehouse)
    assert {key: text for key, (text, _) in after.items() if key not in before} == expected
    assert {key: after[key] for key in before} == before, "published rows stay as they are"
    runs = [after[key][1] for key in expected]
    mine, killed = runs.count("again"), runs.count("killed")
    assert mine + killed == len(expected)
    assert mine == report.inferred
    assert least <= killed < len(expected), "the kill came in the middle, and cost nothing durable"
    print(f"\nseed {seed}: {killed} of {len(expected)} chunks kept, {least} asked for")  # noqa: T201


def _step(home: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.chaos.job_step",
            "tests.assets.test_embeddings",
            "JOB",
            WHOLE,
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment(home),
    )


def _published(warehouse: Warehouse) -> dict[str, tuple[str, str]]:
    query = "SELECT chunk_id, text, _run_id FROM published.document_embeddings"
    with warehouse.connect() as connection:
        return {row[0]: (row[1], row[2]) for row in connection.exec_driver_sql(query)}
