"""The store: landing zone and journal, in a directory or in S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from overnight.home import Home
from overnight.store import StoreConfig

if TYPE_CHECKING:
    from pathlib import Path


class StoreResource(dg.ConfigurableResource["StoreResource"]):
    """A directory (`file://`) or a bucket (`s3://`); credentials are those of the AWS chain."""

    url: str | None = Field(
        default=None,
        description="file:///directory or s3://bucket/prefix; unset: under OVERNIGHT_HOME.",
    )
    endpoint_url: str | None = Field(
        default=None, description="An S3-compatible server in place of AWS."
    )

    @property
    def config(self) -> StoreConfig:
        """What a worker needs to open the store."""
        if self.url is None:
            return Home.from_env().store
        return StoreConfig(url=self.url, endpoint_url=self.endpoint_url)

    @property
    def scratch(self) -> Path:
        """A local directory for what a run needs only while it lasts."""
        return Home.from_env().scratch
