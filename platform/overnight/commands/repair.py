"""Rows that did not come through: `overnight dead-letters` and `overnight rejects`."""

from __future__ import annotations

import click
import sqlalchemy as sa

from overnight.commands.shared import declared_job, declared_source, open_warehouse, show


@click.command("dead-letters")
@click.argument("job")
@click.option("--partition", help="Only this day's, or `all` of a job without days.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def dead_letters(job: str, partition: str | None, limit: int) -> None:
    """Rows of JOB that could not be inferred, and why."""
    declared = declared_job(job)
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


@click.command()
@click.argument("source")
@click.option("--partition", help="Only this day's, or `all` of a job without days.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def rejects(source: str, partition: str | None, limit: int) -> None:
    """Rows of SOURCE that broke its contract: file, line, column, value and reason."""
    from overnight.landing import WHOLE, check_partition

    declared = declared_source(source)
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


def _list_lineage(query: str, name: str, partition: str | None, limit: int, none: str) -> None:
    where = "" if partition is None else " AND partition_key = :partition"
    statement = sa.text(f"{query}{where} ORDER BY 1, line LIMIT :limit")
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        bound = {"name": name, "limit": limit}
        if partition is not None:
            bound["partition"] = partition
        result = connection.execute(statement, bound)
        rows = result.fetchall()
    if rows:
        show(list(result.keys()), rows)
    else:
        click.echo(none + (f" on {partition}" if partition else ""))
