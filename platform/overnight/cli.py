"""The command line: land data, read results and costs, keep a development installation up.

What it works on (jobs and sources) comes from the code location, by default
`assets.definitions`; `OVERNIGHT_DEFINITIONS` names another module with `JOBS`.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from overnight.commands.backfill import backfill
from overnight.errors import ConfigError, OvernightError
from overnight.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.job import InferenceJob
    from overnight.landing import LandReport, Source
    from overnight.warehouse.connect import Warehouse

_SHOWN_CHARACTERS = 160


class _Group(click.Group):
    """Errors that a person can act on are shown as one message, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OvernightError as error:
            from overnight.redact import redact

            raise click.ClickException(redact(str(error))) from error


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Batch inference at night that can be trusted in the morning."""


@main.command()
@click.argument("source")
@click.argument("partition")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--replace", is_flag=True, help="Replace files of the same name.")
@click.option("--complete", is_flag=True, help="Say that the partition is complete (_SUCCESS).")
def land(
    source: str, partition: str, files: tuple[Path, ...], *, replace: bool, complete: bool
) -> None:
    """Check FILES against SOURCE's contract and copy them into its landing zone.

    PARTITION is a day, such as 2026-11-20.
    """
    from overnight.landing import land as land_files
    from overnight.landing import mark_complete

    declared = _source(source)
    store = Home.from_env().store.open()
    report = land_files(store, declared, partition, files, replace=replace)
    _show_landing(declared, partition, report)
    if complete:
        mark_complete(store, declared, partition)


@main.command()
@click.argument("query")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "csv", "json"]),
    default="table",
    show_default=True,
)
def sql(query: str, form: str) -> None:
    """Read from the warehouse: published tables, and where they came from (lineage)."""
    with _warehouse() as warehouse, warehouse.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        try:
            result = connection.exec_driver_sql(query.replace("%", "%%"))
        except sa.exc.DBAPIError as error:
            raise ConfigError(str(error.orig).strip()) from error
        if not result.returns_rows:
            raise ConfigError("the statement returns no rows; only reading is possible here")
        show(list(result.keys()), result.fetchall(), form)


@main.command()
@click.option("--tcp", is_flag=True, help="Open a TCP port on 127.0.0.1, and keep it open.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Which; 0: any free one.")
def url(*, tcp: bool, port: int) -> None:
    """Print the SQLAlchemy URL of the warehouse, for any SQL client.

    The embedded warehouse runs as long as somebody uses it: with --tcp, until Ctrl-C.
    """
    with _warehouse() as warehouse:
        if not (tcp or port):
            click.echo(warehouse.url(hide_password=False))
            return
        exposed = warehouse.expose(port).render_as_string(hide_password=False)
        click.echo(exposed)
        click.echo("Open until Ctrl-C.", err=True)
        from overnight.dev import wait_for_signal

        wait_for_signal()


@main.command("dead-letters")
@click.argument("job")
@click.option("--partition", help="Only this day's, or `all` of a job without days.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def dead_letters(job: str, partition: str | None, limit: int) -> None:
    """Rows of JOB that could not be inferred, and why."""
    declared = _job(job)
    if partition is not None:
        declared.check_partition(partition)
    _list_lineage(
        "SELECT partition_key, key, reason, run_id, machine, line "
        "FROM lineage.current_dead_letters WHERE job = :name",
        declared.name,
        partition,
        limit,
        f"no dead letters of {job}",
    )


@main.command()
@click.argument("source")
@click.option("--partition", help="Only this day's, or `all` of a job without days.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def rejects(source: str, partition: str | None, limit: int) -> None:
    """Rows of SOURCE that broke its contract: file, line, column, value and reason."""
    from overnight.landing import WHOLE, check_partition

    declared = _source(source)
    if partition not in (None, WHOLE):
        check_partition(partition)
    _list_lineage(
        'SELECT DISTINCT partition_key, file, line, key, "column", value, reason '
        "FROM lineage.current_rejects WHERE source = :name",
        declared.name,
        partition,
        limit,
        f"no rejects of {source}",
    )


@main.command()
@click.option("--since", default="7d", show_default=True, help="First day: a date, or 7d.")
@click.option("--until", help="Last day; today by default.")
@click.option(
    "--by", type=click.Choice(["job", "day", "instance"]), default="day", show_default=True
)
def cost(since: str, until: str | None, by: str) -> None:
    """What was spent: dollars, what spot saved, what interruptions cost, goodput.

    Days are UTC; an attempt counts for the day on which it began.
    """
    import datetime as dt

    from overnight.cost import Period, footnotes, spent

    period = Period.parse(since, until, today=dt.datetime.now(tz=dt.UTC).date())
    with _warehouse() as warehouse, warehouse.connect() as connection:
        costs = spent(connection, period, by)
    if not costs:
        click.echo(f"no cost recorded {period}")
        return
    total = costs[-1]
    rows = [(item.name or "total", *item.shown().values()) for item in costs]
    show([by, *total.shown()], rows)
    for note in footnotes(total):
        click.echo(note)


@main.command()
@click.argument("question")
@click.option("--table", help="Which published table; needed if several have embeddings.")
@click.option("--limit", default=5, show_default=True, type=click.IntRange(1, 500))
@click.option("--exact", is_flag=True, help="Compare with every row instead of using the index.")
def search(question: str, table: str | None, limit: int, *, exact: bool) -> None:
    """Find the published rows whose embeddings are nearest to QUESTION's.

    The question is embedded by the same model as the table, which takes a moment to start.
    """
    from overnight.publication import published_table
    from overnight.search import embed
    from overnight.warehouse.vectors import nearest

    job = _embedding_job(table)
    with _warehouse() as warehouse:
        with warehouse.connect() as connection:
            known = sa.select(sa.func.to_regclass(f"published.{job.name}"))
            if connection.execute(known).scalar() is None:
                raise ConfigError(
                    f"nothing is published in {job.name} yet: materialize that asset first"
                )
        vector = embed(job, question)
        with warehouse.connect() as connection:
            rows = nearest(
                connection, published_table(job), job.indexes[0].column, vector, limit, exact=exact
            )
    if rows:
        shown = [name for name in rows[0]._fields if name not in {"partition_key", "chunk_id"}]
        show(shown, [[_brief(getattr(row, name)) for name in shown] for row in rows])
    else:
        click.echo(f"{job.name} has no rows")


@main.command()
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
def dev(port: int) -> None:
    """Keep the Dagster UI, the warehouse and warm engines up until Ctrl-C."""
    from overnight.dev import serve

    sys.exit(serve(Home.from_env(), port=port))


@main.command()
@click.option(
    "--grace",
    default=30.0,
    show_default=True,
    type=click.FloatRange(0, 86_400, min_open=True),
    help="Seconds between SIGTERM and the machine's end.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def node(grace: float, command: tuple[str, ...]) -> None:
    """Run COMMAND as a container's first process; at SIGTERM let workers drain before it ends.

    Kubernetes, ECS and AWS Batch announce the end of a container to its first process only:

        overnight node --grace 30 -- ray start --block --address=head:6379
    """
    from overnight.spot.node import run

    sys.exit(run(command, grace_s=grace))


@main.command()
@click.option("--day", "days", multiple=True, help="A day to run; three by default.")
@click.option("--rows", default=400, show_default=True, type=click.IntRange(1), help="Rows a day.")
def demo(days: tuple[str, ...], rows: int) -> None:
    """Land three days of demonstration data, run every job on them, and show the result."""
    module = importlib.import_module(f"{_location().partition('.')[0]}.demo.show")
    module.run(Home.from_env(), days=days, rows=rows)


main.add_command(backfill)


def show(names: Sequence[str], rows: Sequence[Sequence[Any]], form: str = "table") -> None:
    """Print rows as a table, as CSV or as JSON lines."""
    if form == "csv":
        import csv

        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    elif form == "json":
        import json

        for row in rows:
            print(json.dumps(dict(zip(names, row, strict=True)), default=str))
    else:
        from rich.console import Console
        from rich.table import Table

        table = Table(*names)
        for row in rows:
            table.add_row(*("" if value is None else _plain(value) for value in row))
        # Not a terminal: let lines be as long as they are, for grep.
        Console(width=None if sys.stdout.isatty() else 200, highlight=False).print(table)


def _plain(value: object) -> str:
    from rich.markup import escape

    return escape(value.hex() if isinstance(value, bytes) else str(value))


def _list_lineage(query: str, name: str, partition: str | None, limit: int, none: str) -> None:
    where = "" if partition is None else " AND partition_key = :partition"
    statement = sa.text(f"{query}{where} ORDER BY 1, line LIMIT :limit")
    with _warehouse() as warehouse, warehouse.connect() as connection:
        bound = {"name": name, "limit": limit}
        if partition is not None:
            bound["partition"] = partition
        result = connection.execute(statement, bound)
        rows = result.fetchall()
    if rows:
        show(list(result.keys()), rows)
    else:
        click.echo(none + (f" on {partition}" if partition else ""))


def _show_landing(source: Source, partition: str, report: LandReport) -> None:
    for landed in report.files:
        counts = f"{landed.rows} rows, {landed.rejected} rejected"
        click.echo(f"{landed.key}: {counts} ({landed.action})")
    if report.rejects.height:
        show(report.rejects.columns, report.rejects.head(20).rows())
        click.echo(
            f"{report.rejected} rows break the contract of {source.name} and will not be "
            f"inferred; the others of {partition} will."
        )


def _warehouse() -> Warehouse:
    from overnight.warehouse.connect import Warehouse

    home = Home.from_env()
    return Warehouse.open(home=home.path, url=home.warehouse_url)


def _location() -> str:
    return os.environ.get("OVERNIGHT_DEFINITIONS") or "assets.definitions"


def _jobs() -> tuple[InferenceJob, ...]:
    sys.path.insert(0, str(Path.cwd()))
    jobs: tuple[InferenceJob, ...] = importlib.import_module(_location()).JOBS
    return jobs


def _job(name: str) -> InferenceJob:
    known = {job.name: job for job in _jobs()}
    if name not in known:
        raise ConfigError(f"there is no job {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]


def _embedding_job(table: str | None) -> InferenceJob:
    if table is not None:
        job = _job(table)
        if not job.indexes:
            raise ConfigError(f"{table} has no vectors to search")
        return job
    found = [job for job in _jobs() if job.indexes]
    if len(found) != 1:
        names = ", ".join(job.name for job in found) or "none"
        raise ConfigError(f"name the table with --table; those with embeddings: {names}")
    return found[0]


def _brief(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    return value[:_SHOWN_CHARACTERS] if isinstance(value, str) else value


def _source(name: str) -> Source:
    from overnight.landing import sources_of

    known = sources_of(_jobs())
    if name not in known:
        raise ConfigError(f"there is no source {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]


if __name__ == "__main__":
    main()
