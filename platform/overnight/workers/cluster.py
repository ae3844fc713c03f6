"""The Ray that carries the workers: one that runs already, or one that lives as long as the run.

Where it runs and what it offers; what is done on it is the pool's business.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError
from overnight.spot.deadline import CHANGEOVER_S
from overnight.workers.machines import alive_nodes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from pathlib import Path

NAMESPACE = "overnight"

HEALTH_CHECKS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2500,
    "health_check_failure_threshold": 4,
}
"""What a cluster's head is told: a raylet that died is missed after 2 s, one that hangs after 12 s.

Ray's own settings say 15 s and 65 s. `infra/ray/cluster.yaml` says the same as this.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """Where workers run.

    Attributes:
        address: `host:port` of a Ray head; None: the head that `overnight dev` or
            `overnight demo` keeps up, if it does, else a Ray that is started for the run.
        head_file: where a head that this installation keeps up leaves its address.
        workers: how many workers to use; 0: one for each GPU, or for each node without any.
            Where no machine has a GPU and there are fewer machines than workers, these share the
            cores: two engines with a core each do more than one with two, but start more slowly.
        gpus: GPUs of each worker; None: one if there is a machine with a GPU now. Say it where
            machines only come when they are asked for.
        changeover_s: seconds from asking for a machine until its engine works.
        idle_timeout_s: seconds after which an unused warm engine is released.
        lease_timeout_s: seconds without a sign of life after which a worker drops a run's rows.
    """

    address: str | None
    head_file: Path
    workers: int = 0
    gpus: float | None = None
    changeover_s: float = CHANGEOVER_S
    idle_timeout_s: float = 900.0
    lease_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        if self.workers < 0:
            raise ConfigError(f"cluster: workers is {self.workers}, must be 0 (automatic) or more")
        if self.gpus is not None and not 0 <= self.gpus < float("inf"):
            raise ConfigError(f"cluster: gpus is {self.gpus}, must be 0 or more")
        for name in ("changeover_s", "idle_timeout_s", "lease_timeout_s"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"cluster: {name} is {getattr(self, name)}, must be above 0")

    def head(self) -> str | None:
        """The address of the running head to use, if there is one."""
        if self.address:
            return self.address
        try:
            address = json.loads(self.head_file.read_text())["address"]
        except (OSError, ValueError, KeyError):
            return None
        return address if _answers(address) else None


@contextlib.contextmanager
def connected(config: ClusterConfig) -> Iterator[bool]:
    """Be connected to Ray; yields whether engines may outlive the run (a head stays up).

    A connection that the process has already is used and left as it is.

    Raises:
        ConfigError: if the configured address does not answer.
    """
    import ray

    if ray.is_initialized():
        yield True
        return
    head = config.head()
    if config.address and not _answers(config.address):
        raise ConfigError(
            f"no Ray head answers at {config.address!r} (OVERNIGHT_RAY_ADDRESS): start one with "
            "`ray start --head`, or leave it out to have one started"
        )
    with init(address=head or "local"):
        try:
            yield head is not None
        finally:
            ray.shutdown()


@contextlib.contextmanager
def init(**options: Any) -> Iterator[dict[str, Any]]:
    """`ray.init` as this project wants it: quiet, without a dashboard or usage statistics."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if options.get("address") == "local":
        options["include_dashboard"] = False
        # One's own machine is given time: when it is short of breath, no other one takes over.
        options["_system_config"] = HEALTH_CHECKS | {"health_check_timeout_ms": 10_000}
    context: Any = ray.init(
        namespace=NAMESPACE,
        log_to_driver=False,
        configure_logging=False,
        ignore_reinit_error=False,
        **options,
    )
    yield context.address_info


@contextlib.contextmanager
def keep_head(config: ClusterConfig) -> Iterator[str]:
    """Keep a Ray head up and leave its address for the runs of this installation to find."""
    import ray

    with init(address="local") as info:
        address = info["gcs_address"]
        config.head_file.parent.mkdir(parents=True, exist_ok=True)
        config.head_file.write_text(json.dumps({"address": address, "pid": os.getpid()}))
        try:
            yield address
        finally:
            config.head_file.unlink(missing_ok=True)
            ray.shutdown()


@dataclass(frozen=True, slots=True)
class Carried:
    """What a cluster carries.

    Attributes:
        workers: how many; at least one, which waits for the first machine if there is none.
        gpus: of each of them.
        sharing: how many share the cores of a machine.
    """

    workers: int
    gpus: float
    sharing: int


def carried(
    config: ClusterConfig,
    nodes: Iterable[dict[str, Any]],
    *,
    without: Collection[str] = (),
    market: str | None = None,
) -> Carried:
    """How many workers the connected cluster carries, and what each of them has.

    Args:
        config: may fix their number.
        nodes: the machines as Ray knows them (`known_nodes`).
        without: Ray's ids of machines that will be taken away.
        market: count the machines of this one only.
    """
    alive = [known for node, known in alive_nodes(nodes, market).items() if node not in without]
    gpus = int(sum(node["Resources"].get("GPU", 0) for node in alive))
    each = config.gpus if config.gpus is not None else float(gpus > 0)
    machines = max(1, len(alive))
    workers = config.workers or gpus or machines
    return Carried(workers, each, 1 if each else math.ceil(workers / machines))


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=2):
            return True
    except (OSError, ValueError):
        return False
