"""`overnight rejects`: rows that broke a source's contract, to read and to fix."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import sqlalchemy as sa

from overnight.commands.shared import (
    ListGroup,
    check_tried,
    declared_jobs,
    declared_source,
    open_warehouse,
    show,
)
from overnight.home import Home

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLUMNS = ("partition_key", "file", "line", "key", "column", "value", "reason")
_QUERY = """
SELECT DISTINCT r.partition_key, r.file, r.line, r.key, r."column", r.value, r.reason, i.version
FROM lineage.current_rejects r
LEFT JOIN lineage.inputs i ON i.attempt = r.attempt AND i.uri = r.file
WHERE r.source = :source AND (cast(:partition AS text) IS NULL OR r.partition_key = :partition)
ORDER BY r.partition_key, r.file, r.line
"""
_PARTITION = click.option("--partition", help="Only this day's, or `all` of a job without days.")


@click.group(cls=ListGroup)
def rejects() -> None:
    """Rows of a source that broke its contract: list or export them."""


@rejects.command("list")
@click.argument("source")
@_PARTITION
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1))
def list_(source: str, partition: str | None, limit: int) -> None:
    """Rows of SOURCE that broke its contract: file, line, column, value and reason."""
    rows = _find(source, partition)
    if rows:
        show(_COLUMNS, [[row[name] for name in _COLUMNS] for row in rows[:limit]])
        if len(rows) > limit:
            click.echo(f"{len(rows) - limit} more: --limit shows them, `export` writes all")
    else:
        click.echo(f"no rejects of {source}" + (f" on {partition}" if partition else ""))


@rejects.command()
@click.argument("source")
@_PARTITION
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="A file.")
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="csv by default.")
def export(source: str, partition: str | None, output: Path | None, form: str | None) -> None:
    """Write SOURCE's rejects with the text of their rows, to be fixed and landed again.

    The format follows the suffix of --output. A row whose file has changed since, or has gone,
    comes without its text.
    """
    from overnight.landing.original import Originals

    rows = _find(source, partition)
    form = form or ("jsonl" if output and output.suffix == ".jsonl" else "csv")
    originals = Originals(Home.from_env().store.open(), rows)
    names = [*_COLUMNS, "row"]
    told = [[*(row[name] for name in _COLUMNS), originals.of(row)] for row in rows]
    if output is None:
        _write(sys.stdout, names, told, form)
    else:
        with output.open("w", newline="", encoding="utf-8") as file:
            _write(file, names, told, form)
    click.echo(f"{len(told)} rejects of {source}", err=True)
    for note in originals.notes:
        click.echo(note, err=True)


def _find(source: str, partition: str | None) -> list[dict[str, Any]]:
    from overnight.landing import WHOLE, check_partition, sources_of

    declared = declared_source(source)
    if partition not in (None, WHOLE):
        check_partition(partition)
    readers = [job.name for job in declared_jobs() if source in sources_of([job])]
    with open_warehouse() as warehouse, warehouse.connect() as connection:
        if partition != WHOLE:
            check_tried(connection, readers, partition)
        bound = {"source": declared.name, "partition": partition}
        return [dict(row) for row in connection.execute(sa.text(_QUERY), bound).mappings()]


def _write(file: Any, names: Sequence[str], rows: Sequence[Sequence[Any]], form: str) -> None:
    if form == "jsonl":
        for row in rows:
            file.write(json.dumps(dict(zip(names, row, strict=True)), default=str) + "\n")
        return
    writer = csv.writer(file)
    writer.writerow(names)
    writer.writerows(rows)
