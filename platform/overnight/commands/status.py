"""`overnight status`: last night at a glance."""

from __future__ import annotations

import datetime as dt
import json

import click

from overnight.commands.shared import declared_jobs, open_warehouse


@click.command()
@click.option(
    "--format", "form", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def status(form: str) -> None:
    """Each table's newest partition, its rows, checks and cost; what failed; what runs now."""
    from overnight.overview import overview

    names = [job.name for job in declared_jobs()]
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        seen = overview(connection, names, dt.datetime.now(tz=dt.UTC))
    if form == "json":
        click.echo(json.dumps(seen.as_json(), default=str))
    else:
        click.echo("\n".join(seen.lines()))
