"""What machines cost by the list, for when AWS cannot be asked.

Public list prices in USD per hour, on demand, Linux, us-east-1, as remembered on `AS_OF`, and
the share of it that spot machines of the family typically cost. Whatever is priced by this
table is marked as such. To refresh it: take the prices from
https://aws.amazon.com/ec2/pricing/on-demand/ and move the date. Asking AWS belongs to `market`.
"""

from __future__ import annotations

import datetime as dt
import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AS_OF", "ListPrice", "known_types", "list_price"]

AS_OF = dt.datetime(2026, 6, 1, tzinfo=dt.UTC)

_ON_DEMAND: Mapping[str, float] = {
    # T4
    "g4dn.xlarge": 0.526,
    "g4dn.2xlarge": 0.752,
    "g4dn.12xlarge": 3.912,
    # A10G
    "g5.xlarge": 1.006,
    "g5.2xlarge": 1.212,
    "g5.4xlarge": 1.624,
    "g5.12xlarge": 5.672,
    "g5.48xlarge": 16.288,
    # L4
    "g6.xlarge": 0.8048,
    "g6.2xlarge": 0.9776,
    "g6.4xlarge": 1.3232,
    "g6.12xlarge": 4.6016,
    "g6.48xlarge": 13.3504,
    # L40S
    "g6e.xlarge": 1.861,
    "g6e.2xlarge": 2.24208,
    "g6e.4xlarge": 3.00424,
    "g6e.12xlarge": 10.49264,
    "g6e.48xlarge": 30.13118,
    # A100, H100, H200: since the cut of June 2025
    "p4d.24xlarge": 21.957642,
    "p5.48xlarge": 55.04,
    "p5en.48xlarge": 63.296,
    # Without a GPU
    "c7i.2xlarge": 0.357,
    "c7i.4xlarge": 0.714,
    "c7i.8xlarge": 1.428,
    "m7i.2xlarge": 0.4032,
    "m7i.4xlarge": 0.8064,
}

_SPOT_SHARE: Mapping[str, float] = {
    "g4dn": 0.40,
    "g5": 0.45,
    "g6": 0.45,
    "g6e": 0.50,
    "p4d": 0.45,
    "p5": 0.45,
    "p5en": 0.45,
    "c7i": 0.40,
    "m7i": 0.40,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ListPrice:
    """USD for an hour of one machine: bought on demand, and what spot typically comes to."""

    on_demand: float
    spot: float


def known_types() -> tuple[str, ...]:
    """The instance types in the table, sorted."""
    return tuple(sorted(_ON_DEMAND))


def list_price(instance_type: str) -> ListPrice:
    """The table's prices of an instance type.

    Raises:
        ConfigError: if the table does not have it; names those that are spelled like it.
    """
    on_demand = _ON_DEMAND.get(instance_type)
    if on_demand is None:
        near = difflib.get_close_matches(instance_type, known_types(), n=3)
        message = f"No price is known for instance type {instance_type!r}; " + (
            f"did you mean {' or '.join(near)}?"
            if near
            else f"without asking AWS, these are known: {', '.join(known_types())}"
        )
        raise ConfigError(message)
    share = _SPOT_SHARE[instance_type.partition(".")[0]]
    return ListPrice(on_demand=on_demand, spot=round(on_demand * share, 6))
