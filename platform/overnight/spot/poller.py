"""One process of a machine asks its cloud, the others read what it was told."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from overnight.spot.machine import CloudState

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.spot.machine import Machine
    from overnight.spot.types import Look

_log = logging.getLogger(__name__)
_SILENCE_S = 15.0


class Cloud(Protocol):
    """What has notices of this machine."""

    def look(self) -> Look:
        """All notices now; never raises, takes seconds at most."""


class SharedPoller:
    """Asks the cloud if no other process of the machine does.

    Args:
        cloud: who is asked.
        machine: what is shared with the other processes; None: nothing, ask for yourself.
        poll_s: seconds between two questions.
        clock: Unix seconds.
        monotonic: seconds that only grow.
    """

    def __init__(
        self,
        cloud: Cloud,
        machine: Machine | None,
        *,
        poll_s: float,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cloud = cloud
        self._machine = machine
        self._poll_s = poll_s
        self._silence_s = max(_SILENCE_S, 5 * poll_s)
        self._clock = clock
        self._monotonic = monotonic
        self._state = CloudState()
        self._published: CloudState | None = None
        self._due = self._heard = monotonic()
        self._told_errors: set[str] = set()
        self._leads = False

    def look(self) -> CloudState:
        """What the cloud said last; asks it if it is time to, and this process's task."""
        if self._machine is None:
            self._poll_when_due()
        elif self._machine.lead():
            if not self._leads:
                # What a dead leader was told still holds.
                self._leads = True
                self._state = self._machine.published() or self._state
            if self._poll_when_due():
                self._publish(self._machine)
        else:
            self._follow(self._machine)
        return self._state

    def _follow(self, machine: Machine) -> None:
        published = machine.published()
        if published is not None and published != self._published:
            self._state = self._published = published
            self._heard = self._monotonic()
        # A leader that is stopped or stuck holds the lock and says nothing.
        stuck = self._monotonic() - self._heard > self._silence_s
        if stuck and self._state.idle is None:
            self._poll_when_due()

    def _poll_when_due(self) -> bool:
        if self._state.idle is not None or self._monotonic() < self._due:
            return False
        look = self._cloud.look()
        notice = self._state.notice
        for found in look.notices:
            notice = found if found.graver_than(notice) else notice
        self._state = CloudState(self._clock(), look.error, look.idle, notice)
        self._due = self._monotonic() + self._poll_s
        self._log(look)
        return True

    def _publish(self, machine: Machine) -> None:
        try:
            machine.publish(self._state)
        except OSError as error:
            text = f"the machine's other processes cannot be told: {error.strerror}"
            self._state = replace(self._state, error=self._state.error or text)
            self._warn(text)

    def _log(self, look: Look) -> None:
        if look.idle is not None:
            _log.info("%s: nothing is watched there any more", look.idle)
        if look.error is not None:
            self._warn(look.error)

    def _warn(self, error: str) -> None:
        if error not in self._told_errors:
            self._told_errors.add(error)
            _log.warning("no notices can be had (this is said once): %s", error)
