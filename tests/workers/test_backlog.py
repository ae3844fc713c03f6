"""Any number of rows is shared among any number of workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from overnight.engines.trivial import TrivialReverse
from overnight.plan.splits import Plan, cut
from overnight.store import StoreConfig
from overnight.workers.actor import Assignment
from overnight.workers.backlog import Backlog

if TYPE_CHECKING:
    from pathlib import Path


def plan_of(rows: int, split_rows: int, files: Path) -> Plan:
    infer = pl.DataFrame(
        {
            "row": range(rows),
            "_read": range(rows),
            "input_hash": [n.to_bytes(16, "big") for n in range(rows)],
            "_split": [n // split_rows for n in range(rows)],
            "_size": [n % 7 for n in range(rows)],
            "_prefix": [n % 3 for n in range(rows)],
        }
    )
    order, splits, offsets = cut(infer)
    return Plan(rows, 0, pl.DataFrame(), [], pl.DataFrame(), splits, order, offsets, files)


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize("split_rows", [64, 1000])
def test_every_row_is_in_one_piece_and_no_worker_goes_without(
    tmp_path: Path, workers: int, split_rows: int
) -> None:
    assignment = Assignment(
        job="job",
        partition="2026-01-05",
        attempt=1,
        run_id="r",
        fingerprint="f0",
        store=StoreConfig(url=tmp_path.as_uri()),
    )
    for rows in range(1, 300):
        plan = plan_of(rows, split_rows, tmp_path)
        backlog = Backlog(TrivialReverse(), plan, assignment)
        backlog.begin(workers)
        pieces = backlog._queue
        assert backlog.left([]) == backlog.total == rows
        assert len(pieces) >= min(workers, rows)
        hashes = pl.concat(
            plan.hashes(piece.split) if piece.hashes is None else piece.hashes for piece in pieces
        )
        assert hashes["input_hash"].n_unique() == hashes.height == rows
