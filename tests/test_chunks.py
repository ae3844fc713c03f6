"""Chunks: within the limit, nothing lost, spans exact, on sentence boundaries if there are any."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.models import minilm
from overnight.chunks import Chunker
from overnight.errors import ConfigError, ModelError
from overnight.model import ModelRef

MODEL = minilm.reference()

texts = st.text(
    st.one_of(st.sampled_from("abc de. \n!?é猫\u0301\u200b"), st.characters(codec="utf-8")),
    max_size=600,
)


def tokens(text: str) -> int:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{MODEL.uri}/tokenizer.json")
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return len(tokenizer.encode(text).ids)


@settings(deadline=None, max_examples=150)
@given(text=texts, size=st.integers(12, 40), overlap=st.integers(0, 5))
def test_chunks_keep_their_limit_and_lose_nothing(text: str, size: int, overlap: int) -> None:
    chunker = Chunker(model=MODEL, max_tokens=size, overlap=overlap)
    chunks = chunker.chunks(text)
    covered = set()
    for chunk in chunks:
        assert text[chunk.start : chunk.end] == chunk.text
        assert chunk.text == chunk.text.strip() != ""
        # A single character may be more tokens than a very small chunk has room for.
        assert tokens(chunk.text) <= size or len(chunk.text) <= 64
        covered.update(range(chunk.start, chunk.end))
    assert all(i in covered or letter.isspace() for i, letter in enumerate(text))
    assert [c.start for c in chunks] == sorted({c.start for c in chunks})
    assert chunker.chunks(text) == chunks


def test_a_chunk_ends_where_a_sentence_does() -> None:
    sentences = [f"This is sentence number {i} of a longer text." for i in range(30)]
    chunks = Chunker(model=MODEL, max_tokens=64, overlap=14).chunks(" ".join(sentences))
    assert len(chunks) > 5
    assert all(chunk.text.startswith("This") and chunk.text.endswith(".") for chunk in chunks)
    assert all(b.start < a.end for a, b in itertools.pairwise(chunks)), "they overlap"


def test_a_short_text_is_one_chunk_and_space_is_none() -> None:
    chunker = Chunker(model=MODEL, max_tokens=64)
    assert [chunk.text for chunk in chunker.chunks("  Short.  ")] == ["Short."]
    assert chunker.chunks(" \n\t") == []


def test_a_long_text_without_space_takes_linear_work() -> None:
    chunks = Chunker(model=MODEL, max_tokens=256, overlap=32).chunks("a" * 200_000)
    assert max(len(chunk.text) for chunk in chunks) <= 254 * 64
    assert len(chunks) < 200_000 / 64, "it makes good progress with each chunk"


def test_settings_and_models_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigError, match="overlap=40"):
        Chunker(model=MODEL, max_tokens=64, overlap=40)
    with pytest.raises(ModelError, match="no such directory"):
        Chunker(model=ModelRef("/nowhere/at/all"), max_tokens=64).chunks("x")
