"""A started vLLM: its process, its rows, and how it ends.

vLLM computes in a process of its own and hands each row back when it is finished. Tokenizing,
detokenizing and journaling overlap with the arithmetic that way, and a crash of the
arithmetic is an event here instead of the end of the worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from concurrent.futures import InvalidStateError
from multiprocessing import connection
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from overnight.engines.base import FAILURE, REQUEST, ROW
from overnight.engines.cores import usable_cores
from overnight.errors import EngineDied

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from multiprocessing.process import BaseProcess
    from pathlib import Path

    from overnight.engines.vllm import VllmSizes

log = logging.getLogger(__name__)

_GRACE_S = 3.0
_EXECUTOR = "overnight.engines.vllm_core.LeashedExecutor"


class VllmEngine:
    """What every task shares: loading, admitting, stepping, dying, closing.

    A task (`vllm_generate`, `vllm_pooling`) says what to ask vLLM for (`_add`) and what a
    finished row is (`_results`).
    """

    def __init__(
        self, model: Path, sizes: VllmSizes, result_schema: pa.Schema, **engine_args: Any
    ) -> None:
        self.capacity = 2 * sizes.max_num_seqs
        self._max_num_seqs = sizes.max_num_seqs
        self._schema = pa.schema([(ROW, pa.int64()), (FAILURE, pa.string()), *result_schema])
        self._running: dict[str, int] = {}
        self._late: list[Any] = []
        self._refused: list[tuple[int, str]] = []
        self._gauges = _Gauges()
        self._closed = threading.Lock()
        self._llm = _load(model, sizes, engine_args)
        self._llm.logger_manager = self._gauges
        self._processes: list[BaseProcess] = (
            self._llm.engine_core.resources.engine_manager.processes
        )
        config = self._llm.model_config
        self._max_model_len: int = config.max_model_len
        self._tokenizer = self._llm.get_tokenizer()
        threading.Thread(target=self._watch, name="overnight-core-watch", daemon=True).start()

    @property
    def in_flight(self) -> int:
        """Rows submitted and not handed back yet, refused ones included."""
        return len(self._running) + len(self._refused)

    def submit(self, requests: pa.Table) -> None:
        """Tokenize and hand to vLLM; rows that it cannot take come back from `step`.

        Raises:
            EngineDied: if the engine is gone.
        """
        rows = requests[ROW].to_pylist()
        texts = requests[REQUEST].to_pylist()
        good = []
        for row, text in zip(rows, texts, strict=True):
            reason = _unusable(text)
            if reason is None:
                good.append((row, text))
            else:
                self._refused.append((row, reason))
        with self._dying():
            for (row, _), tokens in zip(good, self._tokenize([t for _, t in good]), strict=True):
                self._admit(row, tokens)

    def step(self) -> pa.Table:
        """Wait for the engine's next step and hand back the rows that finished in it.

        Raises:
            EngineDied: if the engine is gone; `suspects` says which rows it was computing.
        """
        refused, self._refused = self._refused, []
        finished, self._late = self._late, []
        if self._running and not refused and not finished:
            finished = self._computed()
        rows = [self._running.pop(output.request_id) for output in finished]
        columns = self._results(finished) if finished else {}
        columns[ROW] = [*rows, *(row for row, _ in refused)]
        failures = columns.pop(FAILURE, [None] * len(rows))
        columns[FAILURE] = [*failures, *(reason for _, reason in refused)]
        blank = [None] * len(refused)
        arrays = [
            pa.array(
                columns[f.name] if f.name in (ROW, FAILURE) else [*columns.get(f.name, ()), *blank],
                f.type,
            )
            for f in self._schema
        ]
        return pa.Table.from_arrays(arrays, schema=self._schema)

    def suspects(self) -> list[int]:
        """All rows in flight.

        vLLM admits first come, first served, but which of them it was computing nobody knows:
        that older ones were finished may be in what it had no time to say.
        """
        return list(self._running.values())

    def abort(self, rows: Sequence[int]) -> None:
        """Forget rows; nothing comes back for them."""
        gone = set(rows)
        ids = [request for request, row in self._running.items() if row in gone]
        self._refused = [(row, reason) for row, reason in self._refused if row not in gone]
        self._late = [output for output in self._late if output.request_id not in ids]
        for request in ids:
            del self._running[request]
        with contextlib.suppress(Exception):  # a dead engine has forgotten already
            self._llm.abort_request(ids)

    def stats(self) -> Mapping[str, float]:
        """Rows running and waiting, and shares.

        `kv_cache_usage`, `batch_occupancy`, and after a step that checked tokens guessed ahead
        `draft_acceptance`: how many of them were right.
        """
        values = self._gauges.values
        if not values:
            return values
        return {**values, "batch_occupancy": values["running"] / self._max_num_seqs}

    def close(self) -> None:
        """End the engine's process, wait until it has ended, and free what it held.

        Works from any thread, also while another one is blocked in `step`, and also when the
        process does not answer.
        """
        with self._closed:
            with contextlib.suppress(Exception):
                self._llm.engine_core.shutdown(timeout=_GRACE_S)
            for process in self._processes:
                process.join(_GRACE_S)
                if process.is_alive():
                    process.kill()
                    process.join()
            core = self._llm.engine_core
            # vLLM leaves its sockets' context, and with it two threads, to the collector.
            core.output_queue_thread.join(_GRACE_S)
            with contextlib.suppress(Exception):
                core.ctx.destroy(linger=0)
            with contextlib.suppress(Exception):
                self._llm.renderer.shutdown()

    def _admit(self, row: int, tokens: list[int]) -> None:
        raise NotImplementedError

    def _results(self, finished: list[Any]) -> dict[str, list[Any]]:
        raise NotImplementedError

    def _computed(self) -> list[Any]:
        """What vLLM has finished in its next step."""
        with self._dying():
            return [output for output in self._llm.step() if output.finished]

    def _tokenize(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        encoded: list[list[int]] = self._tokenizer(texts, truncation=False, verbose=False)[
            "input_ids"
        ]
        return encoded

    def _add(self, row: int, tokens: list[int], params: Any, *, room: int = 0) -> str | None:
        """Hand a row to vLLM, or refuse it; vLLM's own name for it if it was taken.

        Args:
            row: which.
            tokens: what the model reads.
            params: vLLM's.
            room: tokens that must be left for the output.
        """
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import tokens_input

        if len(tokens) + room > self._max_model_len:
            reason = f"too_long: {len(tokens)} prompt tokens, the model takes {self._max_model_len}"
            if room:
                reason += f" with at least {room} generated"
            self._refused.append((row, reason))
            return None
        request = str(row)
        try:
            name: str = self._llm.add_request(request, tokens_input(tokens), params)
        except (VLLMClientError, ValueError, TypeError) as error:
            self._refused.append((row, f"refused: {error}"))
            return None
        self._running[request] = row
        return name

    @contextlib.contextmanager
    def _dying(self) -> Iterator[None]:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            yield
        except EngineDeadError as error:
            raise EngineDied(self._obituary()) from error
        except Exception as error:
            if self._alive():
                raise
            raise EngineDied(self._obituary()) from error

    def _alive(self) -> bool:
        return all(process.is_alive() for process in self._processes)

    def _obituary(self) -> str:
        for process in self._processes:
            process.join(_GRACE_S)
        codes = [p.exitcode for p in self._processes]
        return f"vLLM's engine process ended (exit code {', '.join(map(str, codes))})"

    def _watch(self) -> None:
        # Whoever waits for output or for an answer that a killed process never sends would
        # wait for ever: vLLM's own monitor marks the engine dead but wakes nobody.
        from vllm.v1.engine.exceptions import EngineDeadError

        core = self._llm.engine_core
        connection.wait([process.sentinel for process in self._processes])
        core.resources.engine_dead = True
        core.outputs_queue.put_nowait(EngineDeadError())
        for answer in list(core.utility_results.values()):
            with contextlib.suppress(InvalidStateError):
                answer.set_exception(EngineDeadError())


class _Gauges:
    """Stands in for vLLM's loggers, whose Prometheus counters cost more than they tell here."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.tokens_per_row = 1.0
        """Tokens that a row generated in the last step: more than one where guesses were right."""

    def record(self, *, scheduler_stats: Any, iteration_stats: Any, **_: object) -> None:
        self.values = {
            "running": float(scheduler_stats.num_running_reqs),
            "waiting": float(scheduler_stats.num_waiting_reqs),
            "kv_cache_usage": float(scheduler_stats.kv_cache_usage),
        }
        self.tokens_per_row = 1.0
        drafts = scheduler_stats.spec_decoding_stats
        if drafts is not None and drafts.num_draft_tokens:
            accepted = drafts.num_accepted_tokens
            generated = iteration_stats.num_generation_tokens
            self.tokens_per_row = generated / max(1, generated - accepted)
            self.values["draft_acceptance"] = accepted / drafts.num_draft_tokens

    def log(self) -> None:
        """Nothing: progress is reported by whoever asks for it."""


