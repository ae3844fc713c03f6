"""XGBoost as an engine: its own numbers come out, and a model that is not whole never starts."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
import xgboost

from overnight.engines.base import EngineSpec
from overnight.engines.shallow_trees import ShallowTrees
from overnight.engines.sizes import BatchSizes
from overnight.engines.xgboost import MODEL_FILE, Device, XgboostScore
from overnight.errors import ConfigError, EngineDied, ModelError
from overnight.model import ResolvedModel

if TYPE_CHECKING:
    from pathlib import Path

FEATURES = ("amount", "night", "count")


@dataclass(frozen=True, slots=True)
class Directory:
    """A model that is where it is."""

    path: Path

    def resolve(self) -> ResolvedModel:
        return ResolvedModel(path=self.path, digest="sha256:0", uri=str(self.path))


@pytest.fixture(scope="module")
def booster() -> xgboost.Booster:
    rng = np.random.default_rng(0)
    rows = rng.random((2000, len(FEATURES)), dtype=np.float32)
    labels = rows[:, 0] + rows[:, 1] > 1.2
    data = xgboost.DMatrix(rows, labels, feature_names=list(FEATURES))
    return xgboost.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 20)


@pytest.fixture
def spec(booster: xgboost.Booster, tmp_path: Path) -> XgboostScore:
    (tmp_path / MODEL_FILE).write_bytes(booster.save_raw("json"))
    return XgboostScore(
        model=Directory(tmp_path),  # type: ignore[arg-type]
        features=FEATURES,
        sizes=BatchSizes(batch_rows=64, window_rows=256),
    )


def requests(rows: list[list[float] | None]) -> pa.Table:
    return pa.table(
        {
            "row": pa.array(range(len(rows)), pa.int64()),
            "request": pa.array(rows, pa.list_(pa.float32())),
        }
    )


def test_scores_and_contributions_are_xgboosts_own(
    spec: XgboostScore, booster: xgboost.Booster
) -> None:
    rows = np.random.default_rng(1).random((150, len(FEATURES)), dtype=np.float32)
    rows[3, 1] = np.nan  # missing, which is a value that a tree can tell
    engine = spec.start()
    engine.submit(requests(rows.tolist()))
    assert engine.in_flight == 150
    done = pa.concat_tables([engine.step() for _ in range(3)])
    assert engine.in_flight == 0
    assert done.schema.names == ["row", "failure", *spec.result_schema.names]
    assert done.schema.field("score").type == spec.result_schema.field("score").type
    assert done["row"].to_pylist() == list(range(150))
    assert done["failure"].null_count == 150
    assert set(done["model_version"].to_pylist()) == {"0"}
    data = xgboost.DMatrix(rows, feature_names=list(FEATURES))
    assert np.array_equal(done["score"].to_numpy(), booster.predict(data))
    ours = np.array(done["contributions"].to_pylist(), np.float32)
    theirs = booster.predict(data, pred_contribs=True)
    assert np.array_equal(ours, theirs[:, :-1])
    margins = booster.predict(data, output_margin=True)
    assert np.allclose(ours.sum(axis=1) + theirs[:, -1], margins, atol=1e-4)


def test_a_row_that_cannot_be_scored_says_why_and_spoils_no_other(spec: XgboostScore) -> None:
    good = [0.9, 0.9, 0.1]
    rows = [good, None, [0.1], [0.1, float("inf"), 0.2], good, [float("-inf")] * 4]
    engine = spec.start()
    engine.submit(requests(rows))
    done = engine.step()
    assert done["failure"].to_pylist() == [
        None,
        "null_request: the request is null",
        "wrong_features: 1 numbers, the model takes 3",
        "infinite: night is not a finite number",
        None,
        "wrong_features: 4 numbers, the model takes 3",
    ]
    scores = done["score"].to_pylist()
    assert scores[0] == scores[4] > 0.5
    assert scores[1:4] == [None] * 3
    assert done["contributions"].is_null().to_pylist() == [False, True, True, True, False, True]


def test_a_batch_of_nothing_but_bad_rows_is_handed_back(spec: XgboostScore) -> None:
    engine = spec.start()
    engine.submit(requests([None, [1.0]]))
    assert engine.step()["score"].to_pylist() == [None, None]


def test_lists_of_other_numbers_are_taken(spec: XgboostScore) -> None:
    engine = spec.start()
    large = pa.array([[0, 1, 0], spec.probe], pa.large_list(pa.float64()))
    engine.submit(pa.table({"row": pa.array([5, 6], pa.int64()), "request": large}))
    assert engine.step()["failure"].null_count == 2


def test_an_aborted_row_never_comes_back(spec: XgboostScore) -> None:
    engine = spec.start()
    engine.submit(requests([spec.probe] * 3))
    engine.abort([1])
    assert engine.step()["row"].to_pylist() == [0, 2]


@pytest.mark.filterwarnings("ignore:.*[Dd]evice.*CPU:UserWarning")
@pytest.mark.parametrize("device", ["auto", "cuda", "cpu"])
def test_without_a_gpu_numbers_are_looked_up_whatever_is_wanted(
    spec: XgboostScore, device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = replace(spec, device=device).start()
    engine.submit(requests([spec.probe]))
    monkeypatch.setattr(ShallowTrees, "of", _no_memory)
    with pytest.raises(EngineDied, match="memory"):
        engine.step()


def test_when_xgboost_fails_the_batch_is_under_suspicion(
    spec: XgboostScore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = spec.start()
    engine.submit(requests([spec.probe] * 70))
    engine.step()
    # The one thing that a loaded model can still trip over here: memory.
    monkeypatch.setattr(ShallowTrees, "of", _no_memory)
    with pytest.raises(EngineDied, match="memory"):
        engine.step()
    assert engine.suspects() == list(range(64, 70))


def _no_memory(*_: object, **__: object) -> None:
    raise MemoryError("out of memory")


def test_a_deep_model_has_xgboosts_contributions_too(spec: XgboostScore) -> None:
    rng = np.random.default_rng(0)
    rows = rng.random((2000, len(FEATURES)), dtype=np.float32)
    data = xgboost.DMatrix(rows, rows.prod(axis=1) > 0.1, feature_names=list(FEATURES))
    deep = xgboost.train({"objective": "binary:logistic", "max_depth": 9}, data, 20)
    (spec.model.resolve().path / MODEL_FILE).write_bytes(deep.save_raw("json"))
    engine = spec.start()
    engine.submit(requests(rows[:64].tolist()))
    ours = np.array(engine.step()["contributions"].to_pylist(), np.float32)
    assert np.array_equal(ours, deep.predict(data, pred_contribs=True)[:64, :-1])


def test_it_uses_the_threads_that_it_has_where_the_environment_says_one(spec: XgboostScore) -> None:
    script = """
