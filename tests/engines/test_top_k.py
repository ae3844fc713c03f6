"""Recommending from histories: the engine, its model's file, and what is no request."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from overnight.engines.base import EngineSpec
from overnight.engines.factors import FILE, FactorModel, FoldIn
from overnight.engines.recommend import Histories, Recommender
from overnight.engines.sizes import BatchSizes
from overnight.engines.top_k import TopK, TopKEngine
from overnight.errors import ConfigError, ModelError
from overnight.model import ResolvedModel

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

ITEMS, FACTORS = 60, 5


def model(items: int = ITEMS) -> FactorModel:
    rng = np.random.default_rng(0)
    return FactorModel(
        item_ids=np.arange(items, dtype=np.int64) * 10 + 7,
        factors=rng.normal(0, 0.3, (items, FACTORS)).astype(np.float32),
        popularity=(rng.permutation(items) / items).astype(np.float32),
        regularization=0.5,
        alpha=2.0,
    )


class Here:
    """A model in a directory, whatever it holds."""

    def __init__(self, path: Path) -> None:
        self.uri = str(path)
        self._path = path

    def resolve(self) -> ResolvedModel:
        return ResolvedModel(path=self._path, digest="sha256:" + "ab" * 32, uri=self.uri)


def spec(folder: Path, **changes: Any) -> TopK:
    reference: Any = Here(folder)
    return TopK(**{"model": reference, "k": 4, "device": "cpu", **changes})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / FILE).write_bytes(model().write())
    return tmp_path


@pytest.fixture
def engine(folder: Path) -> Iterator[TopKEngine]:
    started = spec(folder).start()
    yield started
    started.close()


def requests(*histories: Any) -> pa.Table:
    kind = pa.struct([("items", pa.list_(pa.int64())), ("weights", pa.list_(pa.float64()))])
    rows = pa.array(range(len(histories)), pa.int64())
    return pa.table({"row": rows, "request": pa.array(histories, kind)})


def history(**weights: float) -> dict[str, Any]:
    return {"items": [int(name[1:]) for name in weights], "weights": list(weights.values())}


def answers(engine: TopKEngine) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    while engine.in_flight:
        found |= {row["row"]: row for row in engine.step().to_pylist()}
    return dict(sorted(found.items()))


def solved(places: list[int], weights: list[float]) -> npt.NDArray[np.float64]:
    """Equation 4 of Hu, Koren and Volinsky, as it stands there."""
    known = model()
    y = known.factors.astype(np.float64)
    confidence = np.ones(len(y))
    confidence[places] = 1 + known.alpha * np.array(weights)
    preference = np.zeros(len(y))
    preference[places] = 1
    left = y.T @ (confidence[:, None] * y) + known.regularization * np.eye(FACTORS)
    solution: npt.NDArray[np.float64] = np.linalg.solve(left, y.T @ (confidence * preference))
    return solution


def test_the_best_unseen_items_by_the_vector_that_fits_the_history(engine: TopKEngine) -> None:
    engine.submit(requests(history(i7=1, i107=5, i207=2)))
    (answer,) = answers(engine).values()
    known = model()
    scores = known.factors @ solved([0, 10, 20], [1, 5, 2])
    scores[[0, 10, 20]] = -np.inf
    best = np.argsort(-scores)[:4]
    assert answer["items"] == known.item_ids[best].tolist()
    assert answer["scores"] == pytest.approx(scores[best], rel=1e-4)
    assert (answer["personal"], answer["failure"]) == (True, None)
    assert answer["model_version"] == "ab" * 8


@pytest.mark.parametrize("unknown", [history(), history(i8=3, i100000=1, i1=1)])
def test_who_is_unknown_gets_what_is_popular(engine: TopKEngine, unknown: dict[str, Any]) -> None:
    engine.submit(requests(unknown))
    (answer,) = answers(engine).values()
    known = model()
    best = np.argsort(-known.popularity)[:4]
    assert answer["items"] == known.item_ids[best].tolist()
    assert answer["scores"] == pytest.approx(known.popularity[best])
    assert answer["personal"] is False


def test_a_weight_of_zero_only_leaves_the_item_out(engine: TopKEngine) -> None:
    known = model()
    first = int(known.item_ids[np.argmax(known.popularity)])
    engine.submit(requests({"items": [first], "weights": [0.0]}, history(i7=1, i17=0)))
    alone, beside = answers(engine).values()
    assert alone["personal"] is False
    assert first not in alone["items"]
    assert len(alone["items"]) == 4
    scores = known.factors @ solved([0], [1])
    scores[[0, 1]] = -np.inf
    assert beside["items"] == known.item_ids[np.argsort(-scores)[:4]].tolist()


def test_a_row_does_not_depend_on_the_rows_beside_it(folder: Path) -> None:
    rng = np.random.default_rng(3)
    histories = []
    for _ in range(300):
        items = rng.choice(model().item_ids, rng.integers(0, 30), replace=False)
        histories.append({"items": items.tolist(), "weights": rng.random(len(items)).tolist()})
    together = spec(folder, sizes=BatchSizes(batch_rows=256, window_rows=512)).start()
    alone = spec(folder, sizes=BatchSizes(batch_rows=1, window_rows=1, threads=1)).start()
    together.submit(requests(*histories))
    alone.submit(requests(*histories))
    assert answers(together) == answers(alone)
    together.close()
    alone.close()


def test_who_has_seen_nearly_everything_gets_what_is_left(engine: TopKEngine) -> None:
    ids = model().item_ids.tolist()
    histories = [{"items": ids[left:], "weights": [1.0] * (ITEMS - left)} for left in (2, 0)]
    engine.submit(requests(*histories))
    some, none = answers(engine).values()
    assert sorted(some["items"]) == ids[:2]
    assert none["failure"] == "nothing_left: every item that the model knows is in the history"
    assert none["items"] is none["personal"] is none["model_version"] is None


def test_what_is_no_history_comes_back_with_its_reason(engine: TopKEngine) -> None:
    engine.submit(
        requests(
            None,
            history(i7=1),
            {"items": [7, 17], "weights": [1.0]},
            {"items": [7], "weights": [float("nan")]},
            {"items": [7, 17], "weights": [1.0, -2.0]},
            {"items": [None], "weights": [1.0]},
            {"items": [7], "weights": [None]},
            {"items": None, "weights": []},
        )
    )
    assert {row: answer["failure"] for row, answer in answers(engine).items()} == {
        0: "null_request: the request, its items or its weights are null",
        1: None,
        2: "bad_request: 2 items and 1 weights",
        3: "bad_request: a weight is nan, must be 0 or above",
        4: "bad_request: a weight is -2.0, must be 0 or above",
        5: "bad_request: an item is null",
        6: "bad_request: a weight is nan, must be 0 or above",
        7: "null_request: the request, its items or its weights are null",
    }


def test_the_probe_is_answered_and_an_aborted_row_is_forgotten(folder: Path) -> None:
    started = spec(folder)
    engine = started.start()
    engine.submit(pa.table({"row": pa.array([-1], pa.int64()), "request": [started.probe]}))
    engine.submit(requests(history(i7=1)))
    engine.abort([0])
    (answer,) = answers(engine).values()
    assert (answer["row"], answer["failure"], len(answer["items"])) == (-1, None, 4)
    assert engine.step().num_rows == 0
    assert engine.step().schema.names == ["row", "failure", *started.result_schema.names]
    engine.close()


def test_the_spec_travels_and_validates(folder: Path) -> None:
    made = spec(folder)
    assert isinstance(made, EngineSpec)
    assert pickle.loads(pickle.dumps(made)).k == 4
    assert made.identity() == {"kind": "implicit.top_k", "model": "sha256:" + "ab" * 32, "k": 4}
    for changes in ({"k": 0}, {"device": "tpu"}):
        with pytest.raises(ConfigError, match="top-k engine"):
            spec(folder, **changes)


def test_the_file_says_all_of_the_model(folder: Path) -> None:
    read = FactorModel.read(folder)
    assert read.write() == model().write()
    assert (read.regularization, read.alpha) == (0.5, 2.0)
    np.testing.assert_array_equal(read.factors, model().factors)
    np.testing.assert_array_equal(read.place(np.array([7, 8, 27, 10_000])), [0, -1, 2, -1])


def arrow(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table(columns)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


VECTORS = pa.array([[0.5, 1.0]], pa.list_(pa.float32(), 2))
SPOILED: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "0 bytes that are no whole Arrow file; was it cut off"),
    "truncated": (model().write()[:-300], "no whole Arrow file; was it cut off"),
    "something else": (b"{}" * 1000, "no whole Arrow file"),
    "other columns": (arrow(item=[1]), r"it has the columns \['item'\]"),
    "other types": (
        arrow(item_id=["a"], popularity=pa.array([1.0], pa.float32()), factors=VECTORS),
        "another shape than a factor model",
    ),
    "no parameters": (
        arrow(item_id=[1], popularity=pa.array([1.0], pa.float32()), factors=VECTORS),
        r"does not say its \['regularization', 'alpha'\]",
    ),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_file_that_is_no_model_is_told_and_named(tmp_path: Path, how: str) -> None:
    data, says = SPOILED[how]
    (tmp_path / FILE).write_bytes(data)
    with pytest.raises(ModelError, match=says) as caught:
        spec(tmp_path).start()
    assert str(tmp_path / FILE) in str(caught.value)


def test_a_missing_file_is_told_and_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"items\.arrow: cannot be read"):
        FactorModel.read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"factors": np.ones((3, 5), np.float32)}, "60 items, 3 vectors"),
        ({"popularity": np.ones(1, np.float32)}, r"popularity of shape \(1,\)"),
        ({"item_ids": np.zeros(ITEMS, np.int64)}, "not ascending"),
        ({"factors": np.full((ITEMS, 5), np.inf, np.float32)}, "no finite number"),
        ({"factors": np.ones((0, 5), np.float32), "item_ids": np.arange(0)}, "0 items"),
    ],
)
def test_a_model_of_another_shape_is_not_made(changes: dict[str, Any], says: str) -> None:
    known = model()
    parts = {name: getattr(known, name) for name in known.__dataclass_fields__}
    with pytest.raises(ModelError, match=says):
        FactorModel(**{**parts, **changes})


def test_folding_in_is_what_the_paper_says() -> None:
    vectors = FoldIn(model(), threads=1).vectors(
        np.array([0, 2, 2]), np.array([3, 9]), np.array([1, 4], np.float32)
    )
    np.testing.assert_allclose(vectors[0], solved([3, 9], [1, 4]), rtol=1e-4)
    assert not vectors[1].any()


def test_many_histories_agree_with_all_products_at_once() -> None:
    """2,000 histories of 50 among 5,000 items, folded in and searched."""
    rng = np.random.default_rng(5)
    known = FactorModel(
        item_ids=np.arange(5_000, dtype=np.int64),
        factors=rng.normal(0, 0.2, (5_000, 64)).astype(np.float32),
        popularity=np.ones(5_000, np.float32),
        regularization=1.0,
        alpha=1.0,
    )
    items = np.concatenate([rng.choice(5_000, 50, replace=False) for _ in range(2_000)])
    starts = np.arange(2_001) * 50
    weights = rng.integers(1, 6, len(items)).astype(np.float32)
    recommender = Recommender(known, k=20, threads=2, device="cpu")
    found = recommender.best(Histories(starts=starts, items=items, weights=weights))
    recommender.close()
    vectors = FoldIn(known, threads=2).vectors(starts, items, weights).astype(np.float64)
    scores = (vectors @ known.factors.T.astype(np.float64)).astype(np.float32)
    scores[np.repeat(np.arange(2_000), 50), items] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    np.testing.assert_array_equal(found.items, best)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, best, axis=1))
