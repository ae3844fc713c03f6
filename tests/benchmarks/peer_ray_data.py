"""The peer: Ray Data LLM (`ray.data.llm`), which infers a dataset of prompts with vLLM on Ray.

It gets the sizes, the numerics and the machine that we get, only the stage that it needs, and
the batch size that suits it best.
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


def tuned(case: Case) -> int:
    """The batch size with which it takes the least time for this case, its start left out."""
    from tests.benchmarks.bench_partition import prompts

    day = dt.date(2026, 11, 18)
    seconds = {rows: infer(case, prompts(day, case.rows), rows)["seconds"] for rows in BATCH_ROWS}
    best = min(seconds, key=lambda rows: seconds[rows])
    print(f"  Ray Data LLM is quickest with batches of {best} rows", file=sys.stderr, flush=True)
    return best


def infer(case: Case, prompts: list[str], batch_rows: int) -> dict[str, Any]:
    """Infer prompts in a process of its own."""
    return fresh("peer_ray_data:run", case=asdict(case), prompts=prompts, batch_rows=batch_rows)


def run(case: dict[str, Any], prompts: list[str], batch_rows: int) -> dict[str, Any]:
    """From the first import to the last result; seconds and tokens."""
    sizes = Case(**case)
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(sizes.kv_cache_gib)
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
