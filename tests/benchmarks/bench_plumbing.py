"""What everything around an engine costs: many rows through one that computes next to nothing.

Planned, journalled, staged, audited and published, with a real Ray and a real Postgres.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import Any

import polars as pl

from tests.benchmarks.harness import Case, Figure, fresh, new_home

DAY = "2026-11-20"
_FILES = 4
_WORDS = "the quick brown fox jumps over a lazy dog while nobody looks and the lantern swings"


def figures(case: Case) -> list[Figure]:
    """Memory at many rows; seconds for each row at many rows against few."""
    small, large = case.plumbing_rows
    seen: dict[int, list[dict[str, Any]]] = {small: [], large: []}
    for _ in range(case.runs):
        for rows in (small, large):
            with new_home() as home:
                write_landing(home, rows)
                seen[rows].append(fresh("bench_plumbing:publish_rows", home=str(home), rows=rows))
    with new_home() as home:
        write_landing(home, large)
        planned = fresh("bench_plumbing:plan_derived", home=str(home))
    peak = statistics.median(run["peak_mib"] for run in seen[large])
    each = {
        rows: 1e6 * statistics.median(run["seconds"] for run in runs) / rows
        for rows, runs in seen.items()
    }
    return [
        Figure(
            name=f"{large:,} landed rows of a derived source: memory to plan them, GB",
            ours=f"{planned['peak_mib']:.0f} MiB in {planned['seconds']:.1f} s",
            ratio=planned["peak_mib"] * 2**20 / 1e9,
            most=1.0,
        ),
        Figure(
            name=f"{large:,} rows: the driver's peak memory, GB",
            ours=f"{peak:.0f} MiB",
            ratio=peak * 2**20 / 1e9,
            most=1.0,
        ),
        Figure(
            name=f"{large:,} rows: time for each row, against {small:,} rows",
            ours=f"{each[large]:.1f} us",
            peer=f"{each[small]:.1f} us",
            ratio=each[large] / each[small],
            most=1.1,
        ),
    ]


def write_landing(home: Path, rows: int) -> None:
    """Put rows into the landing zone, as JSON lines in a few files."""
    folder = home / "store" / "landing" / "lines" / DAY
    folder.mkdir(parents=True)
    share = -(-rows // _FILES)
    for number in range(_FILES):
        with (folder / f"part-{number}.jsonl").open("w") as file:
            for row in range(number * share, min(rows, (number + 1) * share)):
                line = {"line_id": f"line-{row}", "text": f"{row} {_WORDS}", "weight": row % 1000}
                file.write(json.dumps(line) + "\n")


def publish_rows(home: str, rows: int) -> dict[str, Any]:
    """Publish the partition in this process, which is the driver; seconds and peak memory.

    Starting the warehouse, Ray and the engine is in the preparation: a small partition goes
    the whole way first.
    """
    from overnight.engines.trivial import TrivialReverse
    from overnight.run import run_partition
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.cluster import keep_head
    from tests.support.shop import house, line, reversing, write_lines

    job = reversing(
        engine=TrivialReverse(window=8192, batch=2048),
        prepare=texts,
        parse=reversed_texts,
        split_rows=5000,
        checks=(),
    )
    path = Path(home)
    with Warehouse.open(home=path) as warehouse:
        place = house(warehouse, path)
        with keep_head(place.cluster):
            write_lines(path, [line(0)], day="2026-11-19")
            run_partition(job, "2026-11-19", run_id="warm-up", house=place)
            began = time.perf_counter()
            report = run_partition(job, DAY, run_id="bench", house=place)
            seconds = time.perf_counter() - began
    if report.published != rows:
        raise RuntimeError(f"{report.published} rows were published instead of {rows}")
    return {"seconds": seconds, "peak_mib": peak_mib(), **report.seconds}


def plan_derived(home: str) -> dict[str, Any]:
    """Plan a job over the newest row of each key; seconds and peak memory."""
    from overnight.landing import WHOLE, reader_of
    from overnight.plan import MaxRejects, build_plan
    from overnight.store import StoreConfig
    from tests.support.shop import newest_lines

    path = Path(home)
    job = newest_lines(prepare=texts)
    store = StoreConfig((path / "store").as_uri()).open()
    nothing = pl.DataFrame(schema={"input_hash": pl.Binary})
    began = time.perf_counter()
    with build_plan(
        reader_of(store, job.source, WHOLE, scratch=path / "scratch"),
        key=job.source.key,
        prepare=job.prepare,
        carry=job.carried,
        done=nothing,
        published=nothing,
        scratch=path / "scratch",
        split_rows=job.split_rows,
        max_rejects=MaxRejects(),
    ) as plan:
        if not plan.rows_in:
            raise RuntimeError("nothing was planned")
    return {"seconds": time.perf_counter() - began, "peak_mib": peak_mib()}


def texts(lines: pl.DataFrame) -> pl.Series:
    """Each line as its own request."""
    return lines["text"]


def reversed_texts(results: pl.DataFrame) -> pl.DataFrame:
    """The output columns."""
    return results.rename({"text": "reversed"})


def peak_mib() -> float:
    """The most memory that this process had resident, MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(at.split()[1]) for at in status.splitlines() if at.startswith("VmHWM")) / 1024
