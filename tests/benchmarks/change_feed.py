"""A large change feed of documents, late and out of order: what planning its embedding takes."""

from __future__ import annotations

import datetime as dt
import json
import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from tests.benchmarks.bench_plumbing import peak_mib
from tests.benchmarks.harness import Figure, fresh, new_home

if TYPE_CHECKING:
    from collections.abc import Iterator

_LAST = dt.date(2026, 11, 19)
_ROWS, _DOCUMENTS = 1_000_000, 250_000


def figures() -> list[Figure]:
    """The memory that planning takes."""
    with new_home() as home:
        write_feed(home)
        seen = fresh("change_feed:plan", home=str(home))
    return [
        Figure(
            name=f"{_ROWS:,} changes of {_DOCUMENTS:,} documents: memory to plan, GB",
            ours=f"{seen['peak_mib']:.0f} MiB in {seen['seconds']:.0f} s",
            ratio=seen["peak_mib"] * 2**20 / 1e9,
            most=1.0,
        )
    ]


def write_feed(home: Path) -> None:
    """Put a change feed into the landing zone: ten days, late and out of order."""
    rng = random.Random(0)
    days = [_LAST - dt.timedelta(days=back) for back in range(9, -1, -1)]
    for day in days:
        land(home, day, _feed(day, rng, _ROWS // len(days)))


def _feed(day: dt.date, rng: random.Random, rows: int) -> Iterator[dict[str, object]]:
    for _ in range(rows):
        doc = rng.randrange(_DOCUMENTS)
        at = dt.datetime.combine(day, dt.time(), dt.UTC) - dt.timedelta(
            seconds=rng.randrange(200_000)
        )
        text = f"Page {doc} of the shop says this since {at:%A, %H:%M}: nothing is thrown away."
        yield {
            "doc_id": f"d{doc}", "text": text, "updated_at": at.isoformat(), "deleted": False,
        }  # fmt: skip


def plan(home: str) -> dict[str, Any]:
    """Plan the embedding of a change feed; seconds and peak memory."""
    from assets.embeddings import document_embeddings as job
    from overnight.landing import WHOLE, reader_of
    from overnight.plan import build_plan
    from overnight.store import StoreConfig

    path = Path(home)
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
        max_rejects=job.max_rejects,
    ) as planned:
        rows = planned.rows_in
    return {"seconds": time.perf_counter() - began, "peak_mib": peak_mib(), "chunks": rows}


def land(home: Path, day: dt.date, rows: Any) -> None:
    """Put changes of documents into the landing zone."""
    folder = home / "store" / "landing" / "documents" / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "changes.jsonl").open("w") as file:
        file.writelines(json.dumps(row) + os.linesep for row in rows)
