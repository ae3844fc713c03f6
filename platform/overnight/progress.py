"""Progress of long work, in words for a log and as a bar for a terminal."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.workers.progress import PoolProgress

BAR = 24


def line(progress: PoolProgress, before: PoolProgress | None) -> str:
    """One line for a log: rows, rows/s, tokens/s, ETA.

    Args:
        progress: now.
        before: at the report before, None at the first; speeds are those since then.
    """
    share = progress.rows / progress.total if progress.total else 1.0
    if not progress.workers:
        return f"waiting for a worker and its engine, {progress.seconds:.0f} s so far"
    rows_per_s, tokens_per_s = speed(progress, before)
    left = eta_s(progress, rows_per_s)
    parts = [
        f"{progress.rows}/{progress.total} rows ({share:.0%})",
        f"{rows_per_s:.1f} rows/s",
        f"{tokens_per_s:.0f} tokens/s",
        f"ETA {'?' if left is None else _duration(left)}",
        f"{progress.workers} worker{'s' if progress.workers > 1 else ''}",
    ]
    if progress.lost:
        parts.append(f"{progress.lost} lost")
    return ", ".join(parts)


def speed(progress: PoolProgress, before: PoolProgress | None) -> tuple[float, float]:
    """Rows/s and tokens/s since the report before."""
    seconds = progress.seconds - (before.seconds if before else 0.0)
    if seconds <= 0:
        return 0.0, 0.0
    rows = progress.rows - (before.rows if before else 0)
    tokens = progress.prompt_tokens + progress.output_tokens
    tokens -= (before.prompt_tokens + before.output_tokens) if before else 0
    return rows / seconds, tokens / seconds


def eta_s(progress: PoolProgress, rows_per_s: float) -> float | None:
    """Seconds until the last row is inferred at that speed; None if nothing moves."""
    left = progress.total - progress.rows
    return left / rows_per_s if rows_per_s > 0 else None


class Reporter:
    """Tells a log, and a terminal if there is one, how far the work is.

    Args:
        log: takes a line.
        terminal: where to draw a bar; None for nowhere.
    """

    def __init__(self, log: Callable[[str], None], terminal: TextIO | None) -> None:
        self._log = log
        self._terminal = terminal
        self._before: PoolProgress | None = None

    def __call__(self, progress: PoolProgress) -> None:
        """Report once."""
        text = line(progress, self._before)
        self._before = progress
        self._log(text)
        if self._terminal:
            done = progress.rows >= progress.total
            filled = round(BAR * progress.rows / progress.total) if progress.total else BAR
            bar = "█" * filled + "░" * (BAR - filled)
            self._terminal.write(f"\r\x1b[2K{bar} {text}" + ("\n" if done else ""))
            self._terminal.flush()


def foreground_terminal() -> TextIO | None:
    """The terminal in whose foreground this process runs, if it does.

    Dagster captures the standard streams of a step, so they tell nothing about a terminal.
    """
    try:
        terminal = Path("/dev/tty").open("w")  # noqa: SIM115 - kept open as long as the process
    except OSError:
        return None
    return terminal if os.tcgetpgrp(terminal.fileno()) == os.getpgrp() else None


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
