"""The declaration of a vLLM engine; nothing here starts one."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from overnight.engines.base import EngineSpec
from overnight.engines.vllm import VllmGenerate, VllmSizes
from overnight.errors import ConfigError, ModelError
from overnight.model import ModelRef

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def model(tmp_path: Path) -> ModelRef:
    (tmp_path / "config.json").write_text("{}")
    return ModelRef(str(tmp_path))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens=0"),
        ({"temperature": -0.5}, "temperature=-0.5"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_tokens": 200}, "min_tokens=200"),
        ({"dtype": "float64"}, "dtype='float64'"),
        ({"max_model_len": 1}, "max_model_len=1"),
        ({"stop": "END"}, "stop='END'"),
        ({"speculative_tokens": -1}, "speculative_tokens=-1"),
        (
            {"speculative_tokens": 4, "temperature": 0.5},
            "speculative_tokens=4 is not allowed; it must be 0 where temperature is above 0",
        ),
        ({"structured": {"xml": "x"}}, "structured="),
    ],
)
def test_a_wrong_parameter_is_refused_with_its_value(
    wrong: dict[str, Any], message: str, model: ModelRef
) -> None:
    with pytest.raises(ConfigError, match=message):
        VllmGenerate(model=model, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_num_seqs": 0},
        {"max_num_seqs": 512, "max_num_batched_tokens": 256},
        {"gpu_memory_utilization": 0.0},
        {"threads": 0},
    ],
)
def test_a_wrong_size_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="not allowed"):
        VllmSizes(**wrong)


def test_a_spec_travels(model: ModelRef) -> None:
    spec = VllmGenerate(model=model, stop=("\n",), structured={"regex": "[a-z]+"})
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert isinstance(spec, EngineSpec)


def test_sizes_and_guesses_do_not_change_the_identity_and_parameters_do(
    model: ModelRef,
) -> None:
    spec = VllmGenerate(model=model)
    faster = VllmGenerate(model=model, sizes=VllmSizes(max_num_seqs=8, enforce_eager=True))
    guessing = VllmGenerate(model=model, speculative_tokens=4)
    longer = VllmGenerate(model=model, max_tokens=7)
    assert spec.identity() == faster.identity() == guessing.identity()
    assert spec.identity() != longer.identity()


def test_what_greedy_decoding_ignores_is_not_part_of_the_identity(model: ModelRef) -> None:
    greedy = VllmGenerate(model=model, seed=1, top_p=0.5)
    assert greedy.identity() == VllmGenerate(model=model).identity()
    warm = VllmGenerate(model=model, temperature=1.0)
    assert warm.identity() != VllmGenerate(model=model, temperature=1.0, seed=1).identity()


def test_a_missing_model_is_known_before_anything_starts() -> None:
    spec = VllmGenerate(model=ModelRef("/no/such/model"))
    with pytest.raises(ModelError, match="/no/such/model"):
        spec.identity()


def test_declaring_imports_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, overnight.engines.vllm, overnight.model, overnight.workers.loop;"
        "sys.exit(bool({'vllm', 'torch', 'ray', 'transformers'} & set(sys.modules)))"
    )
    environment = {"PYTHONPATH": ":".join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
