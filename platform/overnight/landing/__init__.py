"""Where rows come from: the landing zone, landing files in it, reading or deriving a partition.

What a row must be is declared in `overnight.contract`; which rows are then inferred is decided
in `overnight.plan`.
"""

from __future__ import annotations

from overnight.landing.derived import (
    WHOLE,
    DerivedSource,
    Lookback,
    check_span,
    landed_sources,
    sources_of,
)
from overnight.landing.deriving import DerivedReader, reader_of
from overnight.landing.land import LandedFile, LandReport, land
from overnight.landing.notes import Landed, Notes
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
    "WHOLE",
    "Batch",
    "DerivedReader",
    "DerivedSource",
    "InputFile",
    "LandReport",
    "Landed",
    "LandedFile",
    "Lookback",
    "Notes",
    "Reader",
    "Source",
    "check_partition",
    "check_span",
    "land",
    "landed_partitions",
    "landed_sources",
    "landing_version",
    "mark_complete",
    "reader_of",
    "sources_of",
]