import pickle, sys, threadpoolctl
pickle.load(sys.stdin.buffer).start()
print({at["num_threads"] for at in threadpoolctl.threadpool_info() if at["user_api"] == "openmp"})
"""
    wide = replace(spec, sizes=replace(spec.sizes, threads=3))
    told = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(wide),
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=True,
    )
    assert told.stdout.decode().strip() == "{3}"


@pytest.mark.parametrize("seed", range(12))
def test_a_truncated_model_is_refused_at_the_start(spec: XgboostScore, seed: int) -> None:
    file = spec.model.resolve().path / MODEL_FILE
    whole = file.read_bytes()
    length = [0, 1, len(whole) - 1][seed] if seed < 3 else random.Random(seed).randrange(len(whole))
    file.write_bytes(whole[:length])
    with pytest.raises(
        ModelError, match=rf"{MODEL_FILE}: {length} bytes that are no XGBoost model"
    ):
        spec.start()


def test_a_missing_model_is_refused_at_the_start(spec: XgboostScore) -> None:
    (spec.model.resolve().path / MODEL_FILE).unlink()
    with pytest.raises(ModelError, match=r"model\.json: cannot be read \(No such file"):
        spec.start()


def test_a_model_of_another_feature_set_is_refused_at_the_start(spec: XgboostScore) -> None:
    with pytest.raises(
        ModelError, match=r"only the model has \['count'\], only the job has \['x'\]"
    ):
        replace(spec, features=("amount", "night", "x")).start()
    with pytest.raises(ModelError, match="in another order"):
        replace(spec, features=("night", "amount", "count")).start()


def test_the_spec_travels_and_validates(spec: XgboostScore) -> None:
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert isinstance(spec, EngineSpec)
    assert spec.identity()["features"] == list(FEATURES)
    with pytest.raises(ConfigError, match="each once"):
        replace(spec, features=("a", "a"))
    with pytest.raises(ConfigError, match="'tpu' must be one of auto, cuda, cpu"):
        replace(spec, device="tpu")  # type: ignore[arg-type]
