"""What a machine was paid for: the workers measure it, the ledger prices it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineTime:
    """What one worker's machine did for one attempt, in seconds of wall-clock.

    The seconds of a machine add up to what is paid for it. Where several workers, or several
    attempts, use one machine at once, each has its share of every second, and `gpus` stays
    those of the whole machine: the sums are right then.

    Attributes:
        machine: its host name.
        instance_type: such as `g6.2xlarge`; None for a machine that is not in a cloud.
        zone: its availability zone.
        market: how it was bought.
        gpus: devices that the seconds count for: GPUs, and 1.0 on a machine without any,
            which counts as one device itself.
        useful_s: inferring rows that are kept.
        recomputed_s: inferring again what had been inferred and was lost.
        cold_start_s: starting the engine, model loading included.
        restart_s: the part of `cold_start_s` that an interruption made necessary.
        idle_s: ready, without work.
        draining_s: from a notice to the hand-back.
        rows: rows inferred.
        prompt_tokens: tokens read.
        output_tokens: tokens generated.
        recomputed_tokens: tokens that were generated again.
        interruptions: how often the machine was taken away.
    """

    machine: str
    instance_type: str | None = None
    zone: str | None = None
    market: Literal["spot", "on_demand", "unknown"] = "unknown"
    gpus: float = 1.0
    useful_s: float = 0.0
    recomputed_s: float = 0.0
    cold_start_s: float = 0.0
    restart_s: float = 0.0
    idle_s: float = 0.0
    draining_s: float = 0.0
    rows: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    recomputed_tokens: int = 0
    interruptions: int = 0
