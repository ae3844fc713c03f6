"""Remembered cuts: always those that the chunker makes, however the notes look."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assets.documents import document_chunks
from assets.models import minilm
from overnight.chunks import Chunk, Chunker
from overnight.cuts import RememberedCuts
from overnight.landing import WHOLE, Notes, reader_of
from overnight.model import ModelRef
from overnight.store import Store, StoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

CHUNKER = Chunker(model=minilm.reference(), max_tokens=24, overlap=4)
NOTED = "derived/texts/cuts.arrow"
TEXTS = [
    "The kettle is of copper. " * 20,
    "Short.",
    " \n",
    "猫は好きだ。" * 30,
    "No end to this one " * 40,
]


@dataclass
class Recording:
    """A chunker that writes down what it was asked to cut."""

    chunker: Chunker = CHUNKER
    cut: list[str] = field(default_factory=list)

    @property
    def identity(self) -> str:
        return self.chunker.identity

    def chunks_of(self, texts: Iterable[str]) -> Iterator[list[Chunk]]:
        self.cut += (asked := list(texts))
        return self.chunker.chunks_of(asked)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return StoreConfig(tmp_path.as_uri()).open()


def run(store: Store, texts: Sequence[str], chunker: Chunker = CHUNKER) -> list[str]:
    """One run over some texts: checks all cuts and returns which texts were really cut."""
    recording: Any = Recording(chunker)
    with RememberedCuts(recording, Notes(store, "texts")) as cuts:
        assert list(cuts.chunks_of(texts)) == list(chunker.chunks_of(texts))
    assert isinstance(recording.cut, list)
    return list(recording.cut)


def test_only_texts_that_are_new_are_cut(store: Store) -> None:
    assert run(store, TEXTS) == TEXTS
    assert run(store, TEXTS) == []
    assert run(store, ["Another.", *reversed(TEXTS), "Another."]) == ["Another.", "Another."]
    assert run(store, ["Another.", *TEXTS]) == []


def test_what_nobody_asks_for_any_more_is_forgotten(store: Store) -> None:
    run(store, TEXTS)
    assert run(store, TEXTS[:2]) == []
    assert run(store, TEXTS) == TEXTS[2:]
    assert run(store, []) == []
    assert run(store, TEXTS[:1]) == TEXTS[:1]


@settings(deadline=None, max_examples=60)
@given(rounds=st.lists(st.lists(st.text("ab .\n猫", max_size=80), max_size=6), max_size=4))
def test_cuts_are_the_chunkers_in_any_order_of_runs(
    tmp_path_factory: pytest.TempPathFactory, rounds: list[list[str]]
) -> None:
    store = StoreConfig(tmp_path_factory.mktemp("store").as_uri()).open()
    before: set[str] = set()
    for texts in rounds:
        assert set(run(store, texts)) == set(texts) - before
        before = set(texts)


def test_another_size_overlap_or_tokenizer_starts_from_nothing(
    store: Store, tmp_path: Path
) -> None:
    run(store, TEXTS)
    assert run(store, TEXTS, dataclasses.replace(CHUNKER, max_tokens=32)) == TEXTS
    assert run(store, TEXTS, dataclasses.replace(CHUNKER, max_tokens=32, overlap=8)) == TEXTS
    other = tmp_path / "other"
    other.mkdir()
    source = minilm.reference().resolve().path
    rules = json.loads((source / "tokenizer.json").read_text())
    rules["normalizer"]["lowercase"] = not rules["normalizer"]["lowercase"]
    (other / "config.json").write_bytes((source / "config.json").read_bytes())
    (other / "tokenizer.json").write_text(json.dumps(rules))
    model = ModelRef(str(other))
    assert run(store, TEXTS, Chunker(model=model, max_tokens=32, overlap=8)) == TEXTS


def test_torn_and_damaged_notes_cost_time_only(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run(store, TEXTS)
    whole = store.get(NOTED)
    for length in range(0, len(whole), 37):
        store.put(NOTED, whole[:length])
        assert run(store, TEXTS) == TEXTS
        assert f"{NOTED}: is damaged" in caplog.text
        caplog.clear()
    for at in range(0, len(whole), 41):
        store.put(NOTED, whole[:at] + bytes([whole[at] ^ 8]) + whole[at + 1 :])
        assert run(store, TEXTS) == TEXTS
    assert run(store, TEXTS) == []


def test_notes_that_cannot_be_read_or_kept_cost_time_only(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NOTED / "in the way").mkdir(parents=True)
    assert run(store, TEXTS) == TEXTS
    assert run(store, TEXTS) == TEXTS
    assert f"{NOTED}: cannot be kept" in caplog.text


def test_a_run_that_fails_leaves_the_notes_as_they_were(store: Store) -> None:
    run(store, TEXTS)
    before = store.get(NOTED)

    def fail() -> None:
        with RememberedCuts(CHUNKER, Notes(store, "texts")) as cuts:
            list(cuts.chunks_of(["Something new."]))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert store.get(NOTED) == before


def test_a_refresh_of_the_documents_cuts_the_same_chunks_with_and_without_notes(
    store: Store,
) -> None:
    def land(day: str, **texts: str) -> None:
        rows = [
            {"doc_id": doc, "text": text, "updated_at": f"{day}T12:00:00Z", "deleted": False}
            for doc, text in texts.items()
        ]
        written = "".join(json.dumps(row) + "\n" for row in rows)
        store.put(f"landing/documents/{day}/a.jsonl", written.encode())

    def chunks() -> pl.DataFrame:
        return pl.concat(
            batch.frame for batch in reader_of(store, document_chunks, WHOLE).batches()
        )

    land("2026-11-19", a="A kettle boils. " * 90, b="Short.", c="A lamp of brass.")
    first = chunks()
    noted = "derived/document_chunks/cuts.arrow"
    version = store.head(noted).version
    assert chunks().equals(first)
    assert store.head(noted).version == version, "nothing new, nothing written"
    land("2026-11-20", b="Changed, and longer. " * 80)
    after = chunks()
    store.delete([noted])
    assert after.equals(chunks())
    assert after.filter(pl.col("doc_id") != "b").equals(first.filter(pl.col("doc_id") != "b"))
