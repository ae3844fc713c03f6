"""Where an installation keeps its state, and what replaces the embedded defaults.

| variable                  | default                  | meaning                                   |
|---------------------------|--------------------------|-------------------------------------------|
| `OVERNIGHT_HOME`          | `.overnight`             | the directory of all local state          |
| `OVERNIGHT_STORE_URL`     | `file://<home>/store`    | landing zone and journal; `s3://` as well |
| `OVERNIGHT_STORE_ENDPOINT`| none                     | an S3-compatible server                   |
| `OVERNIGHT_WAREHOUSE_URL` | embedded in `<home>`     | any PostgreSQL from version 14            |
| `OVERNIGHT_RAY_ADDRESS`   | a Ray of the run's own   | `host:port` of a Ray head                 |
| `OVERNIGHT_WORKERS`       | by GPUs or machines      | how many engines a run uses               |
| `OVERNIGHT_DEFINITIONS`   | `assets.definitions`     | the module that declares the jobs         |
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from overnight.errors import ConfigError
from overnight.store import StoreConfig
from overnight.workers.cluster import ClusterConfig

if TYPE_CHECKING:
    from collections.abc import Mapping


def code_location() -> str:
    """The name of the module that declares what there is."""
    return os.environ.get("OVERNIGHT_DEFINITIONS") or "assets.definitions"


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The settings of an installation.

    Attributes:
        path: the directory of all local state.
        store_url: `file://` or `s3://`.
        store_endpoint: the URL of an S3-compatible server, None for AWS itself.
        warehouse_url: an SQLAlchemy URL, None for the embedded PostgreSQL.
        ray_address: `host:port` of a Ray head, None for one of the run's own.
        workers: how many workers a run uses; 0 for as many as the cluster has GPUs, or machines.
    """

    path: Path
    store_url: str
    store_endpoint: str | None = None
    warehouse_url: str | None = None
    ray_address: str | None = None
    workers: int = 0

    @classmethod
    def from_env(cls, env: Mapping[str, str] = os.environ) -> Home:
        """Read the settings; nothing is created.

        Raises:
            ConfigError: if `OVERNIGHT_WORKERS` is no number.
        """
        path = Path(env.get("OVERNIGHT_HOME") or ".overnight").absolute()
        return cls(
            path=path,
            store_url=env.get("OVERNIGHT_STORE_URL") or (path / "store").as_uri(),
            store_endpoint=env.get("OVERNIGHT_STORE_ENDPOINT") or None,
            warehouse_url=env.get("OVERNIGHT_WAREHOUSE_URL") or None,
            ray_address=env.get("OVERNIGHT_RAY_ADDRESS") or None,
            workers=_workers(env.get("OVERNIGHT_WORKERS") or "0"),
        )

    @property
    def store(self) -> StoreConfig:
        """The landing zone and the journal; a directory in `path` is made, others must exist."""
        own = self.path / "store"
        if self.store_url == own.as_uri():
            own.mkdir(parents=True, exist_ok=True)
        return StoreConfig(url=self.store_url, endpoint_url=self.store_endpoint)

    @property
    def cluster(self) -> ClusterConfig:
        """Where workers run."""
        return ClusterConfig(
            address=self.ray_address, head_file=self.path / "ray.json", workers=self.workers
        )

    @property
    def scratch(self) -> Path:
        """For what a run needs only while it lasts."""
        return self.path / "scratch"


def _workers(text: str) -> int:
    if not text.isdecimal():
        raise ConfigError(
            f"OVERNIGHT_WORKERS is {text!r}: give a number of engines, 0 for automatic"
        )
    return int(text)
