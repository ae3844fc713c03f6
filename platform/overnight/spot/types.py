"""What is told about the end of a machine, and how much of it is known."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

from overnight.errors import OvernightError

Kind = Literal["interruption", "rebalance"]
Source = Literal["ec2", "gce", "sigterm", "file"]


class NoticeError(OvernightError):
    """Whoever announces the end of machines said nothing that can be used.

    The message is safe to log: it never quotes what was answered.
    """

    retryable = True


@dataclass(frozen=True, slots=True)
class Notice:
    """The warning that this machine will be taken away.

    Attributes:
        kind: `interruption` if it is decided, `rebalance` if it has become likely.
        source: who said so.
        deadline: Unix time in seconds at which the machine goes; None for a rebalance
            recommendation, which has none.
        seen_at: Unix time in seconds at which it was read.
        detail: in words, for logs and lineage.
    """

    kind: Kind
    source: Source
    deadline: float | None
    seen_at: float
    detail: str

    def graver_than(self, other: Notice | None) -> bool:
        """An interruption is graver than a rebalance, the earlier of two the graver."""
        if other is None:
            return True
        if self.kind != other.kind:
            return self.kind == "interruption"
        return _at(self) < _at(other)

    def as_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Notice:
        """Read what `as_json` made.

        Raises:
            ValueError: if it is something else.
        """
        match value:
            case {
                "kind": str() as kind,
                "source": str() as source,
                "deadline": float() | int() | None as deadline,
                "seen_at": float() | int() as seen_at,
                "detail": str() as detail,
            } if kind in get_args(Kind) and source in get_args(Source):
                return cls(kind, source, deadline, seen_at, detail)  # type: ignore[arg-type]
        raise ValueError("this is no notice")


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a source told.

    Attributes:
        notices: all that it announces now.
        error: why it told nothing, or not everything.
        idle: why nothing will ever be announced here, so that no further look is needed.
    """

    notices: tuple[Notice, ...] = ()
    error: str | None = None
    idle: str | None = None


@dataclass(frozen=True, slots=True)
class WatcherState:
    """How the watching goes.

    Attributes:
        source: what is watched, such as `ec2` or `file:/run/notice, sigterm`; None if there is
            nothing to watch here: the watcher is off.
        last_poll: Unix time in seconds of the last look at the source.
        last_notice: the gravest notice so far.
        error: why the last look told nothing.
    """

    source: str | None
    last_poll: float | None
    last_notice: Notice | None
    error: str | None


def unix_time(text: Any) -> float:
    """Seconds since 1970 of an ISO 8601 time that names its zone.

    Raises:
        ValueError: if `text` is no such time.
    """
    if not isinstance(text, str):
        raise ValueError("this is no time")  # noqa: TRY004 - the one error of this function
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("the time names no zone")
    try:
        return time.astimezone(UTC).timestamp()
    except OverflowError as error:
        raise ValueError("the time is before the first year or after the last") from error


def _at(notice: Notice) -> float:
    return math.inf if notice.deadline is None else notice.deadline
