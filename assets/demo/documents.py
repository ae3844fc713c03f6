"""Invented help pages and product texts of the shop, and how they change from day to day.

The same for the same seed. The first day brings every document; each later day changes a few,
adds and deletes some, and brings one change late, after a newer one of the same document.
"""

from __future__ import annotations

import datetime as dt
import random
from typing import TYPE_CHECKING

from assets.demo.files import write_rows

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["changes", "write"]

_CHANGED, _ADDED, _DELETED = 0.02, 0.01, 0.005
# fmt: off
_TOPICS = (
    "returns", "delivery", "gift wrapping", "repairs", "opening hours", "the loyalty card",
    "wholesale orders", "engraving", "storage", "cleaning", "spare parts", "the newsletter",
)
_GOODS = (
    "copper kettle", "walnut tray", "brass lantern", "linen apron", "slate board", "felt slippers",
    "glass jar", "cork mat", "hemp rope", "enamel mug", "beeswax candle", "stoneware bowl",
)
_SUBJECTS = (
    "Every {good}", "The {good} from our workshop", "A used {good}", "Our oldest {good}",
    "The {good} you ordered", "A {good} with a scratch", "Each {good} in the window",
)
_VERBS = (
    "is checked by hand before it leaves the shop", "can be brought back within thirty days",
    "should be dried with a soft cloth", "arrives in a box without plastic",
    "keeps its shine for many years", "must not be left in the rain",
    "is repaired in the workshop on Mondays", "comes with a card that says who made it",
    "costs less when two are bought together", "is sent on the day after the order",
    "may be engraved with up to twelve letters", "fits on a shelf of forty centimetres",
)
_ENDS = (
    "", ", and the receipt is enough as proof", ", whatever the weather", " if you ask at the till",
    ", except in the week before the fair", ", which takes about a quarter of an hour",
)
# fmt: on


def changes(
    day: dt.date, *, first: dt.date, count: int, seed: int = 7
) -> Iterator[dict[str, object]]:
    """The changes of one day, as the contract `DocumentChange` wants them.

    Args:
        day: whose changes.
        first: the day on which the shop's documents were loaded.
        count: documents on the first day.
        seed: of everything.
    """
    rng = random.Random(f"{seed} {day}")
    if day == first:
        for number in range(count):
            yield _change(f"d{number:05}", _text(rng), day, rng)
        return
    numbers = rng.sample(range(count), max(3, round(count * (_CHANGED + _DELETED))))
    deleted = numbers[: max(1, round(count * _DELETED))]
    for number in numbers[len(deleted) :]:
        yield _change(f"d{number:05}", _text(rng), day, rng)
    for number in deleted:
        yield _change(f"d{number:05}", None, day, rng)
    for number in range(max(1, round(count * _ADDED))):
        yield _change(f"n{day:%Y%m%d}-{number:04}", _text(rng), day, rng)
    late = _change(f"d{numbers[-1]:05}", _text(rng), day - dt.timedelta(days=1), rng)
    yield late


def write(
    day: dt.date, path: Path, *, first: dt.date, count: int, bad_rows: int = 0, seed: int = 7
) -> int:
    """Write the changes of a day to a `.jsonl` file, with some rows that break the contract.

    Returns:
        How many rows were written.
    """
    rows = list(changes(day, first=first, count=count, seed=seed))
    stamp = dt.datetime.combine(day, dt.time(23, 0), dt.UTC).isoformat()
    rows += [
        {"doc_id": f"blank-{number}", "text": "  \n", "updated_at": stamp, "deleted": False}
        for number in range(bad_rows)
    ]
    return write_rows(rows, path)


def _change(doc: str, text: str | None, day: dt.date, rng: random.Random) -> dict[str, object]:
    at = dt.datetime.combine(day, dt.time(), dt.UTC) + dt.timedelta(seconds=rng.randrange(82_800))
    return {
        "doc_id": doc, "text": text, "updated_at": at.isoformat(), "deleted": text is None,
    }  # fmt: skip


def _text(rng: random.Random) -> str:
    good = rng.choice(_GOODS)
    sentences = [f"About {rng.choice(_TOPICS)} and the {good}, page {rng.randrange(100_000)}."]
    for _ in range(round(2 ** rng.uniform(1.0, 6.0))):
        subject = rng.choice(_SUBJECTS).format(good=good)
        sentences.append(f"{subject} {rng.choice(_VERBS)}{rng.choice(_ENDS)}.")
    return " ".join(sentences)
