"""The shortest real engine: reverses text. Read it to learn the protocol.

It measures the plumbing around engines (its arithmetic costs next to nothing) and, told so
by the request itself, misbehaves: `!die` kills it, `!slow 5 …` takes five more steps,
`!fail why` is a row that cannot be inferred.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from overnight.engines.base import FAILURE, REQUEST, ROW
from overnight.errors import ConfigError, EngineDied

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_RESULT = pa.schema([("text", pa.string()), ("length", pa.int32())])
_STEP = pa.schema([(ROW, pa.int64()), (FAILURE, pa.string()), *_RESULT])


@dataclass(frozen=True, slots=True, kw_only=True)
class TrivialReverse:
    """Reverses each request.

    Attributes:
        window: rows it wants to hold at once.
        batch: rows it computes, and may hand back, in one step.
    """

    window: int = 1024
    batch: int = 256

    def __post_init__(self) -> None:
        if not 1 <= self.batch <= self.window:
            msg = f"TrivialReverse: batch={self.batch} is not in 1..window={self.window}"
            raise ConfigError(msg)

    @property
    def kind(self) -> str:
        """The engine's name in lineage."""
        return "trivial.reverse"

    @property
    def result_schema(self) -> pa.Schema:
        """`text` (string): the request reversed; `length` (int32): its characters."""
        return _RESULT

    @property
    def probe(self) -> str:
        """A request that any healthy engine of this kind answers."""
        return "probe"

    def identity(self) -> dict[str, Any]:
        """Nothing but the kind decides a result."""
        return {"kind": self.kind}

    def start(self) -> TrivialEngine:
        """Ready at once."""
        return TrivialEngine(self)


class TrivialEngine:
    """A started `TrivialReverse`."""

    def __init__(self, spec: TrivialReverse) -> None:
        self.capacity = spec.window
        self._batch = spec.batch
        self._waiting = (
            _STEP.empty_table().select([ROW]).append_column(REQUEST, pa.array([], "string"))
        )
        self._slow: dict[int, int] = {}
        self._suspects: list[int] = []

    @property
    def in_flight(self) -> int:
        """Rows submitted and not handed back yet."""
        return int(self._waiting.num_rows)

    def submit(self, requests: pa.Table) -> None:
        """Append to the queue."""
        self._waiting = pa.concat_tables([self._waiting, requests.select([ROW, REQUEST])])

    def step(self) -> pa.Table:
        """Compute the oldest `batch` rows; slow ones go back to the queue until their turn."""
        batch = self._waiting.slice(0, self._batch)
        text = batch[REQUEST]
        if pc.any(pc.starts_with(text, "!die")).as_py():
            self._suspects = batch[ROW].to_pylist()
            msg = "the trivial engine was told to die"
            raise EngineDied(msg)
        late = pc.fill_null(pc.starts_with(text, "!slow"), fill_value=False)
        if pc.any(late).as_py():
            late = pa.array(self._still_slow(batch.filter(late), late.to_pylist()))
        rest = self._waiting.slice(batch.num_rows)
        self._waiting = pa.concat_tables([rest, batch.filter(late)])
        return _reverse(batch.filter(pc.invert(late)))

    def suspects(self) -> list[int]:
        """The rows of the step that died."""
        return self._suspects

    def abort(self, rows: Sequence[int]) -> None:
        """Forget these rows."""
        keep = pc.invert(pc.is_in(self._waiting[ROW], pa.array(rows, pa.int64())))
        self._waiting = self._waiting.filter(keep)

    def stats(self) -> Mapping[str, float]:
        """Queue depth only."""
        return {"waiting": float(self.in_flight)}

    def close(self) -> None:
        """Nothing to free."""

    def _still_slow(self, slow: pa.Table, mask: list[bool]) -> list[bool]:
        verdict = []
        for row, request in zip(*slow.to_pydict().values(), strict=True):
            left = self._slow.get(row, int(request.split()[1])) - 1
            self._slow[row] = left
            verdict.append(left >= 0)
        answers = iter(verdict)
        return [next(answers) if late else False for late in mask]


def _reverse(batch: pa.Table) -> pa.Table:
    text = batch[REQUEST]
    bad = pc.or_(pc.is_null(text), pc.fill_null(pc.starts_with(text, "!fail"), fill_value=True))
    reason = pc.coalesce(pc.replace_substring_regex(text, "^!fail ?", "told: "), "null_request")
    kept = pc.if_else(bad, pa.scalar(None, pa.string()), text)
    columns = [
        batch[ROW],
        pc.if_else(bad, reason, pa.scalar(None, pa.string())),
        pc.utf8_reverse(kept),
        pc.utf8_length(kept).cast(pa.int32()),
    ]
    return pa.Table.from_arrays(columns, schema=_STEP)
