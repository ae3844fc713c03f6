"""How Ray's autoscaler gets machines from EC2: group after group, until one has some.

Ray names this module in its own process (`provider: {type: external, module: …}` in the cluster
file), so it may import Ray on top. What a cluster consists of is in the cluster file; when spot
and when on-demand machines are asked for is decided elsewhere.
"""

from __future__ import annotations

from typing import Any

import ray  # noqa: TID253 - loaded by Ray's autoscaler, never with the definitions
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider  # noqa: TID253
from ray.autoscaler.v2 import autoscaler  # noqa: TID253
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (  # noqa: TID253
    CloudResourceMonitor,
)
from ray.core.generated.instance_manager_pb2 import (  # type: ignore[attr-defined]  # noqa: TID253
    Instance,
    InstanceUpdateEvent,
)

from overnight.errors import ConfigError

__all__ = ["Ec2Provider", "Shortages"]


class Shortages(CloudResourceMonitor):
    """Which groups had no machine lately, launches that EC2 refused included.

    Ray prefers groups that were not short of machines lately, but Ray 2.60 only counts machines
    that never came up. EC2 refuses at once (`InsufficientInstanceCapacity` and its like), and
    Ray would ask the same group again, every few seconds, for as long as the shortage lasts.
    """

    def __init__(self) -> None:
        super().__init__()
        self._groups: dict[str, str] = {}

    def notify(self, events: list[Any]) -> None:
        """Take note of what became of instances; called by Ray after each change."""
        super().notify(events)
        for event in events:
            if event.instance_type:
                self._groups[event.instance_id] = event.instance_type
            if event.new_instance_status == Instance.ALLOCATION_FAILED:
                group = self._groups[event.instance_id]
                self.allocation_timeout(InstanceUpdateEvent(instance_type=group))
            if event.new_instance_status in (Instance.ALLOCATION_FAILED, Instance.TERMINATED):
                self._groups.pop(event.instance_id, None)


class Ec2Provider(AWSNodeProvider):
    """Ray's provider for EC2, with `Shortages` in place of Ray's own record.

    It tries the zones of a group in turn; the next group is the scheduler's choice.

    Args:
        provider_config: the section `provider` of the cluster file.
        cluster_name: what its machines are tagged with.

    Raises:
        ConfigError: if this Ray keeps its record elsewhere.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        if not hasattr(autoscaler, "CloudResourceMonitor"):
            raise ConfigError(
                f"Ray {ray.__version__} keeps no `CloudResourceMonitor` in its autoscaler: see "
                "whether it passes over groups that EC2 refuses by itself; if it does, say "
                "`type: aws` in the cluster file, else install the Ray of the lock file"
            )
        super().__init__(provider_config, cluster_name)  # type: ignore[no-untyped-call]
        # Ray makes the provider before it makes its record.
        autoscaler.CloudResourceMonitor = Shortages
