"""`overnight demo`: land three days, materialize them through Dagster, read them back with SQL."""

from __future__ import annotations

import datetime as dt
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assets.definitions import JOBS
from assets.demo import articles, distributions, payments, visits
from assets.demo import documents as documents_demo
from assets.fraud_features import HISTORY_DAYS
from assets.fraud_model import NEEDED_DAYS
from assets.sources import articles as articles_source
from assets.sources import documents
from overnight.commands.shared import show
from overnight.dev import environment, kept_up, program
from overnight.errors import OvernightError
from overnight.landing import check_partition, land, mark_complete
from overnight.warehouse.connect import Warehouse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.home import Home

DAYS = 3
WEEKS_TO_LEARN_FROM = 4
QUIET = '{"loggers": {"console": {"config": {"log_level": "INFO"}}}}'
SUMMARY = """
SELECT r.job, r.partition_key AS partition, r.rows_in AS "rows in", r.published, r.rejected,
       r.dead_lettered AS "dead-lettered",
       round((r.tokens_in + r.tokens_out) / nullif(r.inference_seconds, 0)) AS "tokens/s",
       round(extract(epoch FROM r.published_at - a.started_at), 1) AS seconds
FROM lineage.latest_runs r JOIN lineage.attempts a USING (attempt)
ORDER BY r.job, 2 DESC
"""
ROWS = """
SELECT partition_key AS partition, article_id, left(summary, 90) AS summary, output_tokens
FROM published.daily_summaries ORDER BY _input_hash LIMIT 10
"""
SUSPICIOUS = """
SELECT partition_key AS partition, day_rank AS rank, transaction_id,
       round(amount::numeric, 2) AS amount,
       round(score::numeric, 3) AS score, feature_1, round(contribution_1::numeric, 2) AS by
FROM published.fraud_scores WHERE day_rank <= 3 ORDER BY 1, 2
"""
SUGGESTED = """
SELECT user_id, string_agg(item_id::text, ', ' ORDER BY rank) AS "items, the best first", basis
FROM published.recommendations
WHERE rank <= 5 AND partition_key = (SELECT max(partition_key) FROM published.recommendations)
GROUP BY user_id, basis ORDER BY user_id LIMIT 8
"""
NEIGHBOURS = """
SELECT left(t.text, 70) AS text, left(o.text, 70) AS nearest,
       round(n.distance::numeric, 3) AS distance
FROM (SELECT * FROM published.document_embeddings ORDER BY _input_hash LIMIT 3) t
JOIN published.document_embeddings_neighbours n ON n.chunk_id = t.chunk_id
JOIN published.document_embeddings o ON o.chunk_id = n.neighbour_chunk_id
ORDER BY t.chunk_id, n.distance
"""


def run(home: Home, *, days: Sequence[str], rows: int) -> None:
    """Show what Overnight does, with all its real parts.

    Args:
        home: the installation to use.
        days: ISO dates; the three days before today if empty.
        rows: articles a day.
    """
    chosen = [check_partition(day) for day in days] or _last_days(DAYS)
    first = dt.date.fromisoformat(min(chosen))
    week = _week_before(first)
    with kept_up(home):
        for day in chosen:
            _land(home, dt.date.fromisoformat(day), rows, first)
        _land_payments(home, week, dt.date.fromisoformat(max(chosen)))
        _land_visits(home, week, dt.date.fromisoformat(max(chosen)))
        for model in ("fraud_model", "recommender_model"):
            click.secho(f"\nTraining {model} with the week of {week}", bold=True)
            _materialize(home, model, week.isoformat())
        for job in JOBS:
            days_of_job: list[str | None] = [*chosen] if job.partitioned else [None]
            for one in days_of_job:
                click.secho(f"\nMaterializing {job.name} {one or ''}", bold=True)
                _materialize(home, job.name, one)
        _show(home)


