"""`overnight land`: bring files into the landing zone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from overnight.commands.shared import declared_source, show
from overnight.home import Home

if TYPE_CHECKING:
    from overnight.landing import LandReport, Source


@click.command()
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

    declared = declared_source(source)
    store = Home.from_env().store.open()
    report = land_files(store, declared, partition, files, replace=replace)
    _show_landing(declared, partition, report)
    if complete:
        mark_complete(store, declared, partition)


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
