"""Embeddings: against transformers' padded batches, and what a refresh, a search and a feed cost.

Texts are the chunks of the demo's documents, by the job's own chunker; for the index, distinct
pieces of the descriptions of the installed distributions, which are not made from a template.
Starting engines is left out everywhere.
"""

from __future__ import annotations

import datetime as dt
import importlib.metadata
import random
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from tests.benchmarks import change_feed
from tests.benchmarks.harness import Case, Figure, fresh, new_home

if TYPE_CHECKING:
    from collections.abc import Sequence

FIRST, NEXT = dt.date(2026, 11, 19), dt.date(2026, 11, 20)
_TEXTS, _TUNING_TEXTS = 600, 128
_DOCUMENTS = 4_000
_SHARE_CHANGED = 0.01
_INDEXED, _ASKED, _NEAREST = 20_000, 300, 10


@dataclass(frozen=True, slots=True)
class Setting:
    """How transformers is run: rows in a batch, and whether rows are sorted by length first."""

    batch: int
    by_length: bool


SETTINGS = tuple(Setting(batch, by) for batch in (8, 16, 32, 64) for by in (False, True))


def figures(case: Case) -> list[Figure]:
    """All of the embedding job's figures."""
    return [
        *_against_transformers(case),
        *_of_a_refresh(),
        *_of_the_index(),
        *change_feed.figures(),
    ]


def _against_transformers(case: Case) -> list[Figure]:
    best = Setting(**fresh("bench_embeddings:tune")["best"])
    print(f"  transformers is quickest with {best}", file=sys.stderr, flush=True)
    ours, peer, bare = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        mine, theirs = f"{folder}/ours.npy", f"{folder}/peer.npy"
        for _ in range(case.runs):
            ours.append(fresh("bench_embeddings:continuous", vectors=mine)["texts_per_s"])
            peer.append(
                fresh("bench_embeddings:padded", setting=asdict(best), vectors=theirs)[
                    "texts_per_s"
                ]
            )
            bare.append(fresh("bench_embeddings:bare_products")["texts_per_s"])
        cosines = (np.load(mine) * np.load(theirs)).sum(axis=1)
    quick, slow, most = map(statistics.median, (ours, peer, bare))
    return [
        Figure(
            name=f"embeddings of {_TEXTS} chunks: least cosine with transformers'",
            ours=f"{cosines.min():.6f}",
            ratio=float(cosines.min()),
            least=0.9999,
            decimals=6,
        ),
        Figure(
            name="chunks embedded; transformers, its best padded batches",
            ours=f"{quick:.0f}/s",
            peer=f"{slow:.0f}/s",
            ratio=quick / slow,
            least=1.5,
        ),
        Figure(
            name="the same; the model's matrix products alone, which nobody can do without",
            ours=f"{quick:.0f}/s",
            peer=f"{most:.0f}/s",
            ratio=quick / most,
        ),
    ]


def _of_a_refresh() -> list[Figure]:
    with new_home() as home:
        seen = fresh("bench_embeddings:refresh", home=str(home))
    wanted, inferred = seen["changed_chunks"], seen["inferred"]
    return [
        Figure(
            name=f"{_SHARE_CHANGED:.0%} of {_DOCUMENTS:,} documents changed: chunks inferred",
            ours=str(inferred),
            peer=f"{wanted} changed",
            ratio=inferred / wanted,
            least=1.0,
            most=1.0,
        ),
        Figure(
            name=f"refreshing {_SHARE_CHANGED:.0%}, against embedding all",
            ours=f"{seen['refresh_s']:.2f} s",
            peer=f"{seen['full_s']:.1f} s",
            ratio=seen["refresh_s"] / seen["full_s"],
            most=0.03,
            decimals=3,
        ),
    ]


def _of_the_index() -> list[Figure]:
    with new_home() as home:
        seen = fresh("bench_embeddings:recall", home=str(home))
    return [
        Figure(
            name=f"HNSW recall@{_NEAREST}, {seen['rows']:,} chunks; exact search",
            ours=f"{seen['indexed_ms']:.1f} ms",
            peer=f"{seen['exact_ms']:.1f} ms",
            ratio=seen["recall"],
            least=0.98,
            decimals=3,
        )
    ]


def chunks(count: int, seed: int = 7) -> list[str]:
    """Chunks of the demo's documents, in the order in which they come."""
    from assets.demo.documents import changes
    from assets.documents import chunker

    found: list[str] = []
    for change in changes(FIRST, first=FIRST, count=count, seed=seed):
        found += [chunk.text for chunk in chunker.chunks(str(change["text"]))]
        if len(found) >= count:
            break
    return found[:count]


def continuous(vectors: str) -> dict[str, Any]:
    """Through the worker loop, into a journal on disk."""
    embedded, seconds = _embedded(chunks(_TEXTS))
    np.save(vectors, embedded)
    return {"texts_per_s": _TEXTS / seconds}


