"""Named places at which a test can have this process killed, to prove what survives.

`reach("publish.before_commit")` does nothing unless the environment asked for a death
there: `OVERNIGHT_CRASH_AT="publish.before_commit:2"` sends SIGKILL to the own process when
that point is passed for the second time. Nothing else belongs here: no exceptions, no
delays, no hooks - a real kill -9 has none of them.
"""

from __future__ import annotations

import os
import signal
import threading

from overnight.errors import ConfigError

__all__ = ["VARIABLE", "reach", "register", "registered"]

VARIABLE = "OVERNIGHT_CRASH_AT"

_names: set[str] = set()
_passed = 0
_lock = threading.Lock()


def _target(setting: str | None) -> tuple[str, int] | None:
    if not setting:
        return None
    name, _, nth = setting.rpartition(":")
    if not name or not nth.isdigit() or int(nth) < 1:
        message = f"{VARIABLE}={setting!r} must be <name>:<nth>, with nth counted from 1"
        raise ConfigError(message)
    return name, int(nth)


# Read once: a hot path passes here, and the environment does not change under it.
_armed = _target(os.environ.get(VARIABLE))


def register(*names: str) -> None:
    """Declares points, so that a sweep over all of them can find them by `registered`."""
    _names.update(names)


def registered() -> tuple[str, ...]:
    """The points declared by the modules imported so far, sorted."""
    return tuple(sorted(_names))


def reach(name: str) -> None:
    """Passes the point `name`; kills the own process if the environment asked for it."""
    if _armed is not None:
        _pass(name, _armed)


def _pass(name: str, armed: tuple[str, int]) -> None:
    global _passed  # noqa: PLW0603 - one process has one count; it does not outlive it
    if name != armed[0]:
        return
    with _lock:
        _passed += 1
        if _passed == armed[1]:
            os.kill(os.getpid(), signal.SIGKILL)
