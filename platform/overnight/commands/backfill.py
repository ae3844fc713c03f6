"""`overnight backfill`: many days of a job, each a run of its own, behind the nightly runs."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import click

from overnight.commands.shared import declared_definitions, declared_job
from overnight.errors import ConfigError
from overnight.home import Home

if TYPE_CHECKING:
    import dagster as dg

_LOOK_S = 1.0


@click.command()
@click.argument("job")
@click.argument("days", metavar="FIRST..LAST")
@click.option("--failed", is_flag=True, help="Only those days whose last run failed.")
@click.option("--wait", is_flag=True, help="Show how far it is, until it is done.")
def backfill(job: str, days: str, *, failed: bool, wait: bool) -> None:
    """Run JOB for the days FIRST..LAST, such as 2026-10-01..2026-10-30.

    Dagster's daemon starts the runs, nightly work first; it has to be up (`make dev`). What is
    right already is not inferred again. A day that fails does not stop the others; the exit
    status with --wait is 1 then.
    """
    import dagster as dg

    from overnight.dev import dagster_home
    from overnight.orchestration import backfill as backfills

    declared = declared_job(job)
    first, dots, last = days.partition("..")
    if not dots:
        raise ConfigError(f"{days!r} is no range of days: write 2026-10-01..2026-10-30")
    graph = declared_definitions().resolve_asset_graph()
    chosen = backfills.days_between(graph, declared.name, first, last)
    with dg.DagsterInstance.from_config(str(dagster_home(Home.from_env()))) as instance:
        if failed:
            chosen = backfills.failed_days(instance, declared.name, chosen)
            if not chosen:
                click.echo(f"no day of {job} in {days} has failed")
                return
        backfills.check_daemon(instance)
        number = backfills.launch(instance, graph, declared.name, chosen)
        what = chosen[0] if len(chosen) == 1 else f"{len(chosen)} days, {chosen[0]}..{chosen[-1]}"
        click.echo(f"backfill {number} of {job}: {what}")
        if not wait:
            click.echo(f"watch it in the Dagster UI under Runs, Backfills: /runs/b/{number}")
            return
        if not _watch(instance, job, number, chosen):
            sys.exit(1)


def _watch(instance: dg.DagsterInstance, job: str, number: str, days: list[str]) -> bool:
    """Say how far it is whenever that changes; whether all went well in the end."""
    from overnight.orchestration import backfill as backfills
    from overnight.orchestration.runs import reason
    from overnight.redact import redact

    said = None
    while True:
        now = backfills.progress(instance, number, days)
        if str(now) != said:
            said = str(now)
            click.echo(f"{time.strftime('%H:%M:%S')}  {said}")
        if now.over:
            break
        time.sleep(_LOOK_S)
    if now.error:
        click.echo(f"Dagster gave it up: {redact(now.error)}", err=True)
        return False
    wrong = [day for day, state in now.days.items() if state != "done"]
    for day in wrong:
        why = "it was not run"
        if day in now.runs:
            why = reason(instance, now.runs[day]).split("\n")[0]
        click.echo(f"{day} {now.days[day]}: {redact(why)}", err=True)
    if wrong:
        again = f"overnight backfill {job} {days[0]}..{days[-1]} --failed"
        click.echo(f"when that is put right: {again}", err=True)
    return not wrong
