"""What the environment says about notices, and what it cannot mean."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from overnight.errors import ConfigError
from overnight.spot.config import NoticeConfig

if TYPE_CHECKING:
    from pathlib import Path

EC2 = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
GCE = "GCE_METADATA_HOST"


def machine(path: Path, firmware: dict[str, str], **variables: str) -> NoticeConfig:
    """The configuration on a machine whose firmware says this."""
    path.mkdir(exist_ok=True)
    for name, text in firmware.items():
        (path / name).write_text(text + "\n")
    return replace(NoticeConfig.from_env(variables), dmi=path)


NITRO = {"sys_vendor": "Amazon EC2", "board_asset_tag": "i-0123456789abcdef0"}
XEN = {"sys_vendor": "Xen", "bios_version": "4.11.amazon"}
GOOGLE = {"sys_vendor": "Google", "product_name": "Google Compute Engine"}
CHROMEBOOK = {"sys_vendor": "Google", "product_name": "Kohaku"}
LAPTOP = {"sys_vendor": "LENOVO", "product_name": "20XW", "bios_version": "N32ET86W"}
BINARY = {"sys_vendor": "\0\udc80".encode("utf-8", "surrogatepass").decode("latin-1")}


@pytest.mark.parametrize(
    ("firmware", "variables", "cloud"),
    [
        (NITRO, {}, "ec2"),
        (XEN, {}, "ec2"),
        (GOOGLE, {}, "gce"),
        (CHROMEBOOK, {}, None),
        (LAPTOP, {}, None),
        (BINARY, {}, None),
        ({}, {}, None),
        ({}, {EC2: "http://127.0.0.1:1338/"}, "ec2"),
        ({}, {EC2: "http://[fd00:ec2::254]"}, "ec2"),
        ({}, {GCE: "127.0.0.1:8080"}, "gce"),
        (NITRO, {"AWS_EC2_METADATA_DISABLED": "true"}, None),
        ({}, {EC2: "http://127.0.0.1:1338", "AWS_EC2_METADATA_DISABLED": "TRUE"}, None),
        (NITRO, {"AWS_EC2_METADATA_DISABLED": "false"}, "ec2"),
        # What is said about notices alone decides.
        (LAPTOP, {"OVERNIGHT_NOTICE": "ec2", "AWS_EC2_METADATA_DISABLED": "true"}, "ec2"),
        (NITRO, {"OVERNIGHT_NOTICE": "gce"}, "gce"),
        (NITRO, {"OVERNIGHT_NOTICE": "off"}, None),
        (NITRO, {"OVERNIGHT_NOTICE": "file:/run/notice"}, None),
    ],
)
def test_which_cloud_is_asked(
    tmp_path: Path, firmware: dict[str, str], variables: dict[str, str], cloud: str | None
) -> None:
    assert machine(tmp_path / "dmi", firmware, **variables).cloud == cloud


@pytest.mark.parametrize("text", ["file:/run/a b", "file:///run/a b"])
def test_a_file_is_named_as_a_path_or_as_a_url(text: str) -> None:
    config = NoticeConfig.from_env({"OVERNIGHT_NOTICE": text})
    assert config.mode == "file"
    assert str(config.file) == "/run/a b"


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({"OVERNIGHT_NOTICE": "aws"}, "OVERNIGHT_NOTICE is 'aws'"),
        ({"OVERNIGHT_NOTICE": "EC2"}, "OVERNIGHT_NOTICE is 'EC2'"),
        ({"OVERNIGHT_NOTICE": "file:notice"}, "absolute path"),
        ({"OVERNIGHT_NOTICE": "file:"}, "absolute path"),
        ({"OVERNIGHT_NOTICE": "/run/notice"}, "absolute path"),
        ({"OVERNIGHT_NOTICE_DIR": "here"}, "OVERNIGHT_NOTICE_DIR is 'here'"),
        ({"OVERNIGHT_NOTICE_POLL_S": "0"}, "OVERNIGHT_NOTICE_POLL_S is '0'"),
        ({"OVERNIGHT_NOTICE_POLL_S": "nan"}, "from 0.01 to 60"),
        ({"OVERNIGHT_NOTICE_POLL_S": "5s"}, "from 0.01 to 60"),
        ({"AWS_EC2_METADATA_DISABLED": "yes"}, "AWS_EC2_METADATA_DISABLED is 'yes'"),
        ({EC2: "https://169.254.169.254"}, EC2),
        ({EC2: "http://169.254.169.254/latest"}, EC2),
        ({EC2: "http://me:hunter2@169.254.169.254"}, EC2),
        ({EC2: "http://"}, EC2),
        ({EC2: "http://[::1"}, EC2),
        ({EC2: "http://127.0.0.1:99999"}, EC2),
        ({EC2: "http://127.0.0.1:0"}, EC2),
        ({EC2: "http://exa mple"}, EC2),
        ({EC2: "ftp://127.0.0.1"}, EC2),
        ({GCE: "metadata.google.internal/computeMetadata"}, GCE),
        ({GCE: "me@metadata.google.internal"}, GCE),
        ({GCE: "127.0.0.1", EC2: "http://127.0.0.1"}, "OVERNIGHT_NOTICE"),
    ],
)
def test_a_wrong_setting_is_named(variables: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NoticeConfig.from_env(variables)
    assert says in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_machines_with_other_settings_share_nothing() -> None:
    settings: list[dict[str, str]] = [
        {},
        {"OVERNIGHT_NOTICE": "ec2"},
        {EC2: "http://127.0.0.1:1"},
        {EC2: "http://127.0.0.1:2"},
        {"OVERNIGHT_NOTICE": "file:/a"},
        {"OVERNIGHT_NOTICE": "file:/b"},
        {"OVERNIGHT_NOTICE_DIR": "/c"},
    ]
    paths = {NoticeConfig.from_env(env).machine_directory for env in settings}
    assert len(paths) == len(settings)
    faster = NoticeConfig.from_env({"OVERNIGHT_NOTICE_POLL_S": "1"})
    assert faster.machine_directory == NoticeConfig.from_env({}).machine_directory
