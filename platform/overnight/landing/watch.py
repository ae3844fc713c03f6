"""Watching a source's landing zone: which partitions changed since the last look, and settled.

What is remembered is small: for each of the days of about a year a digest of its files, not the
files. Each look lists the newest days, those that are still changing, and a few older ones in
turn, so that a late or replaced file of any of them is found within some looks, and a zone at
rest costs the same few listings however much history it has.

How old a file is does not count here, for producers' clocks cannot be trusted: a set of files
has settled when it is still the same `settle_s` after it was first seen, by the watcher's clock.
"""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError
from overnight.landing.arrival import SETTLE_S, Arrival, arrival
from overnight.landing.zone import SUCCESS, check_partition

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from overnight.landing.zone import Source
    from overnight.store import Store

REMEMBERED_DAYS = 400
HOT_DAYS = 3
COLD_DAYS_A_LOOK = 10
FIRST_DAYS = 7

FOUND, CHANGED, TOLD, DONE = "found", "changed", "told", "done"
_CODES = {CHANGED: 0, TOLD: 1, FOUND: 2}


@dataclass(slots=True)
class Known:
    """A day as it was seen last: its set of files, since when, and what came of it.

    `state` is `changed` (it may be about to change again), `found` (likewise, but it was there
    before anybody looked), `told` (it has settled and somebody was told, but not all that it
    should start has started) or `done`. `since` is in seconds.
    """

    digest: str
    since: int
    state: str = CHANGED


@dataclass(slots=True)
class Cursor:
    """All that is remembered between two looks.

    Attributes:
        days: by partition.
        turn: the older day that was looked at last.
        first: whether not all days have been looked at once.
    """

    days: dict[str, Known] = field(default_factory=dict)
    turn: str = ""
    first: bool = True

    @classmethod
    def read(cls, text: str | None) -> Cursor:
        """Read what `text` wrote; a new one if there is none, or it cannot be understood."""
        if not text:
            return cls()
        try:
            return cls.of(json.loads(text))
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            # Looking at everything once more is safe: runs have keys.
            return cls()

    @classmethod
    def of(cls, told: Any) -> Cursor:
        """From JSON's values; see `value`."""
        states = {code: state for state, code in _CODES.items()}
        days = {
            day: Known(known, 0, DONE)
            if isinstance(known, str)
            else Known(str(known[0]), int(known[1]), states[known[2]])
            for day, known in told["days"].items()
        }
        return cls(days, str(told["turn"]), bool(told["first"]))

    def value(self) -> dict[str, Any]:
        """As JSON's values; a day that is done takes about 30 bytes."""
        days = {
            day: known.digest
            if known.state == DONE
            else [known.digest, known.since, _CODES[known.state]]
            for day, known in sorted(self.days.items())
        }
        return {"days": days, "turn": self.turn, "first": self.first}

    def text(self) -> str:
        """As a string that is the same whenever the same is remembered."""
        return json.dumps(self.value(), separators=(",", ":"))


