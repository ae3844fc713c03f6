"""The cluster file, filled in for a test's account and taken through Ray's own steps."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from ray.autoscaler._private import commands, providers
from ray.autoscaler._private.aws import config as aws_config
from ray.autoscaler._private.aws import utils as aws_utils

if TYPE_CHECKING:
    from tests.infra.ec2 import Ec2

ROOT = Path(__file__).parents[2]
PATH = ROOT / "infra" / "ray" / "cluster.yaml"
README = ROOT / "infra" / "README.md"
PLACEHOLDERS = (
    "ami-FILL-IN",
    "subnet-FILL-IN-A",
    "subnet-FILL-IN-B",
    "subnet-FILL-IN-C",
    "sg-FILL-IN",
)


def filled_in(account: Ec2) -> dict[str, Any]:
    """The file with the account's image, subnets and security group."""
    text = PATH.read_text()
    values = (account.image, *account.subnets, account.security_group)
    for placeholder, value in zip(PLACEHOLDERS, values, strict=True):
        text = text.replace(placeholder, value)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def bootstrapped(config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` makes of a cluster file: defaults, schema, what the account has."""
    forget()
    made: dict[str, Any] = commands._bootstrap_config(config, no_config_cache=True)
    return made


def provider_of(config: dict[str, Any]) -> Any:
    """The node provider that a cluster file names."""
    return providers._get_node_provider(config["provider"], config["cluster_name"])


def forget() -> None:
    """Ray keeps AWS clients and providers for good; each account needs its own."""
    aws_utils.resource_cache.cache_clear()
    aws_utils.client_cache.cache_clear()
    aws_config._get_subnets_or_die.cache_clear()
    providers._clear_provider_cache()


def actions_of_the_head() -> set[str]:
    """What the README's policy for the head's instance profile allows."""
    (policy,) = re.findall(r"```json\n(.*?)```", README.read_text(), re.DOTALL)
    return {action for each in json.loads(policy)["Statement"] for action in each["Action"]}
