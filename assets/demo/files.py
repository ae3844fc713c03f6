"""How demo rows become a file in the landing zone."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["write_rows"]


def write_rows(rows: Iterable[Mapping[str, object]], path: Path) -> int:
    """Write rows as one JSON object per line; the file appears whole or not at all.

    Args:
        rows: The rows, in the order to write them.
        path: The file, ending in ``.jsonl``; folders that are missing are made.

    Returns:
        How many rows were written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with unfinished.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                count += 1
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return count
