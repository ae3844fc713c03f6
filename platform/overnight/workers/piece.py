"""Rows that travel together through the pool, and what becomes of them when a worker dies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import polars as pl

    from overnight.plan import Plan, Split

# A worker may die for reasons of its own, so the first death is nobody's fault. What dies again
# gets a worker to itself: once to be halved, and a single row twice again to be given up.
DEATHS_TO_HALVE = 1
DEATHS_TO_BURY = 3


@dataclass(slots=True, eq=False)
class Piece:
    """A split, or what is left of one (`hashes`).

    It goes on among others after a worker died with it (`survived`). Once a second one did, it
    has a worker to itself (`suspect`); `deaths` counts those that died then.
    """

    split: Split
    hashes: pl.DataFrame | None = None
    survived: bool = False
    suspect: bool = False
    deaths: int = 0

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.split.rows if self.hashes is None else self.hashes.height

    def less(self, done: pl.DataFrame, plan: Plan) -> Piece:
        """What is left of it when the rows with some `input_hash`es are done."""
        if done.is_empty():
            return self
        left = self._all(plan).join(done, on="input_hash", how="anti", maintain_order="left")
        whole = left.height == self.rows
        return replace(self, hashes=self.hashes if whole else left)

    def only(self, hashes: pl.DataFrame, plan: Plan) -> Piece:
        """The rows of it that have some `input_hash`es."""
        chosen = self._all(plan).join(hashes, on="input_hash", how="semi", maintain_order="left")
        return replace(self, hashes=chosen)

    def halves(self, plan: Plan) -> list[Piece]:
        """Two pieces of it."""
        hashes = self._all(plan)
        middle = hashes.height // 2
        deaths = min(self.deaths, DEATHS_TO_HALVE)
        return [
            replace(self, hashes=part, deaths=deaths) for part in (hashes[:middle], hashes[middle:])
        ]

    def after_death(self, plan: Plan, *, alone: bool) -> list[Piece]:
        """How to go on with it when its worker died: as it is, halved, or not at all.

        Args:
            plan: it belongs to.
            alone: whether it was the worker's only piece.

        Returns:
            Nothing, if it is a single row that has killed its workers again and again.
        """
        if not self.survived:
            self.survived = True
            return [self]
        self.suspect = True
        self.deaths += alone
        if self.rows > 1:
            return self.halves(plan) if self.deaths >= DEATHS_TO_HALVE else [self]
        return [self] if self.deaths < DEATHS_TO_BURY else []

    def _all(self, plan: Plan) -> pl.DataFrame:
        return plan.hashes(self.split) if self.hashes is None else self.hashes
