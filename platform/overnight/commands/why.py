"""`overnight why`: what happened to a partition, in order, in words."""

from __future__ import annotations

import click

from overnight.commands.shared import check_tried, declared_job, open_warehouse


@click.command()
@click.argument("job")
@click.argument("partition")
def why(job: str, partition: str) -> None:
    """Tell the attempts, interruptions, decisions and errors of JOB's PARTITION, in order."""
    from overnight.story import story

    declared_job(job).check_partition(partition)
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        check_tried(connection, [job], partition)
        for line in story(connection, job, partition):
            click.echo(line)
