"""Landing files: checked completely, by what will read them, before any is copied."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from overnight.errors import ConfigError, SourceError, TooManyRejectsError
from overnight.landing.rows import REJECT_SCHEMA, checked_rows
from overnight.landing.zone import SUFFIXES, folder, suffix_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.landing.zone import Source
    from overnight.store import Store

_BATCH_ROWS = 16_384
_MAX_REJECTS_KEPT = 1_000
_MAX_REJECTS_SHOWN = 5
_CHUNK_BYTES = 8 << 20

LANDED = "landed"
REPLACED = "replaced"
ALREADY_THERE = "already there"


@dataclass(frozen=True, slots=True)
class LandedFile:
    """One file: its key in the store, size in bytes, rows, and what was done with it.

    `action` is `landed`, `replaced` or `already there` (the same content: nothing was done).
    """

    name: str
    key: str
    digest: str
    bytes: int
    rows: int
    rejected: int
    action: str


@dataclass(frozen=True, slots=True)
class LandReport:
    """What landing did: `rejects` has the columns of `Batch.rejects`, the first 1,000."""

    source: str
    partition: str
    files: tuple[LandedFile, ...]
    rejects: pl.DataFrame

    @property
    def rows(self) -> int:
        """Rows in all files, rejected ones included."""
        return sum(file.rows for file in self.files)

    @property
    def rejected(self) -> int:
        """Rows that break the input contract; they land, and are rejected again when read."""
        return sum(file.rejected for file in self.files)


def land(
    store: Store,
    source: Source,
    partition: str,
    files: Sequence[Path],
    *,
    max_reject_share: float = 0.05,
    replace: bool = False,
    scratch: Path | None = None,
) -> LandReport:
    """Check local files completely, then copy them into a partition, each one atomically.

    Args:
        store: where the landing zone is.
        source: what the files are.
        partition: an ISO date.
        files: local files; they keep their names.
        max_reject_share: the largest share of all rows, 0 to 1, that may break the contract.
        replace: replace a file of the same name and another content.
        scratch: where copies are kept meanwhile; the system's default if None.

    Raises:
        ConfigError: if the partition is no date or the share is not within 0 and 1.
        SourceError: if a file cannot be landed; nothing was copied then.
        TooManyRejectsError: if too many rows break the contract; nothing was copied then.
        StoreError: if the store fails; files copied before that stay, landing again is safe.
    """
    prefix = folder(source, partition)
    if not 0 <= max_reject_share <= 1:
        message = f"max_reject_share is {max_reject_share}, must be within 0 and 1"
        raise ConfigError(message)
    _require_landable(files)
    with tempfile.TemporaryDirectory(dir=scratch, prefix="overnight-landing-") as folder_name:
        copies = [_copy(path, Path(folder_name)) for path in files]
        checked = [
            _check(path, copy, store, source, f"{prefix}/{path.name}", replace=replace)
            for path, copy in zip(files, copies, strict=True)
        ]
        report = LandReport(
            source.name,
            partition,
            tuple(file for file, _ in checked),
            pl.concat([REJECT_SCHEMA.to_frame(), *(found for _, found in checked)]).head(
                _MAX_REJECTS_KEPT
            ),
        )
        _require_few_rejects(report, max_reject_share)
        for file, copy in zip(report.files, copies, strict=True):
            if file.action != ALREADY_THERE:
                store.upload(file.key, copy)
    return report


def _require_landable(files: Sequence[Path]) -> None:
    if not files:
        message = "no files were given to land"
        raise SourceError(message)
    names: set[str] = set()
    for path in files:
        problem = _problem(path)
        if problem is None and path.name in names:
            problem = "has the same name as another file given; rename one"
        if problem is not None:
            message = f"{str(path)!r}: {problem}"
            raise SourceError(message)
        names.add(path.name)


def _problem(path: Path) -> str | None:
    if "\0" in str(path):
        return "a path cannot have a NUL character"
    if path.is_dir():
        return "is a directory; name the files in it"
    if not path.is_file():
        return "there is no such file"
    if suffix_of(path.name) is None:
        return f"cannot be landed; its name must end in one of {', '.join(SUFFIXES)}"
    if path.name.startswith(("_", ".")):
        return "a name that starts with '_' or '.' is not data in the landing zone; rename it"
    return None


def _copy(path: Path, directory: Path) -> Path:
    """Keep what is checked, so that it is what lands."""
    try:
        return Path(shutil.copyfile(path, directory / path.name))
    except OSError as error:
        message = f"{str(path)!r}: cannot be copied for the check: {error.strerror}"
        raise SourceError(message) from error


def _check(
    path: Path, copy: Path, store: Store, source: Source, key: str, *, replace: bool
) -> tuple[LandedFile, pl.DataFrame]:
    with copy.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        stream.seek(0)
        rows = rejected = 0
        rejects = REJECT_SCHEMA.to_frame()
        for batch in checked_rows(
            stream, uri=str(path), contract=source.contract, key=source.key, batch_rows=_BATCH_ROWS
        ):
            rows += batch.frame.height + batch.rejects.height
            rejected += batch.rejects.height
            rejects = pl.concat([rejects, batch.rejects.head(_MAX_REJECTS_KEPT - rejects.height)])
    size = copy.stat().st_size
    action = _action(store, key, digest, size, replace=replace)
    landed = LandedFile(path.name, key, f"sha256:{digest}", size, rows, rejected, action)
    return landed, rejects


def _action(store: Store, key: str, digest: str, size: int, *, replace: bool) -> str:
    with contextlib.suppress(FileNotFoundError):
        if store.head(key).size == size:
            there = hashlib.sha256()
            for chunk in store.stream(key, _CHUNK_BYTES):
                there.update(chunk)
            if there.hexdigest() == digest:
                return ALREADY_THERE
        if replace:
            return REPLACED
        message = (
            f"{store.url}/{key}: is there already, with another content; land it under another "
            "name, or say that it is to be replaced"
        )
        raise SourceError(message)
    return LANDED


def _require_few_rejects(report: LandReport, max_reject_share: float) -> None:
    if report.rejected <= max_reject_share * report.rows:
        return
    first = (
        f"{report.rejected} of {report.rows} rows break the contract of source {report.source!r}, "
        f"allowed is a share of {max_reject_share}; nothing was landed:"
    )
    lines = [first]
    for row in report.rejects.head(_MAX_REJECTS_SHOWN).iter_rows(named=True):
        where = f"{row['file']}, line {row['line']}, column {row['column']!r}"
        lines.append(f"  {where}, value {row['value']}: {row['reason']}")
    raise TooManyRejectsError("\n".join(lines))
