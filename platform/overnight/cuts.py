"""Where texts were cut the last time, so that only those that are new are tokenized.

A text is known by its digest; cuts are kept for one chunker exactly, so another tokenizer,
another size or another version of the cutting itself starts from nothing. Remembered are spans
only, some fifty bytes a text.
"""

from __future__ import annotations

import hashlib
from array import array
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from overnight.chunks import Chunk

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType
    from typing import Self

    import numpy.typing as npt

    from overnight.chunks import Chunker
    from overnight.landing import Notes

_NAME = "cuts.arrow"
_DIGEST_BYTES = 16
_SCHEMA = pa.schema(
    [
        pa.field("digest", pa.binary(_DIGEST_BYTES), nullable=False),
        pa.field("spans", pa.list_(pa.int64()), nullable=False),
    ]
)
_CHUNKER = b"chunker"


class RememberedCuts:
    """A chunker that remembers from run to run. Use it in `with`.

    Leaving the block without an error notes the cuts of all texts that were asked for in it, and
    forgets the others.

    Args:
        chunker: what cuts texts that are not known.
        notes: where cuts are kept.
    """

    def __init__(self, chunker: Chunker, notes: Notes) -> None:
        self._chunker = chunker
        self._notes = notes
        self._known = _read(notes, chunker.identity)
        column = self._known["digest"].combine_chunks()
        # numpy ignores zero bytes at the end, which among values of one width changes nothing.
        self._digests = np.frombuffer(column.buffers()[1] or b"", f"S{_DIGEST_BYTES}")
        spans = self._known["spans"].combine_chunks()
        self._ends = spans.offsets.to_numpy()
        self._spans = spans.values.to_numpy()
        self._asked = np.zeros(len(self._digests), bool)
        self._new: dict[bytes, array[int]] = {}

    def __enter__(self) -> Self:
        """The cuts themselves."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Note what was asked for, if that has changed."""
        if error is None and (self._new or not self._asked.all()):
            self._notes.write(_NAME, _encoded(self._all(), self._chunker.identity))

    def chunks_of(self, texts: Sequence[str]) -> Iterator[list[Chunk]]:
        """The chunks of each text: those that `Chunker.chunks_of` gives.

        Raises:
            ModelError: if the model has no tokenizer.
        """
        digests = [_digest(text) for text in texts]
        places = self._places(digests)
        self._asked[places[places >= 0]] = True
        fresh = self._chunker.chunks_of(
            text for text, place in zip(texts, places, strict=True) if place < 0
        )
        for text, digest, place in zip(texts, digests, places.tolist(), strict=True):
            if place < 0:
                chunks = next(fresh)
                self._new[digest] = array("q", (at for c in chunks for at in (c.start, c.end)))
                yield chunks
            else:
                spans = self._spans[self._ends[place] : self._ends[place + 1]].tolist()
                yield [
                    Chunk(start, end, text[start:end])
                    for start, end in zip(spans[::2], spans[1::2], strict=True)
                ]

    def _places(self, digests: list[bytes]) -> npt.NDArray[np.int64]:
        """Where in what is known each digest is; -1 where it is not."""
        wanted = np.array(digests, self._digests.dtype)
        if not len(self._digests):
            return np.full(len(wanted), -1)
        places = np.searchsorted(self._digests, wanted)
        places[places == len(self._digests)] = 0
        return np.where(self._digests[places] == wanted, places, -1)

    def _all(self) -> pa.Table:
        ends = np.cumsum([0, *map(len, self._new.values())])
        spans = array("q")
        for one in self._new.values():
            spans.extend(one)
        lists = pa.ListArray.from_arrays(ends.astype(np.int32), np.asarray(spans, np.int64))
        new = pa.table([pa.array(self._new, _SCHEMA.field("digest").type), lists], schema=_SCHEMA)
        kept = self._known.filter(pa.array(self._asked))
        return pa.concat_tables([kept, new]).sort_by("digest")


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest()


def _read(notes: Notes, chunker: str) -> pa.Table:
    """The cuts that were noted for the same chunker; none otherwise."""
    body = notes.read(_NAME)
    if body is not None:
        with pa.ipc.open_stream(body) as reader:
            same = (reader.schema.metadata or {}).get(_CHUNKER) == chunker.encode()
            if same and reader.schema.equals(_SCHEMA):
                return reader.read_all().replace_schema_metadata(None)
    return _SCHEMA.empty_table()


def _encoded(cuts: pa.Table, chunker: str) -> bytes:
    sink = pa.BufferOutputStream()
    schema = _SCHEMA.with_metadata({_CHUNKER: chunker})
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        writer.write_table(cuts.replace_schema_metadata(schema.metadata))
    body: Any = sink.getvalue()
    return bytes(body)
