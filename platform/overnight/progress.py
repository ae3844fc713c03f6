"""Progress of long work, in words for a log and as a bar for a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.workers.pool import PoolProgress

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
    parts = [
        f"{progress.rows}/{progress.total} rows ({share:.0%})",
        f"{rows_per_s:.1f} rows/s",
        f"{tokens_per_s:.0f} tokens/s",
        f"ETA {_duration((progress.total - progress.rows) / rows_per_s)}" if rows_per_s else "ETA ?",
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


class Reporter:
    """Tells a log, and a terminal if there is one, how far the work is.

    Keeps what it was told, for a plot afterwards.

    Args:
        log: takes a line.
        terminal: draws a bar there if it is one.
    """

    def __init__(self, log: Callable[[str], None], terminal: TextIO = sys.stderr) -> None:
        self._log = log
        self._terminal = terminal if terminal.isatty() else None
        self.samples: list[PoolProgress] = []

    def __call__(self, progress: PoolProgress) -> None:
        """Report once."""
        before = self.samples[-1] if self.samples else None
        self.samples.append(progress)
        text = line(progress, before)
        self._log(text)
        if self._terminal:
            done = progress.rows >= progress.total
            filled = round(BAR * progress.rows / progress.total) if progress.total else BAR
            bar = "█" * filled + "░" * (BAR - filled)
            self._terminal.write(f"\r\x1b[2K{bar} {text}" + ("\n" if done else ""))
            self._terminal.flush()


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:  # noqa: PLR2004 - a minute
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
