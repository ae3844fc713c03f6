"""Spot traces: what was on offer in one place, moment by moment.

The format is that of the public traces of "Can't Be Late" (NSDI 2024): a JSON object with
`metadata.gap_seconds`, `data` (1: a spot machine was to be had, 0: none), and, in some,
`prices` (USD an hour) of the same length.
"""

from __future__ import annotations

import json
import logging
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeGuard

from overnight.errors import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_log = logging.getLogger(__name__)
_ZONE = re.compile(r"[a-z]{2}(?:-[a-z]+)+-[0-9]+[a-z]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """What one place had on offer.

    Attributes:
        place: the availability zone.
        kind: what traces that may be pooled have in common.
        gap_s: seconds from one value to the next.
        available: whether a spot machine was to be had; each value holds until the next.
        prices: of a spot machine, in USD an hour, one for each value; empty if unknown.
    """

    place: str
    kind: str
    gap_s: float
    available: tuple[bool, ...]
    prices: tuple[float, ...] = ()


def read_trace(path: Path) -> Trace:
    """Read a trace; missing values count as no spot machine, and are logged.

    Raises:
        SourceError: if the file cannot be read or is no trace; says where and why.
    """
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SourceError(f"trace {path}: cannot be read as JSON ({error})") from error
    metadata = found.get("metadata") if isinstance(found, dict) else None
    gap = metadata.get("gap_seconds") if isinstance(metadata, dict) else None
    if not _is_number(gap) or gap <= 0:
        raise SourceError(f"trace {path}: metadata.gap_seconds is {gap!r}, must be above 0")
    values = found.get("data")
    if not isinstance(values, list) or not values:
        raise SourceError(f"trace {path}: data must be a list of 0 and 1, with one at least")
    for index, value in enumerate(values):
        if value is not None and (not _is_number(value) or value not in {0, 1}):
            raise SourceError(f"trace {path}: data[{index}] is {value!r}, must be 0 or 1")
    if gaps := values.count(None):
        _log.warning(
            "Trace %s: %d of %d values are missing: no spot there", path, gaps, len(values)
        )
    zone = _ZONE.search(path.stem)
    return Trace(
        place=zone.group() if zone else path.stem,
        kind=_ZONE.sub(lambda match: match.group()[:-1], path.stem),
        gap_s=float(gap),
        available=tuple(bool(value) for value in values),
        prices=_prices(path, found.get("prices"), len(values)),
    )


def pools(traces: Sequence[Trace]) -> list[list[Trace]]:
    """Traces that belong together: of one kind, in different places; in the order given.

    Raises:
        SourceError: if traces of one kind have different gaps.
    """
    found: dict[str, list[Trace]] = {}
    for trace in traces:
        found.setdefault(trace.kind, []).append(trace)
    for kind, pool in found.items():
        gaps = {trace.gap_s for trace in pool}
        if len(gaps) > 1:
            raise SourceError(
                f"traces {kind}: gap_seconds are {sorted(gaps)}, must be the same in all places; "
                "resample them first"
            )
        lengths = {len(trace.available) for trace in pool}
        if len(lengths) > 1:
            _log.warning("Traces %s: of different lengths, only the first %d values are used",
                         kind, min(lengths))  # fmt: skip
    return list(found.values())


def _prices(path: Path, prices: Any, length: int) -> tuple[float, ...]:
    if prices is None:
        return ()
    if not isinstance(prices, list) or len(prices) != length:
        count = len(prices) if isinstance(prices, list) else repr(prices)
        raise SourceError(f"trace {path}: prices must be as many as data, {length}, not {count}")
    for index, price in enumerate(prices):
        if not _is_number(price) or price <= 0:
            raise SourceError(f"trace {path}: prices[{index}] is {price!r}, must be above 0 USD/h")
    return tuple(float(price) for price in prices)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