@dataclass(slots=True)
class Look:
    """What a look found.

    Attributes:
        ready: partitions that have settled and are not done yet, in order of date.
        unsettled: for those that have not, why.
        partitions: how many have a folder.
        listed: how many of them were listed.
        left: the newest and changing ones that there was no time to list.
        in_time: whether the time sufficed for all that should have been listed.
    """

    ready: list[Arrival] = field(default_factory=list)
    unsettled: dict[str, str] = field(default_factory=dict)
    partitions: int = 0
    listed: int = 0
    left: list[str] = field(default_factory=list)
    in_time: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """How a source is watched.

    Attributes:
        source: what to watch.
        settle_s: seconds for which a set of files stays the same before it counts as complete,
            if `_SUCCESS` is not there or older than one of them.
        remembered_days: how far back a change is noticed.

    Raises:
        ConfigError: if a number cannot be used.
    """

    source: Source
    settle_s: float = SETTLE_S
    remembered_days: int = REMEMBERED_DAYS

    def __post_init__(self) -> None:
        if self.settle_s < 0 or self.remembered_days < HOT_DAYS:
            raise ConfigError(
                f"watching source {self.source.name!r}: settle_s={self.settle_s} must be >= 0, "
                f"remembered_days={self.remembered_days} at least {HOT_DAYS}"
            )

    def look(
        self,
        store: Store,
        cursor: Cursor,
        *,
        now: dt.datetime,
        in_time: Callable[[], bool] = lambda: True,
        only: Collection[str] | None = None,
    ) -> Look:
        """List what may have changed, and note it in the cursor.

        Days that landed long before the very first look are noted as they are: they are for a
        backfill, if for anything.

        Args:
            store: where the landing zone is.
            cursor: what earlier looks saw; changed here.
            now: the watcher's time, aware.
            in_time: whether there is time for another listing; what is left comes next time.
            only: days that are known to have changed, so that no others are sought; None to
                seek them.

        Raises:
            StoreError: if the zone cannot be listed.
        """
        oldest = (now.date() - dt.timedelta(days=self.remembered_days)).isoformat()
        cursor.days = {
            day: known for day, known in cursor.days.items() if day >= oldest or known.state != DONE
        }
        changing = {day for day, k in cursor.days.items() if k.state in (CHANGED, FOUND)}
        if only is None:
            days = [day for day in self._partitions(store) if day >= oldest]
        else:
            days = sorted({*only, *(day for day, k in cursor.days.items() if k.state != DONE)})
            cursor.first = False
        look = Look(partitions=len(days))
        hot = {*days[-HOT_DAYS:], *changing} if only is None else set(days)
        for day in sorted(hot, reverse=True):
            look.in_time = look.in_time and in_time()
            # The newest day at least: or a slow store would keep us from ever going on.
            if look.in_time or not look.listed:
                self._note(store, cursor, look, day, now)
            else:
                look.left.append(day)
        if only is None:
            self._older(store, cursor, look, [day for day in days if day not in hot], now, in_time)
        look.ready.sort(key=lambda ready: ready.partition)
        return look

    def _partitions(self, store: Store) -> list[str]:
        found = []
        for name in store.folders(f"landing/{self.source.name}"):
            try:
                found.append(check_partition(name))
            except ConfigError:
                # A folder that is no partition cannot be asked for either.
                continue
        return found

    def _older(
        self,
        store: Store,
        cursor: Cursor,
        look: Look,
        cold: list[str],
        now: dt.datetime,
        in_time: Callable[[], bool],
    ) -> None:
        """Some of the older days, each in its turn; when looking for the first time, all."""
        left = [day for day in cold if day > cursor.turn]
        turn = left if cursor.first else left[:COLD_DAYS_A_LOOK]
        for day in turn:
            if not in_time():
                look.in_time = False
                return
            self._note(store, cursor, look, day, now)
            cursor.turn = day
        if len(turn) == len(left):
            cursor.turn, cursor.first = "", False

    def _note(self, store: Store, cursor: Cursor, look: Look, day: str, now: dt.datetime) -> None:
        found = arrival(store, self.source, day)
        look.listed += 1
        known = cursor.days.get(day)
        if not found.landed and known is None:
            return
        if known is None or known.digest != found.digest:
            state = FOUND if cursor.first and known is None else CHANGED
            if state == FOUND and day < (now.date() - dt.timedelta(days=FIRST_DAYS)).isoformat():
                state = DONE
            known = cursor.days[day] = Known(found.digest, int(now.timestamp()), state)
        if known.state == DONE:
            return
        if not found.landed:
            # All of it was taken away: nothing to run on, and nothing to wait for.
            known.state = DONE
            return
        quiet_s = now.timestamp() - known.since
        if quiet_s < 0:
            # Our own clock was set back.
            known.since = int(now.timestamp())
        if known.state == TOLD or found.marked or quiet_s >= self.settle_s:
            look.ready.append(found)
        else:
            look.unsettled[day] = (
                f"{len(found.files)} files, the same for {max(0, quiet_s):.0f} s; waits for "
                f"{SUCCESS}, or until they are for {self.settle_s:.0f} s"
            )
