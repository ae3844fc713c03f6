"""The top 20 of 50,000 items for 100,000 users, against the bare matrix products in NumPy.

The products alone, block by block into memory that is used again, are what any exact way has to
compute; NumPy gets the best of several block shapes, with the environment's own choice of BLAS
kernels and with the library's, and ours is tried as often. Ours also leaves out 50 items that
each user has seen, and sorts. Vectors are random, which leaves nothing to take advantage of.
"""

from __future__ import annotations

import datetime as dt
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.harness import Case, Figure, fresh

if TYPE_CHECKING:
    import numpy.typing as npt

    Matrix = npt.NDArray[np.float32]

USERS, ITEMS, FACTORS, K, SEEN = 100_000, 50_000, 64, 20, 50
_FEW_USERS = 25_000
_SHAPES = ((64, 50_000), (256, 8192), (512, 2048), (2000, 2048), (4096, 1024))
_TRIES = 2
"""Of ours and of NumPy in each process; the quicker counts."""
_OWN_KERNELS: dict[str, str | None] = {"OPENBLAS_CORETYPE": None, "OPENBLAS_L2_SIZE": None}


def figures(case: Case) -> list[Figure]:
    """Exactness, time against bare products, memory, growth; and the model against popularity."""
    runs = [_quickest() for _ in range(case.runs)]
    taken = {users: statistics.median(run[users] for run in runs) for users in (USERS, _FEW_USERS)}
    products = statistics.median(run["bare"] for run in runs)
    each = {users: 1e6 * seconds / users for users, seconds in taken.items()}
    peak = max(run["peak_mib"] for run in runs) * 2**20 / 1e9
    exact = fresh("bench_recommendations:against_brute_force")
    quality = fresh("bench_recommendations:quality")
    return [
        Figure(
            name="top 20 of 5,000 items for 2,000 users: lists as by brute force, share",
            ours=f"{exact['equal']} of {exact['lists']}",
            ratio=exact["equal"] / exact["lists"],
            least=1.0,
        ),
        Figure(
            name=f"top 20 of {ITEMS:,} items for {USERS:,} users; bare products in NumPy",
            ours=f"{taken[USERS]:.2f} s",
            peer=f"{products:.2f} s",
            ratio=taken[USERS] / products,
            most=1.3,
        ),
        Figure(
            name="… peak memory, vectors included, GB",
            ours=f"{peak:.2f} GB",
            ratio=peak,
            most=2.0,
        ),
        Figure(
            name=f"… time for each user, against {_FEW_USERS:,} users",
            ours=f"{each[USERS]:.1f} us",
            peer=f"{each[_FEW_USERS]:.1f} us",
            ratio=each[USERS] / each[_FEW_USERS],
            most=1.1,
        ),
        *(
            Figure(
                name=f"recommender, a week not seen: {title}; most popular items",
                ours=f"{quality[name]:.3f}",
                peer=f"{quality[f'popularity_{name}']:.3f}",
                ratio=quality[f"{name}_over_popularity"],
                least=2.0,
            )
            for name, title in (("recall_at_10", "Recall@10"), ("ndcg_at_10", "NDCG@10"))
        ),
    ]


def _quickest() -> dict[str | int, float]:
    """Ours by users, and "bare", in turns: seconds of the quicker of two; and "peak_mib"."""
    some: dict[int, list[dict[str, Any]]] = {USERS: [], _FEW_USERS: []}
    bare = []
    for kernels in (None, _OWN_KERNELS):
        for users, ours in some.items():
            ours.append(fresh("bench_recommendations:top_k", users=users))
        bare.append(fresh("bench_recommendations:bare_products", env=kernels, users=USERS))
    return {
        **{users: min(run["seconds"] for run in ours) for users, ours in some.items()},
        "bare": min(run["seconds"] for run in bare),
        "peak_mib": max(run["peak_mib"] for run in some[USERS]),
    }


def top_k(users: int) -> dict[str, Any]:
    """Ours; seconds, and the most memory that the process had resident, MiB."""
    from overnight.engines.cores import usable_cores
    from overnight.engines.inner_product import ItemIndex

    queries, vectors = _vectors(users)
    seen = np.random.default_rng(1).integers(0, ITEMS, users * SEEN)
    starts = np.arange(users + 1) * SEEN
    index = ItemIndex(vectors, k=K, threads=usable_cores(), device="cpu")
    index.best(queries[:2000], starts[:2001], seen)

    def once() -> float:
        began = time.perf_counter()
        index.best(queries, starts, seen)
        return time.perf_counter() - began

    seconds = min(once() for _ in range(_TRIES))
    return {"seconds": seconds, "peak_mib": _peak_mib(), "products": index.products}


def bare_products(users: int) -> dict[str, Any]:
    """Each user's inner product with each item, and nothing done with it."""
    queries, vectors = _vectors(users)
    shape = min(_SHAPES, key=lambda shape: _products(queries[:10_000], vectors, shape))
    seconds = min(_products(queries, vectors, shape) for _ in range(_TRIES))
    return {"seconds": seconds, "shape": list(shape)}


def against_brute_force() -> dict[str, Any]:
    """Lists that are the same, items and scores, as by sorting all products in float64."""
    from overnight.engines.inner_product import ItemIndex

    rng = np.random.default_rng(2)
    queries = rng.standard_normal((2_000, FACTORS), dtype=np.float32)
    vectors = rng.standard_normal((5_000, FACTORS), dtype=np.float32)
    seen = np.concatenate([rng.choice(5_000, SEEN, replace=False) for _ in queries])
    index = ItemIndex(vectors, k=K, threads=2, device="cpu")
    items, scores = index.best(queries, np.arange(2_001) * SEEN, seen)
    all_scores = (queries.astype(float) @ vectors.astype(float).T).astype(np.float32)
    all_scores[np.repeat(np.arange(2_000), SEEN), seen] = -np.inf
    best = np.argsort(-all_scores, axis=1, kind="stable")[:, :K]
    same = (items == best) & (scores == np.take_along_axis(all_scores, best, axis=1))
    return {"lists": len(items), "equal": int(same.all(axis=1).sum())}


def quality() -> dict[str, Any]:
    """The demo shop's model, trained on four weeks and judged by a fifth."""
    from assets.demo.visits import land_visits
    from assets.recommender_model import recommender_model
    from overnight.registry import Registry
    from overnight.store import StoreConfig
    from overnight.training import train_model

    last = dt.date(2026, 11, 22)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "store").mkdir()
        store = StoreConfig((place / "store").as_uri())
        for ago in range(35):
            land_visits(store.open(), last - dt.timedelta(days=ago))
        report = train_model(
            recommender_model,
            last.isoformat(),
            store=store,
            registry=Registry(store, place / "models"),
            scratch=place / "scratch",
        )
    return dict(report.metrics)


def _vectors(users: int) -> tuple[Matrix, Matrix]:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((ITEMS, FACTORS), dtype=np.float32)
    return rng.standard_normal((users, FACTORS), dtype=np.float32), vectors


def _products(queries: Matrix, vectors: Matrix, shape: tuple[int, int]) -> float:
    rows, columns = shape
    block = np.empty((rows, columns), np.float32)
    began = time.perf_counter()
    for first in range(0, len(queries), rows):
        some = queries[first : first + rows]
        for start in range(0, len(vectors), columns):
            others = vectors[start : start + columns]
            np.matmul(some, others.T, out=block[: len(some), : len(others)])
    return time.perf_counter() - began


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
