"""What assets need around them, as Dagster resources: a warehouse, a store, a cluster."""

from __future__ import annotations

import os
from typing import Any

import dagster as dg

from overnight.home import Home
from resources.cluster import ClusterResource
from resources.store import StoreResource
from resources.warehouse import WarehouseResource

__all__ = ["ClusterResource", "StoreResource", "WarehouseResource", "from_env"]


def from_env() -> dict[str, dg.ConfigurableResource[Any]]:
    """The resources as the `OVERNIGHT_*` variables say; unset ones get the embedded defaults."""
    return {
        "warehouse": WarehouseResource(url=_variable("OVERNIGHT_WAREHOUSE_URL")),
        "store": StoreResource(
            url=_variable("OVERNIGHT_STORE_URL"),
            endpoint_url=_variable("OVERNIGHT_STORE_ENDPOINT"),
        ),
        "cluster": ClusterResource(
            address=_variable("OVERNIGHT_RAY_ADDRESS"), workers=Home.from_env().workers
        ),
    }


def _variable(name: str) -> dg.EnvVar | None:
    """A reference to the variable, so that its value, a password perhaps, shows nowhere."""
    return dg.EnvVar(name) if os.environ.get(name) else None
