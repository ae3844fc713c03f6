"""Embeddings of the shop's documents, refreshed as they change, for search by meaning."""

from __future__ import annotations

from typing import Annotated

import polars as pl

from assets.documents import DocumentChunk, document_chunks, embedding_model
from assets.models.minilm import DIMENSIONS
from assets.sources import in_the_morning
from overnight.contract import Field
from overnight.engines.vllm_embed import VllmEmbed
from overnight.expectations import Expectations
from overnight.job import InferenceJob
from overnight.warehouse.vectors import VectorIndex


class DocumentEmbedding(DocumentChunk):
    """The documents there are now, in chunks, each with its embedding."""

    embedding: Annotated[pl.Array, pl.Float32, DIMENSIONS] = Field(
        description="Its place among meanings; of length one."
    )


def chunk_text(chunks: pl.DataFrame) -> pl.Series:
    """Embed a chunk's text as it is."""
    return chunks["text"]


def take_embedding(results: pl.DataFrame) -> pl.DataFrame:
    """Take the engine's vector as it is."""
    return results


document_embeddings = InferenceJob(
    name="document_embeddings",
    source=document_chunks,
    engine=VllmEmbed(model=embedding_model, dimensions=DIMENSIONS, dtype="float32"),
    prepare=chunk_text,
    parse=take_embedding,
    output=DocumentEmbedding,
    expects=Expectations(due=in_the_morning(7)),
    partitioned=False,
    publish="merge",
    indexes=(VectorIndex(column="embedding"),),
)
