"""The whole of it, as on the head: Ray's own processes start and end machines at moto's EC2.

Only the machines are missing. Where Ray would log in and start itself on one, the test starts
Ray on this machine with the environment that Ray would give it.
"""

from __future__ import annotations

import copy
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.infra import cluster_file
from tests.infra.autoscaling import head_of, write_config
from tests.infra.ec2 import tags
from tests.support.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.infra.ec2 import Ec2

MARK = "OVERNIGHT_TEST_MARK"
DEADLINE_S = 90
ASK = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)

@ray.remote(num_gpus=1, num_cpus=0, label_selector={"ray.io/market-type": "spot"})
class Engine:
    def where(self):
        here = ray.get_runtime_context().get_node_id()
        return next(node["Labels"] for node in ray.nodes() if node["NodeID"] == here)

print(ray.get(Engine.remote().where.remote()))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class RayProcesses:
    """What the cluster file's start commands start; ended by the mark in their environment."""

    def __init__(self, config: dict[str, Any], mark: str) -> None:
        self._config = config
        self._port = free_port()
        # Not what a Ray of the tests' own process has set for itself, such as its tokens.
        inherited = {n: v for n, v in os.environ.items() if not n.startswith("RAY_")}
        self._environment = {
            **inherited,
            MARK: mark,
            "PYTHONPATH": f"{cluster_file.ROOT}:{cluster_file.ROOT / 'platform'}",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_enable_autoscaler_v2": "1",  # `ray up` exports it
        }

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self, command: str, instance: str, group: str, config_path: Path) -> None:
        """Run a start command of the file, with free ports and the environment Ray gives it."""
        node_type = self._config["available_node_types"][group]
        words = {
            "~/venv/bin/ray": shlex.quote(str(Path(sys.executable).with_name("ray"))),
            "~/ray_bootstrap_config.yaml": shlex.quote(str(config_path)),
            ":6379": f":{self._port}",
            "--port=6379": f"--port={self._port} --ray-client-server-port={free_port()}",
            "--object-manager-port=8076": "--node-ip-address=127.0.0.1",
            "--dashboard-host=127.0.0.1": "--include-dashboard=false",
        }
        for written, here in words.items():
            command = command.replace(written, here)
        done = subprocess.run(
            ["bash", "-c", command],
            env={
                **self._environment,
                "RAY_HEAD_IP": "127.0.0.1",
                "RAY_CLOUD_INSTANCE_ID": instance,
                "RAY_NODE_TYPE_NAME": group,
                "RAY_OVERRIDE_RESOURCES": json.dumps(node_type["resources"]),
                "RAY_OVERRIDE_LABELS": json.dumps(node_type["labels"]),
            },
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def ask(self) -> subprocess.Popen[str]:
        """A job whose one engine wants a GPU on a spot machine; it ends when it has had it."""
        return subprocess.Popen(
            [sys.executable, "-c", ASK, self.address],
            env=self._environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    def end(self) -> None:
        """Kill all that carries the mark, until nothing does."""
        wanted = f"{MARK}={self._environment[MARK]}".encode()
        deadline = time.monotonic() + DEADLINE_S
        while pids := [pid for pid in _processes() if wanted in _environment_of(pid)]:
            assert time.monotonic() < deadline, pids
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.05)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


@pytest.fixture
def quick(resolved: dict[str, Any]) -> dict[str, Any]:
    """The cluster file, with less patience for who is idle."""
    made = copy.deepcopy(resolved)
    made["idle_timeout_minutes"] = 0.05
    return made


@pytest.fixture
def ray_processes(quick: dict[str, Any], tmp_path: Path) -> Iterator[RayProcesses]:
    made = RayProcesses(quick, mark=str(tmp_path))
    try:
        yield made
    finally:
        made.end()


def test_an_actor_for_spot_brings_a_machine_from_the_next_group_and_takes_it_away_again(
    quick: dict[str, Any], ray_processes: RayProcesses, machines: Ec2, tmp_path: Path
) -> None:
    machines.refusing["g6.2xlarge", "spot"] = "InsufficientInstanceCapacity"
    config_path = write_config(quick, tmp_path)
    ray_processes.start(quick["head_start_ray_commands"][-1], head_of(quick), "head", config_path)
    job = ray_processes.ask()

    until(machines.workers, "no machine was started for the actor", seconds=DEADLINE_S)
    (made,) = machines.workers()
    group = tags(made)["ray-user-node-type"]
    assert (group, made["InstanceLifecycle"]) == ("spot-g5", "spot")
    assert {launch.count for launch in machines.launches} == {1}

    start = quick["worker_start_ray_commands"][-1]
    ray_processes.start(start, made["InstanceId"], group, config_path)
    said, _ = job.communicate(timeout=DEADLINE_S)
    assert "'ray.io/market-type': 'spot'" in said
    assert "'ray.io/node-group': 'spot-g5'" in said

    until(lambda: not machines.workers(), "the idle machine was not ended", seconds=DEADLINE_S)
    assert machines.instance(made["InstanceId"])["State"]["Name"] == "terminated"
