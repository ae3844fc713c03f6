"""What the worker loop and its journal cost: `vllm.LLM.generate` against ours.

Both get the same prompts, sizes and numerics, and run in processes of their own that stay up;
runs alternate, each on prompts of its own, so that no prefix cache helps and a slow moment of
the machine hits both. Whoever waits is stopped, since an idle vLLM still polls. Engine start
and warm-up are left out.

    python -m tests.benchmarks.bench_generate MODEL_DIRECTORY [--rows N] [--runs N]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

SYSTEMS = ("llm_generate", "overnight")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One comparison.

    Attributes:
        model: a model directory.
        rows: prompts per run.
        runs: measured runs of each system.
        max_tokens: tokens to generate per row at most.
        words: shortest and longest prompt, in words.
    """

    model: str
    rows: int = 1024
    runs: int = 5
    max_tokens: int = 64
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    words: tuple[int, int] = (20, 60)


def compare(case: Case) -> dict[str, Any]:
    """Run both; rows/s and tokens/s as medians, and the ratio of ours to `LLM.generate`."""
    seen: dict[str, list[dict[str, float]]] = {name: [] for name in SYSTEMS}
    processes: dict[str, subprocess.Popen[str]] = {}
    try:
        for name in SYSTEMS:
            processes[name] = _spawn(name, case)
            _read(processes[name])  # ready: started and warmed up
            os.killpg(processes[name].pid, signal.SIGSTOP)
        for run in range(1, case.runs + 1):
            order = SYSTEMS if run % 2 else SYSTEMS[::-1]
            for name in order:
                process = processes[name]
                os.killpg(process.pid, signal.SIGCONT)
                assert process.stdin is not None
                process.stdin.write(f"{run}\n")
                process.stdin.flush()
                seen[name].append(_read(process))
                print(name, seen[name][-1], file=sys.stderr, flush=True)
                os.killpg(process.pid, signal.SIGSTOP)
    finally:
        for process in processes.values():
            os.killpg(process.pid, signal.SIGCONT)
            process.communicate("\n")
    result: dict[str, Any] = {"case": asdict(case)}
    for name in SYSTEMS:
        result[name] = {
            "rows_per_s": statistics.median(s["rows"] / s["seconds"] for s in seen[name]),
            "tokens_per_s": statistics.median(s["tokens"] / s["seconds"] for s in seen[name]),
            "seconds": [round(s["seconds"], 3) for s in seen[name]],
        }
    ours, theirs = (result[name]["tokens_per_s"] for name in reversed(SYSTEMS))
    result["ratio"] = ours / theirs
    return result


def prompts(case: Case, run: int) -> list[str]:
    """The prompts of one run, the same for both systems."""
    rng = random.Random(run)
    letters = "etaoinshrdlu"
    return [
        " ".join(
            "".join(rng.choices(letters, k=rng.randint(2, 7)))
            for _ in range(rng.randint(*case.words))
        )
        for _ in range(case.rows)
    ]


def _spawn(name: str, case: Case) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.benchmarks.bench_generate", "--child", name,
         json.dumps(asdict(case))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def _read(process: subprocess.Popen[str]) -> dict[str, float]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            answer: dict[str, float] = json.loads(line)
            return answer
    msg = f"a benchmark process ended early (exit code {process.wait()})"
    raise RuntimeError(msg)


def _child(name: str, case: Case) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        run, close = (_llm_generate if name == SYSTEMS[0] else _overnight)(case, Path(scratch))
        run(prompts(case, 0))
        print(json.dumps({}), flush=True)
        while number := sys.stdin.readline().strip():
            texts = prompts(case, int(number))
            began = time.perf_counter()
            tokens = run(texts)
            seconds = time.perf_counter() - began
            print(
                json.dumps({"seconds": seconds, "rows": len(texts), "tokens": tokens}), flush=True
            )
        close()


def _llm_generate(case: Case, _: Path) -> tuple[Callable[[list[str]], int], Callable[[], None]]:
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "2", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams

    llm = LLM(
        case.model,
        dtype="float32",
        max_num_seqs=case.max_num_seqs,
        max_num_batched_tokens=case.max_num_batched_tokens,
        enforce_eager=True,
    )
    params = SamplingParams(temperature=0.0, max_tokens=case.max_tokens)

    def run(texts: list[str]) -> int:
        outputs = llm.generate(texts, params, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    def close() -> None:
        # Left to the interpreter's exit, vLLM's process may be waited for and never ended.
        llm.llm_engine.engine_core.shutdown()

    return run, close


def _overnight(case: Case, scratch: Path) -> tuple[Callable[[list[str]], int], Callable[[], None]]:
    import pyarrow as pa

    from overnight.engines.vllm import VllmGenerate, VllmSizes
    from overnight.journal import Journal
    from overnight.model import ModelRef
    from overnight.store import StoreConfig
    from overnight.workers.loop import WorkerLoop

    spec = VllmGenerate(
        model=ModelRef(case.model),
        dtype="float32",
        max_tokens=case.max_tokens,
        sizes=VllmSizes(
            max_num_seqs=case.max_num_seqs,
            max_num_batched_tokens=case.max_num_batched_tokens,
        ),
    )
    loop = WorkerLoop(spec)
    writer = Journal(StoreConfig(url=scratch.as_uri()).open(), "bench", "f0", "2026-01-05").writer(
        attempt=1, worker="bench"
    )

    def run(texts: list[str]) -> int:
        before = loop.progress().output_tokens
        rows = range(len(texts))
        table = pa.table(
            {
                "row": pa.array(rows, pa.int64()),
                "key": [f"k{i}" for i in rows],
                "input_hash": pa.array([os.urandom(16) for _ in rows], pa.binary(16)),
                "request": texts,
            }
        )
        loop.run("s", table, writer, {"run_id": "b", "attempt": 1, "machine": "m"}).result()
        return loop.progress().output_tokens - before

    def close() -> None:
        loop.close()
        writer.close()

    return run, close


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    if sys.argv[1:2] == ["--child"]:
        values = json.loads(sys.argv[3])
        _child(sys.argv[2], Case(**values | {"words": tuple(values["words"])}))
        return
    parser.add_argument("model")
    parser.add_argument("--rows", type=int, default=Case.__dataclass_fields__["rows"].default)
    parser.add_argument("--runs", type=int, default=Case.__dataclass_fields__["runs"].default)
    chosen = parser.parse_args()
    print(
        json.dumps(compare(Case(model=chosen.model, rows=chosen.rows, runs=chosen.runs)), indent=1)
    )


if __name__ == "__main__":
    main()
