"""Which rows are worth what after an engine's death, until the row that kills is found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from overnight.engines.base import FAILURE, ROW
from overnight.workers.bisection import Bisection

if TYPE_CHECKING:
    from overnight.engines.base import Engine
    from overnight.workers.keeper import Keeper
    from overnight.workers.window import Window


class Suspicion:
    """Those that were not being computed just wait; the suspects are bisected.

    Args:
        window: the rows.
        keeper: of the engine.
        result_schema: the engine's.
    """

    def __init__(self, window: Window, keeper: Keeper, result_schema: pa.Schema) -> None:
        self._window = window
        self._keeper = keeper
        self._result_schema = result_schema
        self._search: Bisection | None = None

    @property
    def active(self) -> bool:
        """Whether a killer is sought: suspects run in groups then, and nothing else does."""
        return self._search is not None

    def end(self) -> None:
        """Suspect nothing any more."""
        self._search = None

    def submit_next(self, engine: Engine) -> bool:
        """Submit the next group of suspects; False when all are decided."""
        search = self._search
        while search is not None:
            if search.running:
                search.passed()
            group = search.next()
            if group is None:
                return False
            rows = self._window.requests(group)
            if rows.num_rows:
                engine.submit(rows)
                return True
            search.passed()
        return False

    def died(self, suspects: list[int], error: BaseException) -> pa.Table | None:
        """An engine died; the record of the row that it died of, once that is known.

        Raises:
            EngineBrokenError: if it is the engine's own fault.
        """
        search = self._search
        if search is None:
            self._begin(suspects)
            return None
        if not search.running:
            return None
        killer = search.died()
        if (killer is not None and not self._keeper.proven) or self._keeper.spent:
            self._keeper.prove()
        return None if killer is None else self._condemn(killer, error)

    def _begin(self, suspects: list[int]) -> None:
        undecided = self._window.undecided()
        asked = set(suspects) & set(undecided)
        chosen = [i for i in undecided if i in asked] or undecided
        blamed = set(chosen)
        self._window.requeue(i for i in undecided if i not in blamed)
        if chosen:
            self._search = Bisection(chosen)
            self._keeper.doubt()

    def _condemn(self, killer: int, error: BaseException) -> pa.Table:
        # Its deaths are explained, and an engine has answered others meanwhile.
        self._keeper.forgive()
        reason = f"killed_engine: killed the engine, the last time alone: {error}"
        columns: dict[str, Any] = {
            ROW: pa.array([killer], pa.int64()),
            FAILURE: pa.array([reason], pa.string()),
        }
        columns |= {f.name: pa.nulls(1, f.type) for f in self._result_schema}
        return pa.table(columns)
