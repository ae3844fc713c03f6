"""What Ray's autoscaler makes of the cluster file: spot by default, and group after group."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
from ray.autoscaler.v2 import autoscaler
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)

from overnight.errors import ConfigError
from overnight.workers.ec2 import Ec2Provider
from tests.infra.autoscaling import Stepped
from tests.infra.ec2 import tags

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.infra.ec2 import Ec2

NO_MACHINES = (
    "InsufficientInstanceCapacity",
    "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity",
    "MaxSpotInstanceCountExceeded",
    "Unsupported",
    "SpotMaxPriceTooLow",
    "UnfulfillableCapacity",
    "InsufficientCapacity",
    "InsufficientFreeAddressesInSubnet",
    "InstanceLimitExceeded",
    "VcpuLimitExceeded",
)
TYPES = ("g6.2xlarge", "g5.2xlarge", "g6e.2xlarge")


@pytest.fixture
def stepped(resolved: dict[str, Any], machines: Ec2, tmp_path: Path) -> Iterator[Stepped]:
    made = Stepped(resolved, tmp_path)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("asked", "market", "group"),
    [
        ("spot", "spot", "spot-g6"),
        ("on-demand", None, "on-demand-g6"),
        (None, "spot", "spot-g6"),
    ],
)
def test_the_market_that_is_asked_for_is_what_is_started(
    stepped: Stepped, machines: Ec2, asked: str | None, market: str | None, group: str
) -> None:
    stepped.reports.wait_for(asked)
    stepped.until(lambda: bool(machines.workers()))
    (made,) = machines.workers()
    assert made.get("InstanceLifecycle") == market
    assert tags(made)["ray-user-node-type"] == group


@pytest.mark.parametrize("code", NO_MACHINES)
def test_a_group_that_is_refused_makes_way_for_the_next_one(
    stepped: Stepped, machines: Ec2, code: str
) -> None:
    machines.refusing["g6.2xlarge", "spot"] = code
    stepped.reports.wait_for("spot")
    stepped.until(lambda: bool(machines.workers()))
    (made,) = machines.workers()
    assert (made["InstanceType"], made["InstanceLifecycle"]) == ("g5.2xlarge", "spot")
    refused = [launch.subnet for launch in machines.launches if launch.instance_type == TYPES[0]]
    assert set(refused) == set(machines.subnets)  # every zone was tried first


def test_a_demand_for_spot_goes_round_the_spot_groups_until_one_has_machines(
    stepped: Stepped, machines: Ec2
) -> None:
    for each in TYPES:
        machines.refusing[each, "spot"] = "InsufficientInstanceCapacity"
    stepped.reports.wait_for("spot")
    stepped.until(lambda: {launch.instance_type for launch in machines.launches} == set(TYPES))
    assert machines.workers() == []
    assert {launch.market for launch in machines.launches} == {"spot"}
    del machines.refusing["g6.2xlarge", "spot"]
    stepped.until(lambda: bool(machines.workers()))
    (made,) = machines.workers()
    assert (made["InstanceType"], made["InstanceLifecycle"]) == ("g6.2xlarge", "spot")


def test_on_demand_has_groups_to_fall_back_on_too(stepped: Stepped, machines: Ec2) -> None:
    machines.refusing["g6.2xlarge", "on-demand"] = "InsufficientInstanceCapacity"
    stepped.reports.wait_for("on-demand")
    stepped.until(lambda: bool(machines.workers()))
    (made,) = machines.workers()
    assert made["InstanceType"] == "g5.2xlarge"
    assert "InstanceLifecycle" not in made


def test_a_refused_group_does_not_hold_up_what_waits_for_another_market(
    stepped: Stepped, machines: Ec2
) -> None:
    for each in TYPES:
        machines.refusing[each, "spot"] = "MaxSpotInstanceCountExceeded"
    stepped.reports.wait_for("spot")
    stepped.reports.wait_for("on-demand")
    stepped.until(lambda: bool(machines.workers()))
    assert [made.get("InstanceLifecycle") for made in machines.workers()] == [None]


def test_ray_alone_asks_the_refused_group_for_ever(
    resolved: dict[str, Any], machines: Ec2, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # When this fails, Ray has learnt it: `type: aws` will do, and overnight.workers.ec2 can go.
    monkeypatch.setattr(autoscaler, "CloudResourceMonitor", CloudResourceMonitor)
    plain = copy.deepcopy(resolved)
    del plain["provider"]["module"]
    plain["provider"]["type"] = "aws"
    stepped = Stepped(plain, tmp_path)
    machines.refusing["g6.2xlarge", "spot"] = "InsufficientInstanceCapacity"
    stepped.reports.wait_for("spot")
    stepped.until(lambda: len(machines.launches) >= 20)  # four rounds of five
    stepped.close()
    assert {launch.instance_type for launch in machines.launches} == {"g6.2xlarge"}


def test_a_ray_that_keeps_no_such_record_is_named(
    resolved: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(autoscaler, "CloudResourceMonitor")
    with pytest.raises(ConfigError, match="keeps no `CloudResourceMonitor`"):
        Ec2Provider(resolved["provider"], resolved["cluster_name"])
