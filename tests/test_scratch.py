"""Scratch space: the folders of dead processes go, those of living ones stay."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from overnight.errors import StoreError
from overnight.scratch import scratch_folder

if TYPE_CHECKING:
    from pathlib import Path

HOLD = """
import sys
from pathlib import Path
from overnight.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), "7") as folder:
    (folder / "rows").write_text("many")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    theirs = tmp_path / child.stdout.readline().strip()
    (tmp_path / "models").mkdir()
    with scratch_folder(tmp_path, "8") as own:
        assert (theirs / "rows").exists()
        with scratch_folder(tmp_path, "8") as other:
            assert other != own
    child.kill()
    child.communicate()
    with scratch_folder(tmp_path, "9"):
        assert not theirs.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["models"]


def test_no_room_is_an_error_that_says_where(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with (
        pytest.raises(StoreError, match=r"no scratch space in .*taken"),
        scratch_folder(tmp_path / "taken", "1"),
    ):
        pass
