"""The process that `test_journal_kill.py` kills: it appends records 0, 1, 2... to a journal.

It prints how many are durable whenever that changes.
"""

from __future__ import annotations

import sys

from overnight.journal import Journal
from overnight.store import StoreConfig
from tests.journal_records import records

ROWS_A_TABLE = 5
TABLES = 120
TOTAL = ROWS_A_TABLE * TABLES


def journal_in(config: StoreConfig) -> Journal:
    return Journal(config.open(), "job", "fingerprint", "2026-11-22")


def say(rows: int) -> None:
    sys.stdout.write(f"{rows}\n")
    sys.stdout.flush()


def main(url: str, endpoint: str, region: str, attempt: str) -> None:
    config = StoreConfig(url, endpoint_url=endpoint or None, region=region)
    journal = journal_in(config)
    with journal.writer(attempt=int(attempt), worker="w", on_flushed=say, interval=0) as out:
        for first in range(0, TOTAL, ROWS_A_TABLE):
            out.append(records(range(first, first + ROWS_A_TABLE)))
            if first % 2:
                out.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
