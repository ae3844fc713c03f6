"""Local disk for what an attempt needs only while it lasts; what a killed one left is removed.

A folder belongs to whoever holds the lock on its file `lock`: the kernel gives that back when
its process dies, however it dies.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCK = "lock"


@contextlib.contextmanager
def scratch_folder(root: Path, name: str) -> Iterator[Path]:
    """A new local folder, removed on leaving; folders of dead processes are removed first.

    Args:
        root: where such folders are made; created if it is missing.
        name: what the folder's name starts with.

    Raises:
        StoreError: if there is no room for it.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        _sweep(root)
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root))
        lock = os.open(folder / f".{_LOCK}", os.O_CREAT | os.O_WRONLY)
    except OSError as error:
        raise StoreError(f"no scratch space in {root}: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        # Only now is it there to be found: an unlocked one is a dead one's.
        (folder / f".{_LOCK}").rename(folder / _LOCK)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _sweep(root: Path) -> None:
    for path in root.glob(f"*/{_LOCK}"):
        with contextlib.suppress(OSError):
            lock = os.open(path, os.O_WRONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path.parent, ignore_errors=True)
            finally:
                os.close(lock)
