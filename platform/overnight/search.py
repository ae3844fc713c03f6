"""Embedding one question, outside of any partition."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from overnight.engines.base import FAILURE, REQUEST, ROW
from overnight.errors import ConfigError

if TYPE_CHECKING:
    from overnight.job import InferenceJob


def embed(job: InferenceJob, question: str) -> list[float]:
    """The vector of a question, by the model that a job embeds with.

    Args:
        job: with an engine that embeds.
        question: text that the model can take.

    Raises:
        ConfigError: if the question cannot be embedded; says why.
        ModelError: if the model is missing or its digest differs.
        EngineDied: if the engine does not start.
    """
    spec: Any = job.engine
    one = dataclasses.replace(spec.sizes, max_num_seqs=1, kv_cache_gib=1)
    engine = dataclasses.replace(spec, sizes=one).start()
    try:
        engine.submit(pa.table({ROW: pa.array([0], pa.int64()), REQUEST: [question]}))
        answer = []
        while engine.in_flight:
            answer += engine.step().to_pylist()
    finally:
        engine.close()
    if answer[0][FAILURE] is not None:
        raise ConfigError(f"the question cannot be searched for: {answer[0][FAILURE]}")
    vector: list[float] = answer[0]["embedding"]
    return vector
