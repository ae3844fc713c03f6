"""Who goes first, and how many at once: run priorities, and the pool of each engine.

The limits are Dagster's own: see `concurrency` in infra/dagster/dagster.yaml.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

    from overnight.job import InferenceJob

PRIORITY = "dagster/priority"
# Runs that somebody starts by hand have 0, and go between the two.
NIGHTLY = "10"
BACKFILL = "-10"


def pool_of(job: InferenceJob) -> str:
    """The pool for a job's engine on its class of machines, such as `vllm_g6`.

    The class is the family of the job's first instance type; a job that takes whatever the
    cluster has shares the pool of its engine's name alone with others like it.
    """
    engine = job.engine.kind.split(".")[0]
    family = [name.split(".")[0].replace("-", "_") for name in job.spot.instance_types[:1]]
    return "_".join([engine, *family])


def declare_limits(instance: dg.DagsterInstance, graph: BaseAssetGraph[Any]) -> None:
    """Give each pool of some assets that has no limit yet the default one of `dagster.yaml`.

    Dagster does that by itself, but only once a pool's first runs are in its queue, and lets
    these through without one.
    """
    storage = instance.event_log_storage
    limited = {limit.name for limit in storage.get_pool_limits()}
    for pool in {pool for node in graph.asset_nodes for pool in node.pools or ()} - limited:
        storage.initialize_concurrency_limit_to_default(pool)
