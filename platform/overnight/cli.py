"""The command line: land data, read results and costs, repair, keep an installation up.

What it works on (jobs and sources) comes from the code location, by default
`assets.definitions`; `OVERNIGHT_DEFINITIONS` names another module with `JOBS`. Each command
lives in a module of `overnight.commands`; here they only get their place.
"""

from __future__ import annotations

import click

from overnight.commands import backfill, land, metrics, read, rejects, repair, serve, status, why
from overnight.commands.shared import Group


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Batch inference at night that can be trusted in the morning."""


main.add_command(land.land)
main.add_command(read.sql)
main.add_command(read.url)
main.add_command(repair.dead_letters)
main.add_command(rejects.rejects)
main.add_command(status.status)
main.add_command(why.why)
main.add_command(backfill.backfill)
main.add_command(read.cost)
main.add_command(read.search)
main.add_command(serve.dev)
main.add_command(serve.daemon)
main.add_command(serve.node)
main.add_command(serve.demo)
main.add_command(metrics.metrics)

if __name__ == "__main__":
    main()
