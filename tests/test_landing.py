"""Landing files: all checked before any is copied, never replacing by accident."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from overnight.contract import Contract, Field
from overnight.errors import ConfigError, NotLandedError, SourceError, TooManyRejectsError
from overnight.landing import (
    Reader,
    Source,
    land,
    landed_partitions,
    landing_version,
    mark_complete,
)
from overnight.store import StoreConfig

if TYPE_CHECKING:
    from pathlib import Path

    from overnight.store import Store

DAY = "2026-01-31"
FOLDER = f"landing/items/{DAY}"


class Item(Contract):
    """An item."""

    id: str = Field(description="Which.")
    count: int | None = Field(description="How many.", ge=0)


class Typed(Contract):
    number: int = Field(description="A number.")
    maybe: str | None = Field(description="May be null.")
    share: float = Field(description="A float.")


ITEMS = Source(name="items", contract=Item, key="id")
GOOD = b'{"id":"a","count":1}\n{"id":"b"}\n'


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "store").mkdir()
    return StoreConfig((tmp_path / "store").as_uri()).open()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder


def file(inbox: Path, name: str, content: bytes = GOOD) -> Path:
    (inbox / name).write_bytes(content)
    return inbox / name


def keys(store: Store) -> list[str]:
    return [entry.key for entry in store.list("landing")]


def test_checked_files_are_copied_and_reported(store: Store, inbox: Path) -> None:
    bad_row = b'{"id":"c","count":-1}\n'
    files = [file(inbox, "a.jsonl", GOOD * 20 + bad_row), file(inbox, "b.csv", b"id,count\nx,1\n")]
    report = land(store, ITEMS, DAY, files)
    assert keys(store) == [f"{FOLDER}/a.jsonl", f"{FOLDER}/b.csv"]
    assert store.get(f"{FOLDER}/a.jsonl") == files[0].read_bytes()
    assert (report.rows, report.rejected) == (42, 1)
    assert [(one.name, one.rows, one.rejected, one.action) for one in report.files] == [
        ("a.jsonl", 41, 1, "landed"),
        ("b.csv", 1, 0, "landed"),
    ]
    assert report.rejects.rows() == [(str(files[0]), 41, "c", "count", "-1", "must be >= 0")]
    reader = Reader(store, ITEMS, DAY)
    assert sum(batch.frame.height for batch in reader.batches()) == 41
    assert [one.digest for one in reader.inputs] == [one.digest for one in report.files]


def test_landing_the_same_file_again_does_nothing_and_says_so(store: Store, inbox: Path) -> None:
    path = file(inbox, "a.jsonl")
    land(store, ITEMS, DAY, [path])
    version = landing_version(store, ITEMS, DAY)
    report = land(store, ITEMS, DAY, [path], replace=True)
    assert [one.action for one in report.files] == ["already there"]
    assert landing_version(store, ITEMS, DAY) == version


def test_another_content_under_the_same_name_needs_a_word(store: Store, inbox: Path) -> None:
    land(store, ITEMS, DAY, [file(inbox, "a.jsonl")])
    version = landing_version(store, ITEMS, DAY)
    changed = file(inbox, "a.jsonl", GOOD.replace(b'"b"', b'"z"'))
    with pytest.raises(SourceError, match=r"items/2026-01-31/a\.jsonl: is there already"):
        land(store, ITEMS, DAY, [file(inbox, "new.jsonl"), changed])
    assert keys(store) == [f"{FOLDER}/a.jsonl"]
    assert landing_version(store, ITEMS, DAY) == version
    report = land(store, ITEMS, DAY, [changed], replace=True)
    assert [one.action for one in report.files] == ["replaced"]
    assert store.get(f"{FOLDER}/a.jsonl") == changed.read_bytes()
    assert landing_version(store, ITEMS, DAY) != version


def test_too_many_rejects_and_nothing_is_copied(store: Store, inbox: Path) -> None:
    files = [file(inbox, "good.jsonl"), file(inbox, "bad.jsonl", b'{"id":1}\n{"id":"x"}\n')]
    with pytest.raises(TooManyRejectsError) as error:
        land(store, ITEMS, DAY, files, max_reject_share=0.2)
    assert str(error.value).splitlines() == [
        (
            "1 of 4 rows break the contract of source 'items', allowed is a share of 0.2; "
            "nothing was landed:"
        ),
        f"  {files[1]}, line 1, column 'id', value 1: must be a string, is an integer",
    ]
    assert keys(store) == []
    assert land(store, ITEMS, DAY, files, max_reject_share=0.25).rejected == 1


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_within_0_and_1(store: Store, inbox: Path, share: float) -> None:
    with pytest.raises(ConfigError, match="max_reject_share"):
        land(store, ITEMS, DAY, [file(inbox, "a.jsonl")], max_reject_share=share)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("a.xlsx", "must end in one of"),
        ("a.csv.gz", "must end in one of"),
        ("_a.jsonl", "is not data in the landing zone"),
        (".a.jsonl", "is not data in the landing zone"),
    ],
)
def test_a_name_that_could_not_be_read_is_refused(
    store: Store, inbox: Path, name: str, problem: str
) -> None:
    with pytest.raises(SourceError, match=problem):
        land(store, ITEMS, DAY, [file(inbox, "good.jsonl"), file(inbox, name)])
    assert keys(store) == []


def test_what_is_no_file_is_refused(store: Store, inbox: Path) -> None:
    with pytest.raises(SourceError, match=r"missing\.csv': there is no such file"):
        land(store, ITEMS, DAY, [inbox / "missing.csv"])
    with pytest.raises(SourceError, match=r"inbox': is a directory"):
        land(store, ITEMS, DAY, [inbox])
    with pytest.raises(SourceError, match="NUL"):
        land(store, ITEMS, DAY, [inbox / "a\0.csv"])
    with pytest.raises(SourceError, match="no files"):
        land(store, ITEMS, DAY, [])
    with pytest.raises(SourceError, match=r"a\.jsonl: is empty \(0 bytes\)"):
        land(store, ITEMS, DAY, [file(inbox, "a.jsonl", b"")])


def test_two_files_of_one_name_are_refused(store: Store, inbox: Path) -> None:
    (inbox / "sub").mkdir()
    with pytest.raises(SourceError, match="same name as another file"):
        land(store, ITEMS, DAY, [file(inbox, "a.jsonl"), file(inbox / "sub", "a.jsonl")])


@pytest.mark.parametrize("partition", ["2026-11-31", "../x", "", "\0"])
def test_a_partition_that_is_no_date_is_refused(store: Store, inbox: Path, partition: str) -> None:
    with pytest.raises(ConfigError, match="is not a date"):
        land(store, ITEMS, partition, [file(inbox, "a.jsonl")])
    with pytest.raises(ConfigError, match="is not a date"):
        mark_complete(store, ITEMS, partition)
    with pytest.raises(ConfigError, match="is not a date"):
        landing_version(store, ITEMS, partition)


def test_partitions_are_listed_once_they_have_data_or_are_complete(
    store: Store, inbox: Path
) -> None:
    assert landed_partitions(store, ITEMS) == []
    land(store, ITEMS, "2026-02-01", [file(inbox, "a.jsonl")])
    mark_complete(store, ITEMS, "2026-01-31")
    store.put("landing/items/2026-03-01/_draft.jsonl", b"{}")
    store.put("landing/items/2026-04-01/notes.txt", b"x")
    store.put("landing/items/latest/a.jsonl", b"{}")
    store.put("landing/items2/2026-05-01/a.jsonl", b"{}")
    assert landed_partitions(store, ITEMS) == ["2026-01-31", "2026-02-01"]


def test_a_landing_version_changes_with_every_file(store: Store, inbox: Path) -> None:
    with pytest.raises(NotLandedError):
        landing_version(store, ITEMS, DAY)
    mark_complete(store, ITEMS, DAY)
    empty = landing_version(store, ITEMS, DAY)
    land(store, ITEMS, DAY, [file(inbox, "a.jsonl")])
    one = landing_version(store, ITEMS, DAY)
    land(store, ITEMS, DAY, [file(inbox, "b.jsonl")])
    two = landing_version(store, ITEMS, DAY)
    assert len({empty, one, two}) == 3
    assert landing_version(store, ITEMS, DAY) == two


@pytest.mark.parametrize("name", ["", "Items", "a/b", "..", "a;b", "a\0", "x" * 49])
def test_a_source_name_is_a_plain_folder_name(name: str) -> None:
    with pytest.raises(ConfigError, match="source name"):
        Source(name=name, contract=Item, key="id")


@pytest.mark.parametrize(
    ("key", "problem"),
    [("nope", "is not a column of Typed"), ("maybe", "nullable"), ("share", "is Float64")],
)
def test_a_key_is_a_column_that_can_identify_a_row(key: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        Source(name="typed", contract=Typed, key=key)
    assert Source(name="typed", contract=Typed, key="number").key == "number"
