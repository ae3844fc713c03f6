"""Keeping things up: `overnight dev`, `daemon`, `node` and `demo`."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

import click

from overnight.errors import ConfigError
from overnight.home import Home, code_location


@click.command()
@click.option("--port", default=3000, show_default=True, type=click.IntRange(1, 65535))
def dev(port: int) -> None:
    """Keep the Dagster UI, the warehouse and warm engines up until Ctrl-C."""
    from overnight.dev import serve

    sys.exit(serve(Home.from_env(), port=port))


@click.command()
@click.option(
    "-w",
    "--workspace",
    default="workspace.yaml",
    show_default=True,
    type=click.Path(),
    help="The file that says where the code is.",
)
@click.option("-m", "--module-name", help="The code's module, in place of such a file.")
def daemon(workspace: str, module_name: str | None) -> None:
    """Run Dagster's daemon until Ctrl-C: schedules, sensors, the queue, backfills.

    In place of `dagster-daemon run`: here a new backfill starts at once, there it may take half a
    minute.
    """
    import dagster as dg
    from dagster_shared.cli import WorkspaceOpts

    from overnight.dev import environment
    from overnight.orchestration.daemon import run

    if module_name:
        code = WorkspaceOpts(module_name=[module_name])
    elif Path(workspace).is_file():
        code = WorkspaceOpts(workspace=[workspace])
    else:
        raise ConfigError(f"there is no file {workspace!r} here: name it with --workspace")
    os.environ.update(environment(Home.from_env()))
    with dg.DagsterInstance.get() as instance:
        run(instance, code)


@click.command()
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


@click.command()
@click.option("--day", "days", multiple=True, help="A day to run; three by default.")
@click.option("--rows", default=400, show_default=True, type=click.IntRange(1), help="Rows a day.")
def demo(days: tuple[str, ...], rows: int) -> None:
    """Land three days of demonstration data, run every job on them, and show the result."""
    module = importlib.import_module(f"{code_location().partition('.')[0]}.demo.show")
    module.run(Home.from_env(), days=days, rows=rows)
