"""Loading the code location, as every Dagster process does, and what that imports."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from tests.benchmarks.harness import ROOT, Case, Figure, environment

ENGINES = ("vllm", "ray", "torch", "transformers", "xgboost")
_RUNS = 7
_LOAD = f"""
import sys
import assets.definitions
print(*(name for name in {ENGINES!r} if name in sys.modules), sep=",")
"""


def figures(_: Case) -> list[Figure]:
    """Seconds of a whole process that imports `assets.definitions`, and engines imported."""
    seconds: list[float] = []
    imported: set[str] = set()
    for _run in range(_RUNS):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", _LOAD],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        seconds.append(time.perf_counter() - began)
        imported |= set(done.stdout.split(",")) - {"\n", ""}
    middle = statistics.median(seconds)
    return [
        Figure(name="definitions load, seconds", ours=f"{middle:.2f} s", ratio=middle, most=3.0),
        Figure(
            name="definitions load: engines imported",
            ours=", ".join(sorted(imported)) or "none",
            ratio=len(imported),
            most=0,
            decimals=0,
        ),
    ]
