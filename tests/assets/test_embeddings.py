"""Embedding refresh with the real model: exactly what changed is inferred, and found again."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import sqlalchemy as sa

from assets.documents import chunker
from assets.embeddings import document_embeddings
from overnight.engines.vllm import VllmSizes
from overnight.job import WHOLE
from overnight.plan import MaxRejects
from overnight.publication import published_table
from overnight.run import run_partition
from overnight.warehouse.vectors import VectorIndex, index_name, nearest
from tests.support.shop import house

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.report import PartitionReport
    from overnight.warehouse.connect import Warehouse

pytestmark = [
    pytest.mark.usefixtures("ray_head"),
    pytest.mark.filterwarnings("ignore"),  # vLLM and torch warn while they are imported
    pytest.mark.timeout(240),
]

JOB = dataclasses.replace(
    document_embeddings,
    engine=dataclasses.replace(
        document_embeddings.engine,  # type: ignore[type-var] # it is a dataclass
        sizes=VllmSizes(max_num_seqs=32, max_num_batched_tokens=2048, kv_cache_gib=1),
    ),
    max_rejects=MaxRejects(share=0.5),
)
TABLE = published_table(JOB)
NOON = dt.datetime(2026, 11, 20, 12, tzinfo=dt.UTC)


def change(doc: str, text: str | None, minutes: int = 0) -> dict[str, Any]:
    at = (NOON + dt.timedelta(minutes=minutes)).isoformat()
    return {"doc_id": doc, "text": text, "updated_at": at, "deleted": text is None}


def land(home: Path, day: str, *changes: Any, name: str = "changes.jsonl") -> None:
    file = home / "store" / "landing" / "documents" / day / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(one) + "\n" for one in changes))


def refresh(warehouse: Warehouse, home: Path) -> PartitionReport:
    return run_partition(JOB, WHOLE, run_id="r", house=house(warehouse, home))


def published(warehouse: Warehouse) -> dict[str, tuple[str, list[float]]]:
    query = "SELECT chunk_id, text, embedding::text FROM published.document_embeddings"
    with warehouse.connect() as connection:
        rows = connection.exec_driver_sql(query).all()
    return {row[0]: (row[1], json.loads(row[2])) for row in rows}


@pytest.fixture(autouse=True)
def clean(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.document_embeddings CASCADE")
        connection.exec_driver_sql("DELETE FROM lineage.partitions WHERE job LIKE 'document%%'")


def test_a_refresh_infers_exactly_what_changed(warehouse: Warehouse, home: Path) -> None:
    kettle = "A kettle boils water. It whistles when it is done."
    land(
        home, "2026-11-19",
        change("kettle", kettle),
        change("lamp", "The lamp of brass is lit with oil.", 5),
        change("tray", "A tray carries cups."),
        change("shawl", "A shawl of wool keeps you warm."),
    )  # fmt: skip
    first = refresh(warehouse, home)
    assert (first.rows_in, first.published, first.inferred, first.rejected) == (4, 4, 4, 0)
    before = published(warehouse)
    with warehouse.connect() as connection:
        name = index_name(TABLE, VectorIndex(column="embedding"))
        built = connection.execute(
            sa.text("SELECT oid FROM pg_class WHERE relname = :name"), {"name": name}
        ).scalar_one()

    assert refresh(warehouse, home).inferred == 0

    land(
        home, "2026-11-20",
        change("lamp", "An older text that came late.", 1),  # out of order: the newest wins
        change("tray", "A tray of walnut carries cups.", 9),
        change("shawl", None, 9),
        change("clock", "A clock on the wall strikes nine.", 9),
        change("ghost", None, 9),  # deletes what never was
    )  # fmt: skip
    second = refresh(warehouse, home)
    assert (second.inferred, second.reused, second.rejected) == (2, 2, 1)
    after = published(warehouse)
    assert sorted(after) == ["clock#0", "kettle#0", "lamp#0", "tray#0"]
    assert after["kettle#0"] == before["kettle#0"]
    assert after["lamp#0"] == before["lamp#0"]
    assert after["tray#0"][0] == "A tray of walnut carries cups."
    with warehouse.connect() as connection:
        reject = connection.exec_driver_sql(
            'SELECT file, line, key, "column", reason FROM lineage.current_rejects '
            "WHERE source = 'documents'"
        ).one()
        again = connection.execute(
            sa.text("SELECT oid FROM pg_class WHERE relname = :name"), {"name": name}
        ).scalar_one()
        near = nearest(connection, TABLE, "embedding", after["clock#0"][1], 2)
        neighbours = connection.exec_driver_sql(
            "SELECT neighbour_chunk_id FROM published.document_embeddings_neighbours "
            "WHERE chunk_id = 'clock#0' ORDER BY distance"
        ).scalars()
        assert sorted(neighbours) == ["kettle#0", "lamp#0", "tray#0"]
    assert reject[0].endswith("2026-11-20/changes.jsonl")
    assert reject[1:4] == (5, "ghost", "doc_id")
    assert "never had it" in reject[4]
    assert again == built, "the index is kept"
    assert near[0].chunk_id == "clock#0"
    assert near[0].distance == pytest.approx(0, abs=1e-5)


def test_embeddings_are_those_of_transformers(warehouse: Warehouse, home: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    long = " ".join(
        f"Sentence {i} speaks of {['brass', 'copper', 'slate', 'felt'][i % 4]}." for i in range(90)
    )
    land(home, "2026-11-19", change("long", long), change("short", "Tea."))
    report = refresh(warehouse, home)
    rows = published(warehouse)
    assert report.published == len(rows) == 1 + len(chunker.chunks(long)) > 3
    path = JOB.engine.model.resolve().path  # type: ignore[attr-defined] # a VllmEmbed
    tokenizer = AutoTokenizer.from_pretrained(path)
    model: Any = AutoModel.from_pretrained(path, dtype=torch.float32).eval()
    for text, embedding in rows.values():
        batch = tokenizer([text], return_tensors="pt", truncation=False, padding=False)
        with torch.inference_mode():
            mean = model(**batch).last_hidden_state[0].mean(0)
        theirs = (mean / mean.norm()).numpy()
        assert float(np.dot(theirs, embedding)) >= 0.9999


@pytest.mark.parametrize(
    ("bad", "value", "reason"),
    [
        (change("white", " \n\t "), r"' \n\t '", "has a text, not only white space"),
        (change("huge", "x" * 2_000_000), "'" + "x" * 198 + "…", "at most 1000000 characters"),
        (
            {**change("none", "x"), "text": None, "deleted": False},
            None,
            "has a text, not only white space",
        ),
    ],
    ids=["white", "huge", "none"],
)
def test_a_bad_document_is_a_reject_and_the_published_text_stays(
    warehouse: Warehouse, home: Path, bad: dict[str, Any], value: str | None, reason: str
) -> None:
    land(home, "2026-11-19", change(bad["doc_id"], "It was fine."), change("other", "So is this."))
    refresh(warehouse, home)
    land(home, "2026-11-20", {**bad, "updated_at": (NOON + dt.timedelta(days=1)).isoformat()})
    report = refresh(warehouse, home)
    assert (report.inferred, report.rejected) == (0, 1)
    assert published(warehouse)[f"{bad['doc_id']}#0"][0] == "It was fine."
    with warehouse.connect() as connection:
        found = connection.exec_driver_sql(
            'SELECT file, line, key, "column", value, reason FROM lineage.current_rejects '
            "WHERE source = 'documents'"
        ).one()
    assert found[0].endswith("2026-11-20/changes.jsonl")
    assert found[1:5] == (1, bad["doc_id"], "text", value)
    assert reason in found[5]
