"""What everything around an engine costs: many rows through one that computes next to nothing.

Planned, journalled, staged, audited and published, with a real Ray and a real Postgres.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.harness import Case, Figure, fresh, new_home

if TYPE_CHECKING:
    import polars as pl

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
    peak = statistics.median(run["peak_mib"] for run in seen[large])
    each = {
        rows: 1e6 * statistics.median(run["seconds"] for run in runs) / rows
        for rows, runs in seen.items()
    }
    return [
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
    return {"seconds": seconds, "peak_mib": _peak_mib(), **report.seconds}


def texts(lines: pl.DataFrame) -> pl.Series:
    """Each line as its own request."""
    return lines["text"]


def reversed_texts(results: pl.DataFrame) -> pl.DataFrame:
    """The output columns."""
    return results.rename({"text": "reversed"})


def _peak_mib() -> float:
    """The most memory that this process had resident, MiB."""
    status = Path("/proc/self/status").read_text()
    return next(int(at.split()[1]) for at in status.splitlines() if at.startswith("VmHWM")) / 1024
