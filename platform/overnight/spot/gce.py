"""Notices of Google Compute Engine, from its metadata server.

`instance/preempted` turns to TRUE when the instance is being taken, about 30 seconds ahead.
Source: Compute Engine documentation, "Spot VMs", "Detect preemption".
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from overnight.spot.metadata import Endpoint, ask
from overnight.spot.types import Look, Notice, NoticeError

if TYPE_CHECKING:
    from collections.abc import Callable

# The number and not the name: nothing has to be resolved.
ADDRESS = Endpoint("169.254.169.254")
WARNING_S = 30.0
_PATH = "/computeMetadata/v1/instance/preempted"
_FLAVOR = "Google"


class Gce:
    """The notices of one instance.

    Args:
        endpoint: where its metadata server answers.
        every_s: seconds between two looks; the preemption may be as old as that when it is seen.
        clock: Unix seconds.
    """

    name = "gce"

    def __init__(
        self,
        endpoint: Endpoint = ADDRESS,
        *,
        every_s: float = 5.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._endpoint = endpoint
        self._left_s = WARNING_S - min(every_s, WARNING_S)
        self._clock = clock

    def look(self) -> Look:
        """Whether the instance is being taken now; takes a second at most."""
        try:
            preempted = self._preempted()
        except NoticeError as error:
            return Look(error=str(error))
        if not preempted:
            return Look()
        now = self._clock()
        detail = f"GCE preempts this instance, about {WARNING_S:.0f} s after it says so"
        return Look((Notice("interruption", "gce", now + self._left_s, now, detail),))

    def _preempted(self) -> bool:
        answer = ask(self._endpoint, "GET", _PATH, {"Metadata-Flavor": _FLAVOR})
        if not answer.found:
            raise NoticeError(f"{self._endpoint}{_PATH} answered HTTP {answer.status}")
        said = answer.body.strip().upper()
        if answer.headers.get("metadata-flavor") != _FLAVOR or said not in (b"TRUE", b"FALSE"):
            raise NoticeError(f"{self._endpoint} does not answer as Google's metadata server does")
        return said == b"TRUE"
