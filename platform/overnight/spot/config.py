"""Where notices are looked for, as the environment says it.

| variable                             | default | meaning                                        |
|--------------------------------------|---------|------------------------------------------------|
| `OVERNIGHT_NOTICE`                   | `auto`  | `auto`, `off`, `ec2`, `gce` or `file:/path`    |
| `OVERNIGHT_NOTICE_DIR`               | in /tmp | the directory that a machine's processes share |
| `OVERNIGHT_NOTICE_POLL_S`            | 5       | seconds between two looks at a cloud           |
| `AWS_EC2_METADATA_SERVICE_ENDPOINT`  | AWS's   | EC2's metadata service, as for AWS's SDKs      |
| `AWS_EC2_METADATA_DISABLED`          | `false` | `true`: `auto` leaves EC2 alone                |
| `GCE_METADATA_HOST`                  | GCE's   | GCE's metadata server, as for Google's SDKs    |

`auto` asks nobody over the network: the firmware's own description of the machine says whether
it is one of Amazon's or Google's, and so does an address in one of the variables above.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from overnight.errors import ConfigError
from overnight.spot.metadata import Endpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["auto", "off", "ec2", "gce", "file"]
_DMI = Path("/sys/class/dmi/id")
_LEAST_POLL_S, _MOST_POLL_S = 0.01, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeConfig:
    """What is watched.

    Attributes:
        mode: `auto` finds out, `off` watches nothing at all.
        file: which file, if `mode` is `file`.
        ec2_endpoint: EC2's metadata service; None for AWS's own address.
        ec2_disabled: whether `auto` leaves EC2 alone.
        gce_endpoint: GCE's metadata server; None for Google's own address.
        directory: what the processes of this machine share; None for one in the system's
            directory for temporary files.
        poll_s: seconds between two looks at a metadata service.
        dmi: the directory in which the kernel shows the firmware's description of the machine.
    """

    mode: Mode = "auto"
    file: Path | None = None
    ec2_endpoint: Endpoint | None = None
    ec2_disabled: bool = False
    gce_endpoint: Endpoint | None = None
    directory: Path | None = None
    poll_s: float = 5.0
    dmi: Path = _DMI

    def __post_init__(self) -> None:
        if self.mode == "auto" and self._ec2_named and self.gce_endpoint is not None:
            raise ConfigError(
                "AWS_EC2_METADATA_SERVICE_ENDPOINT and GCE_METADATA_HOST are both set: "
                "say with OVERNIGHT_NOTICE which of ec2 and gce this machine is"
            )

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> NoticeConfig:
        """Read the settings.

        Raises:
            ConfigError: if one of them cannot be meant; names it.
        """
        mode, file = _mode(env.get("OVERNIGHT_NOTICE") or "auto")
        directory = env.get("OVERNIGHT_NOTICE_DIR") or None
        if directory is not None and not Path(directory).is_absolute():
            raise ConfigError(f"OVERNIGHT_NOTICE_DIR is {directory!r}: give an absolute path")
        return cls(
            mode=mode,
            file=file,
            ec2_endpoint=_endpoint(env, "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            ec2_disabled=_flag(env, "AWS_EC2_METADATA_DISABLED"),
            gce_endpoint=_endpoint(env, "GCE_METADATA_HOST"),
            directory=None if directory is None else Path(directory),
            poll_s=_seconds(env, "OVERNIGHT_NOTICE_POLL_S", cls().poll_s),
        )

    @property
    def cloud(self) -> Literal["ec2", "gce"] | None:
        """Whose metadata service is asked, if any; reads a few local files at most."""
        if self.mode in ("ec2", "gce"):
            return self.mode
        if self.mode != "auto":
            return None
        if self.gce_endpoint is not None:
            return "gce"
        if self._ec2_named or (self._made_by_amazon() and not self.ec2_disabled):
            return "ec2"
        return "gce" if self._made_by_google() else None

    @property
    def machine_directory(self) -> Path:
        """What the processes of this machine share: one for each user and configuration."""
        if self.directory is not None:
            return self.directory
        decides = (self.mode, self.file, self.ec2_endpoint, self.ec2_disabled, self.gce_endpoint)
        digest = hashlib.sha256(repr((*decides, self.dmi)).encode()).hexdigest()[:12]
        return Path(tempfile.gettempdir()) / f"overnight-notice-{os.geteuid()}-{digest}"

    @property
    def _ec2_named(self) -> bool:
        return self.ec2_endpoint is not None and not self.ec2_disabled

    def _made_by_amazon(self) -> bool:
        # Nitro instances say it in the first, Xen instances only in the version of their BIOS.
        return self._firmware("sys_vendor") == "Amazon EC2" or self._firmware(
            "bios_version"
        ).lower().endswith("amazon")

    def _made_by_google(self) -> bool:
        # Not the vendor: Google makes laptops, too.
        return self._firmware("product_name") in ("Google", "Google Compute Engine")

    def _firmware(self, name: str) -> str:
        with contextlib.suppress(OSError), (self.dmi / name).open("rb") as file:
            return file.read(256).decode("utf-8", "replace").strip()
        return ""


def _mode(text: str) -> tuple[Mode, Path | None]:
    if text in ("auto", "off", "ec2", "gce"):
        # mypy does not narrow a string to the literals that it was found among.
        return text, None  # type: ignore[return-value]
    scheme, _, path = text.partition(":")
    # Both forms of an absolute path: file:/path and file:///path.
    path = path.removeprefix("//")
    if scheme == "file" and path.startswith("/") and "\0" not in path:
        return "file", Path(path)
    raise ConfigError(
        f"OVERNIGHT_NOTICE is {text!r}: it can be auto, off, ec2, gce, or file:/path "
        "with an absolute path"
    )


def _endpoint(env: Mapping[str, str], variable: str) -> Endpoint | None:
    text = env.get(variable)
    return Endpoint.parse(text, variable=variable) if text else None


def _flag(env: Mapping[str, str], variable: str) -> bool:
    text = env.get(variable) or "false"
    if text.lower() not in ("true", "false"):
        raise ConfigError(f"{variable} is {text!r}: it can be true or false")
    return text.lower() == "true"


def _seconds(env: Mapping[str, str], variable: str, default: float) -> float:
    text = env.get(variable)
    if not text:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not _LEAST_POLL_S <= seconds <= _MOST_POLL_S:
        raise ConfigError(
            f"{variable} is {text!r}: it can be from {_LEAST_POLL_S:g} to {_MOST_POLL_S:g} seconds"
        )
    return seconds
