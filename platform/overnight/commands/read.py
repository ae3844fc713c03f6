"""Reading what was published and what it cost: `overnight sql`, `url`, `cost` and `search`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import sqlalchemy as sa

from overnight.commands.shared import declared_job, declared_jobs, open_warehouse, show
from overnight.errors import ConfigError

if TYPE_CHECKING:
    from overnight.job import InferenceJob

_SHOWN_CHARACTERS = 160


@click.command()
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
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        try:
            result = connection.exec_driver_sql(query.replace("%", "%%"))
        except sa.exc.DBAPIError as error:
            raise ConfigError(str(error.orig).strip()) from error
        if not result.returns_rows:
            raise ConfigError("the statement returns no rows; only reading is possible here")
        show(list(result.keys()), result.fetchall(), form)


@click.command()
@click.option("--tcp", is_flag=True, help="Open a TCP port on 127.0.0.1, and keep it open.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Which; 0: any free one.")
def url(*, tcp: bool, port: int) -> None:
    """Print the SQLAlchemy URL of the warehouse, for any SQL client.

    The embedded warehouse runs as long as somebody uses it: with --tcp, until Ctrl-C.
    """
    with open_warehouse() as warehouse:
        if not (tcp or port):
            click.echo(warehouse.url(hide_password=False))
            return
        exposed = warehouse.expose(port).render_as_string(hide_password=False)
        click.echo(exposed)
        click.echo("Open until Ctrl-C.", err=True)
        from overnight.dev import wait_for_signal

        wait_for_signal()


@click.command()
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
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        costs = spent(connection, period, by)
    if not costs:
        click.echo(f"no cost recorded {period}")
        return
    total = costs[-1]
    rows = [(item.name or "total", *item.shown().values()) for item in costs]
    show([by, *total.shown()], rows)
    for note in footnotes(total):
        click.echo(note)


@click.command()
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
    with open_warehouse() as warehouse:
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


def _embedding_job(table: str | None) -> InferenceJob:
    if table is not None:
        job = declared_job(table)
        if not job.indexes:
            raise ConfigError(f"{table} has no vectors to search")
        return job
    found = [job for job in declared_jobs() if job.indexes]
    if len(found) != 1:
        names = ", ".join(job.name for job in found) or "none"
        raise ConfigError(f"name the table with --table; those with embeddings: {names}")
    return found[0]


def _brief(value: object) -> object:
    if isinstance(value, float):
        return round(value, 4)
    return value[:_SHOWN_CHARACTERS] if isinstance(value, str) else value
