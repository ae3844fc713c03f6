"""Ask EC2 for a machine: one candidate after the other, then on-demand where that is allowed.

For clusters without an autoscaler; where there is one, it does the asking. One candidate is
asked for at a time, so that it is known which one failed and has to rest. Shortages never become
an error; only what somebody has to mend does.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import ConfigError
from overnight.redact import redact
from overnight.spot.capacity import action_for

if TYPE_CHECKING:
    from overnight.spot.capacity import Action, Candidate, Pool

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Acquired:
    """A machine, or what stood in its way.

    Attributes:
        instance_id: EC2's; None if there was no machine to be had.
        candidate: what it is.
        market: how it is paid.
        errors: each candidate that failed, and EC2's code, in the order of asking.
        retry_at: when to ask again if there is none, as the caller's clock tells.
    """

    instance_id: str | None = None
    candidate: Candidate | None = None
    market: Literal["spot", "on_demand"] | None = None
    errors: tuple[tuple[str, str], ...] = ()
    retry_at: float | None = None


def acquire(
    client: Any, pool: Pool, *, template: str, now: float, on_demand: Pool | None = None
) -> Acquired:
    """Start one machine with CreateFleet, the first candidate that can be had.

    Args:
        client: boto3's EC2 client.
        pool: candidates; those that fail rest afterwards.
        template: the launch template's id; its default version is used.
        now: seconds on the caller's clock.
        on_demand: candidates to go on with when the pool has none, if the deadline asks for it.

    Raises:
        ConfigError: if EC2 refuses for a reason that asking again does not mend.
    """
    errors: list[tuple[str, str]] = []
    pools = [pool] if on_demand is None else [pool, on_demand]
    for asked in pools:
        for candidate in asked.available(now):
            instance_id, code, message = _ask(client, asked.market, candidate, template)
            if instance_id:
                return Acquired(
                    instance_id=instance_id, candidate=candidate, market=asked.market,
                    errors=tuple(errors),
                )  # fmt: skip
            errors.append((candidate.place, code))
            action = _judge(candidate, code, message)
            if action == "wait":
                return Acquired(errors=tuple(errors), retry_at=now + pool.backoff_s)
            for one in asked.available(now) if action == "on_demand" else (candidate,):
                asked.failed(one, now)
            if action == "on_demand":
                break
    return Acquired(errors=tuple(errors), retry_at=min(one.next_at(now) for one in pools))


def _ask(
    client: Any, market: str, candidate: Candidate, template: str
) -> tuple[str | None, str, str]:
    """Returns the machine's id, or the code and text of what went wrong."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError  # noqa: A004 - theirs

    override = {"InstanceType": candidate.instance_type, "AvailabilityZone": candidate.zone}
    try:
        answer = client.create_fleet(
            Type="instant",
            TargetCapacitySpecification={
                "TotalTargetCapacity": 1,
                "DefaultTargetCapacityType": market.replace("_", "-"),
            },
            LaunchTemplateConfigs=[
                {
                    "LaunchTemplateSpecification": {
                        "LaunchTemplateId": template,
                        "Version": "$Default",
                    },
                    "Overrides": [override],
                }
            ],
        )
    except ClientError as error:
        found = error.response["Error"]
        return None, found["Code"], found["Message"]
    except (ConnectionError, HTTPClientError) as error:
        return None, "ServiceUnavailable", str(error)
    ids = [name for started in answer.get("Instances", []) for name in started["InstanceIds"]]
    if ids:
        return ids[0], "", ""
    # What instant fleets lack they tell in the answer, not as an error.
    for failure in answer.get("Errors", []):
        return None, failure["ErrorCode"], failure.get("ErrorMessage", "")
    return None, "UnfulfillableCapacity", "no machine and no reason"


def _judge(candidate: Candidate, code: str, message: str) -> Action:
    action = action_for(code)
    if action == "fatal":
        raise ConfigError(
            f"EC2 refuses to start {candidate.place}: {code} ({redact(message)}); correct the "
            "launch template, the permissions or the account: asking again would not help"
        )
    _log.info("No %s: EC2 answered %s, so: %s", candidate.place, code, action)
    return action
