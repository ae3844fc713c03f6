"""The landing zone: where a source's files are, and which partitions have any.

    <store>/landing/<source>/<partition>/*.{parquet,jsonl,jsonl.gz,csv}

Names that start with `_` or `.` are not data; an empty `_SUCCESS` says that a partition is
complete, so one without any file then has zero rows instead of not having landed. What is in
the files is for `overnight.landing.formats`.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from overnight.contract import Contract, columns
from overnight.errors import ConfigError, NotLandedError, SourceError

if TYPE_CHECKING:
    from overnight.store import Entry, Store

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".csv")
SUCCESS = "_SUCCESS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A named input.

    Attributes:
        name: its folder in the landing zone.
        contract: what a row must be.
        key: the column that identifies a row within a partition: text or an integer, not null.

    Raises:
        ConfigError: if the name or the key cannot be used.
    """

    name: str
    contract: type[Contract]
    key: str

    def __post_init__(self) -> None:
        """Refuse a declaration that could not be read."""
        check_declaration(self.name, self.contract, self.key)


def check_declaration(name: str, contract: type[Contract], key: str) -> None:
    """Refuse a source's name or key that cannot be used.

    Raises:
        ConfigError: if so; names it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", name):
        message = (
            f"source name {name!r}: 1 to 48 lower-case letters, digits and underscores, "
            "a letter first"
        )
        raise ConfigError(message)
    declared = {column.name: column for column in columns(contract)}
    if key not in declared:
        message = (
            f"source {name!r}: the key {key!r} is not a column of "
            f"{contract.__name__}; it has {sorted(declared)}"
        )
        raise ConfigError(message)
    column = declared[key]
    if column.nullable or not (column.dtype == pl.String or column.dtype.is_integer()):
        message = (
            f"source {name!r}: the key {key!r} is {column.dtype}"
            f"{', nullable' if column.nullable else ''}; a key is String or an integer, not null"
        )
        raise ConfigError(message)


def check_partition(partition: str) -> str:
    """Give back a partition key that is an ISO date.

    Raises:
        ConfigError: if it is anything else, before a path is made of it.
    """
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", partition):
            return dt.date.fromisoformat(partition).isoformat()
    except ValueError:
        pass
    message = f"partition {partition!r} is not a date: write YYYY-MM-DD, e.g. 2026-01-31"
    raise ConfigError(message)


def folder(source: Source, partition: str) -> str:
    """Give the key prefix of a partition, without a slash at the end."""
    return f"landing/{source.name}/{check_partition(partition)}"


def suffix_of(name: str) -> str | None:
    """Give the supported suffix of a file name, whatever its case; None if there is none."""
    return next((suffix for suffix in SUFFIXES if name.lower().endswith(suffix)), None)


def data_files(store: Store, source: Source, partition: str) -> list[Entry]:
    """List the data files of a partition by name; empty if it is complete without any.

    Raises:
        NotLandedError: if there is neither a data file nor `_SUCCESS`.
        SourceError: if there is a file that cannot be data and is not marked as such.
    """
    prefix = folder(source, partition)
    found: list[Entry] = []
    complete = False
    for entry in store.list(prefix):
        name = entry.key.removeprefix(f"{prefix}/")
        complete = complete or name == SUCCESS
        if any(part.startswith(("_", ".")) for part in name.split("/")):
            continue
        if "/" in name or suffix_of(name) is None:
            message = (
                f"{store.url}/{entry.key}: only {', '.join(SUFFIXES)} directly in "
                f"{prefix}/ are read; remove it, or rename it to start with '_'"
            )
            raise SourceError(message)
        found.append(entry)
    if not found and not complete:
        message = (
            f"source {source.name!r} has not landed for {partition}: no file in "
            f"{store.url}/{prefix}/; land files ({', '.join(SUFFIXES)}) there, or put an "
            f"empty {SUCCESS} there if the day has no rows"
        )
        raise NotLandedError(message)
    return found


def landed_partitions(store: Store, source: Source) -> list[str]:
    """List the partitions that have a data file or `_SUCCESS`, in order of date."""
    prefix = f"landing/{source.name}"
    found: set[str] = set()
    for entry in store.list(prefix):
        partition, _, name = entry.key.removeprefix(f"{prefix}/").partition("/")
        is_data = not name.startswith(("_", ".")) and suffix_of(name) is not None
        if "/" not in name and (is_data or name == SUCCESS):
            try:
                found.add(check_partition(partition))
            except ConfigError:
                # A folder that is no partition cannot be asked for either.
                continue
    return sorted(found)


def landing_version(store: Store, source: Source, partition: str) -> str:
    """Digest of the names, sizes and versions of a partition's data files.

    Raises:
        NotLandedError: as `data_files`.
        SourceError: as `data_files`.
    """
    return version_of(data_files(store, source, partition))


def version_of(entries: list[Entry]) -> str:
    """Digest of a listing."""
    digest = hashlib.sha256()
    for entry in entries:
        digest.update(repr((entry.key, entry.size, entry.version)).encode())
    return f"sha256:{digest.hexdigest()}"


def mark_complete(store: Store, source: Source, partition: str) -> None:
    """Say that nothing more will land for a partition, by writing `_SUCCESS`."""
    store.put(f"{folder(source, partition)}/{SUCCESS}", b"")
