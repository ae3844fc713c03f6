"""A started vLLM that generates text, and can stop in mid-generation and go on elsewhere.

What a row has generated so far is in vLLM's front end, which is in this process: looking at it
costs the arithmetic nothing. A row goes on by reading prompt and tokens so far as its prompt;
its detokenizer is the one of the whole text, so that characters and stop strings that span the
cut come out as they would have without it.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from overnight.engines.base import FAILURE, PARTIAL, ROW
from overnight.engines.pace import Pace
from overnight.engines.vllm import PARTIAL_TYPE
from overnight.engines.vllm_engine import VllmEngine

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from overnight.engines.vllm import VllmGenerate

# Tokens that must have stood before; fewer are found more often, and guess worse.
_LOOKED_UP = 2
_NOTHING: Mapping[str, Any] = {
    "tokens": [],
    "queue_s": 0.0,
    "ttft_s": None,
    "latency_s": 0.0,
    "cached_tokens": None,
    "attempts": 0,
}


class GenerateEngine(VllmEngine):
    """A started `VllmGenerate`."""

    def __init__(self, spec: VllmGenerate) -> None:
        model = spec.model.resolve()
        super().__init__(
            model.path,
            spec.sizes,
            spec.result_schema,
            dtype=spec.dtype,
            max_model_len=spec.max_model_len,
            speculative_config=speculation(spec.speculative_tokens),
        )
        self._sampling = _sampling(spec)
        self._names: dict[str, str] = {}
        self._before: dict[str, Mapping[str, Any]] = {}
        self._pace = Pace()

    def submit(self, requests: pa.Table) -> None:
        """Tokenize and hand to vLLM; rows that it cannot take come back from `step`.

        Args:
            requests: besides `row` and `request`, perhaps `partial`: what a row had generated
                before, of `PARTIAL_TYPE`, null for one that begins.

        Raises:
            EngineDied: if the engine is gone.
        """
        if PARTIAL in requests.column_names:
            before = requests[PARTIAL].to_pylist()
            rows = requests[ROW].to_pylist()
            self._before |= {
                str(row): state for row, state in zip(rows, before, strict=True) if state
            }
        super().submit(requests)

    def partials(self) -> pa.Table:
        """What the rows in flight have generated so far.

        Rows that have generated nothing yet, here or before, are left out.

        Returns:
            `row`; `progress`, the number of tokens (int64); `partial` (`PARTIAL_TYPE`).
        """
        states = {
            row: state
            for key, row in self._running.items()
            if (state := self._state(key))["tokens"]
        }
        return pa.table(
            {
                ROW: pa.array(states.keys(), pa.int64()),
                "progress": pa.array([len(s["tokens"]) for s in states.values()], pa.int64()),
                PARTIAL: pa.array(states.values(), PARTIAL_TYPE),
            }
        )

    def suspend(self, rows: Collection[int]) -> pa.Table:
        """Take rows out in mid-generation; what they have generated, to the last token.

        Rows that turn out to be finished are handed back by the next `step` instead.

        Returns:
            As `partials`, of these rows.

        Raises:
            EngineDied: if the engine is gone.
        """
        core = self._llm.engine_core
        with self._dying():
            # Once the core stands still, what it has computed waits in the queue or is here.
            core.call_utility("pause_scheduler", "keep", False)
        while not core.outputs_queue.empty():
            self._late += self._computed()
        late = {output.request_id for output in self._late}
        going = [row for key, row in self._running.items() if row in rows and key not in late]
        states = self.partials()
        self.abort(going)
        with self._dying():
            core.call_utility("resume_scheduler")
        return states.filter(pa.compute.is_in(states[ROW], pa.array(going, pa.int64())))

    def time_left(self) -> dict[int, float]:
        """Seconds that each row in flight will probably still take, as fast as it goes now.

        Most rows take less: nine in ten of those that have ended got no further. A row that
        waits for its place takes at least as long as the one before it.
        """
        left = {}
        for at, (key, row) in enumerate(self._running.items()):
            tokens = self._pace.tokens_left(self._generated(key), self._sampling.max_tokens)
            rounds = 1 + at // self._max_num_seqs
            left[row] = rounds * tokens * self._pace.seconds_per_token
        return left

    def abort(self, rows: Sequence[int]) -> None:
        """Forget rows; nothing comes back for them."""
        super().abort(rows)
        for row in rows:
            self._forget(str(row))

    def _admit(self, row: int, tokens: list[int]) -> None:
        before = self._before.get(str(row), _NOTHING)["tokens"]
        params = self._params()
        whole = params
        if before:
            params = params.clone()
            params.max_tokens = max(1, params.max_tokens - len(before))
            params.min_tokens = max(0, params.min_tokens - len(before))
        name = self._add(row, [*tokens, *before], params, room=1)
        if name is None:
            self._before.pop(str(row), None)
            return
        self._names[str(row)] = name
        if before:
            self._detokenize_all(name, tokens, before, whole)

    def _detokenize_all(self, name: str, prompt: list[int], before: list[int], params: Any) -> None:
        from vllm.v1.engine.detokenizer import IncrementalDetokenizer

        request: Any = SimpleNamespace(
            request_id=name, prompt_token_ids=prompt, sampling_params=params
        )
        detokenizer = IncrementalDetokenizer.from_new_request(self._tokenizer, request)
        detokenizer.update(list(before), stop_terminated=False)
        self._llm.output_processor.request_states[name].detokenizer = detokenizer

    def _params(self) -> Any:
        return self._sampling

    def _generated(self, key: str) -> int:
        state = self._llm.output_processor.request_states.get(self._names[key])
        return 0 if state is None else int(state.detokenizer.num_output_tokens())

    def _state(self, key: str) -> dict[str, Any]:
        """A row in flight as `PARTIAL_TYPE`."""
        before = self._before.get(key, _NOTHING)
        state = self._llm.output_processor.request_states.get(self._names[key])
        if state is None or state.detokenizer.num_output_tokens() <= len(before["tokens"]):
            return dict(before)
        return {
            "tokens": list(state.detokenizer.output_token_ids),
            **_times(before, state.stats, state.num_cached_tokens),
        }

    def _computed(self) -> list[Any]:
        finished = super()._computed()
        self._pace.stepped(
            time.monotonic(), busy=bool(self._running), tokens=self._gauges.tokens_per_row
        )
        return finished

    def _results(self, finished: list[Any]) -> dict[str, list[Any]]:
        texts = [output.outputs[0] for output in finished]
        before = [self._before.get(output.request_id, _NOTHING) for output in finished]
        times = [
            _times(b, output.metrics, output.num_cached_tokens)
            for b, output in zip(before, finished, strict=True)
        ]
        for output, text in zip(finished, texts, strict=True):
            self._forget(output.request_id)
            self._pace.finished(len(text.token_ids))
        broken = [text.finish_reason in ("error", "abort") for text in texts]
        return {
            FAILURE: [
                f"engine_error: vLLM ended this row with {text.finish_reason!r}" if bad else None
                for text, bad in zip(texts, broken, strict=True)
            ],
            "text": [None if b else t.text for t, b in zip(texts, broken, strict=True)],
            "finish_reason": [
                None if b else t.finish_reason for t, b in zip(texts, broken, strict=True)
            ],
            "prompt_tokens": [
                len(output.prompt_token_ids) - len(b["tokens"])
                for b, output in zip(before, finished, strict=True)
            ],
            "output_tokens": [len(text.token_ids) for text in texts],
            **{
                name: [row[name] for row in times]
                for name in ("cached_tokens", "queue_s", "ttft_s", "latency_s", "attempts")
            },
        }

    def _forget(self, key: str) -> None:
        self._names.pop(key, None)
        self._before.pop(key, None)


def _times(before: Mapping[str, Any], stats: Any, cached_tokens: int) -> dict[str, Any]:
    """Timings and counts of a row, those from before it was interrupted included."""
    first = before["ttft_s"] is None
    queued = max(0.0, stats.scheduled_ts - stats.queued_ts)
    return {
        "queue_s": np.float32(before["queue_s"] + queued),
        "ttft_s": np.float32(stats.first_token_latency if first else before["ttft_s"]),
        "latency_s": np.float32(before["latency_s"] + max(0.0, time.time() - stats.arrival_time)),
        "cached_tokens": cached_tokens if first else before["cached_tokens"],
        "attempts": before["attempts"] + 1,
    }


def speculation(tokens: int) -> dict[str, Any] | None:
    """Prompt lookup, as vLLM's argument `speculative_config`; None without."""
    if not tokens:
        return None
    return {
        "method": "ngram",
        "num_speculative_tokens": tokens,
        "prompt_lookup_min": _LOOKED_UP,
        "prompt_lookup_max": _LOOKED_UP,
    }


def _sampling(spec: VllmGenerate) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import (
        RequestOutputKind,
        StructuredOutputsParams,
    )

    structured = StructuredOutputsParams(**spec.structured) if spec.structured else None
    return SamplingParams(
        max_tokens=spec.max_tokens,
        min_tokens=spec.min_tokens,
        temperature=spec.temperature,
        top_p=spec.top_p,
        seed=spec.seed,
        stop=list(spec.stop),
        structured_outputs=structured,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
