"""Continuous batching against static padded batches: `transformers.generate`.

Both answer the summarizer's own prompts, tenfold apart in length, and every row must have a
number of tokens of its own, drawn evenly from 8 to 256. The worker loop, its journal included,
lets a row go when it is finished; `generate` pads each batch to its longest prompt and computes
it to its longest answer. Only tokens that were asked for count. Start and warm-up are left out
on both sides.

The peer takes the rows as they come, in batches of the size and with the threads that suit it
best. Who sorts the rows by their prompts' length first pads less: that is measured too.
"""

from __future__ import annotations

import datetime as dt
import os
import random
import statistics
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.benchmarks.harness import Case, Figure, fresh

if TYPE_CHECKING:
    from collections.abc import Sequence

SHORTEST, LONGEST = 8, 256
LEAST = 5.0
_ROWS = 1024
_TUNING_ROWS = 128


@dataclass(frozen=True, slots=True)
class Setting:
    """How transformers is run: rows in a batch, threads, rows sorted by the prompt's length."""

    batch: int
    threads: int
    by_length: bool


SETTINGS = tuple(
    Setting(batch, threads, by_length)
    for by_length in (False, True)
    for threads in (1, 2)
    for batch in (8, 16, 32, 64)
)


def figures(case: Case) -> list[Figure]:
    """Useful tokens per second, ours by transformers' with its best setting in either order."""
    tuning = fresh("bench_static_batches:tune", model=case.model)["tokens_per_s"]
    speeds = dict(zip(SETTINGS, tuning, strict=True))
    best = {
        by_length: max((s for s in SETTINGS if s.by_length is by_length), key=speeds.__getitem__)
        for by_length in (False, True)
    }
    print(f"  transformers is quickest with {best}", file=sys.stderr, flush=True)
    ours: list[float] = []
    peers: dict[bool, list[float]] = {by_length: [] for by_length in best}
    for run in range(1, case.runs + 1):
        seen = fresh("bench_static_batches:continuous", case=asdict(case), run=run)
        ours.append(seen["tokens_per_s"])
        for by_length, setting in best.items():
            seen = fresh(
                "bench_static_batches:static", model=case.model, setting=asdict(setting), run=run
            )
            peers[by_length].append(seen["tokens_per_s"])
    mine = statistics.median(ours)
    return [
        Figure(
            name=f"{SHORTEST} to {LONGEST} tokens a row, useful tokens; static batches of "
            f"{best[by_length].batch} rows {order}",
            ours=f"{mine:.0f}/s",
            peer=f"{statistics.median(peers[by_length]):.0f}/s",
            ratio=mine / statistics.median(peers[by_length]),
            least=least,
        )
        for by_length, order, least in (
            (False, "as they come", LEAST),
            (True, "sorted by the prompts' length", None),
        )
    ]


def requests(run: int, rows: int) -> tuple[list[str], list[int]]:
    """Prompts and the tokens that each has to be answered with, the same for both."""
    from assets.demo.articles import articles
    from assets.models.lead_summarizer.reference import prompt

    rng = random.Random(run)
    day = dt.date(2026, 1, 1) + dt.timedelta(days=run)
    texts = [prompt(str(article["body"])) for article in articles(day, count=rows)]
    return texts, [rng.randint(SHORTEST, LONGEST) for _ in texts]


