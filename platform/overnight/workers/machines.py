"""The machines below the workers, as Ray knows them: which there are, which go, which are gone."""

from __future__ import annotations

import importlib
import re
import socket
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

MARKET_LABEL = "ray.io/market-type"
"""Ray's own label for how a machine is paid: `spot` or `on-demand`."""

INSTANCE_LABEL = "overnight.io/instance-type"
"""Our label for a machine's instance type, such as `g6.2xlarge`."""
ZONE_LABEL = "ray.io/availability-zone"
"""Ray's own label for a machine's availability zone."""

NODE_LABEL = "ray.io/node-id"
"""Ray's own label for its id of a machine."""

_ANSWERS_IN_S = 0.2
_DEAD_NODE = re.compile(r"node has died|node died|Node Id: ([0-9a-f]{56})", re.IGNORECASE)


def say_draining(reason: str, deadline: float) -> None:
    """Tell Ray that the machine that this is called on goes: it places nothing on it any more.

    Args:
        reason: in words.
        deadline: when it goes, Unix seconds.
    """
    # As Ray's own command line does it: there is no public call.
    ray: Any = importlib.import_module("ray")
    messages: Any = importlib.import_module("ray.core.generated.autoscaler_pb2")
    context = ray.get_runtime_context()
    preemption = messages.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    gcs = ray._raylet.GcsClient(address=context.gcs_address)  # noqa: SLF001
    gcs.drain_node(context.get_node_id(), preemption, reason, int(deadline * 1000))


def known_nodes() -> list[dict[str, Any]]:
    """The machines as Ray knows them now, those that are gone included; asks Ray's head."""
    ray: Any = importlib.import_module("ray")
    nodes: list[dict[str, Any]] = ray.nodes()
    return nodes


def alive_nodes(
    nodes: Iterable[dict[str, Any]], market: str | None = None
) -> dict[str, dict[str, Any]]:
    """Those of `known_nodes` that can carry workers (of one market only, if told), by Ray's id."""
    return {
        node["NodeID"]: node
        for node in nodes
        if node["Alive"]
        and node["Resources"].get("CPU")
        and (market is None or market_of(node) == market)
    }


def has_markets(nodes: Iterable[dict[str, Any]]) -> bool:
    """Whether any of `known_nodes`, the head included, says on which market it was bought."""
    return any(node["Alive"] and market_of(node) is not None for node in nodes)


def market_of(node: dict[str, Any] | None) -> str | None:
    """`spot` or `on-demand`; None if the machine's label does not say."""
    labels: dict[str, str] = (node or {}).get("Labels", {})
    return labels.get(MARKET_LABEL)


def taken_away(node: str | None, error: BaseException) -> bool:
    """Whether a worker died because its machine is gone, and not of itself.

    Args:
        node: Ray's id of the machine, if it is known.
        error: what Ray said of the worker.
    """
    if getattr(error, "preempted", False) or _DEAD_NODE.search(str(error)):
        return True
    return node is not None and is_gone(node)


def is_gone(node: str) -> bool:
    """Whether a machine is lost: Ray says so, or will, since its raylet is not there any more.

    Where nothing listens at a raylet's port, it is dead, and its workers have ended with it. A
    machine that does not say even that may only be out of reach: Ray decides then.

    Args:
        node: Ray's id of it.
    """
    known = next((n for n in known_nodes() if n["NodeID"] == node), None)
    if known is None or not known["Alive"]:
        return True
    raylet = known["NodeManagerAddress"], known["NodeManagerPort"]
    try:
        socket.create_connection(raylet, timeout=_ANSWERS_IN_S).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False