def _last_days(count: int) -> list[str]:
    today = dt.datetime.now(tz=dt.UTC).date()
    return [(today - dt.timedelta(days=ago)).isoformat() for ago in range(count, 0, -1)]


def _land(home: Home, day: dt.date, rows: int, first: dt.date) -> None:
    store = home.store.open()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "articles.jsonl"
        articles.write(day, file, count=rows, bad_rows=4)
        real = Path(directory) / "python-distributions.jsonl"
        distributions.write(day, real)
        report = land(store, articles_source, day.isoformat(), [file, real], replace=True)
        feed = Path(directory) / "documents.jsonl"
        documents_demo.write(day, feed, first=first, count=rows, bad_rows=2 if day == first else 0)
        changed = land(store, documents, day.isoformat(), [feed], replace=True)
    for source in (articles_source, documents):
        mark_complete(store, source, day.isoformat())
    click.echo(
        f"Landed for {day}: {report.rows} articles, {report.rejected} of them broken; "
        f"{changed.rows} changes of documents, {changed.rejected} of them broken"
    )


def _week_before(day: dt.date) -> dt.date:
    """The Monday of the last whole week before a day: the partition of a weekly model."""
    return day - dt.timedelta(days=day.weekday() + 7)


def _land_payments(home: Home, week: dt.date, last: dt.date) -> None:
    """Land the days of payments that the model of a week needs, and those up to the last."""
    store = home.store.open()
    first = week + dt.timedelta(days=7 - NEEDED_DAYS - HISTORY_DAYS)
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    payments.land_terminals(store, first)
    landed = [payments.land_day(store, day, mistakes=2 if day == last else 0) for day in days]
    paid, reported = (
        sum(report.rows for report in reports) for reports in zip(*landed, strict=True)
    )
    click.echo(f"Landed {paid} card payments of {len(days)} days, and {reported} reports of fraud")


def _land_visits(home: Home, week: dt.date, last: dt.date) -> None:
    """Land four weeks of interactions to train on, the week that judges it, and up to the last."""
    store = home.store.open()
    first = week - dt.timedelta(weeks=WEEKS_TO_LEARN_FROM)
    days = [first + dt.timedelta(days=n) for n in range((last - first).days + 1)]
    landed = [visits.land_visits(store, day, mistakes=3 if day == last else 0) for day in days]
    click.echo(
        f"Landed {sum(report.rows for report in landed)} visits, views and purchases of "
        f"{len(days)} days"
    )


def _materialize(home: Home, asset: str, day: str | None) -> None:
    command = [
        *(program("dagster"), "asset", "materialize", "-m", "assets.definitions"),
        *("--select", asset, *(("--partition", day) if day else ()), "--config-json", QUIET),
    ]
    status = subprocess.run(  # noqa: S603 - our own program, a checked day
        command,
        env=environment(home),
        check=False,
    ).returncode
    if status:
        raise OvernightError(f"{asset} {day or ''} failed; the log above says why")


def _show(home: Home) -> None:
    with (
        Warehouse.open(home=home.path, url=home.warehouse_url) as warehouse,
        warehouse.connect() as connection,
    ):
        for title, query in (
            ("What happened", SUMMARY),
            ("Ten of the published summaries", ROWS),
            ("The most suspicious card payments", SUSPICIOUS),
            ("What to show whom", SUGGESTED),
            ("Documents, and what is nearest to them in meaning", NEIGHBOURS),
        ):
            result = connection.exec_driver_sql(query)
            click.secho(f"\n{title}", bold=True)
            show(list(result.keys()), result.fetchall())
    click.echo(
        "\nGo on with\n"
        "  make dev                                   the Dagster UI on http://127.0.0.1:3000\n"
        '  .venv/bin/overnight sql "select * from published.daily_summaries limit 3"\n'
        "  .venv/bin/overnight rejects articles       rows that broke the input contract\n"
        "  .venv/bin/overnight dead-letters daily_summaries\n"
        '  .venv/bin/overnight search "how do I clean a copper kettle"\n'
    )
