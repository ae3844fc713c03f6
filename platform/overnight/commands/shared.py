"""What commands share: the installation, what is declared, and how rows are shown."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from overnight.errors import ConfigError, OvernightError
from overnight.home import Home, code_location

if TYPE_CHECKING:
    from collections.abc import Sequence

    import sqlalchemy as sa

    from overnight.job import InferenceJob
    from overnight.landing import Source
    from overnight.warehouse.connect import Warehouse

_NAMED = 5


class Group(click.Group):
    """Errors that a person can act on are shown as one message, not as a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, and show what a person can act on without a traceback."""
        try:
            return super().invoke(ctx)
        except OvernightError as error:
            from overnight.redact import redact

            raise click.ClickException(redact(str(error))) from error


class ListGroup(click.Group):
    """A group whose `list` need not be said: `rejects articles` is `rejects list articles`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `list` before what names no command."""
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["list", *args]
        return super().parse_args(ctx, args)


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
            click.echo(json.dumps(dict(zip(names, row, strict=True)), default=str))
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


def open_warehouse() -> Warehouse:
    """The installation's warehouse, to be closed by the caller."""
    from overnight.warehouse.connect import Warehouse

    home = Home.from_env()
    return Warehouse.open(home=home.path, url=home.warehouse_url)


def declared_jobs() -> tuple[InferenceJob, ...]:
    """The jobs of the code location."""
    sys.path.insert(0, str(Path.cwd()))
    jobs: tuple[InferenceJob, ...] = importlib.import_module(code_location()).JOBS
    return jobs


def declared_definitions() -> Any:
    """All that the code location declares to Dagster, its `dg.Definitions`."""
    sys.path.insert(0, str(Path.cwd()))
    return importlib.import_module(code_location()).defs


def declared_job(name: str) -> InferenceJob:
    """A job by its name.

    Raises:
        ConfigError: if there is none of that name; names those that there are.
    """
    known = {job.name: job for job in declared_jobs()}
    if name not in known:
        raise ConfigError(f"there is no job {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]


def declared_source(name: str) -> Source:
    """A landed source by its name.

    Raises:
        ConfigError: if there is none of that name; names those that there are.
    """
    from overnight.landing import sources_of

    known = sources_of(declared_jobs())
    if name not in known:
        raise ConfigError(f"there is no source {name!r}; there are: {', '.join(sorted(known))}")
    return known[name]


def check_tried(connection: sa.Connection, jobs: Sequence[str], partition: str | None) -> None:
    """Refuse a partition that none of some jobs has ever worked on.

    Raises:
        ConfigError: if so; names the newest that they did work on.
    """
    from overnight.lineage.dead_letters import partitions_tried

    known = partitions_tried(connection, jobs)
    if partition is None or partition in known:
        return
    ran = f"it ran for: {', '.join(known[:_NAMED])}" if known else "it has never run"
    more = f" and {len(known) - _NAMED} earlier" if len(known) > _NAMED else ""
    raise ConfigError(f"{' or '.join(jobs)} has never run for {partition}; {ran}{more}")
