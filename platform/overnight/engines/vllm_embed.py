"""Text embedding with vLLM: a row in, its vector out.

What a job declares, and the engine that serves it; loading, admitting and dying are those of
`vllm_engine`, which nothing here imports before `start`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from overnight.engines.vllm import DTYPES, Dtype, VllmSizes, refuse
from overnight.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.engines.base import Engine
    from overnight.model import ModelRef


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmEmbed:
    """Embeds text; the request is the text.

    How token vectors become one (mean, first token) and whether it has length one is the
    model's own declaration, as sentence-transformers writes it beside the weights.

    Attributes:
        model: a text embedding model.
        dimensions: elements of its vectors.
        dtype: numbers to compute in; "auto" for the model's own.
        max_model_len: longest text, in tokens; None for the model's own.
        sizes: how the machine is used.
    """

    model: ModelRef
    dimensions: int
    dtype: Dtype = "auto"
    max_model_len: int | None = None
    sizes: VllmSizes = field(default_factory=VllmSizes)

    def __post_init__(self) -> None:
        if self.dimensions < 1:
            refuse("dimensions", self.dimensions, "at least 1")
        if self.dtype not in DTYPES:
            refuse("dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        if self.max_model_len is not None and self.max_model_len < 1:
            refuse("max_model_len", self.max_model_len, "at least 1")

    @property
    def kind(self) -> str:
        """The engine's name in lineage."""
        return "vllm.embed"

    @property
    def result_schema(self) -> pa.Schema:
        """What a finished row brings.

        `embedding` is a list of `dimensions` float32, `prompt_tokens` int32, `latency_s`
        float32 seconds from submission.
        """
        return pa.schema(
            [
                ("embedding", pa.list_(pa.float32(), self.dimensions)),
                ("prompt_tokens", pa.int32()),
                ("latency_s", pa.float32()),
            ]
        )

    @property
    def probe(self) -> str:
        """A request that any healthy engine of this kind answers."""
        return "Hello"

    def identity(self) -> dict[str, Any]:
        """Model digest, how it pools, and parameters; sizes only decide speed.

        Raises:
            ModelError: if the model is missing, its digest differs, or how it pools is not JSON.
        """
        model = self.model.resolve()
        return {
            "kind": self.kind,
            "model": model.digest,
            "modules": _modules(model.path),
            "dimensions": self.dimensions,
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
        }

    def start(self) -> Engine:
        """Load the model in a process of its own, and be ready.

        Raises:
            ModelError: if the model is missing or its digest differs.
            EngineDied: if vLLM does not start.
        """
        from overnight.engines.vllm_pooling import EmbedEngine

        return EmbedEngine(self)


def _modules(model: Path) -> dict[str, Any]:
    """What sentence-transformers declares in folders of their own, such as `1_Pooling`.

    The model's digest covers the files beside the weights only, and mean or first token makes
    another vector of the same weights.
    """
    found: dict[str, Any] = {}
    for file in sorted(model.glob("*/config.json")):
        try:
            found[file.parent.name] = json.loads(file.read_text())
        except ValueError as error:
            raise ModelError(f"{file}: is not JSON: {error}; restore the model's files") from error
    return found
