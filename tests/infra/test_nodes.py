"""What Ray's provider asks EC2 for, group by group, and what EC2 then has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from ray.autoscaler.node_launch_exception import NodeLaunchException

from tests.infra import cluster_file
from tests.infra.autoscaling import head_of
from tests.infra.ec2 import tags

if TYPE_CHECKING:
    from tests.infra.ec2 import Ec2

SPOT = ("spot-g6", "spot-g5", "spot-g6e")
ON_DEMAND = ("on-demand-g6", "on-demand-g5", "on-demand-g6e")


def start(config: dict[str, Any], group: str) -> str:
    """Start one worker as the autoscaler's launcher does; its instance id."""
    node_type = config["available_node_types"][group]
    made = cluster_file.provider_of(config).create_node_with_resources_and_labels(
        node_type["node_config"],
        {
            "ray-node-name": "ray-overnight-worker",
            "ray-node-type": "worker",
            "ray-node-status": "uninitialized",
            "ray-launch-config": "hash",
            "ray-user-node-type": group,
        },
        1,
        node_type["resources"],
        node_type["labels"],
    )
    return str(next(iter(made)))


@pytest.mark.parametrize("group", [*SPOT, *ON_DEMAND])
def test_a_worker_is_what_its_group_says(
    resolved: dict[str, Any], machines: Ec2, group: str
) -> None:
    start(resolved, group)
    (made,) = machines.workers()
    assert made.get("InstanceLifecycle") == ("spot" if group in SPOT else None)
    assert made["InstanceType"] == f"{group.rpartition('-')[2]}.2xlarge"
    assert made["Placement"]["AvailabilityZone"] == "eu-central-1a"
    assert made["MetadataOptions"]["HttpTokens"] == "required"
    assert made["MetadataOptions"]["HttpPutResponseHopLimit"] == 2
    assert made["IamInstanceProfile"]["Arn"].endswith("/overnight-worker")
    assert [each["GroupId"] for each in made["SecurityGroups"]] == [machines.security_group]
    assert made["ImageId"] == machines.image
    assert tags(made) | {
        "ray-cluster-name": "overnight",
        "ray-node-type": "worker",
        "ray-user-node-type": group,
        "project": "overnight",
        "market": "spot" if group in SPOT else "on-demand",
    } == tags(made)


def test_a_workers_disk_is_encrypted_and_goes_with_it(
    resolved: dict[str, Any], machines: Ec2
) -> None:
    start(resolved, "spot-g6")
    (made,) = machines.workers()
    (disk,) = machines.client.describe_volumes(
        Filters=[{"Name": "attachment.instance-id", "Values": [made["InstanceId"]]}]
    )["Volumes"]
    assert (disk["Encrypted"], disk["VolumeType"], disk["Size"]) == (True, "gp3", 200)
    assert made["BlockDeviceMappings"][0]["Ebs"]["DeleteOnTermination"] is True


def test_the_head_is_small_and_on_demand(resolved: dict[str, Any], machines: Ec2) -> None:
    head = machines.instance(head_of(resolved))
    assert head["InstanceType"] == "m7i.large"
    assert "InstanceLifecycle" not in head
    assert head["MetadataOptions"]["HttpTokens"] == "required"
    assert head["IamInstanceProfile"]["Arn"].endswith("/overnight-head")


@pytest.mark.parametrize("short", [1, 2])
def test_a_zone_without_machines_makes_way_for_the_next_zone(
    resolved: dict[str, Any], machines: Ec2, short: int
) -> None:
    for subnet in machines.subnets[:short]:
        machines.refusing[subnet] = "InsufficientInstanceCapacity"
    start(resolved, "spot-g6")
    (made,) = machines.workers()
    assert made["SubnetId"] == machines.subnets[short]
    assert [launch.subnet for launch in machines.launches] == [*machines.subnets[: short + 1]]


def test_a_group_without_machines_says_why(resolved: dict[str, Any], machines: Ec2) -> None:
    machines.refusing["g5.2xlarge", "spot"] = "MaxSpotInstanceCountExceeded"
    with pytest.raises(NodeLaunchException) as refused:
        start(resolved, "spot-g5")
    assert refused.value.category == "MaxSpotInstanceCountExceeded"
    assert machines.workers() == []


def test_what_the_head_asks_of_ec2_is_what_the_readme_lets_it(
    resolved: dict[str, Any], machines: Ec2
) -> None:
    machines.actions.clear()
    provider = cluster_file.provider_of(resolved)
    made = start(resolved, "spot-g6")
    assert made in provider.non_terminated_nodes({})
    provider.set_node_tags(made, {"ray-node-status": "up-to-date"})
    provider.terminate_nodes([made])
    allowed = cluster_file.actions_of_the_head()
    assert {f"ec2:{action}" for action in machines.actions} == allowed - {"iam:PassRole"}
    assert machines.instance(made)["State"]["Name"] == "terminated"
