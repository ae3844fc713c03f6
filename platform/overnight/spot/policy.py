"""What a job says about machines: which types, which market, and by when it has to be done.

A declaration: making one does no I/O. What follows from it while a job runs is decided in
`overnight.spot.deadline`.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

Pricing = Literal["spot", "on_demand", "deadline"]

_INSTANCE_TYPE = re.compile(r"[a-z][a-z0-9-]*[0-9][a-z0-9-]*\.[a-z0-9][a-z0-9-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpotPolicy:
    """On which machines a job runs, and how much their market may cost it in time.

    Attributes:
        instance_types: the instance types that will do, such as `g6.2xlarge`; several make
            losing a machine cheaper. Empty: whatever the cluster has.
        pricing: `spot`: spot machines only, waiting while there are none; `on_demand`: never
            spot; `deadline`: spot as long as the deadline allows, on-demand when it does not.
        max_runtime_min: minutes from the start of a run to its end, interruptions included.
        deadline: by when a partition has to be published: a time of day with its timezone (the
            next one after the run's start counts) or an instant. Together with
            `max_runtime_min`, the earlier one counts.
        retry_on_interrupt: whether a run goes on elsewhere when its machine is taken away; if
            not, it ends, and what it had inferred is kept for the next run.
    """

    instance_types: tuple[str, ...] = ()
    pricing: Pricing = "spot"
    max_runtime_min: float | None = None
    deadline: dt.time | dt.datetime | None = None
    retry_on_interrupt: bool = True

    def __post_init__(self) -> None:
        if self.pricing not in get_args(Pricing):
            raise ConfigError(
                f"SpotPolicy: pricing is {self.pricing!r}, must be one of "
                f"{', '.join(get_args(Pricing))}"
            )
        self._check_instance_types()
        if self.max_runtime_min is not None and not 0 < self.max_runtime_min < float("inf"):
            raise ConfigError(
                f"SpotPolicy: max_runtime_min is {self.max_runtime_min}, must be above 0 minutes"
            )
        self._check_deadline()

    def _check_instance_types(self) -> None:
        if isinstance(self.instance_types, str):
            raise ConfigError(
                f"SpotPolicy: instance_types is the string {self.instance_types!r}, must be a "
                f"tuple: ({self.instance_types!r},)"
            )
        for name in self.instance_types:
            if not _INSTANCE_TYPE.fullmatch(name):
                raise ConfigError(
                    f"SpotPolicy: instance type {name!r} is not of the form family.size, such as "
                    "g6.2xlarge"
                )
        twice = sorted({n for n in self.instance_types if self.instance_types.count(n) > 1})
        if twice:
            raise ConfigError(f"SpotPolicy: instance_types names {', '.join(twice)} twice")

    def _check_deadline(self) -> None:
        if isinstance(self.deadline, dt.datetime):
            naive = self.deadline.utcoffset() is None
        else:
            # A time of day in a zone with summer time has no offset before it has a date.
            naive = self.deadline is not None and self.deadline.tzinfo is None
        if naive:
            raise ConfigError(
                f"SpotPolicy: deadline {self.deadline} has no timezone; give one, such as "
                'dt.time(6, 0, tzinfo=ZoneInfo("Europe/Berlin"))'
            )
        if self.pricing != "deadline":
            return
        if self.deadline is None and self.max_runtime_min is None:
            raise ConfigError(
                "SpotPolicy: pricing='deadline' needs a deadline or max_runtime_min to keep"
            )
        if not self.retry_on_interrupt:
            raise ConfigError(
                "SpotPolicy: pricing='deadline' contradicts retry_on_interrupt=False: a run that "
                "ends with its first machine keeps no deadline; let it retry, or use "
                "pricing='on_demand'"
            )

    def ends_at(self, started: dt.datetime) -> dt.datetime | None:
        """By when a run that started then has to be done, in UTC; None: no limit.

        Args:
            started: an aware instant.

        Raises:
            ConfigError: if the deadline had passed when the run started.
        """
        if started.utcoffset() is None:
            raise ConfigError(f"the start of a run, {started}, has no timezone")
        began = started.astimezone(dt.UTC)
        ends: list[dt.datetime] = []
        if self.max_runtime_min is not None:
            ends.append(began + dt.timedelta(minutes=self.max_runtime_min))
        if isinstance(self.deadline, dt.datetime):
            if self.deadline <= began:
                raise ConfigError(
                    f"the deadline {self.deadline.isoformat()} is in the past: the run started "
                    f"at {began.isoformat(timespec='seconds')}; set a later deadline, a time of "
                    "day, or max_runtime_min"
                )
            ends.append(self.deadline.astimezone(dt.UTC))
        elif self.deadline is not None:
            ends.append(_next(self.deadline, began))
        return min(ends, default=None)


def check_instance_types(policy: SpotPolicy, known: Collection[str]) -> None:
    """Refuse instance types that nobody has heard of.

    Args:
        policy: whose instance types are checked.
        known: every instance type there is a price for.

    Raises:
        ConfigError: naming the unknown ones, with what may have been meant.
    """
    unknown = [name for name in policy.instance_types if name not in known]
    if not unknown:
        return
    told = []
    for name in unknown:
        near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.75)
        told.append(f"{name!r}" + (f" (did you mean {' or '.join(near)}?)" if near else ""))
    raise ConfigError(f"SpotPolicy: unknown instance type {', '.join(told)}")


def _next(time: dt.time, after: dt.datetime) -> dt.datetime:
    """The first instant after another at which clocks show a time of day."""
    today = after.astimezone(time.tzinfo).date()
    days = (today + dt.timedelta(days=n) for n in (0, 1, 2))
    instants = (dt.datetime.combine(day, time).astimezone(dt.UTC) for day in days)
    return next(instant for instant in instants if instant > after)