def continuous(case: dict[str, Any], run: int) -> dict[str, Any]:
    """Through the worker loop, into a journal on disk."""
    import pyarrow as pa

    from overnight.engines.vllm import VllmSizes
    from overnight.journal import Journal
    from overnight.model import ModelRef
    from overnight.store import StoreConfig
    from overnight.workers.loop import WorkerLoop

    sizes = Case(**case)
    spec = exact_lengths_engine()(
        model=ModelRef(sizes.model),
        dtype="float32",
        max_model_len=sizes.max_model_len,
        sizes=VllmSizes(
            max_num_seqs=sizes.max_num_seqs,
            max_num_batched_tokens=sizes.max_num_batched_tokens,
            kv_cache_gib=sizes.kv_cache_gib,
        ),
    )
    loop = WorkerLoop(spec)

    def infer(texts: Sequence[str], lengths: Sequence[int]) -> int:
        before = loop.progress().output_tokens
        table = pa.table(
            {
                "row": pa.array(range(len(texts)), pa.int64()),
                "key": [f"k{i}" for i in range(len(texts))],
                "input_hash": pa.array([os.urandom(16) for _ in texts], pa.binary(16)),
                "request": [f"{n} {text}" for n, text in zip(lengths, texts, strict=True)],
            }
        )
        loop.run("s", table, writer, {"run_id": "b", "attempt": 1, "machine": "m"}).result()
        return loop.progress().output_tokens - before

    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal(StoreConfig(url=Path(scratch).as_uri()).open(), "b", "f", "2026-01-05")
        writer = journal.writer(attempt=1, worker="bench")
        infer(*requests(0, 64))
        texts, lengths = requests(run, _ROWS)
        began = time.perf_counter()
        tokens = infer(texts, lengths)
        seconds = time.perf_counter() - began
        loop.close()
        writer.close()
    if tokens != sum(lengths):
        raise RuntimeError(f"{tokens} tokens were generated instead of {sum(lengths)}")
    return {"tokens_per_s": tokens / seconds, "seconds": seconds}


def exact_lengths_engine() -> Any:
    """`VllmGenerate`, told by each request how many tokens exactly to answer with."""
    import pyarrow as pa

    from overnight.engines.vllm import VllmGenerate
    from overnight.engines.vllm_generate import GenerateEngine

    class ExactLengths(VllmGenerate):
        def start(self) -> Any:
            return ExactEngine(self)

    class ExactEngine(GenerateEngine):
        _lengths: deque[int]

        def submit(self, requests: pa.Table) -> None:
            pairs = [text.split(" ", 1) for text in requests["request"].to_pylist()]
            self._lengths = deque(int(length) for length, _ in pairs)
            at = requests.schema.get_field_index("request")
            texts = pa.array([text for _, text in pairs], pa.string())
            super().submit(requests.set_column(at, "request", texts))

        def _params(self) -> Any:
            params = self._sampling.clone()
            params.max_tokens = self._lengths.popleft()
            params.ignore_eos = True
            return params

    return ExactLengths


def tune(model: str) -> dict[str, Any]:
    """Useful tokens per second for each of `SETTINGS`."""
    generate = _transformers(model)
    texts, lengths = requests(-1, _TUNING_ROWS)
    return {"tokens_per_s": [generate(texts, lengths, setting) for setting in SETTINGS]}


def static(model: str, setting: dict[str, Any], run: int) -> dict[str, Any]:
    """Useful tokens per second with one setting."""
    texts, lengths = requests(run, _ROWS)
    return {"tokens_per_s": _transformers(model)(texts, lengths, Setting(**setting))}


def _transformers(model: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network.eval()

    def generate(texts: Sequence[str], lengths: Sequence[int], setting: Setting) -> float:
        torch.set_num_threads(setting.threads)
        order = list(range(len(texts)))
        if setting.by_length:
            order.sort(key=lambda row: len(texts[row]))
        began = time.perf_counter()
        for start in range(0, len(order), setting.batch):
            rows = order[start : start + setting.batch]
            longest = max(lengths[row] for row in rows)
            batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
            with torch.inference_mode():
                tokens = network.generate(
                    input_ids=batch["input_ids"],
                    attention_mask=batch["attention_mask"],
                    max_new_tokens=longest,
                    min_new_tokens=longest,
                    do_sample=False,
                    pad_token_id=tokenizer.pad_token_id,
                )
            new = tokens[:, batch["input_ids"].shape[1] :]
            answers = [new[at, : lengths[row]] for at, row in enumerate(rows)]
            tokenizer.batch_decode(answers)
        return sum(lengths) / (time.perf_counter() - began)

    generate(*requests(0, 8), Setting(8, 1, by_length=False))
    return generate
