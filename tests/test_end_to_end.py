"""The first slice as a person runs it: real text, vLLM, Ray, Dagster's command line, SQL."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from assets.demo import articles, distributions
from assets.models.lead_summarizer.reference import clean, first_sentence
from overnight.warehouse.connect import Warehouse
from tests.warehouse.helpers import open_home

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DAY = "2026-11-20"


def call(home: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        env={
            **os.environ,
            "OVERNIGHT_HOME": str(home),
            "DAGSTER_HOME": str(home / "dagster"),
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def summarized() -> Iterator[Path]:
    """An installation in which one day of real text has been summarized."""
    with open_home() as home:
        (home / "dagster").mkdir()
        (home / "dagster" / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        day = dt.date.fromisoformat(DAY)
        real, invented = home / "real.jsonl", home / "invented.jsonl"
        distributions.write(day, real)
        articles.write(day, invented, count=60, bad_rows=4)
        landed = call(home, "overnight", "land", "articles", DAY, str(real), str(invented))
        assert landed.returncode == 0, landed.stderr
        done = call(
            home, "dagster", "asset", "materialize", "-m", "assets.definitions",
            "--select", "daily_summaries", "--partition", DAY,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield home


@pytest.fixture(scope="module")
def warehouse(summarized: Path) -> Iterator[Warehouse]:
    with Warehouse.open(home=summarized) as opened:
        yield opened


def landed_rows(home: Path) -> dict[str, str]:
    rows = {}
    for file in (home / "store" / "landing" / "articles" / DAY).glob("*.jsonl"):
        for text in file.read_text().splitlines():
            row = json.loads(text)
            if isinstance(row.get("body"), str):
                rows[row["article_id"]] = row["body"]
    return rows


def test_every_article_is_published_rejected_or_dead_lettered(
    summarized: Path, warehouse: Warehouse
) -> None:
    lines = sum(
        len(file.read_text().splitlines())
        for file in (summarized / "store" / "landing" / "articles" / DAY).glob("*.jsonl")
    )
    with warehouse.connect() as connection:
        run = connection.execute(sa.text("SELECT * FROM lineage.latest_runs")).one()
        table = connection.execute(sa.text("SELECT count(*) FROM published.daily_summaries"))
        assert table.scalar_one() == run.published
    assert run.rows_in == lines == run.published + run.rejected + run.dead_lettered
    assert run.published > 200
    assert run.rejected == 2
    assert run.inferred == run.published + run.dead_lettered


def test_a_row_that_is_too_long_or_empty_is_a_dead_letter_with_its_reason(
    warehouse: Warehouse,
) -> None:
    query = "SELECT reason FROM lineage.current_dead_letters WHERE key LIKE 'a-%' ORDER BY reason"
    with warehouse.connect() as connection:
        reasons = list(connection.execute(sa.text(query)).scalars())
    assert any(re.match(r"too_long: \d+ prompt tokens, the model takes 1024", r) for r in reasons)
    assert any(reason.startswith("empty") for reason in reasons)


def test_the_materialization_shows_speed_timings_sample_and_plots(summarized: Path) -> None:
    from dagster import AssetKey, DagsterInstance

    with DagsterInstance.from_config(str(summarized / "dagster")) as instance:
        event = instance.get_latest_materialization_event(AssetKey("daily_summaries"))
    assert event is not None
    assert event.asset_materialization is not None
    shown = {key: value.value for key, value in event.asset_materialization.metadata.items()}
    assert shown["tokens_per_s"] > 0
    assert 0 < shown["ttft_p50_s"] <= shown["ttft_p95_s"] <= shown["ttft_p99_s"]
    assert shown["latency_p50_s"] >= shown["ttft_p50_s"]
    assert shown["dagster/partition_row_count"] == shown["published"]
    for plot in ("throughput", "output_length"):
        assert "data:image/png;base64," in shown[plot]
    assert "| article_id | title |" in shown["sample"]
    assert 0 <= shown["prefix_cache_hits"] <= 1
    assert (shown["attempts"], shown["interruptions"]) == (1, 0)
    assert f"`overnight rejects articles --partition {DAY}`" in shown["rejects"]
    assert f"/landing/articles/{DAY}/invented.jsonl" in shown["rejects"]


def test_each_summary_is_of_its_own_article(summarized: Path, warehouse: Warehouse) -> None:
    bodies = landed_rows(summarized)
    with warehouse.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT article_id, summary FROM published.daily_summaries")
        ).all()
    right = [key for key, summary in rows if summary == first_sentence(clean(bodies[key]))]
    # A row mix-up would leave next to none; what misses is hard real text (see the model's card).
    assert len(right) / len(rows) > 0.85
    invented = [key for key, _ in rows if key.startswith("a-")]
    assert len(set(invented) & set(right)) / len(invented) > 0.95


def test_a_summary_can_be_traced_to_model_prompt_and_file(warehouse: Warehouse) -> None:
    query = """
    SELECT f.model_digest, a.prepare_source, f.parameters ->> 'max_tokens' AS max_tokens,
           a.machine, i.uri, i.digest
    FROM published.daily_summaries s
    JOIN lineage.attempts a ON a.attempt = s._attempt
    JOIN lineage.fingerprints f USING (fingerprint)
    JOIN lineage.latest_runs r ON r.partition_key = s.partition_key
    JOIN lineage.inputs i ON i.attempt = r.attempt AND i.input_id = s._input_id
    LIMIT 1
    """
    from assets.models import lead_summarizer

    with warehouse.connect() as connection:
        row = connection.execute(sa.text(query)).one()
    assert row.model_digest == lead_summarizer.DIGEST
    assert "def summary_prompt" in row.prepare_source
    assert row.max_tokens == "128"
    assert row.uri.endswith(".jsonl")


def test_the_table_and_its_columns_are_documented(warehouse: Warehouse) -> None:
    query = """
    SELECT obj_description(c.oid), count(*) FILTER (WHERE col_description(c.oid, a.attnum) IS NULL)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.oid = 'published.daily_summaries'::regclass GROUP BY c.oid
    """
    with warehouse.connect() as connection:
        comment, undocumented = connection.execute(sa.text(query)).one()
    assert comment == "One summary for each article of a day."
    assert undocumented == 0


def test_dg_launch_does_the_same_and_infers_nothing_again(summarized: Path) -> None:
    done = call(
        summarized, "dg", "launch", "-m", "assets.definitions",
        "--assets", "daily_summaries", "--partition", DAY,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    with Warehouse.open(home=summarized) as warehouse, warehouse.connect() as connection:
        newest = sa.text("SELECT inferred, reused FROM lineage.runs ORDER BY attempt DESC LIMIT 1")
        inferred, reused = connection.execute(newest).one()
    assert inferred == 0
    assert reused > 200


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"SUMMARY_MODEL": "/nowhere/model"}, "/nowhere/model: no such directory"),
        (
            {
                "SUMMARY_MODEL": str(ROOT / "assets/models/lead_summarizer/weights"),
                "SUMMARY_MODEL_DIGEST": "sha256:" + "0" * 64,
            },
            "declared digest sha256:0000",
        ),
    ],
    ids=["no such model", "another model"],
)
def test_a_missing_part_is_a_clear_error_and_changes_nothing(
    summarized: Path, warehouse: Warehouse, environment: dict[str, str], says: str
) -> None:
    count = sa.text("SELECT count(*), max(_attempt) FROM published.daily_summaries")
    with warehouse.connect() as connection:
        before = connection.execute(count).one()
    done = call(
        summarized, "dagster", "asset", "materialize", "-m", "assets.definitions",
        "--select", "daily_summaries", "--partition", DAY, **environment,
    )  # fmt: skip
    output = done.stdout + done.stderr
    assert done.returncode != 0
    assert says in output
    with warehouse.connect() as connection:
        assert connection.execute(count).one() == before
