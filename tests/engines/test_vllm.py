"""Real vLLM on CPU with a tiny random model. Loading takes most of the time: engines are shared."""

from __future__ import annotations

import gc
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from overnight.engines.vllm import VllmGenerate, VllmSizes
from overnight.errors import EngineDied
from overnight.journal import Journal
from overnight.model import ModelRef
from overnight.store import StoreConfig
from overnight.workers.loop import WorkerLoop
from tests.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.engines.base import Engine

pytestmark = [
    # vLLM and torch warn about themselves while they are imported.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(180),
]

CONTEXT = 256
SEQUENCES = 8
PROMPTS = [f"Row {i} of the night: {'abcdefgh'[i % 8] * (i % 30)}" for i in range(24)]


@pytest.fixture(scope="module", autouse=True)
def collected() -> Iterator[None]:
    """What vLLM leaves unclosed when it is killed warns here, where that is expected."""
    yield
    gc.collect()


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> VllmGenerate:
    model = make_tiny_model(tmp_path_factory.mktemp("model"), context=CONTEXT)
    return VllmGenerate(
        model=ModelRef(str(model)).pinned(),
        dtype="float32",
        max_tokens=48,
        sizes=VllmSizes(max_num_seqs=SEQUENCES, max_num_batched_tokens=512, kv_cache_gib=1),
    )


@pytest.fixture(scope="module")
def engine(spec: VllmGenerate) -> Iterator[Engine]:
    made = spec.start()
    yield made
    made.close()
    made.close()


def finish(engine: Engine, texts: list[Any]) -> list[dict[str, Any]]:
    """Submit the texts and step until all are back; in the order in which they came."""
    rows = pa.array(range(len(texts)), pa.int64())
    engine.submit(pa.table({"row": rows, "request": pa.array(texts)}))
    back: list[dict[str, Any]] = []
    while engine.in_flight:
        back.extend(engine.step().to_pylist())
    return back


def test_every_row_comes_back_once_with_text_counts_and_times(
    engine: Engine, spec: VllmGenerate
) -> None:
    back = finish(engine, PROMPTS)
    assert sorted(row["row"] for row in back) == list(range(len(PROMPTS)))
    for row in back:
        assert row["failure"] is None
        assert row["prompt_tokens"] == len(PROMPTS[row["row"]].encode())
        assert 1 <= row["output_tokens"] <= spec.max_tokens
        assert row["finish_reason"] in {"stop", "length"}
        assert row["queue_s"] >= 0
        assert 0 < row["ttft_s"] <= row["latency_s"]


def test_a_short_row_is_back_before_a_long_one_that_came_first(engine: Engine) -> None:
    nearly_full = "x" * (CONTEXT - 3)
    back = finish(engine, ["a long answer", nearly_full])
    assert [row["row"] for row in back] == [1, 0]
    assert back[0]["output_tokens"] == 3
    assert back[0]["finish_reason"] == "length"


def test_a_row_that_cannot_be_inferred_comes_back_with_its_reason(engine: Engine) -> None:
    back = finish(engine, [None, "", " \n", "y" * CONTEXT, "z" * (CONTEXT - 1)])
    reasons = {row["row"]: row["failure"] for row in back}
    assert reasons[0] == "null_request: the request is null"
    assert reasons[1].startswith("empty_request:")
    assert reasons[2].startswith("empty_request:")
    assert reasons[3].startswith(f"too_long: {CONTEXT} prompt tokens, the model takes {CONTEXT}")
    assert reasons[4] is None
    assert all(row["text"] is None for row in back if row["failure"])


def test_requests_that_are_not_text_are_failures_of_their_rows(engine: Engine) -> None:
    assert [row["failure"] for row in finish(engine, [7])] == [
        "not_text: the request is a int, not text"
    ]


def test_the_sizes_are_those_that_were_set(engine: Any) -> None:
    scheduler = engine._llm.vllm_config.scheduler_config
    assert scheduler.max_num_seqs == SEQUENCES
    assert scheduler.max_num_batched_tokens == 512
    assert engine.capacity >= 2 * SEQUENCES


def test_gauges_say_how_full_the_batch_and_the_cache_are(engine: Engine) -> None:
    rows = pa.array(range(2 * SEQUENCES), pa.int64())
    engine.submit(pa.table({"row": rows, "request": [f"question {n}" for n in rows.to_pylist()]}))
    seen = []
    while engine.in_flight:
        engine.step()
        seen.append(engine.stats())
    assert max(gauges["running"] for gauges in seen) == SEQUENCES
    assert max(gauges["batch_occupancy"] for gauges in seen) == 1.0
    assert max(gauges["waiting"] for gauges in seen) > 0
    assert all(0 <= gauges["kv_cache_usage"] <= 1 for gauges in seen)
    assert any(gauges["kv_cache_usage"] > 0 for gauges in seen)


def test_an_aborted_row_never_comes_back(engine: Any) -> None:
    rows = pa.array([5, 6], pa.int64())
    engine.submit(pa.table({"row": rows, "request": ["first", "second"]}))
    engine.abort([5])
    back: list[int] = []
    while engine.in_flight:
        back.extend(engine.step()["row"].to_pylist())
    assert back == [6]


