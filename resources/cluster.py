"""The cluster: the Ray on which workers run."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from overnight.home import Home

if TYPE_CHECKING:
    from overnight.workers.cluster import ClusterConfig


class ClusterResource(dg.ConfigurableResource["ClusterResource"]):
    """A running Ray head whose workers stay warm, or a local Ray for each run."""

    address: str | None = Field(
        default=None,
        description="host:port of a Ray head; unset: the head that `overnight dev` keeps up, "
        "else a local Ray that lives as long as the run.",
    )
    workers: int = Field(
        default=0, description="Workers to use; 0: one for each GPU, or for each node without any."
    )
    gpus: float | None = Field(
        default=None,
        description="GPUs of each worker; unset: one if the cluster has a machine with a GPU now. "
        "Say it where machines only come when they are asked for.",
    )
    changeover_s: float = Field(
        default=180.0,
        description="Seconds from asking for a machine until its engine works.",
    )
    idle_timeout_s: float = Field(
        default=900.0, description="Seconds after which an unused warm engine is released."
    )

    @property
    def config(self) -> ClusterConfig:
        """What the pool needs to find its workers."""
        return replace(
            Home.from_env().cluster,
            address=self.address,
            workers=self.workers,
            gpus=self.gpus,
            changeover_s=self.changeover_s,
            idle_timeout_s=self.idle_timeout_s,
        )
