"""A development installation that stays up: warehouse, Ray head and Dagster, until Ctrl-C.

For one machine and one person. How this runs in production is described under `infra/`.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.home import Home

# Production's is a PostgreSQL of its own.
STORAGE_YAML = """\
storage:
  custom:
    module: resources.history
    class: EmbeddedHistory
    config:
      home: {home}
"""
# The twin of infra/dagster/dagster.yaml, which says why each of these is so.
DAGSTER_YAML = """\
telemetry:
  enabled: false
run_launcher:
  module: overnight.orchestration.run_launcher
  class: ForkingRunLauncher
run_retries:
  enabled: true
  max_retries: 3
  retry_on_asset_or_op_failure: false
run_monitoring:
  enabled: true
  poll_interval_seconds: 10
  start_timeout_seconds: 180
  cancel_timeout_seconds: 180
  free_slots_after_run_end_seconds: 60
run_queue:
  dequeue_interval_seconds: 1
concurrency:
  runs:
    max_concurrent_runs: 6
  pools:
    default_limit: 4
    granularity: run
"""
STOP_TIMEOUT_S = 20


def serve(home: Home, *, port: int) -> int:
    """Keep everything up until SIGINT or SIGTERM; returns 1 if a part of it ended by itself.

    Raises:
        ConfigError: if the port is taken.
    """
    _check_free(port)
    with kept_up(home):
        # Before signals are waited for: what Dagster imports has handlers of its own.
        _declare_limits(home)
        with stopping() as asked:
            code = ("--workspace", "workspace.yaml")
            address = ("--host", "127.0.0.1", "--port", str(port))
            commands = {
                "webserver": [program("dagster-webserver"), *code, *address],
                "daemon": [program("overnight"), "daemon", *code],
            }
            parts = {
                name: subprocess.Popen(  # noqa: S603 - our own programs and a checked port
                    command,
                    env=environment(home),
                    start_new_session=True,  # Ctrl-C reaches us, and we stop it in order
                )
                for name, command in commands.items()
            }
            click.echo(f"Dagster: http://127.0.0.1:{port}   Ctrl-C stops everything.")
            for process in parts.values():
                threading.Thread(target=_watch, args=(process, asked), daemon=True).start()
            asked.wait()
            ended = {name: how for name, part in parts.items() if (how := _end(part)) is not None}
            for name, how in ended.items():
                click.echo(f"Dagster's {name} has ended {how}: everything stops.", err=True)
            _stop(list(parts.values()))
            return int(bool(ended))


def _declare_limits(home: Home) -> None:
    """Have the pools' limits hold from the first run on."""
    import dagster as dg

    from overnight.commands.shared import declared_definitions
    from overnight.orchestration.pools import declare_limits

    with dg.DagsterInstance.from_config(str(dagster_home(home))) as instance:
        declare_limits(instance, declared_definitions().resolve_asset_graph())


@contextlib.contextmanager
def kept_up(home: Home) -> Iterator[None]:
    """Keep the warehouse and a Ray head up, so that runs find them warm."""
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.cluster import keep_head

    dagster_home(home)
    with contextlib.ExitStack() as stack:
        stack.enter_context(Warehouse.open(home=home.path, url=home.warehouse_url))
        if home.ray_address is None and home.cluster.head() is None:
            stack.enter_context(keep_head(home.cluster))
        yield


def dagster_home(home: Home) -> Path:
    """Where Dagster keeps its history: `DAGSTER_HOME`, or a directory of the installation."""
    path = Path(os.environ.get("DAGSTER_HOME") or home.path / "dagster")
    path.mkdir(parents=True, exist_ok=True)
    settings = path / "dagster.yaml"
    if not settings.exists():
        storage = STORAGE_YAML.format(home=json.dumps(str(home.path)))
        settings.write_text(storage + DAGSTER_YAML)
    return path


def environment(home: Home) -> dict[str, str]:
    """The environment for a Dagster process of this installation."""
    return {
        **os.environ,
        "OVERNIGHT_HOME": str(home.path),
        "DAGSTER_HOME": str(dagster_home(home)),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "RAY_USAGE_STATS_ENABLED": "0",
    }


@contextlib.contextmanager
def stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set instead of what they did before."""
    asked = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_for_signal() -> None:
    """Return at SIGINT or SIGTERM."""
    with stopping() as asked:
        asked.wait()


def program(name: str) -> str:
    """The path of a program that is installed beside this Python."""
    return str(Path(sys.executable).with_name(name))


def _watch(process: subprocess.Popen[bytes], asked: threading.Event) -> None:
    process.wait()
    asked.set()


def _end(process: subprocess.Popen[bytes]) -> str | None:
    """How a process has ended; None if it has not."""
    status = process.poll()
    if status is None:
        return None
    return f"with exit status {status}" if status >= 0 else f"by {signal.Signals(-status).name}"


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    """Stop processes and all that they started, each in a session of its own."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    # They use the embedded warehouse, which the last one to leave has to stop: that is us.
    deadline = time.monotonic() + STOP_TIMEOUT_S
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.killpg(process.pid, 0)
                time.sleep(0.05)


def _check_free(port: int) -> None:
    import socket

    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port {port} on 127.0.0.1 is taken by another program: choose another with --port"
            ) from error
