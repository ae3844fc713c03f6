"""Reading one partition: every landing file, every row, with where it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from overnight.errors import ConfigError, SourceChangedError
from overnight.landing.rows import LINE, checked_rows
from overnight.landing.snapshot import fetched, require_unchanged
from overnight.landing.zone import check_partition, data_files, version_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.landing.zone import Source
    from overnight.store import Entry, Store

INPUT_ID = "_input_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFile:
    """A landing file as it was read.

    Attributes:
        source: the source it belongs to.
        input_id: 63 bits of the SHA-256 of `uri` and `digest`: names this content at this place.
        uri: where it is.
        key: its key in the store.
        version: the store's version of it.
        digest: `sha256:` and the digest of its bytes.
        bytes: its size.
        rows: the rows in it, rejected ones included.
    """

    source: str
    input_id: int
    uri: str
    key: str
    version: str
    digest: str
    bytes: int
    rows: int


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of a source.

    Attributes:
        frame: the contract's columns in its order, then `_input_id` and `_line` (Int64; in
            Parquet the row number): rows that keep the contract.
        rejects: one line for each row that does not: `source` (the landed one), `file`, `line`
            (Int64), `key` (null if it cannot be read), `column` (null if it is about the row),
            `value` (`repr`, cut to 200 characters), `reason`; of several wrong columns the
            first, and how many.
    """

    frame: pl.DataFrame
    rejects: pl.DataFrame


class Reader:
    """Reads one partition of a source in bounded memory."""

    def __init__(
        self,
        store: Store,
        source: Source,
        partition: str,
        *,
        batch_rows: int = 16_384,
        scratch: Path | None = None,
    ) -> None:
        """Prepare to read; nothing is touched yet.

        Args:
            store: where the landing zone is.
            source: what to read.
            partition: an ISO date.
            batch_rows: the most rows in a batch, at least 1.
            scratch: where the file being read is kept meanwhile; the system's default if None.

        Raises:
            ConfigError: if the partition is no date, or `batch_rows` is below 1.
        """
        if batch_rows < 1:
            message = f"batch_rows is {batch_rows}, must be at least 1"
            raise ConfigError(message)
        self.inputs: list[InputFile] = []
        self.version: str | None = None
        self._store = store
        self._source = source
        self._partition = check_partition(partition)
        self._batch_rows = batch_rows
        self._scratch = scratch

    def batches(self) -> Iterator[Batch]:
        """Read all files in order of their names; `inputs` and `version` are complete after.

        Raises:
            NotLandedError: if nothing has landed for the partition.
            SourceError: if a file cannot be read as a whole.
            SourceChangedError: if a file was replaced, removed or added meanwhile.
        """
        self.inputs = []
        entries = data_files(self._store, self._source, self._partition)
        self.version = version_of(entries)
        for entry in entries:
            yield from self._read(entry)
        self._require_same_listing(entries)

    def _read(self, entry: Entry) -> Iterator[Batch]:
        uri = f"{self._store.url}/{entry.key}"
        rows = 0
        with fetched(self._store, entry, self._scratch) as copy:
            input_id = input_id_of(uri, copy.digest)
            for checked in checked_rows(
                copy.stream,
                uri=uri,
                contract=self._source.contract,
                key=self._source.key,
                batch_rows=self._batch_rows,
            ):
                rows += checked.frame.height + checked.rejects.height
                origin = pl.lit(input_id, dtype=pl.Int64).alias(INPUT_ID)
                columns = [*(name for name in checked.frame.columns if name != LINE), origin, LINE]
                rejects = checked.rejects.select(
                    pl.lit(self._source.name).alias("source"), pl.all()
                )
                yield Batch(checked.frame.select(columns), rejects)
            file = InputFile(
                source=self._source.name,
                input_id=input_id,
                uri=uri,
                key=entry.key,
                version=entry.version,
                digest=copy.digest,
                bytes=copy.size,
                rows=rows,
            )
        self.inputs.append(file)

    def _require_same_listing(self, entries: list[Entry]) -> None:
        for entry in entries:
            require_unchanged(self._store, entry)
        known = {entry.key for entry in entries}
        for entry in data_files(self._store, self._source, self._partition):
            if entry.key not in known:
                message = (
                    f"{self._store.url}/{entry.key}: was added while the partition was being "
                    "read; read the partition again"
                )
                raise SourceChangedError(message)


def input_id_of(uri: str, digest: str) -> int:
    """Name a content at a place by a number that fits a signed 64-bit column."""
    hashed = hashlib.sha256(f"{uri}\n{digest}".encode()).digest()
    return int.from_bytes(hashed[:8]) >> 1
