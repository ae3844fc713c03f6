"""Waiting for what other threads and processes do: for a condition, never for a while."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def until(condition: Callable[[], T], what: str = "nothing happened", *, seconds: float = 30) -> T:
    """The first value of `condition` that is true.

    Args:
        condition: what is looked at again and again.
        what: the failure's message, if it never is.
        seconds: for how long to look.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.01)
    return value
