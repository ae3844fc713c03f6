"""Real vLLM on CPU with the demo's embedding model; one engine for the module."""

from __future__ import annotations

import dataclasses
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from assets.models import minilm
from overnight.engines.vllm import VllmSizes
from overnight.engines.vllm_embed import VllmEmbed
from overnight.errors import ConfigError, ModelError
from overnight.model import ModelRef

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.engines.base import Engine

pytestmark = [
    # vLLM and torch warn about themselves while they are imported.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(180),
]

SPEC = VllmEmbed(
    model=minilm.reference(),
    dimensions=minilm.DIMENSIONS,
    dtype="float32",
    sizes=VllmSizes(max_num_seqs=8, max_num_batched_tokens=512, kv_cache_gib=1),
)
CONTEXT = 256


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = SPEC.start()
    yield made
    made.close()


def finish(engine: Engine, texts: list[Any]) -> dict[int, dict[str, Any]]:
    """Submit the texts and step until all are back."""
    rows = pa.array(range(len(texts)), pa.int64())
    engine.submit(pa.table({"row": rows, "request": pa.array(texts)}))
    back: list[dict[str, Any]] = []
    while engine.in_flight:
        back += engine.step().to_pylist()
    assert len({row["row"] for row in back}) == len(back)
    return {row["row"]: row for row in back}


def test_every_row_comes_back_once_with_a_vector_of_length_one(engine: Engine) -> None:
    back = finish(engine, [f"{'a lamp of brass ' * (i % 12)} number {i}" for i in range(40)])
    assert sorted(back) == list(range(40))
    for row in back.values():
        assert row["failure"] is None
        assert len(row["embedding"]) == minilm.DIMENSIONS
        assert np.linalg.norm(row["embedding"]) == pytest.approx(1, abs=1e-5)
        assert row["prompt_tokens"] > 2
        assert row["latency_s"] > 0


def test_texts_that_mean_the_same_are_nearer_than_others(engine: Engine) -> None:
    back = finish(engine, ["How do I return a lamp?", "Sending lamps back", "Bees make honey."])
    question, same, other = (np.array(back[i]["embedding"]) for i in range(3))
    assert question @ same > question @ other + 0.2


def test_a_vector_does_not_depend_on_what_it_is_computed_with(engine: Engine) -> None:
    alone = finish(engine, ["A tray carries cups."])[0]["embedding"]
    among = finish(engine, ["A tray carries cups.", *(f"filler {i} " * i for i in range(1, 30))])
    assert np.dot(alone, among[0]["embedding"]) == pytest.approx(1, abs=1e-5)


def test_a_row_that_cannot_be_embedded_comes_back_with_its_reason(engine: Engine) -> None:
    fits, too_long = "tea " * (CONTEXT - 2), "tea " * (CONTEXT - 1)
    back = finish(engine, [None, " \n", too_long, fits])
    assert back[0]["failure"] == "null_request: the request is null"
    assert back[1]["failure"].startswith("empty_request:")
    assert back[2]["failure"].startswith(f"too_long: {CONTEXT + 1} prompt tokens")
    assert all(back[i]["embedding"] is None for i in range(3))
    assert back[3]["failure"] is None
    assert back[3]["prompt_tokens"] == CONTEXT


def test_an_aborted_row_never_comes_back(engine: Any) -> None:
    rows = pa.array([5, 6], pa.int64())
    engine.submit(pa.table({"row": rows, "request": ["first", "second"]}))
    engine.abort([5])
    back: list[int] = []
    while engine.in_flight:
        back += engine.step()["row"].to_pylist()
    assert back == [6]
    assert engine._submitted == {}, "nothing is kept of rows that are gone"


def test_another_way_of_pooling_is_another_identity(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(SPEC.model.uri, model)
    spec = dataclasses.replace(SPEC, model=ModelRef(str(model)))
    before = spec.identity()
    assert before == SPEC.identity(), "it does not matter where the model is"
    pooling = model / "1_Pooling" / "config.json"
    pooling.write_text(pooling.read_text().replace("true", "false"))
    assert spec.identity() != before
    pooling.write_text("{")
    with pytest.raises(ModelError, match="1_Pooling"):
        spec.identity()


@pytest.mark.parametrize(
    "setting", [{"dimensions": 0}, {"dtype": "int8"}, {"max_model_len": 0}], ids=str
)
def test_settings_that_cannot_work_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        dataclasses.replace(SPEC, **setting)
