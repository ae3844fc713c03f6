"""Cutting long texts into chunks that a model can take, by the model's own tokenizer.

Only text and spans; what a chunk is used for is the job's business.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError, ModelError
from overnight.fingerprint import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from overnight.model import ModelRef

# Where a sentence may begin: after its predecessor's last mark, or after an empty line.
_SENTENCE = re.compile(r"(?<=[.!?…。！？])[\"')\]]*\s+|\n\s*\n\s*")  # noqa: RUF001 - full-width marks
# A tokenizer may take a word of any length for one token; no model sees more in it than this.
_LONGEST_TOKEN = 64
_CHARACTERS_AT_ONCE = 1 << 19


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a text: `text == whole[start:end]`, in characters, without space around it."""

    start: int
    end: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunker:
    """Cuts texts into chunks of at most `max_tokens`, with `overlap` tokens in common.

    A chunk ends, and the next begins, where a sentence does, if there is such a place in its
    second half (in the overlap); otherwise between two tokens. Every character that is not
    space is in some chunk, and the same text always gives the same chunks, in linear time.

    Attributes:
        model: whose `tokenizer.json` counts the tokens.
        max_tokens: tokens of a chunk, the tokenizer's special ones included.
        overlap: tokens that a chunk repeats of the one before, at most.

    Raises:
        ConfigError: unless 0 <= overlap < max_tokens / 2.
    """

    model: ModelRef
    max_tokens: int
    overlap: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < self.max_tokens / 2:
            raise ConfigError(
                f"Chunker: overlap={self.overlap} with max_tokens={self.max_tokens}; the overlap "
                "must be at least 0 and less than half of a chunk"
            )

    @property
    def identity(self) -> str:
        """Digest of all that decides where a text is cut: where it is the same, so are the cuts.

        Raises:
            ModelError: if the model has no tokenizer.
        """
        return digest(
            {
                "tokenizer": hashlib.sha256(_tokenizer_file(self.model).read_bytes()).hexdigest(),
                "tokenizers": importlib.metadata.version("tokenizers"),
                "max_tokens": self.max_tokens,
                "overlap": self.overlap,
                # Nobody has to remember to count versions.
                "code": hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
            }
        )

    def chunks(self, text: str) -> list[Chunk]:
        """The chunks of a text, in order; none if there is nothing but space in it.

        Raises:
            ModelError: if the model has no tokenizer.
        """
        return next(self.chunks_of([text]))

    def chunks_of(self, texts: Iterable[str]) -> Iterator[list[Chunk]]:
        """The chunks of each text, as `chunks`; many texts are tokenized on all cores.

        Raises:
            ModelError: if the model has no tokenizer.
        """
        for some in _groups(texts):
            yield from self._chunks_of_group(_tokenizer(self.model), some)

    def _chunks_of_group(self, tokenizer: Any, texts: list[str]) -> Iterator[list[Chunk]]:
        room = self.max_tokens - tokenizer.num_special_tokens_to_add(is_pair=False)
        if room < 1:
            raise ConfigError(f"Chunker: max_tokens={self.max_tokens} leaves no room for text")
        encoded = tokenizer.encode_batch(texts, add_special_tokens=False)
        starts = [_starts(e.offsets, text) for e, text in zip(encoded, texts, strict=True)]
        del encoded
        drafts = [
            list(self._cut(text, at, room, lambda _: 0))
            for text, at in zip(texts, starts, strict=True)
        ]
        # Nearly always a chunk is as many tokens as it was in its place: counted all at once.
        counts = iter(_counts(tokenizer, [c.text for draft in drafts for c in draft]))
        fits = [all([next(counts) <= room for _ in draft]) for draft in drafts]  # noqa: C419 - each draft uses up its counts
        for text, at, draft, fit in zip(texts, starts, drafts, fits, strict=True):
            yield (
                draft
                if fit
                else list(self._cut(text, at, room, lambda cut: _counts(tokenizer, [cut])[0]))
            )

    def _cut(
        self, text: str, starts: list[int], room: int, count_of: Callable[[str], int]
    ) -> Iterator[Chunk]:
        sentences = sorted({bisect_left(starts, m.end()) for m in _SENTENCE.finditer(text)})
        first = 0
        while first < len(starts):
            last = min(first + room, len(starts))
            if last < len(starts):
                last = _at_or_before(sentences, last, least=first + (room + 1) // 2)
            chunk = _chunk(text, starts, first, last)
            # Cut out, the same characters may be more tokens than they were in their place.
            while (count := count_of(chunk.text)) > room and last - first > 1:
                last = max(first + 1, min(last - 1, first + (last - first) * room // count))
                chunk = _chunk(text, starts, first, last)
            if chunk.text:
                yield chunk
            if last == len(starts):
                return
            back = max(first + 1, last - self.overlap)
            first = min(_at_or_after(sentences, back, most=last), last)


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    """Texts together, up to a size that bounds the memory for their tokens."""
    group: list[str] = []
    size = 0
    for text in texts:
        group.append(text)
        size += len(text)
        if size >= _CHARACTERS_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _chunk(text: str, starts: list[int], first: int, last: int) -> Chunk:
    begin = starts[first] if first else 0
    end = starts[last] if last < len(starts) else len(text)
    whole = text[begin:end]
    begin += len(whole) - len(whole.lstrip())
    cut = whole.strip()
    return Chunk(begin, begin + len(cut), cut)


def _at_or_before(places: list[int], most: int, *, least: int) -> int:
    at = bisect_right(places, most) - 1
    return places[at] if at >= 0 and places[at] >= least else most


def _at_or_after(places: list[int], least: int, *, most: int) -> int:
    at = bisect_left(places, least)
    return places[at] if at < len(places) and places[at] <= most else least


def _starts(offsets: list[tuple[int, int]], text: str) -> list[int]:
    """Where each token starts; what is very long is taken for several tokens."""
    starts: list[int] = []
    for start, end in offsets:
        if starts and start <= starts[-1]:
            continue  # several tokens may stand for one character
        # Characters that the tokenizer passes over belong to what comes before them.
        if starts and start - starts[-1] > _LONGEST_TOKEN:
            starts.extend(range(starts[-1] + _LONGEST_TOKEN, start, _LONGEST_TOKEN))
        starts.append(start)
        starts.extend(range(start + _LONGEST_TOKEN, end, _LONGEST_TOKEN))
    if not starts:
        return [0] if text.strip() else []
    starts.extend(range(starts[-1] + _LONGEST_TOKEN, len(text), _LONGEST_TOKEN))
    return starts


def _counts(tokenizer: Any, texts: list[str]) -> list[int]:
    encoded = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [len(one.ids) for one in encoded]


@functools.cache
def _tokenizer(model: ModelRef) -> Any:
    from tokenizers import Tokenizer

    tokenizer: Any = Tokenizer.from_file(str(_tokenizer_file(model)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizer_file(model: ModelRef) -> Path:
    path = Path(model.resolve().path) / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"model {path.parent}: has no tokenizer.json, which cutting texts needs")
    return path
