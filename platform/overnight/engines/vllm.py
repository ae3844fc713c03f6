"""Text generation with vLLM: a row in, the generated text out as soon as it is finished.

What a job declares is here. Running vLLM is `vllm_engine`, which every task (generate, embed,
classify) shares; nothing here imports it before `start`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from overnight.engines.base import Engine
    from overnight.model import ModelRef

Dtype = Literal["auto", "float32", "float16", "bfloat16"]

DTYPES = ("auto", "float32", "float16", "bfloat16")
_STRUCTURED = ("json", "regex", "choice", "grammar")
_GENERATED = pa.schema(
    [
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("cached_tokens", pa.int32()),
        ("queue_s", pa.float32()),
        ("ttft_s", pa.float32()),
        ("latency_s", pa.float32()),
        ("attempts", pa.int32()),
    ]
)
PARTIAL_TYPE = pa.struct(
    [
        ("tokens", pa.list_(pa.int32())),
        ("queue_s", pa.float32()),
        ("ttft_s", pa.float32()),
        ("latency_s", pa.float32()),
        ("cached_tokens", pa.int32()),
        ("attempts", pa.int32()),
    ]
)
"""A row in mid-generation: the tokens it has generated, and what it is to bring when it ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmSizes:
    """How a vLLM engine uses its machine; decides speed and what fits, never a result.

    vLLM's own defaults outside `LLM` (128 sequences, 2,048 tokens) would leave a large GPU
    mostly idle, so they are always set.

    Attributes:
        max_num_seqs: rows computed together.
        max_num_batched_tokens: tokens, read or generated, in one step.
        kv_cache_gib: memory for attention on CPU, GiB; ignored on a GPU.
        gpu_memory_utilization: share of the GPU's memory that vLLM may take.
        enforce_eager: no compilation and no CUDA graphs; None for eager on CPU only, where
            compiling takes longer than most jobs.
        threads: for the arithmetic on CPU; None for all usable cores. Tokenizing, detokenizing
            and the journal take so little of one that leaving it to them costs a third.
    """

    max_num_seqs: int = 256
    max_num_batched_tokens: int = 8192
    kv_cache_gib: int = 2
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool | None = None
    threads: int | None = None

    def __post_init__(self) -> None:
        _at_least(1, max_num_seqs=self.max_num_seqs, kv_cache_gib=self.kv_cache_gib)
        _at_least(self.max_num_seqs, max_num_batched_tokens=self.max_num_batched_tokens)
        if self.threads is not None:
            _at_least(1, threads=self.threads)
        if not 0 < self.gpu_memory_utilization <= 1:
            refuse("gpu_memory_utilization", self.gpu_memory_utilization, "in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class VllmGenerate:
    """Generates text; the request is the whole prompt.

    Attributes:
        model: a text generation model.
        max_tokens: tokens to generate at most.
        temperature: 0 takes the likeliest token each time (the same text every time, given
            the same numerics); above 0 samples.
        top_p: sample only from the likeliest tokens that have this much probability together.
        seed: of sampling, for each row on its own; None for a different sample every time.
        stop: strings that end the text; they are not part of it.
        min_tokens: tokens to generate before the model may end the text.
        structured: what the text must be: one of `{"json": schema}`, `{"regex": pattern}`,
            `{"choice": [...]}`, `{"grammar": ebnf}`.
        dtype: numbers to compute in; "auto" for the model's own.
        max_model_len: longest prompt and text together, in tokens; None for the model's own.
        speculative_tokens: how many tokens to guess ahead, from what followed the last two
            where they stood before (prompt lookup), and to check in one step; 0 for none. Pays
            where texts repeat their prompts and the accelerator has arithmetic to spare; like
            `sizes`, it decides speed and never a result, so it needs temperature 0.
        sizes: how the machine is used.
    """

    model: ModelRef
    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    min_tokens: int = 0
    structured: Mapping[str, Any] | None = None
    dtype: Dtype = "auto"
    max_model_len: int | None = None
    speculative_tokens: int = 0
    sizes: VllmSizes = field(default_factory=VllmSizes)

    def __post_init__(self) -> None:
        _at_least(1, max_tokens=self.max_tokens)
        _at_least(0, min_tokens=self.min_tokens, speculative_tokens=self.speculative_tokens)
        if self.min_tokens > self.max_tokens:
            refuse("min_tokens", self.min_tokens, f"at most max_tokens={self.max_tokens}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            refuse("temperature", self.temperature, "a number >= 0")
        if self.temperature > 0 and self.speculative_tokens:
            refuse("speculative_tokens", self.speculative_tokens, "0 where temperature is above 0")
        if not 0 < self.top_p <= 1:
            refuse("top_p", self.top_p, "in (0, 1]")
        if self.dtype not in DTYPES:
            refuse("dtype", self.dtype, f"one of {', '.join(DTYPES)}")
        if self.max_model_len is not None:
            _at_least(2, max_model_len=self.max_model_len)
        if isinstance(self.stop, str) or not all(self.stop):
            refuse("stop", self.stop, "a tuple of non-empty strings")
        if self.structured is not None and (
            len(self.structured) != 1 or next(iter(self.structured)) not in _STRUCTURED
        ):
            refuse("structured", self.structured, f"one of the keys {', '.join(_STRUCTURED)}")

    @property
    def kind(self) -> str:
        """The engine's name in lineage."""
        return "vllm.generate"

    @property
    def result_schema(self) -> pa.Schema:
        """What a finished row brings.

        `text` and `finish_reason` (`stop`: the model ended it; `length`: `max_tokens` or the
        model's context did) are strings; `prompt_tokens`, `output_tokens` and `cached_tokens`
        (prompt tokens found in the prefix cache) int32; `queue_s`, `ttft_s` and `latency_s`
        float32 seconds: waiting for a place in the batch, and from admission to the first and
        to the last token; `attempts` int32: on how many engines it was generated, one after
        the other, the times and tokens of all of them counted.
        """
        return _GENERATED

    @property
    def partial_type(self) -> pa.DataType | None:
        """`PARTIAL_TYPE`: an interrupted row goes on from the tokens that it has generated.

        With temperature 0 and the same numerics, the text is the one it would have had. With
        sampling it is a valid sample, but another one: what was drawn before the interruption
        stays, the rest is drawn anew, `seed` or not. Structured output starts over, because a
        grammar's state does not travel: then this is null.
        """
        return PARTIAL_TYPE if self.structured is None else None

    @property
    def probe(self) -> str:
        """A request that any healthy engine of this kind answers."""
        return "Hello"

    def identity(self) -> dict[str, Any]:
        """Model digest and parameters.

        Sizes and speculation only decide speed. vLLM's version is left out too: its releases
        are meant to compute the same, a row that finished stays finished across an upgrade
        (promise 4), and a machine that only plans need not have vLLM at all. With temperature
        0 neither `top_p` nor `seed` decides anything.

        Raises:
            ModelError: if the model is missing or its digest differs.
        """
        sampled = self.temperature > 0
        return {
            "kind": self.kind,
            "model": self.model.resolve().digest,
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p if sampled else None,
            "seed": self.seed if sampled else None,
            "stop": list(self.stop),
            "min_tokens": self.min_tokens,
            "structured": dict(self.structured) if self.structured else None,
            "dtype": self.dtype,
            "max_model_len": self.max_model_len,
        }

    def start(self) -> Engine:
        """Load the model in a process of its own, and be ready.

        Raises:
            ModelError: if the model is missing or its digest differs.
            EngineDied: if vLLM does not start.
        """
        from overnight.engines.vllm_generate import GenerateEngine

        return GenerateEngine(self)


def _at_least(least: int, **values: int) -> None:
    for name, value in values.items():
        if value < least:
            refuse(name, value, f"at least {least}")


def refuse(name: str, value: object, allowed: str) -> None:
    """Raise the ConfigError for a setting that is not allowed."""
    msg = f"vLLM engine: {name}={value!r} is not allowed; it must be {allowed}"
    raise ConfigError(msg)
