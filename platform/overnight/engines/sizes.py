"""How an engine that computes whole batches uses its machine."""

from __future__ import annotations

from dataclasses import dataclass

from overnight.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSizes:
    """Decides speed, what fits, and what a kill may cost; never a result.

    Attributes:
        batch_rows: rows computed, and handed back, in one step; a step should take well under a
            second, for a kill may cost one.
        window_rows: rows held at once, so that the next batch is there when one is done.
        threads: for the arithmetic on CPU; None for all usable cores.

    Raises:
        ConfigError: unless 1 <= batch_rows <= window_rows and threads is None or >= 1.
    """

    batch_rows: int
    window_rows: int
    threads: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.batch_rows <= self.window_rows:
            raise ConfigError(
                f"engine sizes: batch_rows={self.batch_rows} is not in "
                f"1..window_rows={self.window_rows}"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"engine sizes: threads={self.threads}, must be at least 1")