def _embedded(texts: Sequence[str]) -> tuple[np.ndarray[Any, Any], float]:
    """The vectors of some texts by the job's own engine, and the seconds that they took."""
    import pyarrow as pa

    from assets.embeddings import document_embeddings
    from overnight.journal import Journal
    from overnight.store import StoreConfig
    from overnight.workers.loop import WorkerLoop

    by: Any = {"run_id": "b", "attempt": 1, "machine": "m"}

    def split(some: Sequence[str], first: int) -> pa.Table:
        rows = range(first, first + len(some))
        return pa.table(
            {
                "row": pa.array(rows, pa.int64()),
                "key": [str(row) for row in rows],
                "input_hash": pa.array([row.to_bytes(16, "big") for row in rows], pa.binary(16)),
                "request": list(some),
            }
        )

    with tempfile.TemporaryDirectory() as scratch:
        journal = Journal(StoreConfig(url=Path(scratch).as_uri()).open(), "b", "f", "2026-01-05")
        loop = WorkerLoop(document_embeddings.engine)
        with journal.writer(attempt=1, worker="bench") as writer:
            warm_up = [f"warm-up {number}" for number in range(64)]
            loop.run("w", split(warm_up, len(texts)), writer, by).result()
            began = time.perf_counter()
            loop.run("s", split(texts, 0), writer, by).result()
            seconds = time.perf_counter() - began
        loop.close()
        found = np.zeros((len(texts), document_embeddings.engine.dimensions), np.float32)  # type: ignore[attr-defined] # a VllmEmbed
        for table in journal.tables():
            rows = np.array([int(key) for key in table["key"].to_pylist()])
            values = table["embedding"].combine_chunks().flatten().to_numpy()
            mine = rows < len(texts)
            found[rows[mine]] = values.reshape(len(rows), -1)[mine]
    return found, seconds


def tune() -> dict[str, Any]:
    """The setting with which transformers is quickest."""
    embed = _transformers()
    texts = chunks(_TUNING_TEXTS, seed=1)
    speeds = [embed(texts, setting)[1] for setting in SETTINGS]
    return {"best": asdict(SETTINGS[speeds.index(min(speeds))])}


def padded(setting: dict[str, Any], vectors: str) -> dict[str, Any]:
    """Through transformers, mean-pooled, with one setting."""
    found, seconds = _transformers()(chunks(_TEXTS), Setting(**setting))
    np.save(vectors, found)
    return {"texts_per_s": _TEXTS / seconds}


def bare_products() -> dict[str, Any]:
    """The model's matrix products for as many tokens, without padding, into memory that is kept."""
    import torch
    from transformers import AutoConfig, AutoTokenizer

    from assets.documents import embedding_model
    from overnight.engines.vllm import VllmSizes

    tokens = VllmSizes().max_num_batched_tokens
    path = embedding_model.resolve().path
    config = AutoConfig.from_pretrained(path)
    texts = AutoTokenizer.from_pretrained(path)(chunks(_TEXTS))["input_ids"]
    wide, inner = config.hidden_size, config.intermediate_size
    inputs = {width: torch.rand(tokens, width) for width in (wide, inner)}
    layer = ((wide, 3 * wide), (wide, wide), (wide, inner), (inner, wide))
    products = [
        (inputs[width], torch.rand(width, height), torch.empty(tokens, height))
        for width, height in layer * config.num_hidden_layers
    ]

    def step() -> None:
        for rows, weights, out in products:
            torch.mm(rows, weights, out=out)

    step()
    steps = sum(map(len, texts)) / tokens
    began = time.perf_counter()
    for _ in range(round(steps)):
        step()
    seconds = (time.perf_counter() - began) * steps / round(steps)
    return {"texts_per_s": _TEXTS / seconds}


def _transformers() -> Any:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from assets.documents import embedding_model

    path = embedding_model.resolve().path
    tokenizer = AutoTokenizer.from_pretrained(path)
    network: Any = AutoModel.from_pretrained(path, dtype=torch.float32)
    network.eval()

    def embed(texts: Sequence[str], setting: Setting) -> tuple[np.ndarray[Any, Any], float]:
        order = list(range(len(texts)))
        began = time.perf_counter()
        if setting.by_length:
            order.sort(key=lambda row: len(texts[row]))
        found = np.zeros((len(texts), network.config.hidden_size), np.float32)
        for start in range(0, len(order), setting.batch):
            rows = order[start : start + setting.batch]
            batch = tokenizer([texts[row] for row in rows], padding=True, return_tensors="pt")
            with torch.inference_mode():
                states = network(**batch).last_hidden_state
                mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
                mean = (states * mask).sum(1) / mask.sum(1)
                found[rows] = torch.nn.functional.normalize(mean).numpy()
        return found, time.perf_counter() - began

    embed(["warm-up"] * 16, Setting(8, by_length=False))
    return embed


