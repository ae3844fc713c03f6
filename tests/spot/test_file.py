"""Notices in a file."""

from __future__ import annotations

import contextlib
import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.spot.file import NoticeFile, parse_notice
from overnight.spot.types import NoticeError

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_795_400_000.0
MODIFIED = NOW - 2


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "notice"


def looking(path: Path) -> NoticeFile:
    return NoticeFile(path, clock=lambda: NOW)


def write(path: Path, content: Any) -> None:
    """As a good writer does: whole, at once."""
    new = path.with_suffix(".new")
    new.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    os.utime(new, (MODIFIED, MODIFIED))
    new.replace(path)


def test_without_a_file_there_is_no_notice_and_no_error(path: Path) -> None:
    look = looking(path).look()
    assert (look.notices, look.error) == ((), None)
    look = looking(path / "below" / "nothing").look()
    assert (look.notices, look.error) == ((), None)


@pytest.mark.parametrize(
    ("told", "deadline"),
    [
        ({"deadline": "2026-11-23T07:46:40Z"}, 1_795_420_000.0),
        ({"deadline": "2026-11-23T09:46:40.5+02:00"}, 1_795_420_000.5),
        ({"in_s": 90}, MODIFIED + 90),
        ({"in_s": 0.5}, MODIFIED + 0.5),
        ({}, MODIFIED + 30),
        ({"detail": "maintenance"}, MODIFIED + 30),
    ],
)
def test_the_deadline_is_a_time_or_seconds_from_writing(
    path: Path, told: dict[str, Any], deadline: float
) -> None:
    write(path, told)
    (notice,) = looking(path).look().notices
    assert (notice.kind, notice.source, notice.deadline) == ("interruption", "file", deadline)
    assert notice.seen_at == NOW


def test_an_empty_file_says_that_the_machine_goes_in_30_s(path: Path) -> None:
    write(path, b"")
    file = looking(path)
    # The first time, somebody may be about to write it.
    assert file.look().notices == ()
    (notice,) = file.look().notices
    assert (notice.kind, notice.deadline) == ("interruption", MODIFIED + 30)


def test_a_file_that_is_being_written_is_read_when_it_is_whole(path: Path) -> None:
    file = looking(path)
    for part in (b"", b'{"in_', b'{"in_s": 5}'):
        path.write_bytes(part)
        os.utime(path, (MODIFIED, MODIFIED))
        look = file.look()
        assert look.error is None
    (notice,) = look.notices
    assert notice.deadline == MODIFIED + 5


def test_a_rebalance_has_no_deadline(path: Path) -> None:
    write(path, {"kind": "rebalance", "deadline": "2026-11-20T02:00:00Z", "detail": "soon\nor not"})
    (notice,) = looking(path).look().notices
    assert (notice.kind, notice.deadline, notice.detail) == ("rebalance", None, "soon or not")


def test_a_notice_from_an_earlier_time_is_not_heeded(path: Path) -> None:
    write(path, {"deadline": "2020-01-01T00:00:00Z"})
    file = looking(path)
    file.look()
    look = file.look()
    assert look.notices == ()
    assert look.error is not None
    assert "long past" in look.error


def test_secrets_in_the_words_are_hidden(path: Path) -> None:
    write(path, {"detail": "see postgresql://me:hunter2@db/x"})
    (notice,) = looking(path).look().notices
    assert "hunter2" not in notice.detail


BAD = [
    (b"\xff\xfe", "JSON"),
    (b"soon", "JSON"),
    (b"[" * 20_000, "JSON"),
    (b"[]", "object"),
    (b'"terminate"', "object"),
    (b"null", "object"),
    (b"x" * 100_000, "longer"),
    ({"deadline": "soon"}, "`deadline`"),
    ({"deadline": "2026-11-20T02:00:00"}, "`deadline`"),
    ({"deadline": 90}, "`deadline`"),
    ({"deadline": None}, "`deadline`"),
    ({"deadline": "0001-01-01T00:00:00+14:00"}, "`deadline`"),
    ({"in_s": -1}, "`in_s`"),
    ({"in_s": "5"}, "`in_s`"),
    ({"in_s": True}, "`in_s`"),
    ({"in_s": 10**400}, "`in_s`"),
    (b'{"in_s": NaN}', "`in_s`"),
    (b'{"in_s": Infinity}', "`in_s`"),
    ({"in_s": 5, "deadline": "2026-11-23T07:46:40Z"}, "both"),
    ({"kind": "doom"}, "`kind`"),
    ({"kind": ["interruption"]}, "`kind`"),
    ({"source": "ec2"}, "`source`"),
    ({"detail": 5}, "`detail`"),
]


@pytest.mark.parametrize(("content", "says"), BAD)
def test_garbage_is_an_error_until_the_file_changes(path: Path, content: Any, says: str) -> None:
    write(path, content)
    file = looking(path)
    assert file.look().notices == ()
    first, second = file.look(), file.look()
    assert first.notices == second.notices == ()
    assert first.error is not None
    assert says in first.error
    assert str(path) in first.error
    assert first.error == second.error
    write(path, {"in_s": 5})
    assert file.look().error is None
    assert len(file.look().notices) == 1


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_an_error_and_is_not_waited_for(path: Path, make: Any) -> None:
    make(path)
    file = looking(path)
    file.look()
    error = file.look().error
    assert error is not None
    assert "not a file" in error


@given(st.binary(max_size=300))
def test_whatever_bytes_a_file_holds_they_are_a_notice_or_an_error(content: bytes) -> None:
    with contextlib.suppress(NoticeError):
        parse_notice(content, modified=MODIFIED, now=NOW)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.datetimes().map(str),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
MEMBERS = ("deadline", "in_s", "kind", "detail", "source")


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(st.sampled_from(MEMBERS), VALUES, max_size=3))
def test_whatever_members_an_object_has_it_is_a_notice_or_an_error(told: dict[str, Any]) -> None:
    try:
        notice = parse_notice(json.dumps(told).encode(), modified=MODIFIED, now=NOW)
    except NoticeError as error:
        assert str(error)  # noqa: PT017 - either outcome is right, each in its own way
    else:
        assert (notice.deadline is None) == (notice.kind == "rebalance")
        assert notice.detail.encode()
