"""The job of the fraud scores, slow enough for a kill to fall between the rows of a day."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from assets.fraud import fraud_scores
from overnight.engines.sizes import BatchSizes
from overnight.engines.xgboost import XgboostEngine, XgboostScore

if TYPE_CHECKING:
    import pyarrow as pa

_PACE_S = 0.04


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced(XgboostScore):
    """Takes its time for each step."""

    def start(self) -> PacedEngine:
        return PacedEngine(self)


class PacedEngine(XgboostEngine):
    def step(self) -> pa.Table:
        time.sleep(_PACE_S)
        return super().step()


_engine: Any = fraud_scores.engine
_told = {field.name: getattr(_engine, field.name) for field in dataclasses.fields(_engine)}
# Small batches and splits: more places for a kill to fall between.
JOB = dataclasses.replace(
    fraud_scores,
    engine=Paced(**{**_told, "sizes": BatchSizes(batch_rows=4, window_rows=8)}),
    split_rows=25,
)
