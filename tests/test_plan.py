from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from overnight.errors import ConfigError, TooManyRejectsError
from overnight.plan import MaxRejects, Plan, build_plan
from overnight.plan.rejects import REJECTS_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NOTHING = pl.DataFrame(schema={"input_hash": pl.Binary})


@dataclass
class Batch:
    frame: pl.DataFrame
    rejects: pl.DataFrame


@dataclass
class InputFile:
    input_id: int
    uri: str
    source: str = "texts"


@dataclass
class Files:
    """A partition in memory: rows (id, text) by file, of which a text of None is a reject."""

    files: list[list[tuple[str, str | None]]]
    batch_rows: int = 4
    inputs: list[Any] = field(default_factory=list)

    def batches(self) -> Iterator[Any]:
        self.inputs = []
        for number, rows in enumerate(self.files):
            numbered = [(number, line, *row) for line, row in enumerate(rows, start=1)]
            for first in range(0, len(rows), self.batch_rows):
                yield _batch(numbered[first : first + self.batch_rows])
            self.inputs.append(InputFile(number, f"file:///{number}.jsonl"))


def _batch(rows: list[tuple[int, int, str, str | None]]) -> Batch:
    good = [row for row in rows if row[3] is not None]
    bad = [
        {
            "source": "texts",
            "file": f"file:///{number}.jsonl",
            "line": line,
            "key": key,
            "column": "text",
            "value": "None",
            "reason": "null in a column that must not be",
        }
        for number, line, key, text in rows
        if text is None
    ]
    schema = {"_input_id": pl.Int64, "_line": pl.Int64, "id": pl.String, "text": pl.String}
    frame = pl.DataFrame(good, schema=schema, orient="row")
    return Batch(
        frame.select("id", "text", "_input_id", "_line"), pl.DataFrame(bad, REJECTS_SCHEMA)
    )


def prompt(frame: pl.DataFrame) -> pl.Series:
    return frame["text"]


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., Plan]:
    def plan(*files: list[tuple[str, str | None]], batch_rows: int = 4, **changes: Any) -> Plan:
        arguments: dict[str, Any] = {
            "key": "id",
            "prepare": prompt,
            "carry": ["text"],
            "done": NOTHING,
            "published": NOTHING,
            "scratch": tmp_path / "scratch",
            "split_rows": 10,
            "max_rejects": MaxRejects(share=1.0),
        }
        return build_plan(Files(list(files), batch_rows), **{**arguments, **changes})

    return plan


def test_every_row_is_in_one_split_with_key_hash_request_and_carried_columns(
    plan_of: Callable[..., Plan],
) -> None:
    plan = plan_of([(f"k{n}", f"text {n}") for n in range(23)], split_rows=10)
    assert (plan.rows_in, plan.rejected, plan.rejects.height) == (23, 0, 0)
    assert [file.uri for file in plan.inputs] == ["file:///0.jsonl"]
    assert sorted(split.rows for split in plan.splits) == [3, 10, 10]
    tables = [plan.table(split) for split in plan.splits]
    assert tables[0].schema == pa.schema(
        [
            ("row", pa.int64()),
            ("key", pa.string()),
            ("input_hash", pa.binary(16)),
            ("request", pa.large_string()),
            ("text", pa.large_string()),
        ]
    )
    rows = pa.concat_tables(tables).sort_by("row")
    assert rows["row"].to_pylist() == list(range(23))
    assert rows["key"].to_pylist() == plan.wanted["key"].to_list() == [f"k{n}" for n in range(23)]
    assert (
        rows["request"].to_pylist() == rows["text"].to_pylist() == [f"text {n}" for n in range(23)]
    )
    assert rows["input_hash"].to_pylist() == plan.wanted["input_hash"].to_list()
    assert plan.wanted["_line"].to_list() == list(range(1, 24))


def test_work_is_announced_once_and_only_if_there_is_some_to_be_done(
    plan_of: Callable[..., Plan],
) -> None:
    told: list[str] = []
    rows = [(f"k{n}", f"text {n}") for n in range(23)]
    plan = plan_of(rows, on_work=lambda: told.append("work"))
    assert told == ["work"]
    known = plan.wanted.select("input_hash")
    assert not plan_of(rows, done=known, on_work=lambda: told.append("known")).splits
    with pytest.raises(TooManyRejectsError):
        plan_of(
            [*rows, ("bad", None)],
            max_rejects=MaxRejects(share=0.0),
            on_work=lambda: told.append("rejects"),
        )
    assert told == ["work"]


