"""Where machines may be had, and what an error of EC2's means for the next try.

The codes are those of EC2's "Error codes" reference. Asking EC2 is in `overnight.spot.acquire`.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Literal

from overnight.errors import ConfigError

_log = logging.getLogger(__name__)

Action = Literal["next", "wait", "on_demand", "fatal"]

BACKOFF_S = 120.0
LONGEST_BACKOFF_S = 1800.0

# Nothing to be had of this type in this zone, or no quota for its family: another one may do.
_NEXT = (
    "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InsufficientCapacity",
    "InsufficientReservedInstanceCapacity", "UnfulfillableCapacity", "SpotMaxPriceTooLow",
    "MaxSpotInstanceCountExceeded", "VcpuLimitExceeded", "InstanceLimitExceeded",
    "InsufficientFreeAddressesInSubnet", "Unsupported", "InvalidFleetConfiguration",
)  # fmt: skip
# Not about this machine: EC2 is busy or broken, and the same call may succeed later.
_WAIT = (
    "RequestLimitExceeded", "Throttling", "ThrottlingException", "InternalError",
    "InternalFailure", "ServiceUnavailable", "Unavailable", "RequestTimeout",
    "MaxFleetCountExceeded", "ResourceCountLimitExceeded",
)  # fmt: skip
# Spot is closed to this account, on-demand is not.
_ON_DEMAND = ("AuthFailure.ServiceLinkedRoleCreationNotPermitted",)
# No machine will come of this call, however often it is made: somebody has to mend something.
_FATAL = (
    "AuthFailure", "UnauthorizedOperation", "AccessDenied", "Blocked", "OptInRequired",
    "PendingVerification", "InvalidClientTokenId", "SignatureDoesNotMatch", "ExpiredToken",
    "RequestExpired", "MissingParameter", "InvalidParameter", "InvalidParameterValue",
    "InvalidParameterCombination", "IdempotentParameterMismatch", "ValidationError",
    "InvalidLaunchTemplateId.NotFound", "InvalidLaunchTemplateId.Malformed",
    "InvalidLaunchTemplateId.VersionNotFound", "InvalidLaunchTemplateName.NotFoundException",
    "InvalidAMIID.NotFound", "InvalidAMIID.Unavailable", "InvalidSubnetID.NotFound",
    "InvalidGroup.NotFound", "InvalidKeyPair.NotFound",
)  # fmt: skip

ACTIONS: dict[str, Action] = {
    **dict.fromkeys(_NEXT, "next"),
    **dict.fromkeys(_WAIT, "wait"),
    **dict.fromkeys(_ON_DEMAND, "on_demand"),
    **dict.fromkeys(_FATAL, "fatal"),
}


def action_for(code: str) -> Action:
    """What to do after an error of EC2's; an unknown one costs a try, not the job."""
    # Some interfaces put the side that is to blame before the code.
    action = ACTIONS.get(code.removeprefix("Client.").removeprefix("Server."))
    if action is None:
        _log.warning("EC2 answered %s, which is not known here: trying the next machine", code)
        return "next"
    return action


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A kind of machine in an availability zone.

    Attributes:
        instance_type: such as `g6.2xlarge`.
        zone: such as `us-west-2a`.
        spot_usd: what a spot machine costs, USD an hour.
        on_demand_usd: what an on-demand machine costs, USD an hour.
    """

    instance_type: str
    zone: str
    spot_usd: float
    on_demand_usd: float

    @property
    def place(self) -> str:
        """What policies and decisions call it."""
        return f"{self.instance_type} in {self.zone}"


@dataclass(slots=True)
class Pool:
    """Candidates by price, and which of them are not worth asking for now.

    A candidate that failed, or whose machine was taken away, rests: at first for `backoff_s`
    seconds, then twice as long after each failure in a row, up to `longest_s`.

    Attributes:
        candidates: all of them.
        market: whose price orders them, and which is asked for.
        backoff_s: seconds that the first failure costs.
        longest_s: seconds that any failure costs at most.
    """

    candidates: tuple[Candidate, ...]
    market: Literal["spot", "on_demand"] = "spot"
    backoff_s: float = BACKOFF_S
    longest_s: float = LONGEST_BACKOFF_S
    _rests_until: dict[Candidate, float] = field(default_factory=dict)
    _failures: dict[Candidate, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.candidates:
            raise ConfigError("no candidates: name instance types and the zones of their subnets")
        if not 0 < self.backoff_s <= self.longest_s:
            raise ConfigError(
                f"backoff_s is {self.backoff_s}, must be above 0 and at most longest_s, "
                f"{self.longest_s}"
            )
        self.candidates = tuple(sorted(self.candidates, key=self._price))

    def available(self, now: float) -> tuple[Candidate, ...]:
        """Those worth asking for, the cheapest first."""
        return tuple(one for one in self.candidates if self._rests_until.get(one, now) <= now)

    def places(self, now: float) -> tuple[str, ...]:
        """The same, as policies want them."""
        return tuple(one.place for one in self.available(now))

    def failed(self, candidate: Candidate, now: float) -> float:
        """Let a candidate rest; returns until when."""
        times = self._failures.get(candidate, 0)
        self._failures[candidate] = times + 1
        until = now + min(self.longest_s, self.backoff_s * 2.0 ** min(times, 60))
        self._rests_until[candidate] = until
        return until

    def worked(self, candidate: Candidate) -> None:
        """Forget a candidate's failures: its machine came up and worked."""
        self._failures.pop(candidate, None)
        self._rests_until.pop(candidate, None)

    def next_at(self, now: float) -> float:
        """When there will be one worth asking for: now, if there is one."""
        return min(max(now, self._rests_until.get(one, now)) for one in self.candidates)

    def _price(self, one: Candidate) -> tuple[float, str, str]:
        usd = one.spot_usd if self.market == "spot" else one.on_demand_usd
        return usd, one.instance_type, one.zone