def refresh(home: str) -> dict[str, Any]:
    """Embed all documents, change some, refresh: seconds of each, engine start aside."""
    from assets.demo.documents import changes
    from assets.documents import chunker
    from assets.embeddings import document_embeddings
    from overnight.job import WHOLE
    from overnight.run import run_partition
    from overnight.warehouse.connect import Warehouse
    from overnight.workers.cluster import keep_head
    from tests.support.shop import house

    path = Path(home)
    first = list(changes(FIRST, first=FIRST, count=_DOCUMENTS))
    change_feed.land(path, FIRST, first)
    fresh_texts = changes(NEXT, first=NEXT, count=_DOCUMENTS, seed=8)
    changed = random.Random(0).sample(list(fresh_texts), round(_DOCUMENTS * _SHARE_CHANGED))

    def cost(report: Any) -> float:
        waited = report.inference.seconds - report.inference.busy_seconds
        return sum(report.seconds.values()) - waited

    with Warehouse.open(home=path) as warehouse:
        place = house(warehouse, path)
        with keep_head(place.cluster):
            full = run_partition(document_embeddings, WHOLE, run_id="full", house=place)
            change_feed.land(path, NEXT, changed)
            again = run_partition(document_embeddings, WHOLE, run_id="refresh", house=place)
    return {
        "full_s": cost(full),
        "refresh_s": cost(again),
        "chunks": full.inferred,
        "inferred": again.inferred,
        "changed_chunks": sum(len(chunker.chunks(str(one["text"]))) for one in changed),
        **{f"full_{phase}": seconds for phase, seconds in full.seconds.items()},
        **{f"refresh_{phase}": seconds for phase, seconds in again.seconds.items()},
    }


def recall(home: str) -> dict[str, Any]:
    """Of the nearest by exact search, the share that the index finds too."""
    from assets.embeddings import document_embeddings
    from overnight.publication import published_table
    from overnight.warehouse.connect import Warehouse
    from overnight.warehouse.copy import copy_in
    from overnight.warehouse.table import ensure_table
    from overnight.warehouse.vectors import ensure_index, nearest

    texts = pieces(_INDEXED + _ASKED)
    vectors, _ = _embedded(texts)
    table = published_table(document_embeddings)
    index = document_embeddings.indexes[0]
    rows = len(texts) - _ASKED
    frame = pl.DataFrame(
        {
            "chunk_id": [f"d#{row}" for row in range(rows)],
            "doc_id": ["d"] * rows,
            "chunk": range(rows),
            "start": [0] * rows,
            "end": [1] * rows,
            "text": texts[:rows],
            "embedding": pl.Series(vectors[:rows], dtype=pl.Array(pl.Float32, vectors.shape[1])),
            "partition_key": ["all"] * rows,
            "_run_id": ["b"] * rows,
            "_attempt": [1] * rows,
            "_input_hash": [row.to_bytes(16, "big") for row in range(rows)],
            "_input_id": [1] * rows,
        }
    )
    seconds = {True: 0.0, False: 0.0}
    hits = 0
    with Warehouse.open(home=Path(home)) as warehouse:
        with warehouse.begin() as connection:
            ensure_table(connection, table)
            copy_in(connection, table, frame)
        began = time.perf_counter()
        ensure_index(warehouse, table, index)
        built = time.perf_counter() - began
        for vector in vectors[rows:]:
            found = {}
            for exact in (True, False):
                with warehouse.connect() as connection:
                    began = time.perf_counter()
                    near = nearest(
                        connection, table, index.column, vector.tolist(), _NEAREST, exact=exact
                    )
                    seconds[exact] += time.perf_counter() - began
                found[exact] = {row.chunk_id for row in near}
            hits += len(found[True] & found[False])
    return {
        "recall": hits / (_ASKED * _NEAREST),
        "rows": rows,
        "build_s": built,
        "exact_ms": 1000 * seconds[True] / _ASKED,
        "indexed_ms": 1000 * seconds[False] / _ASKED,
    }


def pieces(count: int) -> list[str]:
    """Distinct pieces of real text, in an order of chance; fewer if there is not so much text."""
    from assets.documents import embedding_model
    from overnight.chunks import Chunker

    chunker = Chunker(model=embedding_model, max_tokens=32)
    found: dict[str, None] = {}
    for distribution in importlib.metadata.distributions():
        text = str(distribution.metadata.json.get("description", ""))
        found |= dict.fromkeys(chunk.text for chunk in chunker.chunks(text))
    texts = list(found)
    random.Random(0).shuffle(texts)
    return texts[:count]
