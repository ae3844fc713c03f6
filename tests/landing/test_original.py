"""The text of rejected rows, as it stands in each kind of landing file."""

from __future__ import annotations

import gzip
import io
from typing import TYPE_CHECKING

import polars as pl
import pytest

from overnight.contract import Contract, Field
from overnight.landing import Reader, Source
from overnight.landing.original import Originals
from overnight.store import StoreConfig

if TYPE_CHECKING:
    from pathlib import Path

DAY = "2026-01-31"


class Item(Contract):
    """An item."""

    id: str = Field(description="Which.")
    count: int = Field(description="How many.", ge=0)


ITEMS = Source(name="items", contract=Item, key="id")


def parquet() -> bytes:
    file = io.BytesIO()
    pl.DataFrame({"id": ["a", "b"], "count": [1, -2]}).write_parquet(file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("a.csv", b'id,count\na,1\n"b ""\nc""",-2\nd,4\n', '"b ""\nc""",-2'),
        (
            "a.jsonl.gz",
            gzip.compress(b'{"id":"a","count":1}\n{"id":"b","count":-2}\n', mtime=0),
            '{"id":"b","count":-2}',
        ),
        ("a.parquet", parquet(), '{"id": "b", "count": -2}'),
    ],
)
def test_the_text_of_a_reject_is_found_by_its_line(
    tmp_path: Path, name: str, data: bytes, text: str
) -> None:
    store = StoreConfig(tmp_path.as_uri()).open()
    store.put(f"landing/items/{DAY}/{name}", data)
    reader = Reader(store, ITEMS, DAY)
    (batch,) = reader.batches()
    (reject,) = batch.rejects.to_dicts()
    (file,) = reader.inputs
    originals = Originals(store, [{**reject, "version": file.version}])
    assert originals.of(reject) == text
    assert originals.notes == []
    store.put(f"landing/items/{DAY}/{name}", data + data)
    replaced = Originals(store, [{**reject, "version": file.version}])
    assert replaced.of(reject) is None
    assert "was replaced since" in replaced.notes[0]
