"""`overnight demo`: land three days, materialize them through Dagster, read them back with SQL."""

from __future__ import annotations

import datetime as dt
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from assets.definitions import JOBS
from assets.demo import articles, distributions
from assets.sources import articles as articles_source
from overnight.cli import show
from overnight.dev import environment, kept_up, program
from overnight.errors import OvernightError
from overnight.landing import check_partition, land, mark_complete
from overnight.warehouse.connect import Warehouse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.home import Home

DAYS = 3
QUIET = '{"loggers": {"console": {"config": {"log_level": "INFO"}}}}'
SUMMARY = """
SELECT r.partition_key AS partition, r.rows_in AS "rows in", r.published, r.rejected,
       r.dead_lettered AS "dead-lettered",
       round((r.tokens_in + r.tokens_out) / nullif(r.inference_seconds, 0)) AS "tokens/s",
       round(extract(epoch FROM r.published_at - a.started_at), 1) AS seconds
FROM lineage.latest_runs r JOIN lineage.attempts a USING (attempt)
WHERE r.job = '{job}' ORDER BY 1 DESC LIMIT {days}
"""
ROWS = """
SELECT partition_key AS partition, article_id, left(summary, 90) AS summary, output_tokens
FROM published.daily_summaries ORDER BY _input_hash LIMIT 10
"""


def run(home: Home, *, days: Sequence[str], rows: int) -> None:
    """Show what Overnight does, with all its real parts.

    Args:
        home: the installation to use.
        days: ISO dates; the three days before today if empty.
        rows: articles a day.
    """
    chosen = [check_partition(day) for day in days] or _last_days(DAYS)
    with kept_up(home):
        for day in chosen:
            _land(home, dt.date.fromisoformat(day), rows)
        for job in JOBS:
            for day in chosen:
                click.secho(f"\nMaterializing {job.name} for {day}", bold=True)
                _materialize(home, job.name, day)
        _show(home, len(chosen))


def _last_days(count: int) -> list[str]:
    today = dt.datetime.now(tz=dt.UTC).date()
    return [(today - dt.timedelta(days=ago)).isoformat() for ago in range(count, 0, -1)]


def _land(home: Home, day: dt.date, rows: int) -> None:
    store = home.store.open()
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "articles.jsonl"
        articles.write(day, file, count=rows, bad_rows=4)
        real = Path(directory) / "python-distributions.jsonl"
        distributions.write(day, real)
        report = land(store, articles_source, day.isoformat(), [file, real], replace=True)
    mark_complete(store, articles_source, day.isoformat())
    click.echo(f"Landed {report.rows} articles for {day}, {report.rejected} of them broken")


def _materialize(home: Home, asset: str, day: str) -> None:
    command = [
        *(program("dagster"), "asset", "materialize", "-m", "assets.definitions"),
        *("--select", asset, "--partition", day, "--config-json", QUIET),
    ]
    status = subprocess.run(  # noqa: S603 - our own program, a checked day
        command,
        env=environment(home),
        check=False,
    ).returncode
    if status:
        raise OvernightError(f"{asset} for {day} failed; the log above says why")


def _show(home: Home, days: int) -> None:
    with (
        Warehouse.open(home=home.path, url=home.warehouse_url) as warehouse,
        warehouse.connect() as connection,
    ):
        for title, query in (
            ("What happened", SUMMARY.format(job="daily_summaries", days=days)),
            ("Ten of the published rows", ROWS),
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
    )
