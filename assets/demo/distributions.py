"""Real text to summarize: the descriptions of the installed Python distributions.

What is installed differs between machines, so these rows do too; they are the same on
one machine from day to day but for their date. Rows of the same shape that are the
same everywhere come from :mod:`assets.demo.articles`.
"""

import importlib.metadata
import re
from collections.abc import Iterator
from datetime import date
from email.header import decode_header, make_header
from pathlib import Path

from assets.demo.files import write_rows
from assets.models.lead_summarizer.reference import clean, first_sentence

__all__ = ["documents", "write"]

_SHORTEST_BODY = 40
_LONGEST_BODY = 2_000
"""In bytes of UTF-8: at about three to a token, this leaves room for the answer in 1,024 tokens."""
_LONGEST_LEAD = 400
"""In bytes: a first "sentence" beyond this is a list of names, not a sentence."""
_UNDECODABLE = "\N{REPLACEMENT CHARACTER}"
_SENTENCE_BREAK = re.compile(r"(?<=[.!?])\s")


def documents(day: date) -> Iterator[dict[str, object]]:
    """Yield one row for each installed distribution that describes itself.

    Args:
        day: The day in ``published_at``.

    Yields:
        Rows with the fields of :func:`assets.demo.articles.articles`, sorted by
        ``article_id``. The body is the description without its markup, cut after a
        paragraph or a sentence to a length that the bundled summarizer can take.
    """
    found: dict[str, dict[str, object]] = {}
    for distribution in importlib.metadata.distributions():
        metadata = distribution.metadata.json
        name = re.sub(r"[-_.]+", "-", str(metadata["name"])).lower()
        description = str(metadata.get("description", "")).replace(_UNDECODABLE, "")
        body = clean(_shortened(clean(description)))
        if len(body) < _SHORTEST_BODY or len(first_sentence(body).encode()) > _LONGEST_LEAD:
            continue
        summary = " ".join(str(metadata.get("summary", "")).split())
        found.setdefault(
            f"pypi-{name}",
            {
                "article_id": f"pypi-{name}",
                "title": f"{name}: {summary}" if summary else name,
                "body": body,
                "language": "en",
                "author": _author(metadata),
                "published_at": f"{day.isoformat()}T06:00:00Z",
            },
        )
    for article_id in sorted(found):
        yield found[article_id]


def write(day: date, path: Path) -> int:
    """Write the rows of :func:`documents` to a JSON lines file and return how many they are."""
    return write_rows(documents(day), path)


def _author(metadata: dict[str, str | list[str]]) -> str | None:
    for field in ("author", "author_email", "maintainer", "maintainer_email"):
        header = str(make_header(decode_header(str(metadata.get(field, "")))))
        name = re.sub(r"\s*<[^<>]*>", "", header).strip(' "')
        if name and "@" not in name:
            return name
    return None


def _shortened(text: str) -> str:
    kept = ""
    for paragraph in text.split("\n\n"):
        longer = f"{kept}\n\n{paragraph}" if kept else paragraph
        if len(longer.encode()) <= _LONGEST_BODY:
            kept = longer
            continue
        separator = "\n\n" if kept else ""
        for sentence in _SENTENCE_BREAK.split(paragraph):
            longer = f"{kept}{separator}{sentence}"
            if len(longer.encode()) > _LONGEST_BODY:
                break
            kept, separator = longer, " "
        break
    return kept