def test_a_key_that_is_text_does_not_go_along_twice(plan_of: Callable[..., Plan]) -> None:
    for carry, carried in ((["id", "text"], ["text"]), (["id"], [])):
        plan = plan_of([("k1", "a"), ("k2", "b")], carry=carry)
        table = plan.table(plan.splits[0])
        assert table.column_names == ["row", "key", "input_hash", "request", *carried]
        assert sorted(table["key"].to_pylist()) == ["k1", "k2"]


def test_the_remainder_of_a_split_comes_in_the_splits_order(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of([(f"k{n}", "x" * n) for n in range(10)])
    (split,) = plan.splits
    hashes = plan.hashes(split)
    assert hashes["input_hash"].to_list() == plan.table(split)["input_hash"].to_pylist()
    left = plan.table(split, hashes[3:5].reverse())
    assert left["input_hash"].to_pylist() == hashes["input_hash"].to_list()[3:5]
    assert plan.table(split, hashes[:0]).num_rows == 0


def test_rows_known_already_are_not_handed_out(plan_of: Callable[..., Plan]) -> None:
    rows: list[tuple[str, str | None]] = [(f"k{n}", f"text {n}") for n in range(6)]
    first = plan_of(rows)
    hashes = first.wanted.select("input_hash")
    plan = plan_of(rows, published=hashes[:2], done=hashes[1:4].with_columns(failed=pl.lit(False)))
    assert plan.wanted["state"].to_list() == [
        *["published"] * 2,
        *["journal"] * 2,
        *["infer"] * 2,
    ]
    assert [plan.table(split)["key"].to_pylist() for split in plan.splits] == [["k4", "k5"]]


def test_if_everything_is_known_nothing_is_written(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    rows: list[tuple[str, str | None]] = [(f"k{n}", "text") for n in range(6)]
    with plan_of(rows) as first:
        done = first.wanted.select("input_hash")
    plan = plan_of(rows, done=done)
    assert plan.splits == []
    assert [path for path in (tmp_path / "scratch").rglob("*") if path.is_file()] == []


def test_an_empty_partition_is_an_empty_plan(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of()
    assert (plan.rows_in, plan.rejected, plan.wanted.height, plan.splits) == (0, 0, 0, [])


def test_leaving_the_plan_removes_its_files(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    with plan_of([("a", "x")]):
        assert list((tmp_path / "scratch").rglob("*.arrow"))
    assert list((tmp_path / "scratch").iterdir()) == []


def test_common_prefixes_meet_and_long_requests_start_early(plan_of: Callable[..., Plan]) -> None:
    shared = "You are a careful assistant. " * 10
    texts = ["short", shared + "1", "y" * 600, shared + "much longer", "z" * 200, shared + "22"]
    plan = plan_of([(str(n), text) for n, text in enumerate(texts)])
    (split,) = plan.splits
    assert plan.table(split)["key"].to_pylist() == ["2", "3", "5", "1", "4", "0"]
    assert split.weight == sum(map(len, texts))


def test_the_heaviest_split_comes_first(plan_of: Callable[..., Plan]) -> None:
    texts = ["x"] * 2 + ["x" * 50] * 2 + ["x" * 100] * 2
    plan = plan_of([(str(n), text) for n, text in enumerate(texts)], split_rows=2)
    assert [(split.index, split.weight) for split in plan.splits] == [(2, 200), (1, 100), (0, 2)]


def test_the_same_row_again_is_rejected_naming_the_first(plan_of: Callable[..., Plan]) -> None:
    plan = plan_of([("a", "x"), ("b", "y")], [("c", "z"), ("a", "x")], [("a", "x")])
    assert plan.wanted["key"].to_list() == ["a", "b", "c"]
    assert (plan.rows_in, plan.rejected) == (5, 2)
    assert plan.rejects.rows(named=True) == [
        {
            "source": "texts",
            "file": file,
            "line": line,
            "key": "a",
            "column": "id",
            "value": "a",
            "reason": "the same row as at file:///0.jsonl:1, which is taken",
        }
        for file, line in [("file:///1.jsonl", 2), ("file:///2.jsonl", 1)]
    ]


def test_different_rows_with_one_key_are_all_rejected_naming_another(
    plan_of: Callable[..., Plan],
) -> None:
    plan = plan_of([("a", "x"), ("a", "x"), ("b", "y")], [("a", "different")])
    assert plan.wanted["key"].to_list() == ["b"]
    reason = "another row with this key is at {}; none of them is taken"
    assert plan.rejects.select("file", "line", "reason").rows() == [
        ("file:///0.jsonl", 1, reason.format("file:///1.jsonl:1")),
        ("file:///0.jsonl", 2, reason.format("file:///1.jsonl:1")),
        ("file:///1.jsonl", 1, reason.format("file:///0.jsonl:1")),
    ]


def test_too_many_rejects_stop_the_plan_and_show_what_was_wrong(
    plan_of: Callable[..., Plan], tmp_path: Path
) -> None:
    rows = [(f"k{n}", None if n < 8 else "text") for n in range(20)]
    with pytest.raises(TooManyRejectsError) as caught:
        plan_of(rows, max_rejects=MaxRejects(share=0.3))
    message = str(caught.value)
    assert "8 of 20 source rows rejected (40.00%), over the limit of 30.00%" in message
    assert (
        "  file:///0.jsonl:1 key k0 column text value None: null in a column that must not be\n"
    ) in message
    assert message.count("file:///") == 5
    assert caught.value.rejects is not None
    assert caught.value.rejects.height == 8
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == message
    assert again.rejects.equals(caught.value.rejects)
    assert list((tmp_path / "scratch").iterdir()) == []


def test_a_limit_of_rows_stops_reading_as_soon_as_it_is_passed(
    plan_of: Callable[..., Plan],
) -> None:
    asked = []

    def counting(frame: pl.DataFrame) -> pl.Series:
        asked.append(frame.height)
        return frame["text"]

    rows = [("a", "text")] * 3 + [("b", None)] * 3 + [("c", "text")] * 100
    with pytest.raises(TooManyRejectsError, match=r"3 source rows rejected so far, over .* of 2"):
        plan_of(rows, prepare=counting, batch_rows=3, max_rejects=MaxRejects(share=1, rows=2))
    assert asked == [3]


def test_duplicate_keys_count_towards_the_limit(plan_of: Callable[..., Plan]) -> None:
    rows: list[tuple[str, str | None]] = [("a", "x"), ("a", "y"), ("b", "z"), ("c", "z")]
    assert plan_of(rows, max_rejects=MaxRejects(share=0.5)).rejected == 2
    with pytest.raises(TooManyRejectsError, match="2 of 4"):
        plan_of(rows, max_rejects=MaxRejects(share=0.49))


@pytest.mark.parametrize(("share", "rows"), [(-0.1, None), (1.1, None), (0.5, -1)])
def test_a_limit_that_means_nothing_is_refused(share: float, rows: int | None) -> None:
    with pytest.raises(ConfigError, match="max_rejects"):
        MaxRejects(share=share, rows=rows)


def failing(frame: pl.DataFrame) -> pl.Series:
    if "bad" in frame["text"]:
        message = "no good"
        raise ValueError(message)
    return frame["text"]


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (failing, r"test_plan.failing raised ValueError: no good, file:///1\.jsonl:2 \(id='b'\)"),
        (
            lambda f: f["text"].filter(f["text"] != "bad"),
            r"2 requests for 3 rows, file:///1\.jsonl:2 \(id='b'\)",
        ),
        (
            lambda f: f["text"].replace("bad", None),
            r"returned null instead of a request, file:///1\.jsonl:2 \(id='b'\)",
        ),
        (lambda f: f, r"returned DataFrame instead of a polars Series, rows from file:///0"),
        (lambda f: pl.Series([object()] * len(f), dtype=pl.Object), r"type Object"),
    ],
)
def test_a_prepare_that_fails_is_named_with_the_row(
    plan_of: Callable[..., Plan], prepare: Any, problem: str
) -> None:
    rows = [("a", "x"), ("b", "bad"), ("c", "y"), *[("d", "z")] * 9]
    with pytest.raises(ConfigError, match=problem):
        plan_of([("a", "x")], rows, batch_rows=3, prepare=prepare)


def test_a_carried_column_may_not_take_a_records_name(plan_of: Callable[..., Plan]) -> None:
    with pytest.raises(ConfigError, match=r"'attempt'.* cannot be carried"):
        plan_of([("a", "x")], carry=["attempt"])


REQUESTS: dict[str, Callable[[pl.DataFrame], pl.Series]] = {
    "list": lambda f: f.select(
        pl.concat_list(pl.lit(1.5), pl.col("text").str.len_chars())
    ).to_series(),
    "array": lambda f: pl.Series([[1.0, 2.0]] * len(f), dtype=pl.Array(pl.Float32, 2)),
    "tokens": lambda f: pl.Series([[1, 2, 3]] * len(f), dtype=pl.List(pl.Int64)),
    "struct": lambda f: f.select(pl.struct("id", "text")).to_series(),
    "number": lambda f: f["text"].str.len_chars(),
}


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_may_be_of_any_arrow_type(plan_of: Callable[..., Plan], kind: str) -> None:
    plan = plan_of([("a", "x"), ("b", "yy")], prepare=REQUESTS[kind])
    (split,) = plan.splits
    table = plan.table(split).sort_by("row")
    frame = pl.DataFrame({"id": ["a", "b"], "text": ["x", "yy"]})
    assert table["request"].to_pylist() == REQUESTS[kind](frame).to_list()
    assert split.weight > 0


TEXTS = st.sampled_from(["a", "bb", "p" * 300 + "1", "p" * 300 + "22", "q" * 300, None])
FILES = st.lists(st.lists(st.tuples(st.sampled_from("abcdefghij"), TEXTS), max_size=12), max_size=4)


@settings(max_examples=150, deadline=None)
@given(
    files=FILES,
    batch_rows=st.integers(1, 5),
    split_rows=st.integers(1, 6),
    known=st.lists(st.sampled_from(["published", "journal"]), max_size=6),
)
def test_every_row_read_is_accounted_for_and_handed_out_at_most_once(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[tuple[str, str | None]]],
    batch_rows: int,
    split_rows: int,
    known: list[str],
) -> None:
    scratch = tmp_path_factory.mktemp("scratch")
    arguments: dict[str, Any] = {
        "key": "id",
        "prepare": prompt,
        "carry": [],
        "scratch": scratch,
        "split_rows": split_rows,
        "max_rejects": MaxRejects(share=1.0),
    }
    with build_plan(Files(files, batch_rows), done=NOTHING, published=NOTHING, **arguments) as plan:
        hashes = plan.wanted["input_hash"]
    states = pl.DataFrame(
        {"input_hash": hashes[: len(known)], "state": known[: len(hashes)]},
        schema={"input_hash": pl.Binary, "state": pl.String},
    )
    done = states.filter(pl.col("state") == "journal")
    published = states.filter(pl.col("state") == "published")
    with build_plan(Files(files, batch_rows), done=done, published=published, **arguments) as plan:
        rows = [row for file in files for row in file]
        readable = [row for row in rows if row[1] is not None]
        texts_of = {key: {text for k, text in readable if k == key} for key, _ in readable}
        accepted = [key for key, texts in texts_of.items() if len(texts) == 1]

        assert plan.rows_in == len(rows)
        assert plan.wanted["key"].to_list() == accepted
        assert plan.rejected == len(rows) - len(accepted)
        assert plan.rejects.height == plan.rejected
        assert plan.wanted["state"].to_list()[: states.height] == states["state"].to_list()

        tables = [plan.table(split) for split in plan.splits]
        handed_out = [key for table in tables for key in table["key"].to_pylist()]
        to_infer = plan.wanted.filter(pl.col("state") == "infer")["key"].to_list()
        assert sorted(handed_out) == sorted(to_infer)
        for split, table in zip(plan.splits, tables, strict=True):
            assert 0 < split.rows == table.num_rows <= split_rows
            requests = table["request"].to_pylist()
            assert split.weight == sum(map(len, requests))
            assert plan.wanted["key"].gather(table["row"].to_numpy()).to_list() == (
                table["key"].to_pylist()
            )
            check_order(requests)
        weights = [split.weight for split in plan.splits]
        assert weights == sorted(weights, reverse=True)


def check_order(requests: list[str]) -> None:
    """Each prefix in one run; runs by their longest, requests in a run by length, falling."""
    prefixes = [request[:256] for request in requests]
    runs = list(dict.fromkeys(prefixes))
    assert prefixes == [prefix for prefix in runs for _ in range(Counter(prefixes)[prefix])]
    longest = [max(len(r) for r in requests if r[:256] == prefix) for prefix in runs]
    assert longest == sorted(longest, reverse=True)
    for prefix in runs:
        lengths = [len(r) for r in requests if r[:256] == prefix]
        assert lengths == sorted(lengths, reverse=True)
