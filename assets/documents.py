"""From a feed of changes to the chunks of the documents there are now."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from assets.models import minilm
from assets.sources import documents
from overnight.chunks import Chunker
from overnight.contract import Contract, Field, polars_schema
from overnight.cuts import RememberedCuts
from overnight.landing import DerivedSource, Lookback

if TYPE_CHECKING:
    from collections.abc import Iterator

    from overnight.landing import Landed

embedding_model = minilm.reference()
chunker = Chunker(model=embedding_model, max_tokens=256, overlap=32)
_DOCUMENTS_AT_ONCE = 2_000


class DocumentChunk(Contract):
    """A piece of a document that the embedding model can take at once."""

    chunk_id: str = Field(description="The document's id and the chunk's number.")
    doc_id: str = Field(description="The document.")
    chunk: int = Field(description="Its number in the document, from 0.", ge=0)
    start: int = Field(description="Where it starts in the document, in characters.", ge=0)
    end: int = Field(description="Where it ends, likewise.", ge=1)
    text: str = Field(description="What it says.")


def current_chunks(_: str, landed: Landed) -> Iterator[pl.DataFrame]:
    """The chunks of each document's newest text; deleting what never was is a reject.

    Only texts that the last run did not see are cut.
    """
    changes = landed["documents"]
    newest, unknown = newest_changes(changes)
    if unknown.height:
        yield pl.concat([polars_schema(DocumentChunk).to_frame(), unknown], how="diagonal")
    with RememberedCuts(chunker, landed.notes) as cuts:
        for part in newest.iter_slices(_DOCUMENTS_AT_ONCE):
            texts = changes.join(
                part.lazy(), on=["_input_id", "_line"], how="semi", maintain_order="left"
            )
            yield cut(texts.select("doc_id", "text", "_input_id", "_line").collect(), cuts)


def newest_changes(changes: pl.LazyFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Which change of each document counts, without touching any text.

    The newest wins, whenever it landed; of equally new ones the one that landed last.

    Args:
        changes: `doc_id`, `updated_at`, `deleted`, `_day`, `_input_id`, `_line`.

    Returns:
        `_input_id` and `_line` of the newest change of each document that is there, in the order
        of landing; and, as rejects, the deletions of documents that no change ever gave a text.
    """
    known = (
        changes.select("doc_id", "updated_at", "deleted", "_input_id", "_line")
        .with_row_index("_at")
        .with_columns(pl.col("deleted").all().over("doc_id").alias("_unknown"))
        .collect()
    )
    unknown = known.filter("_unknown").select(
        "doc_id",
        "_input_id",
        "_line",
        chunk_id="doc_id",
        _reject_column=pl.lit("doc_id"),
        _reject_reason=pl.lit("is to be deleted, but the feed never had it"),
    )
    newest = (
        known.filter(~pl.col("_unknown"))
        .sort("updated_at", "_at")
        .unique("doc_id", keep="last")
        .filter(~pl.col("deleted"))
        .sort("_at")
        .select("_input_id", "_line")
    )
    return newest, unknown


def cut(texts: pl.DataFrame, cuts: RememberedCuts) -> pl.DataFrame:
    """The chunks of some documents: `DocumentChunk`'s columns, `_input_id` and `_line`."""
    documents = texts.select("doc_id", "_input_id", "_line").iter_rows()
    rows = [
        (f"{doc_id}#{number}", doc_id, number, chunk.start, chunk.end, chunk.text, input_id, line)
        for (doc_id, input_id, line), chunks in zip(
            documents, cuts.chunks_of(texts["text"].to_list()), strict=True
        )
        for number, chunk in enumerate(chunks)
    ]
    place = {"_input_id": pl.Int64, "_line": pl.Int64}
    return pl.DataFrame(rows, {**polars_schema(DocumentChunk), **place}, orient="row")


document_chunks = DerivedSource(
    name="document_chunks",
    contract=DocumentChunk,
    key="chunk_id",
    inputs=(Lookback(source=documents, first=None),),
    derive=current_chunks,
)
