"""The process that runs are forked from: `python -m overnight.run_template`.

It imports what runs need that survives a fork, and nothing of this project: that may be changed
and reloaded while it runs. Then it reads a line of JSON for each run, the arguments of `dagster
api execute_run`, forks, and answers with the number of the new process. It ends when nobody
writes to it any more; runs go on.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import signal
import sys

# Nearly all that a run imports. Polars is not among them, nor what imports it: it starts threads,
# and a fork leaves those behind, whatever they hold.
_MODULES = (
    "alembic",
    "dagster",
    "dagster._cli.api",
    "dagster._core.definitions.antlr_asset_selection.antlr_asset_selection",
    "dagster_postgres",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "pandera",
    "pandera.strategies.base_strategies",
    "pandera.typing",
    "psycopg",
    "psycopg2",
    "pydantic.v1",
    "ray",
    "ray.dag",
    "ray.util.serialization_addons",
    "sqlalchemy.dialects.postgresql",
)


def main() -> int:
    """Fork a process for each line on standard input; returns the exit status."""
    for name in _MODULES:
        importlib.import_module(name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever launches
    while line := sys.stdin.readline():
        pid = os.fork()
        if not pid:
            return _run(json.loads(line))
        print(pid, flush=True)  # noqa: T201 - the answer to whoever launches
    return 0


def _run(arguments: str) -> int:
    """Become a run's process."""
    from dagster._cli.api import execute_run_command
    from dagster._utils.interrupts import setup_interrupt_handlers

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), sys.stdin.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    setup_interrupt_handlers()
    execute_run_command.main(args=[arguments], standalone_mode=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
