"""Engines that start before the runs that will need them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from overnight.run import engine_name
from overnight.warehouse.publications import current_publication
from overnight.workers.cluster import connected
from overnight.workers.crew import warm_up
from overnight.workers.machines import has_markets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from overnight.job import InferenceJob
    from overnight.run import House


def warm_engines(job: InferenceJob, partitions: Iterable[str], house: House) -> int:
    """Have a job's engines start on this machine's own Ray head, if partitions will need them.

    They do if nothing is published of one, or what is was inferred otherwise. Engines that
    nobody uses then are released like all others. Machines that have to be bought are left to
    the runs, which know their deadlines.

    Returns:
        How many engines there are, or start now; without waiting for them.

    Raises:
        ModelError: if a model is missing.
    """
    if house.cluster.address or house.cluster.head() is None:
        return 0
    job = job.pinned(house.registry)
    fingerprint = job.fingerprint()
    with house.warehouse.connect() as connection:
        published = (current_publication(connection, job.name, p) for p in partitions)
        if all(one is not None and one.fingerprint == fingerprint.id for one in published):
            return 0
    with connected(house.cluster):
        if has_markets():
            return 0
        name = engine_name(job, fingerprint, house.warehouse)
        return warm_up(house.cluster, job.engine, name=name)
