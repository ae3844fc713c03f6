"""One engine at a time: started when it is needed, buried when it dies, within a budget."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pyarrow as pa

from overnight.engines.base import REQUEST, ROW
from overnight.errors import ConfigError, EngineBrokenError, ModelError

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.engines.base import Engine, EngineSpec
    from overnight.workers.meter import Meter

log = logging.getLogger(__name__)

_PROBE_ROW = -1


class Keeper:
    """Keeps an engine running.

    Args:
        spec: the engine.
        budget: starts or deaths in a row, without a row finishing in between, after which the
            engine counts as broken.
        meter: books what starting takes.
        on_death: called when an engine has died, as long as it can still be looked at.

    Attributes:
        engine: the one that runs; None: it is started when it is needed.
        in_flight: rows that it holds, as of its last step.
        starts: of engines so far, failed ones included.
        deaths: of engines so far.
        proven: whether an engine has finished a row since the last unexplained death.
    """

    def __init__(
        self, spec: EngineSpec, *, budget: int, meter: Meter, on_death: Callable[[], None]
    ) -> None:
        self._spec = spec
        self._budget = budget
        self._meter = meter
        self._on_death = on_death
        self._fruitless = 0
        self._unexplained = 0
        self._last_error: BaseException | None = None
        self.engine: Engine | None = None
        self.in_flight = 0
        self.starts = 0
        self.deaths = 0
        self.proven = False

    def started(self) -> Engine:
        """The engine, which is started if none runs.

        Raises:
            ModelError: if the model is missing or not the declared one.
            EngineBrokenError: if it does not start within the budget.
        """
        while self.engine is None:
            if max(self._fruitless, self._unexplained) >= self._budget:
                raise self._broken()
            self.starts += 1
            self._meter.book("idle")
            try:
                self.engine = self._spec.start()
                self._meter.book("cold_start")
            except (ConfigError, ModelError):
                raise
            except Exception as error:  # noqa: BLE001 - counted against the budget
                log.warning("the engine %s did not start: %r", self._spec.kind, error)
                self._fruitless += 1
                self._last_error = error
        return self.engine

    def bury(self, error: BaseException) -> list[int]:
        """The engine died; the rows that it suspects."""
        log.warning("the engine %s died: %r", self._spec.kind, error)
        self.deaths += 1
        self._on_death()
        self._fruitless += 1
        self._last_error = error
        engine, self.engine, self.in_flight = self.engine, None, 0
        if engine is None:
            return []
        suspects = engine.suspects()
        engine.close()
        return suspects

    def prove(self) -> None:
        """Have a fresh engine answer the probe: rows are only blamed if an engine works.

        Raises:
            EngineBrokenError: if it dies on the probe too.
        """
        self._fruitless = min(self._fruitless, self._budget - 1)
        engine = self.started()
        try:
            engine.submit(
                pa.table({ROW: pa.array([_PROBE_ROW], pa.int64()), REQUEST: [self._spec.probe]})
            )
            while engine.in_flight:
                engine.step()
        except Exception as error:
            self.bury(error)
            raise self._broken() from error
        self._fruitless = 0
        self.proven = True

    def finished(self, *, searching: bool) -> None:
        """A row was finished; `searching`: while it is sought which row kills."""
        self._fruitless = 0
        self.proven = True
        if not searching:
            self._unexplained = 0

    def doubt(self) -> None:
        """A death is not explained, and may be the engine's own fault."""
        self.proven = False
        self._unexplained += 1

    @property
    def spent(self) -> bool:
        """Whether the next death would be one too many."""
        return self._fruitless >= self._budget

    def forgive(self) -> None:
        """The deaths are explained, or nobody minds them any more."""
        self._fruitless = self._unexplained = 0

    def close(self) -> None:
        """End the engine; the next one is started when it is needed."""
        if self.engine is not None:
            self.engine.close()
        self.engine, self.in_flight = None, 0

    def _broken(self) -> EngineBrokenError:
        error = EngineBrokenError(
            f"the engine {self._spec.kind} failed {self._budget} times in a row whatever it was "
            f"given; last: {self._last_error!r}. Look at the machine and the engine's settings "
            "(memory, sizes, model), not at the rows"
        )
        error.__cause__ = self._last_error
        return error
