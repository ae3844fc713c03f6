"""The demo's documents: repeatable, and a feed with everything that feeds do."""

from __future__ import annotations

import datetime as dt

from assets.demo.documents import changes

FIRST = dt.date(2026, 11, 19)
SECOND = FIRST + dt.timedelta(days=1)


def test_the_first_day_brings_every_document_once() -> None:
    rows = list(changes(FIRST, first=FIRST, count=300))
    assert len({row["doc_id"] for row in rows}) == len(rows) == 300
    lengths = sorted(len(str(row["text"])) for row in rows)
    assert lengths[-1] > 8 * lengths[0]
    assert rows == list(changes(FIRST, first=FIRST, count=300))


def test_a_later_day_changes_adds_deletes_and_brings_something_late() -> None:
    rows = list(changes(SECOND, first=FIRST, count=400))
    known = {row["doc_id"] for row in changes(FIRST, first=FIRST, count=400)}
    assert any(row["deleted"] for row in rows)
    assert any(row["doc_id"] not in known for row in rows)
    late = rows[-1]
    newer = [row for row in rows[:-1] if row["doc_id"] == late["doc_id"]]
    assert str(newer[0]["updated_at"]) > str(late["updated_at"])
    assert len(rows) < 20
