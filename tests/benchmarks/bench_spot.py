"""What spot machines cost: notices watched and rows kept half-way, drains, losses, recovery.

The rows are those of `bench_static_batches`: each with a number of tokens of its own, through
the worker loop and its journal, with real vLLM. What an engine has really computed is counted
in its own process. A machine is a worker loop here, or a node of a real Ray cluster; one that
has a core to itself stands for one with a GPU to itself.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks import spot_machines
from tests.benchmarks.harness import Case, Figure, fresh

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

ROWS_RUNNING = 64
_LONGEST = 256
_WATCHED_ROWS = 512


def figures(case: Case) -> list[Figure]:
    """All of them; see the functions that measure."""
    how = {"case": asdict(case)}
    again, calm = fresh("bench_spot:drain", **how, in_s=2.5), fresh("bench_spot:drain", **how)
    ratio = watched(case)
    return [
        Figure(
            name="tokens computed again after an interruption with notice",
            ours=f"{again['computed']} for {again['tokens']}",
            ratio=again["computed"] - again["tokens"],
            most=0,
            decimals=0,
        ),
        Figure(
            name=f"notice to drained, {ROWS_RUNNING} rows of up to {_LONGEST} tokens, seconds",
            ours=f"{calm['drained_s']:.1f} s",
            ratio=calm["drained_s"],
            most=10,
        ),
        Figure(
            name="drained before the machine goes, seconds to spare (notice of 2.5 s)",
            ours=f"{again['spare_s']:.1f} s",
            ratio=again["spare_s"],
            least=0,
        ),
        Figure(
            name="tokens/s with notices watched and rows kept half-way; without",
            ours=f"{ratio['ours']:.0f}/s",
            peer=f"{ratio['peer']:.0f}/s",
            ratio=ratio["ratio"],
            least=0.98,
        ),
        *spot_machines.figures(case),
    ]


def watched(case: Case) -> dict[str, float]:
    """Medians of tokens/s: as workers run, and without watching and keeping; alternating."""
    seen: dict[str, list[float]] = {"ours": [], "peer": []}
    for run in range(max(5, case.runs)):
        for name in ("ours", "peer") if run % 2 else ("peer", "ours"):
            found = fresh("bench_spot:generate", case=asdict(case), run=run, plain=name == "peer")
            seen[name].append(found["tokens_per_s"])
            print(f"  {name}: {found['tokens_per_s']:.0f} tokens/s", file=sys.stderr, flush=True)
    ours, peer = (statistics.median(seen[name]) for name in ("ours", "peer"))
    pairs = [mine / theirs for mine, theirs in zip(seen["ours"], seen["peer"], strict=True)]
    return {"ours": ours, "peer": peer, "ratio": statistics.median(pairs)}


def generate(case: dict[str, Any], run: int, *, plain: bool) -> dict[str, float]:
    """Tokens/s in steady state; `plain`: nothing is watched, nothing kept half-way."""
    from overnight.spot.notice import NoticeWatcher
    from overnight.workers.loop import WorkerLoop
    from tests.benchmarks.bench_static_batches import requests
    from tests.spot.imds import Imds

    with contextlib.ExitStack() as stack:
        if not plain:
            imds = stack.enter_context(Imds())
            os.environ |= {
                "OVERNIGHT_NOTICE": "ec2",
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.url,
                "OVERNIGHT_NOTICE_DIR": stack.enter_context(tempfile.TemporaryDirectory()),
            }
            watcher = NoticeWatcher(on_notice=lambda _: None)
            watcher.start()
            stack.callback(watcher.close)
        loop = WorkerLoop(exact_lengths(Case(**case), resumes=not plain))
        stack.callback(loop.close)
        run_rows(loop, *requests(-1, 64))
        texts, lengths = requests(run, _WATCHED_ROWS)
        began = time.perf_counter()
        run_rows(loop, texts, lengths)
        seconds = time.perf_counter() - began
    return {"tokens_per_s": sum(lengths) / seconds, "seconds": seconds}


def drain(case: dict[str, Any], in_s: float = 30.0) -> dict[str, float]:
    """A notice while rows run; the rest goes on in another engine. Counts what was computed."""
    from overnight.errors import DrainingError
    from overnight.journal import Journal
    from overnight.store import StoreConfig
    from overnight.workers.loop import WorkerLoop
    from tests.benchmarks.bench_static_batches import requests

    texts, lengths = requests(1, ROWS_RUNNING)
    with tempfile.TemporaryDirectory() as scratch, counted(Path(scratch) / "computed") as computed:
        journal = Journal(StoreConfig(url=Path(scratch).as_uri()).open(), "b", "f", "2026-01-05")
        spec = exact_lengths(Case(**case))
        loop = WorkerLoop(spec)
        loop.ready()
        rows = table_of(texts, lengths)
        before = computed()
        with journal.writer(attempt=1, worker="a") as writer:
            ticket = loop.run("s", rows, writer, _by(1))
            while computed() - before < ROWS_RUNNING * 8:
                time.sleep(0.01)
            began = time.monotonic()
            loop.drain(in_s)
            error = ticket.exception(60)
            if error is None or not isinstance(error, DrainingError):
                raise RuntimeError("nothing was running any more when the notice came")
            loop.drained(60)
            drained_s = time.monotonic() - began
        loop.close()
        rest = left(journal, rows, spec.partial_type)
        print(f"  {rest.num_rows} of {ROWS_RUNNING} rows go on elsewhere", file=sys.stderr)
        other = WorkerLoop(spec)
        with journal.writer(attempt=2, worker="b") as writer:
            other.run("s", rest, writer, _by(2)).result(120)
        other.close()
        finished = sum(sum(t["output_tokens"].to_pylist()) for t in journal.tables())
        total = computed() - before
    if finished != sum(lengths):
        raise RuntimeError(f"{finished} tokens were published instead of {sum(lengths)}")
    return {
        "computed": total,
        "tokens": finished,
        "drained_s": drained_s,
        "spare_s": in_s - drained_s,
        "moved": rest.num_rows,
    }


def left(journal: Any, rows: pa.Table, partial_type: pa.DataType) -> pa.Table:
    """The rows that are not journalled, each with what it has so far."""
    import pyarrow as pa

    done = set(journal.done()["input_hash"])
    states = journal.partials()
    known = {} if states is None else {s["input_hash"]: s["partial"] for s in states.to_pylist()}
    hashes = rows["input_hash"].to_pylist()
    rest = rows.filter(pa.array([h not in done for h in hashes]))
    begun = [known.get(h) for h in hashes if h not in done]
    return rest.append_column("partial", pa.array(begun, partial_type))


def exact_lengths(case: Case, *, resumes: bool = True) -> Any:
    """Real vLLM whose rows say how many tokens they get; computed tokens are counted."""
    from overnight.engines.vllm import VllmSizes
    from overnight.model import ModelRef
    from tests.benchmarks.bench_static_batches import exact_lengths_engine

    base = exact_lengths_engine()

    class NeverResumed(base):  # type: ignore[misc, valid-type]
        @property
        def partial_type(self) -> None:
            return None

    return (base if resumes else NeverResumed)(
        model=ModelRef(case.model),
        dtype="float32",
        max_tokens=_LONGEST,
        max_model_len=case.max_model_len,
        sizes=VllmSizes(
            max_num_seqs=case.max_num_seqs,
            max_num_batched_tokens=case.max_num_batched_tokens,
            kv_cache_gib=case.kv_cache_gib,
        ),
    )


@contextlib.contextmanager
def counted(file: Path) -> Iterator[Any]:
    """Have the engines' own processes count the tokens that they compute; how many so far."""
    from overnight.engines import vllm_engine

    file.touch()
    before, vllm_engine._EXECUTOR = vllm_engine._EXECUTOR, "tests.benchmarks.counting.Counting"
    os.environ["OVERNIGHT_COMPUTED"] = str(file)
    try:
        yield lambda: file.stat().st_size
    finally:
        vllm_engine._EXECUTOR = before


def table_of(texts: list[str], lengths: list[int]) -> pa.Table:
    """Rows as a split has them."""
    import pyarrow as pa

    return pa.table(
        {
            "row": pa.array(range(len(texts)), pa.int64()),
            "key": [f"k{i}" for i in range(len(texts))],
            "input_hash": pa.array(
                [i.to_bytes(16, "big") for i in range(len(texts))], pa.binary(16)
            ),
            "request": [f"{n} {text}" for n, text in zip(lengths, texts, strict=True)],
        }
    )


def run_rows(loop: Any, texts: list[str], lengths: list[int]) -> None:
    """Through the loop, into a journal on disk."""
    from overnight.journal import Journal
    from overnight.store import StoreConfig

    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal(StoreConfig(url=Path(scratch).as_uri()).open(), "b", "f", "2026-01-05")
        with journal.writer(attempt=1, worker="bench") as writer:
            loop.run("s", table_of(texts, lengths), writer, _by(1)).result(300)


def _by(attempt: int) -> Any:
    return {"run_id": "b", "attempt": attempt, "machine": "m"}
