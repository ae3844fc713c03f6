"""A started vLLM that turns texts into vectors."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from overnight.engines.base import FAILURE
from overnight.engines.vllm_engine import VllmEngine
from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.engines.vllm_embed import VllmEmbed


class EmbedEngine(VllmEngine):
    """A started `VllmEmbed`."""

    def __init__(self, spec: VllmEmbed) -> None:
        from vllm import PoolingParams

        model = spec.model.resolve()
        super().__init__(
            model.path,
            spec.sizes,
            spec.result_schema,
            runner="pooling",
            dtype=spec.dtype,
            max_model_len=spec.max_model_len,
        )
        found = self._llm.model_config.embedding_size
        if found != spec.dimensions:
            self.close()
            msg = f"the vectors of model {model.path} have {found} elements, not {spec.dimensions}"
            raise ConfigError(msg)
        self._pooling = PoolingParams(task="embed")
        self._submitted: dict[str, float] = {}

    def _admit(self, row: int, tokens: list[int]) -> None:
        if self._add(row, tokens, self._pooling):
            self._submitted[str(row)] = time.monotonic()

    def abort(self, rows: Sequence[int]) -> None:
        """Forget rows; nothing comes back for them."""
        super().abort(rows)
        for row in rows:
            self._submitted.pop(str(row), None)

    def _results(self, finished: list[Any]) -> dict[str, list[Any]]:
        now = time.monotonic()
        vectors = [
            output.outputs.data.float().numpy() if output.error is None else None
            for output in finished
        ]
        return {
            FAILURE: [
                None if output.error is None else f"engine_error: {output.error}"
                for output in finished
            ],
            "embedding": vectors,
            "prompt_tokens": [len(output.prompt_token_ids) for output in finished],
            "latency_s": [
                np.float32(now - self._submitted.pop(output.request_id)) for output in finished
            ],
        }
