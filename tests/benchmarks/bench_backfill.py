"""A backfill of many days through Dagster, against as many separate runs of Ray Data LLM.

Ours is what a person types, from the command's start to the last publication, with the daemon
and a Ray head up as `overnight dev` keeps them, but no engine started yet. Two engines
share the cores, which takes them longer to start and less for each day. The peer is handed
finished prompts and starts for each day, as a job of its own does. A second engine gains it
nothing: it took 40.4 s for a day of 512 rows with two, and 40.2 to 41.1 s with one.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import peer_ray_data
from tests.benchmarks.bench_partition import prompts, write_landing
from tests.benchmarks.harness import ROOT, Case, Figure, fresh, new_home
from tests.support.daemons import daemon
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

CASE = "OVERNIGHT_BENCH_CASE"
LOCATION = "tests.benchmarks.backfill_location"
FIRST = dt.date(2026, 1, 1)
_ENGINES = 2
_NOBODY = "127.0.0.1:9"
_START_S = 120


def figures(case: Case) -> list[Figure]:
    """The whole backfill against the peer's runs; the same backfill again, unchanged."""
    days = [FIRST + dt.timedelta(days=n) for n in range(case.partitions)]
    with new_home() as home:
        for day in days:
            write_landing(home, day, case.rows)
        arguments = {"case": asdict(case), "home": str(home), "last": str(days[-1])}
        ours = fresh("bench_backfill:first_time", **arguments)
        again = fresh("bench_backfill:unchanged", **arguments)
    sizes = peer_ray_data.tuned(case)
    peer = [peer_ray_data.infer(case, prompts(day, case.rows), sizes) for day in days[: case.peers]]
    measured = sum(run["seconds"] for run in peer)
    theirs = measured * case.partitions / len(peer)
    how = "" if len(peer) == case.partitions else f" (extrapolated from {len(peer)} runs)"
    each = again["seconds"] / case.partitions
    return [
        Figure(
            name=f"backfill of {case.partitions} days of {case.rows} rows; Ray Data LLM: "
            f"a run for each day{how}",
            ours=f"{ours['seconds']:.0f} s",
            peer=f"{theirs:.0f} s",
            ratio=ours["seconds"] / theirs,
            most=0.15,
        ),
        Figure(
            name="the same backfill again, unchanged, and no Ray to be had: seconds a day",
            ours=f"{each:.2f} s",
            ratio=each,
            most=3.0,
        ),
        Figure(
            name="the same backfill again: rows inferred",
            ours=str(again["inferred"]),
            ratio=again["inferred"],
            most=0,
            decimals=0,
        ),
    ]


def first_time(case: dict[str, Any], home: str, last: str) -> dict[str, Any]:
    """With a Ray head that is kept up."""
    from overnight.dev import kept_up

    with kept_up(_settings(home)):
        return _backfill(case, home, last)


def unchanged(case: dict[str, Any], home: str, last: str) -> dict[str, Any]:
    """Where whoever asks for Ray fails."""
    from overnight.warehouse.connect import Warehouse

    with Warehouse.open(home=Path(home)):
        return _backfill(case, home, last, OVERNIGHT_RAY_ADDRESS=_NOBODY)


def _settings(home: str) -> Any:
    from overnight.home import Home

    path = Path(home)
    return Home(path=path, store_url=(path / "store").as_uri())


def _backfill(case: dict[str, Any], home: str, last: str, **variables: str) -> dict[str, Any]:
    """Type the command, wait until it ends; seconds until the last publication, rows inferred."""
    from overnight.dev import environment
    from overnight.warehouse.connect import Warehouse

    env = {
        **environment(_settings(home)),
        CASE: json.dumps(case),
        "OVERNIGHT_DEFINITIONS": LOCATION,
        "OVERNIGHT_WORKERS": str(_ENGINES),
        **variables,
    }
    with _daemon(home, env):
        began = time.time()
        done = subprocess.run(
            [
                *(sys.executable, "-W", "ignore", "-m", "overnight.cli", "backfill"),
                *("daily_summaries", f"{FIRST}..{last}", "--wait"),
            ],
            cwd=ROOT,
            env=env,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    with Warehouse.open(home=Path(home)) as warehouse, warehouse.connect() as connection:
        last_one, inferred, days = connection.exec_driver_sql(
            "SELECT max(published_at), sum(inferred), count(DISTINCT partition_key) "
            f"FROM lineage.runs WHERE published_at > to_timestamp({began})"
        ).one()
    if days != Case(**case).partitions:
        raise RuntimeError(f"{days} days were published:\n{done.stdout}")
    return {"seconds": last_one.timestamp() - began, "inferred": int(inferred)}


@contextlib.contextmanager
def _daemon(home: str, env: dict[str, str]) -> Iterator[None]:
    """Dagster's daemon, up as `overnight dev` keeps it."""
    import dagster as dg

    from overnight.dev import dagster_home

    began = time.time()
    with daemon(LOCATION, env):
        with dg.DagsterInstance.from_config(str(dagster_home(_settings(home)))) as instance:
            until(
                lambda: any(
                    beat.timestamp > began for beat in instance.get_daemon_heartbeats().values()
                ),
                "Dagster's daemon did not start",
                seconds=_START_S,
            )
        yield
