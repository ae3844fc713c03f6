"""A spot market on one machine: a real Ray cluster whose nodes come and are taken away."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
from ray.cluster_utils import Cluster

from overnight.workers.cluster import HEALTH_CHECKS
from overnight.workers.machines import MARKET_LABEL, ZONE_LABEL
from tests.support.processes import command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MEMORY = 100 << 20


@dataclass(slots=True)
class Machine:
    """One node of the cluster.

    Attributes:
        node: Ray's handle of it.
        notice_file: where its end is announced.
    """

    node: Any
    notice_file: Path

    def notify(self, in_s: float, kind: str = "interruption") -> float:
        """Announce that it goes (or may go); when, Unix seconds."""
        text = json.dumps({"kind": kind, "in_s": in_s, "detail": f"a test: {kind}"})
        unfinished = self.notice_file.with_suffix(".new")
        unfinished.write_text(text)
        unfinished.replace(self.notice_file)
        return time.time() + in_s

    def workers(self) -> list[psutil.Process]:
        """The processes of our workers on it."""
        return [p for p in self._processes() if command(p).startswith("ray::Worker")]

    def has_engine(self) -> bool:
        """Whether a vLLM runs on it, or starts.

        It is known by how it was spawned until it has its title, and for good if it gets none:
        setproctitle does nothing where the first variable of the environment has been changed,
        and which of them is the first is chance in Ray's workers.
        """
        titles = ("VLLM::EngineCore", "multiprocessing.spawn")
        return any(title in command(p) for p in self._processes() for title in titles)

    def _processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for info in itertools.chain.from_iterable(self.node.all_processes.values()):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(info.process.pid)
                found += [*process.children(recursive=True), process]
        return found

    def end(self) -> None:
        """Take it away at once: every process of it is killed."""
        for process in self._processes():
            with contextlib.suppress(psutil.Error):
                process.kill()


class SpotMarket:
    """Machines of the cluster that `open_market` starts."""

    def __init__(self, cluster: Any, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._launched = itertools.count()
        self.machines: list[Machine] = []

    @property
    def address(self) -> str:
        """The head's."""
        address: str = self._cluster.address
        return address

    def launch(self, *, market: str = "spot", zone: str = "any", **environment: str) -> Machine:
        """Have a machine come; on return it is part of the cluster."""
        number = next(self._launched)
        notice = self._folder / f"notice-{number}.json"
        node = self._cluster.add_node(
            num_cpus=1,
            object_store_memory=MEMORY,
            labels={MARKET_LABEL: market, ZONE_LABEL: zone},
            env_vars={
                "OVERNIGHT_NOTICE": f"file:{notice}",
                "OVERNIGHT_NOTICE_DIR": str(self._folder / f"machine-{number}"),
                **environment,
            },
        )
        machine = Machine(node, notice)
        self.machines.append(machine)
        return machine

    def take_away(self, machine: Machine) -> None:
        """The machine's end, whether it was announced or not."""
        machine.end()
        with contextlib.suppress(Exception):  # its processes are gone already
            self._cluster.remove_node(machine.node, allow_graceful=False)
        # Until the cluster has noticed, a run that starts now would count on the machine.
        self._cluster.wait_for_nodes()


@contextlib.contextmanager
def open_market(folder: Path) -> Iterator[SpotMarket]:
    """A head that carries no workers, and no machine yet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cluster: Any = Cluster(  # type: ignore[no-untyped-call]
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": MEMORY,
            "include_dashboard": False,
            "labels": {MARKET_LABEL: "on-demand"},
            "_system_config": dict(HEALTH_CHECKS),  # Ray adds to it
        },
    )
    try:
        yield SpotMarket(cluster, folder)
    finally:
        cluster.shutdown()
