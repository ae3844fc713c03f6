"""Ray's autoscaler, stepped by hand: its scheduler, reconciler and provider, and moto's EC2.

Only what the cluster reports is made up here; `test_cluster.py` runs the whole of it.
"""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING, Any

from ray.autoscaler.v2.autoscaler import Autoscaler
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.core.generated.autoscaler_pb2 import (
    ClusterResourceState,
    GetClusterResourceStateReply,
    NodeState,
    NodeStatus,
    ResourceRequest,
    ResourceRequestByCount,
)
from ray.core.generated.common_pb2 import LabelSelector, LabelSelectorConstraint

from tests.infra import cluster_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MARKET = "ray.io/market-type"
DEADLINE_S = 60


def head_of(config: dict[str, Any]) -> str:
    """Start the head as `ray up` does; its instance id."""
    node = {"ray-node-type": "head", "ray-user-node-type": "head", "ray-node-name": "head"}
    made = cluster_file.provider_of(config).create_node(
        config["available_node_types"]["head"]["node_config"],
        {**node, "ray-node-status": "up-to-date", "ray-launch-config": "head"},
        1,
    )
    return str(next(iter(made)))


def write_config(config: dict[str, Any], folder: Path) -> Path:
    """The file that `ray up` leaves on the head; nobody logs in to moto's machines."""
    written = copy.deepcopy(config)
    written.pop("head_node", None)
    written["provider"].pop("_config_cache_path", None)
    written["provider"]["disable_node_updaters"] = True
    path = folder / "ray_bootstrap_config.yaml"
    path.write_text(json.dumps(written))
    return path


class Reports:
    """What the autoscaler asks of the cluster's head: who is there, and what waits."""

    address = "127.0.0.1:6379"

    def __init__(self, head: str) -> None:
        self.state = ClusterResourceState(cluster_resource_state_version=1)
        self.state.node_states.append(
            NodeState(
                node_id=b"head",
                instance_id=head,
                ray_node_type_name="head",
                status=NodeStatus.RUNNING,
                total_resources={"node:__internal_head__": 1.0},
            )
        )

    def get_cluster_resource_state(self) -> bytes:
        reply = GetClusterResourceStateReply(cluster_resource_state=self.state)
        return bytes(reply.SerializeToString())

    def wait_for(self, market: str | None, count: int = 1) -> None:
        """Let actors wait for a GPU, in a market or in whichever."""
        constraint = LabelSelectorConstraint(
            label_key=MARKET, operator="LABEL_OPERATOR_IN", label_values=[market or ""]
        )
        selectors = [LabelSelector(label_constraints=[constraint])] if market else []
        request = ResourceRequest(resources_bundle={"GPU": 1.0}, label_selectors=selectors)
        self.state.pending_resource_requests.append(
            ResourceRequestByCount(request=request, count=count)
        )


class Stepped:
    """An autoscaler and the cluster that it looks after."""

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        cluster_file.forget()
        self.reports = Reports(head_of(config))
        reader = FileConfigReader(str(write_config(config, folder)))
        self._autoscaler = Autoscaler("session", reader, self.reports)

    def until(self, done: Callable[[], bool]) -> None:
        """Update, as the head does every five seconds, until something is so."""
        deadline = time.monotonic() + DEADLINE_S
        while not done():
            assert time.monotonic() < deadline, self.states()
            assert self._autoscaler.update_autoscaling_state() is not None
            time.sleep(0.02)  # the launches are under way in threads

    def close(self) -> None:
        """Let the launches that are under way end, so that none reaches the next test."""
        provider = self._autoscaler._cloud_instance_provider
        provider._main_executor.shutdown()
        provider._node_launcher_executors.shutdown()

    def states(self) -> list[str]:
        """Where each machine stands, for a message."""
        storage = self._autoscaler._instance_manager._instance_storage
        instances, _ = storage.get_instances()
        return [str(instance) for instance in instances.values()]
