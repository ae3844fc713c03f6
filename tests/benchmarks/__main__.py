"""Measure, side by side with the peers, and hold the figures against their bounds.

    python -m tests.benchmarks [NAME ...] [--model DIRECTORY] [--runs N] [--traces DIRECTORY]

Every system runs in fresh processes of its own, on the same inputs, alternating with its peer;
medians are reported. A bound that is not kept makes the exit status 1. Nothing here is a test:
figures depend on the machine, and on what else it does meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from assets.models.lead_summarizer import PATH
from tests.benchmarks import (
    bench_backfill,
    bench_definitions,
    bench_embeddings,
    bench_fraud,
    bench_generate,
    bench_partition,
    bench_plumbing,
    bench_recommendations,
    bench_spot,
    bench_spot_traces,
    bench_static_batches,
)
from tests.benchmarks.harness import Case, Figure, table

if TYPE_CHECKING:
    from collections.abc import Callable


def generate(case: Case) -> list[Figure]:
    """Generation in steady state: worker loop and journal against `LLM.generate`."""
    result = bench_generate.compare(
        bench_generate.Case(
            model=case.model,
            runs=max(5, case.runs),
            max_num_seqs=case.max_num_seqs,
            max_num_batched_tokens=case.max_num_batched_tokens,
        )
    )
    ours, peer = (result[name]["tokens_per_s"] for name in ("overnight", "llm_generate"))
    return [
        Figure(
            name="generation with a journal, tokens; vllm.LLM.generate",
            ours=f"{ours:.0f}/s",
            peer=f"{peer:.0f}/s",
            ratio=result["ratio"],
            least=0.95,
        )
    ]


BENCHMARKS: dict[str, Callable[[Case], list[Figure]]] = {
    "definitions": bench_definitions.figures,
    "fraud": bench_fraud.figures,
    "plumbing": bench_plumbing.figures,
    "generate": generate,
    "static_batches": bench_static_batches.figures,
    "partition": bench_partition.figures,
    "backfill": bench_backfill.figures,
    "embeddings": bench_embeddings.figures,
    "recommendations": bench_recommendations.figures,
    "spot": bench_spot.figures,
    "spot_traces": bench_spot_traces.figures,
}


def main() -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=_Raw
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(BENCHMARKS)}")
    parser.add_argument("--model", default=str(PATH), help="a model directory")
    parser.add_argument("--runs", type=int, default=3, help="measured runs of each system")
    parser.add_argument("--rows", type=int, default=512, help="rows of a partition")
    parser.add_argument(
        "--plumbing-rows", type=int, nargs=2, default=(100_000, 1_000_000), metavar="N"
    )
    parser.add_argument("--traces", default="", help="a directory of spot traces")
    parser.add_argument("--partitions", type=int, default=30, help="days of the backfill")
    parser.add_argument(
        "--peers", type=int, default=30, help="days that the peer infers; fewer are extrapolated"
    )
    chosen = parser.parse_args()
    unknown = [name for name in chosen.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    case = Case(
        model=chosen.model,
        rows=chosen.rows,
        runs=chosen.runs,
        plumbing_rows=tuple(chosen.plumbing_rows),
        traces=chosen.traces,
        partitions=chosen.partitions,
        peers=min(chosen.peers, chosen.partitions),
        max_model_len=_context(Path(chosen.model)),
    )
    figures: list[Figure] = []
    for name in chosen.names or BENCHMARKS:
        began = time.perf_counter()
        load = os.getloadavg()[0]
        print(f"{name} (load before: {load:.1f})", file=sys.stderr, flush=True)
        figures += BENCHMARKS[name](case)
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(table(figures))
    return 0 if all(figure.ok for figure in figures) else 1


def _context(model: Path) -> int:
    config = model / "config.json"
    if not config.is_file():
        sys.exit(f"{model} is no model directory: name one with --model")
    return min(1024, int(json.loads(config.read_text())["max_position_embeddings"]))


class _Raw(argparse.RawDescriptionHelpFormatter):
    """Keeps the description's lines."""


if __name__ == "__main__":
    sys.exit(main())
