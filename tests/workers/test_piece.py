"""What becomes of rows whose worker died: retried together, then alone, then halved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import polars as pl
import pytest

from overnight.plan.splits import Split
from overnight.workers.piece import Piece

if TYPE_CHECKING:
    from overnight.plan import Plan

# A piece that knows its hashes asks the plan for nothing.
PLAN = cast("Plan", None)


def piece(rows: int, **state: Any) -> Piece:
    hashes = [n.to_bytes(16, "big") for n in range(rows)]
    return Piece(Split(0, rows, rows), pl.DataFrame({"input_hash": hashes}), **state)


@pytest.mark.parametrize("alone", [True, False])
def test_the_first_death_is_nobodys_fault(alone: bool) -> None:
    (again,) = piece(10).after_death(PLAN, alone=alone)
    assert (again.rows, again.suspect) == (10, False)


def test_the_second_death_makes_a_suspect_and_the_next_one_alone_halves() -> None:
    (second,) = piece(10, survived=True).after_death(PLAN, alone=False)
    assert (second.rows, second.suspect) == (10, True)
    halves = second.after_death(PLAN, alone=True)
    assert [(half.rows, half.suspect) for half in halves] == [(5, True), (5, True)]


def test_what_is_left_of_a_survivor_is_a_survivor() -> None:
    done = pl.DataFrame({"input_hash": [bytes(15) + b"\0"]})
    left = piece(10, survived=True).less(done, PLAN)
    assert (left.rows, left.survived) == (9, True)


@pytest.mark.parametrize("rows", [1, 2, 7, 10, 1000])
def test_a_row_that_kills_is_given_up_after_a_bounded_number_of_deaths(rows: int) -> None:
    killer, deaths = (rows - 1).to_bytes(16, "big"), 0
    waiting, buried = [piece(rows)], []
    while waiting:
        one = waiting.pop()
        assert one.hashes is not None
        if killer in one.hashes["input_hash"].to_list():
            deaths += 1
            again = one.after_death(PLAN, alone=True)
            buried += [] if again else [one]
            waiting += again
    assert [
        (one.rows, killer in one.hashes["input_hash"].to_list())
        for one in buried
        if one.hashes is not None
    ] == [(1, True)]
    assert deaths <= rows.bit_length() + 4
