"""What has arrived for a partition, and whether more is to be waited for.

A partition is complete when its producer says so (`_SUCCESS`), or when no file came for a while.
Times are compared with care: files carry the store's clock, or, on a shared disk, their
producer's, and neither need agree with ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.landing.zone import SUCCESS, folder, version_of

if TYPE_CHECKING:
    import datetime as dt

    from overnight.landing.zone import Source
    from overnight.store import Entry, Store

SETTLE_S = 300.0
"""Seconds without a new file after which a partition without `_SUCCESS` counts as complete."""
_DIGEST_CHARACTERS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """The files of a partition, as listed.

    Attributes:
        where: the partition's URL.
        files: all that is data, or is taken for it; a name that cannot be data fails the run.
        marker: the `_SUCCESS`, if there is one.
    """

    partition: str
    where: str
    files: tuple[Entry, ...]
    marker: Entry | None

    @property
    def landed(self) -> bool:
        """Whether there is anything."""
        return bool(self.files) or self.marker is not None

    @property
    def marked(self) -> bool:
        """Whether the producer said that it is complete, after the last of these files.

        Both times are the store's, so whose clock they follow does not matter.
        """
        if self.marker is None:
            return False
        return all(entry.modified <= self.marker.modified for entry in self.files)

    @property
    def version(self) -> str:
        """The data version, as `landing_version` gives it."""
        return version_of(list(self.files))

    @property
    def digest(self) -> str:
        """The version, short: names the set of files in run keys and cursors."""
        return self.version.removeprefix("sha256:")[:_DIGEST_CHARACTERS]

    def missing(self, now: dt.datetime, settle_s: float = SETTLE_S) -> str | None:
        """What is still to be waited for, in words; None if the partition is complete.

        Args:
            now: the time, aware.
            settle_s: seconds without a new file that stand for `_SUCCESS`.
        """
        if not self.landed:
            return f"nothing has landed in {self.where}"
        if self.marked:
            return None
        newest = max(self.files, key=lambda entry: entry.modified)
        age = (now - newest.modified).total_seconds()
        if age >= settle_s:
            return None
        there = f"{len(self.files)} files are in {self.where}"
        if age < 0:
            name = newest.key.rsplit("/", 1)[-1]
            return (
                f"{there}, of which {name} is dated {-age:.0f} s in the future, so its age cannot "
                f"be told; put a {SUCCESS} there, or let the sensor watch it"
            )
        return (
            f"{there}, the newest {age:.0f} s old; waits for {SUCCESS}, or for {settle_s:.0f} s "
            "without a new file"
        )


def arrival(store: Store, source: Source, partition: str) -> Arrival:
    """List what is there for a partition.

    Raises:
        ConfigError: if the partition is no date.
        StoreError: if it cannot be listed.
    """
    prefix = folder(source, partition)
    files: list[Entry] = []
    marker: Entry | None = None
    for entry in store.list(prefix):
        name = entry.key.removeprefix(f"{prefix}/")
        if name == SUCCESS:
            marker = entry
        elif not any(part.startswith(("_", ".")) for part in name.split("/")):
            files.append(entry)
    return Arrival(
        partition=partition, where=f"{store.url}/{prefix}/", files=tuple(files), marker=marker
    )