def _load(model: Path, sizes: VllmSizes, engine_args: dict[str, Any]) -> Any:
    _prepare_environment()
    from vllm import EngineArgs
    from vllm.platforms import current_platform
    from vllm.v1.engine.llm_engine import LLMEngine

    on_cpu = current_platform.is_cpu()
    args = EngineArgs(
        model=str(model),
        max_num_seqs=sizes.max_num_seqs,
        max_num_batched_tokens=sizes.max_num_batched_tokens,
        gpu_memory_utilization=sizes.gpu_memory_utilization,
        enforce_eager=on_cpu if sizes.enforce_eager is None else sizes.enforce_eager,
        distributed_executor_backend=_EXECUTOR,
        disable_log_stats=False,  # or rows carry no times
        use_tqdm_on_load=False,
        **engine_args,
    )
    for_core = {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
        "PYTHONWARNINGS": "ignore",
        # vLLM sets it for its own process; ours and its other children go without.
        "LD_PRELOAD": os.environ.get("LD_PRELOAD", ""),
    }
    if on_cpu:
        threads = sizes.threads or usable_cores()
        for_core |= {
            "OMP_NUM_THREADS": str(threads),
            # Who looks tokens up asks for all cores once, on behalf of the arithmetic, too.
            "NUMBA_NUM_THREADS": str(threads),
            # A thread that waits for the others gives up its core as soon as on a machine with
            # too few. Spinning for long, as libgomp does otherwise, gains 3% where nothing else
            # runs and doubles the time beside one other busy process.
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "1000"),
            # A step's large tensors take the memory of the step before. glibc would ask the
            # system for all that is above 32 MiB, zeroed, each time: a third more time a step
            # where a batch of a small model has such.
            "MALLOC_MMAP_MAX_": os.environ.get("MALLOC_MMAP_MAX_", "0"),
            "MALLOC_TRIM_THRESHOLD_": os.environ.get("MALLOC_TRIM_THRESHOLD_", str(1 << 40)),
            "VLLM_CPU_KVCACHE_SPACE": str(sizes.kv_cache_gib),
            # Tokenizing on all cores would take them from the arithmetic.
            "TOKENIZERS_PARALLELISM": "false",
        }
    try:
        with _environment(for_core):
            return LLMEngine.from_engine_args(args)
    except Exception as error:
        msg = f"vLLM did not start with model {model}: {error}"
        raise EngineDied(msg) from error


def _prepare_environment() -> None:
    """What must be set before vLLM is first imported; what a person has set wins."""
    for name, value in {
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "HF_HUB_OFFLINE": "1",  # the model is a directory by now
        "RAY_USAGE_STATS_ENABLED": "0",
    }.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def _unusable(text: object) -> str | None:
    if text is None:
        return "null_request: the request is null"
    if not isinstance(text, str):
        return f"not_text: the request is a {type(text).__name__}, not text"
    if not text.strip():
        return "empty_request: the request is empty or only white space"
    return None
