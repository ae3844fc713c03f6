"""The hash that says whether a row was inferred before: stable, and told by content alone."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.plan.hashing import input_hashes


def wide() -> tuple[pl.DataFrame, pl.Series]:
    """A row of every kind, one of nulls, and one of odd values."""
    frame = pl.DataFrame(
        {
            "id": ["a", "b", "ü"],
            "int": [1, None, -(2**63)],
            "uint": pl.Series([1, None, 2**64 - 1], dtype=pl.UInt64),
            "float": [1.5, None, float("nan")],
            "flag": [True, None, False],
            "bytes": [b"x", None, b""],
            "date": [dt.date(2026, 11, 22), None, dt.date(1, 1, 1)],
            "time": [
                dt.datetime(2026, 11, 22, tzinfo=dt.UTC),
                None,
                dt.datetime(1, 1, 1, tzinfo=dt.UTC),
            ],
            "floats": [[1.0, None, 2.0], None, []],
            "struct": [{"x": 1, "y": ["a"]}, None, {"x": None, "y": None}],
        }
    ).with_columns(
        small=pl.col("int").is_null().cast(pl.Int8),
        category=pl.col("id").cast(pl.Enum(["a", "b", "ü"])),
        embedding=pl.Series([[1.0, 2.0]] * 3, dtype=pl.Array(pl.Float32, 2)),
    )
    return frame, pl.Series("request", ["ask a", "", "ask ü"])


HASHES = [
    "9ec57557cb21b58a29601fce1e74db37",
    "22f509f3d0b8811a6b81ec69e3517beb",
    "90d795eee99cff78538cccce70cb8c30",
]


def test_the_input_hash_is_the_one_it_has_always_been() -> None:
    frame, request = wide()
    assert [h.hex() for h in input_hashes(frame, request, key="id")] == HASHES


def test_the_input_hash_is_the_same_in_another_process() -> None:
    program = (
        "from tests.test_hashing import wide; from overnight.plan.hashing import input_hashes;"
        "print([h.hex() for h in input_hashes(*wide(), key='id')])"
    )
    root = Path(__file__).parent.parent
    path = f"{root}:{root / 'platform'}"
    command = [sys.executable, "-c", program]
    said = subprocess.check_output(
        command, env={"PYTHONPATH": path, "PYTHONHASHSEED": "7"}, text=True
    )
    assert said.strip() == str(HASHES)


def test_a_rows_hash_depends_on_neither_its_neighbours_nor_the_order_of_columns() -> None:
    frame, request = wide()
    together = input_hashes(frame, request, key="id").to_list()
    alone = [input_hashes(frame[n : n + 1], request[n : n + 1], key="id")[0] for n in range(3)]
    assert together == alone
    assert (
        input_hashes(frame.select(reversed(frame.columns)), request, key="id").to_list() == together
    )


@settings(max_examples=100, deadline=None)
@given(
    first=st.tuples(st.none() | st.text(max_size=3), st.none() | st.text(max_size=3), st.text()),
    second=st.tuples(st.none() | st.text(max_size=3), st.none() | st.text(max_size=3), st.text()),
)
def test_hashes_are_equal_only_if_columns_and_request_are(
    first: tuple[str | None, str | None, str], second: tuple[str | None, str | None, str]
) -> None:
    frame = pl.DataFrame(
        {"id": [first[0], second[0]], "text": [first[1], second[1]]},
        schema={"id": pl.String, "text": pl.String},
    )
    one, two = input_hashes(frame, pl.Series([first[2], second[2]]), key="id")
    assert (one == two) == (first == second)
