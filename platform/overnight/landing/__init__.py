"""Where rows come from: the landing zone, reading a partition of it, and landing files in it.

What a row must be is declared in `overnight.contract`; which rows are then inferred is decided
in `overnight.plan`.
"""

from __future__ import annotations

from overnight.landing.land import LandedFile, LandReport, land
from overnight.landing.reader import Batch, InputFile, Reader
from overnight.landing.rows import REJECT_SCHEMA
from overnight.landing.zone import (
    SUFFIXES,
    Source,
    check_partition,
    landed_partitions,
    landing_version,
    mark_complete,
)

__all__ = [
    "REJECT_SCHEMA",
    "SUFFIXES",
    "Batch",
    "InputFile",
    "LandReport",
    "LandedFile",
    "Reader",
    "Source",
    "check_partition",
    "land",
    "landed_partitions",
    "landing_version",
    "mark_complete",
]
