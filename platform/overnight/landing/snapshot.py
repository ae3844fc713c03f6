"""A private copy of one landing file: hashed while it is fetched, and known not to change.

The copy is why a digest can be given to the first row of a file that is read as a stream, and
why replacing a file in place cannot mix two versions.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from overnight.errors import SourceChangedError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from overnight.store import Entry, Store


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The bytes of a file, at their start, with their SHA-256."""

    stream: BinaryIO
    digest: str
    size: int


@contextlib.contextmanager
def snapshot(chunks: Iterable[bytes], scratch: Path | None) -> Iterator[Snapshot]:
    """Copy chunks to an unnamed file in `scratch` (the system's default if None).

    Raises:
        StoreError: if there is no room for it.
    """
    digest = hashlib.sha256()
    size = 0
    with contextlib.ExitStack() as stack:
        with _room(scratch):
            copy = stack.enter_context(tempfile.TemporaryFile(dir=scratch))
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            with _room(scratch):
                copy.write(chunk)
        with _room(scratch):
            copy.seek(0)
        yield Snapshot(cast("BinaryIO", copy), f"sha256:{digest.hexdigest()}", size)


@contextlib.contextmanager
def fetched(store: Store, entry: Entry, scratch: Path | None) -> Iterator[Snapshot]:
    """Copy one object of the store.

    Raises:
        SourceChangedError: if it is not the one that was listed any more.
        StoreError: if there is no room for it.
    """
    with contextlib.ExitStack() as stack:
        try:
            copy = stack.enter_context(snapshot(store.stream(entry.key), scratch))
        except FileNotFoundError:
            raise _changed(store, entry, "it is gone") from None
        require_unchanged(store, entry)
        if copy.size != entry.size:
            raise _changed(store, entry, f"{copy.size} bytes came, {entry.size} were listed")
        yield copy


@contextlib.contextmanager
def _room(scratch: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = scratch or tempfile.gettempdir()
        message = f"cannot keep a copy of a landing file in {where}: {error.strerror or error}"
        raise StoreError(message) from error


def require_unchanged(store: Store, entry: Entry) -> None:
    """Compare an object with what the listing said of it.

    Raises:
        SourceChangedError: if it was replaced or removed.
    """
    try:
        now = store.head(entry.key)
    except FileNotFoundError:
        raise _changed(store, entry, "it is gone") from None
    if (now.version, now.size) != (entry.version, entry.size):
        raise _changed(store, entry, f"version {entry.version} became {now.version}")


def _changed(store: Store, entry: Entry, how: str) -> SourceChangedError:
    return SourceChangedError(
        f"{store.url}/{entry.key}: changed while it was being read: {how}; read the partition again"
    )
