"""What a change of a document must be."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from assets.sources import DocumentChange
from overnight.contract import check_rows, polars_schema


@pytest.mark.parametrize(
    ("text", "deleted", "wrong"),
    [
        ("Tea.", False, None),
        (None, True, None),
        ("", True, None),
        (" \n", True, None),
        ("", False, "''"),
        (" \n\u3000", False, r"' \n\u3000'"),
        (None, False, None),
    ],
)
def test_only_a_deletion_may_be_without_a_text(
    text: str | None, deleted: bool, wrong: str | None
) -> None:
    row = ("d1", text, dt.datetime(2026, 11, 20, tzinfo=dt.UTC), deleted)
    frame = pl.DataFrame([row], schema=polars_schema(DocumentChange), orient="row")
    ok, violations = check_rows(DocumentChange, frame)
    assert ok.item() == (deleted or bool((text or "").strip()))
    told = violations.select("column", "value").rows()
    assert told == ([] if ok.item() else [("text", wrong)])
