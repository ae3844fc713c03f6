"""A day of articles, from landing files to published rows, against Ray Data LLM's inference alone.

Ours reads, checks, plans, journals, audits and publishes; the peer is handed finished prompts
and only infers them. Times are of whole processes after the interpreter's own start: imports,
the warehouse (for the cold partition made anew) and Ray are in them.
"""

from __future__ import annotations

import datetime as dt
import json
import statistics
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import peer_ray_data
from tests.benchmarks.harness import Case, Figure, fresh, new_home

if TYPE_CHECKING:
    from overnight.job import InferenceJob

FIRST, SECOND = dt.date(2026, 11, 19), dt.date(2026, 11, 20)
_CHANGED = 3
# Two systems that disagree by more did not do the same work.
_TOKENS_APART = 0.02


def figures(case: Case) -> list[Figure]:
    """Cold, warm, unchanged and with three rows changed; alternating with the peer."""
    sizes = peer_ray_data.tuned(case)
    cold, peer, warm = [], [], []
    for _ in range(case.runs):
        with new_home() as home:
            write_landing(home, FIRST, case.rows)
            cold.append(publish(case, home, FIRST))
        peer.append(peer_ray_data.infer(case, prompts(FIRST, case.rows), sizes))
        _check_same_work(cold[-1], peer[-1])
        with new_home() as home:
            for day in (FIRST, SECOND):
                write_landing(home, day, case.rows)
            warm.append(
                fresh("bench_partition:on_a_warm_engine", case=asdict(case), home=str(home))
            )
    theirs = statistics.median(run["seconds"] for run in peer)
    return [
        _against("one cold partition", [run["seconds"] for run in cold], theirs, case, most=0.75),
        _against(
            "a second partition, warm engine",
            [run["second"]["seconds"] for run in warm],
            theirs,
            case,
            most=0.20,
        ),
        _inferred("an unchanged partition again", [run["unchanged"] for run in warm], exactly=0),
        _inferred(f"{_CHANGED} rows changed", [run["changed"] for run in warm], exactly=_CHANGED),
    ]


def publish(case: Case, home: Path, day: dt.date) -> dict[str, Any]:
    """Publish one day in a process of its own."""
    return fresh("bench_partition:publish_day", case=asdict(case), home=str(home), day=str(day))


def publish_day(case: dict[str, Any], home: str, day: str) -> dict[str, Any]:
    """The whole way of one partition, in this process; uses the Ray head of `home` if one is up.

    Returns:
        `seconds` in all and by phase, counts, and whether an engine or Ray was asked for.
    """
    began = time.time()
    from overnight.home import Home
    from overnight.run import House, run_partition
    from overnight.warehouse.connect import Warehouse

    path = Path(home)
    settings = Home(path=path, store_url=(path / "store").as_uri())
    with Warehouse.open(home=path) as warehouse:
        place = House(
            warehouse=warehouse,
            store=settings.store,
            cluster=settings.cluster,
            scratch=settings.scratch,
        )
        report = run_partition(job(Case(**case)), day, run_id="bench", house=place)
        with warehouse.connect() as connection:
            published_at = connection.exec_driver_sql(
                "SELECT max(published_at) FROM lineage.runs"
            ).scalar_one()
        # As for the peer: until the last result is there, without what is torn down after it.
        seconds = published_at.timestamp() - began
    if report.published != Case(**case).rows:
        raise RuntimeError(f"{report.published} rows were published: {report.audit}")
    return {
        "seconds": seconds,
        "inferred": report.inferred,
        "output_tokens": report.inference.output_tokens,
        "asked_for_engines": "ray" in sys.modules,
        **{f"{name}_s": value for name, value in report.seconds.items()},
    }


def on_a_warm_engine(case: dict[str, Any], home: str) -> dict[str, Any]:
    """Keep a Ray head and the warehouse up, as `overnight dev` does, and publish four times."""
    from overnight.home import Home
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.cluster import keep_head

    path, sizes = Path(home), Case(**case)
    settings = Home(path=path, store_url=(path / "store").as_uri())
    with Warehouse.open(home=path), keep_head(settings.cluster):
        first = publish(sizes, path, FIRST)
        second = publish(sizes, path, SECOND)
        unchanged = publish(sizes, path, SECOND)
        write_landing(path, SECOND, sizes.rows, changed=_CHANGED)
        changed = publish(sizes, path, SECOND)
    return {"first": first, "second": second, "unchanged": unchanged, "changed": changed}


def job(case: Case) -> InferenceJob:
    """The summaries job with the benchmark's model and sizes."""
    from assets.summaries import daily_summaries
    from overnight.engines.vllm import VllmGenerate, VllmSizes
    from overnight.model import ModelRef

    return replace(
        daily_summaries,
        engine=VllmGenerate(
            model=ModelRef(case.model),
            max_tokens=case.max_tokens,
            dtype="float32",
            max_model_len=case.max_model_len,
            speculative_tokens=case.speculative_tokens,
            sizes=VllmSizes(
                max_num_seqs=case.max_num_seqs,
                max_num_batched_tokens=case.max_num_batched_tokens,
                kv_cache_gib=case.kv_cache_gib,
            ),
        ),
        # A model that is still being trained may run on; speed is what is measured here.
        checks=(),
        max_dead_letter_share=0.0,
    )


def write_landing(home: Path, day: dt.date, rows: int, *, changed: int = 0) -> None:
    """Land a day's articles as JSON lines; the last `changed` of them with another text."""
    from assets.demo.articles import articles

    file = home / "store" / "landing" / "articles" / str(day) / "articles.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = list(articles(day, count=rows))
    for article in lines[rows - changed :]:
        article["body"] = f"This was corrected. {article['body']}"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def prompts(day: dt.date, rows: int) -> list[str]:
    """The very requests that the job makes of a day's articles."""
    from assets.demo.articles import articles
    from assets.models.lead_summarizer.reference import prompt

    return [prompt(str(article["body"])) for article in articles(day, count=rows)]


def _check_same_work(ours: dict[str, Any], peer: dict[str, Any]) -> None:
    apart = abs(ours["output_tokens"] / peer["output_tokens"] - 1)
    if apart > _TOKENS_APART:
        raise RuntimeError(
            f"we generated {ours['output_tokens']} tokens, the peer {peer['output_tokens']}: "
            "this would compare different work"
        )


def _against(what: str, seconds: list[float], theirs: float, case: Case, *, most: float) -> Figure:
    mine = statistics.median(seconds)
    return Figure(
        name=f"{what}, {case.rows} rows, files to published; Ray Data LLM: inference",
        ours=f"{mine:.1f} s",
        peer=f"{theirs:.1f} s",
        ratio=mine / theirs,
        most=most,
    )


def _inferred(what: str, runs: list[dict[str, Any]], *, exactly: int) -> Figure:
    seconds = statistics.median(run["seconds"] for run in runs)
    # Asking for Ray although there is nothing to infer would start an engine.
    counted = [run["inferred"] + (run["asked_for_engines"] and not exactly) for run in runs]
    wrong = [count for count in counted if count != exactly]
    return Figure(
        name=f"{what}: rows inferred and engines started"
        if not exactly
        else f"{what}: rows inferred",
        ours=f"{seconds:.1f} s",
        ratio=wrong[0] if wrong else exactly,
        least=exactly,
        most=exactly,
        decimals=0,
    )
