"""The peer: Ray Data LLM (`ray.data.llm`), which infers a dataset of prompts with vLLM on Ray.

It gets the sizes, the numerics and the machine that we get, only the stage that it needs, the
batch size that suits it best, and guesses tokens ahead as we do if it is quicker that way.
"""

from __future__ import annotations

import datetime as dt
import os
import sys
import time
from dataclasses import asdict
from typing import Any

from tests.benchmarks.harness import Case, fresh

# With eight batches at once, 64 rows to a batch keep 512 rows in the engine, as we do.
BATCH_ROWS = (64, 128, 256)
_WARM_UP = "Hello"


def tuned(case: Case) -> dict[str, int]:
    """With what it takes the least time for this case, its start included: arguments of `run`."""
    from tests.benchmarks.bench_partition import prompts

    questions = prompts(dt.date(2026, 11, 18), case.rows)

    def seconds(batch_rows: int, speculative_tokens: int) -> float:
        sizes = {"batch_rows": batch_rows, "speculative_tokens": speculative_tokens}
        return float(infer(case, questions, sizes)["seconds"])

    plain = {rows: seconds(rows, 0) for rows in BATCH_ROWS}
    rows = min(plain, key=lambda rows: plain[rows])
    ahead = case.speculative_tokens
    if ahead and seconds(rows, ahead) > plain[rows]:
        ahead = 0
    print(
        f"  Ray Data LLM is quickest with batches of {rows} rows and {ahead} tokens guessed ahead",
        file=sys.stderr,
        flush=True,
    )
    return {"batch_rows": rows, "speculative_tokens": ahead}


def infer(case: Case, prompts: list[str], sizes: dict[str, int]) -> dict[str, Any]:
    """Infer prompts in a process of its own; `sizes` as `tuned` found them."""
    return fresh("peer_ray_data:run", case=asdict(case), prompts=prompts, **sizes)


def run(
    case: dict[str, Any], prompts: list[str], batch_rows: int, speculative_tokens: int
) -> dict[str, Any]:
    """From the first import to the last result; seconds and tokens."""
    from overnight.engines.vllm_generate import speculation

    sizes = Case(**case)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(sizes.kv_cache_gib)
    # vLLM gives it one core for the arithmetic; so does whoever looks tokens up.
    os.environ["NUMBA_NUM_THREADS"] = "1"
    began = time.perf_counter()
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    # Whatever Ray was up before, even one that died: this is a run of its own.
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    processor = build_processor(
        vLLMEngineProcessorConfig(
            model_source=sizes.model,
            engine_kwargs={
                "dtype": "float32",
                "max_model_len": sizes.max_model_len,
                "max_num_seqs": sizes.max_num_seqs,
                "max_num_batched_tokens": sizes.max_num_batched_tokens,
                "enforce_eager": True,
                "speculative_config": speculation(speculative_tokens),
                # The only one that vLLM allows on CPU.
                "distributed_executor_backend": "mp",
            },
            placement_group_config={"bundles": [{"CPU": 1}]},
            concurrency=1,
            batch_size=batch_rows,
            log_engine_metrics=False,
            # The prompts are finished, and vLLM tokenizes and detokenizes itself.
            chat_template_stage={"enabled": False},
            tokenize_stage={"enabled": False},
            detokenize_stage={"enabled": False},
            prepare_multimodal_stage={"enabled": False},
        ),
        preprocess=lambda row: {
            "prompt": row["prompt"],
            "sampling_params": {"temperature": 0.0, "max_tokens": sizes.max_tokens},
        },
        postprocess=lambda row: {
            "text": row["generated_text"],
            "tokens": row["num_generated_tokens"],
        },
    )
    results = processor(ray.data.from_items([{"prompt": prompt} for prompt in prompts])).take_all()
    seconds = time.perf_counter() - began
    if len(results) != len(prompts):
        raise RuntimeError(f"{len(results)} results for {len(prompts)} prompts")
    return {"seconds": seconds, "output_tokens": int(sum(row["tokens"] for row in results))}