def test_greedy_text_is_that_of_llm_generate(
    engine: Engine, spec: VllmGenerate, tmp_path: Path
) -> None:
    script = textwrap.dedent(
        f"""
        import json, os, sys
        os.environ |= {{"VLLM_CPU_KVCACHE_SPACE": "1", "OMP_NUM_THREADS": "1",
                        "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}}
        from vllm import LLM, SamplingParams
        llm = LLM({spec.model.uri!r}, dtype="float32", max_num_seqs={SEQUENCES},
                  max_num_batched_tokens=512, enforce_eager=True)
        outputs = llm.generate({PROMPTS!r}, SamplingParams(temperature=0, max_tokens=48))
        with open(sys.argv[1], "w") as file:
            json.dump([o.outputs[0].text for o in outputs], file)
        """
    )
    answer = tmp_path / "texts.json"
    subprocess.run([sys.executable, "-c", script, str(answer)], check=True)
    import json

    back = {row["row"]: row["text"] for row in finish(engine, PROMPTS)}
    assert [back[i] for i in range(len(PROMPTS))] == json.loads(answer.read_text())


def test_a_killed_process_costs_no_row_and_doubles_none(spec: VllmGenerate, tmp_path: Path) -> None:
    journal = Journal(StoreConfig(url=tmp_path.as_uri()).open(), "job", "f0", "2026-01-05")
    before = set(multiprocessing.active_children())
    loop = WorkerLoop(spec)
    try:
        with journal.writer(attempt=1, worker="w1") as writer:
            first = loop.run("s0", _split(0, 4), writer, _BY)
            rest = loop.run("s1", _split(4, 400), writer, _BY)
            assert first.result(120) == 4
            (core,) = set(multiprocessing.active_children()) - before
            assert not rest.done()
            os.kill(core.pid or 0, signal.SIGKILL)
            assert rest.result(120) == 396
    finally:
        loop.close()
    keys = [key for table in journal.tables() for key in table["key"].to_pylist()]
    assert sorted(keys) == sorted(f"k{i}" for i in range(400))
    assert not any(f for table in journal.tables() for f in table["failure"].to_pylist())
    assert len(keys) == loop.progress().rows
    assert loop.progress().engine_deaths == 1
    assert loop.progress().engine_starts == 2
    assert not core.is_alive()
    assert set(multiprocessing.active_children()) <= before


def test_the_engine_dies_with_a_worker_that_is_killed_without_notice(spec: VllmGenerate) -> None:
    script = textwrap.dedent(
        f"""
        import multiprocessing
        from overnight.engines.vllm import VllmGenerate, VllmSizes
        from overnight.model import ModelRef
        sizes = VllmSizes(max_num_seqs=2, max_num_batched_tokens=512, kv_cache_gib=1)
        engine = VllmGenerate(model=ModelRef({spec.model.uri!r}), sizes=sizes).start()
        print("core", multiprocessing.active_children()[0].pid, flush=True)
        input()
        """
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    ) as worker:
        assert worker.stdout is not None
        core = next(int(line.split()[1]) for line in worker.stdout if line.startswith("core "))
        ended = os.pidfd_open(core)
        worker.kill()
        assert select.select([ended], [], [], 30)[0] == [ended]
        os.close(ended)


def test_a_process_that_does_not_answer_is_ended_all_the_same(
    engine: Any, spec: VllmGenerate
) -> None:
    """Last in this module: it costs the shared engine its life."""
    (core,) = multiprocessing.active_children()
    rows = pa.array(range(SEQUENCES + 4), pa.int64())
    engine.submit(pa.table({"row": rows, "request": ["never answered"] * len(rows)}))
    os.kill(core.pid or 0, signal.SIGSTOP)
    engine.close()
    assert not core.is_alive()
    with pytest.raises(EngineDied, match="exit code -9"):
        _step_until_it_raises(engine)
    # Any of the first may have been finished, so that any of the last was being computed.
    assert engine.suspects() == rows.to_pylist()


def _step_until_it_raises(engine: Engine) -> None:
    while True:
        engine.step()


_BY: Any = {"run_id": "run-a", "attempt": 1, "machine": "m1"}


def _split(first: int, end: int) -> pa.Table:
    rows = range(first, end)
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "key": [f"k{i}" for i in rows],
            "input_hash": pa.array([i.to_bytes(16, "big") for i in rows], pa.binary(16)),
            "request": [f"Row {i}: {PROMPTS[i % len(PROMPTS)]}" for i in rows],
        }
    )


def test_fused_kernels_on_cpu_compute_what_they_replace() -> None:
    code = """
        import torch
        from vllm import ir
        from vllm.model_executor.layers.activation import SiluAndMul
        from vllm.platforms import current_platform

        current_platform.import_kernels()
        from overnight.engines import vllm_cpu

        torch.manual_seed(0)
        for dtype, allowed in ((torch.float32, 1e-5), (torch.bfloat16, 5e-2)):
            x, residual = torch.randn(2, 33, 192, dtype=dtype)
            weight = torch.randn(192, dtype=dtype)
            plain = ir.ops.rms_norm.impls["native"].impl_fn(x, weight, 1e-5)
            fused = ir.ops.rms_norm.impls["overnight_cpu"].impl_fn(x, weight, 1e-5)
            torch.testing.assert_close(fused, plain, rtol=allowed, atol=allowed)
            plain = ir.ops.fused_add_rms_norm.impls["native"].impl_fn(x, residual, weight, 1e-5)
            fused = ir.ops.fused_add_rms_norm.impls["overnight_cpu"].impl_fn(
                x.clone(), residual.clone(), weight, 1e-5
            )
            torch.testing.assert_close(fused, plain, rtol=allowed, atol=allowed)
            gated = vllm_cpu._FusedSiluAndMul.forward_cpu(None, x)
            torch.testing.assert_close(
                gated, SiluAndMul.forward_native(x), rtol=allowed, atol=allowed
            )
        print("the same")
    """
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
    )
    assert answer.stdout.strip().endswith("the same"), answer.stderr[-2000:]
