"""Text to train the bundled summarizer on, and text that it has never seen.

Both come from the Python packages installed beside it: their documentation strings
and their descriptions. :func:`is_held_out` decides by the first sentence alone on
which side a text falls, so that no sentence is ever on both.
"""

import ast
import hashlib
import importlib.metadata
import random
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from assets.models.lead_summarizer.reference import clean, first_sentence

__all__ = ["descriptions", "docstrings", "documents", "is_held_out"]

_HELD_OUT_SHARE = 16
_SHORTEST_TEXT = 60
_SHORTEST_SENTENCE = 15
_LONGEST_SENTENCE = 420
_LARGEST_SOURCE = 400_000


def is_held_out(text: str) -> bool:
    """Say whether a text is kept from training, one in sixteen by its first sentence."""
    return hashlib.sha256(first_sentence(text).encode()).digest()[0] % _HELD_OUT_SHARE == 0


def docstrings(*, packages: Sequence[str] | None = None) -> Iterator[str]:
    """Yield the cleaned documentation strings of installed packages, each text once.

    Args:
        packages: Names of top-level packages; all that are installed if not given.

    Yields:
        Prose of at least 60 characters whose first sentence has 15 to 420.
    """
    root = Path(sysconfig.get_paths()["purelib"])
    seen: set[str] = set()
    for folder in [root / name for name in packages] if packages is not None else [root]:
        for path in sorted(folder.rglob("*.py")):
            if path.stat().st_size < _LARGEST_SOURCE:
                for text in _docstrings_of(path):
                    prose = clean(text)
                    if prose not in seen and _is_usable(prose):
                        seen.add(prose)
                        yield prose


def descriptions() -> Iterator[str]:
    """Yield the cleaned descriptions of the installed distributions."""
    for distribution in sorted(importlib.metadata.distributions(), key=lambda one: one.name):
        metadata = distribution.metadata.json
        prose = clean(str(metadata.get("description", "")))
        if _is_usable(prose):
            yield prose


def documents(
    texts: Sequence[str], rng: random.Random, *, count: int, lengths: tuple[int, int]
) -> Iterator[str]:
    """Yield documents of given lengths, made of whole sentences of the given texts.

    A text that is too short for its length is followed by paragraphs of others, one
    that is too long is cut at a word. The first sentence is always a whole one.

    Args:
        texts: Cleaned texts, at least one.
        rng: The source of all choices.
        count: How many documents, each of which begins with another text if there are enough.
        lengths: Least and greatest length in characters; lengths are spread evenly.
    """
    leads = rng.sample(list(texts), min(count, len(texts)))
    leads += rng.choices(texts, k=count - len(leads))
    for lead in leads:
        length = rng.randint(*lengths)
        parts = [lead]
        while sum(map(len, parts)) < length:
            parts.append(rng.choice(texts))
        joined = "\n\n".join(parts)
        cut = joined[: max(length, len(first_sentence(lead)))]
        yield clean(cut if cut == joined else cut.rsplit(" ", 1)[0] if len(cut) == length else cut)


def _docstrings_of(path: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text and len(text) >= _SHORTEST_TEXT:
                yield text


def _is_usable(prose: str) -> bool:
    sentence = first_sentence(prose)
    return len(prose) >= _SHORTEST_TEXT and _SHORTEST_SENTENCE <= len(sentence) <= _LONGEST_SENTENCE
