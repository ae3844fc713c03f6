"""A code location with the one small job, for Dagster itself to run and to retry."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import dagster as dg

from overnight.orchestration import inference_asset, source_asset
from resources import from_env
from tests.chaos.step import job_of
from tests.support.shop import Paced, lines, reversing

if TYPE_CHECKING:
    from overnight.job import InferenceJob

LOG = "OVERNIGHT_CHAOS_LOG"
BROKEN = "OVERNIGHT_CHAOS_BROKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class Broken(Paced):
    """Does not start."""

    def start(self) -> NoReturn:
        raise OSError("no memory left for weights")


def job() -> InferenceJob:
    """The one that works, or the one whose engine does not start."""
    if os.environ.get(BROKEN):
        return reversing(engine=Broken())
    return job_of(os.environ.get(LOG, os.devnull))


daily = dg.DailyPartitionsDefinition("2026-01-01", timezone="Europe/Berlin")

defs = dg.Definitions.merge(
    dg.Definitions(
        assets=[source_asset(lines, partitions=daily, group="chaos")],
        resources=from_env(),
    ),
    inference_asset(job(), partitions=daily, hour=2, group="chaos"),
)
