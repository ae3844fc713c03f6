"""An engine that types its request backwards, a letter a step, and can stop in mid-word.

It counts the letters that it types in a file, so that a test can tell whether any was typed
twice, whichever process typed it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from overnight.engines.base import FAILURE, PARTIAL, REQUEST, ROW

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

_RESULT = pa.schema(
    [
        ("text", pa.string()),
        ("length", pa.int32()),
        ("output_tokens", pa.int32()),
        ("attempts", pa.int32()),
    ]
)
_STEP = pa.schema([(ROW, pa.int64()), (FAILURE, pa.string()), *_RESULT])
_PARTIAL = pa.struct([("text", pa.string()), ("attempts", pa.int32())])


@dataclass(frozen=True, slots=True, kw_only=True)
class Typist:
    """Types each request backwards.

    Attributes:
        window: rows that it types at once.
        step_s: how long a letter (of each row) takes, seconds.
        counter: a file that gets a byte for each letter typed.
    """

    window: int = 64
    step_s: float = 0.002
    counter: str = os.devnull

    @property
    def kind(self) -> str:
        """The engine's name in lineage."""
        return "typist"

    @property
    def result_schema(self) -> pa.Schema:
        """`text`, its `length`, the same as `output_tokens`, `attempts`."""
        return _RESULT

    @property
    def partial_type(self) -> pa.DataType:
        """The letters so far."""
        return _PARTIAL

    @property
    def probe(self) -> str:
        """A request that any healthy engine of this kind answers."""
        return "p"

    def identity(self) -> dict[str, Any]:
        """Nothing but the kind decides a result."""
        return {"kind": self.kind}

    def start(self) -> TypistEngine:
        """Ready at once."""
        return TypistEngine(self)


class TypistEngine:
    """A started `Typist`."""

    def __init__(self, spec: Typist) -> None:
        self.capacity = spec.window
        self._step_s = spec.step_s
        self._counter = Path(spec.counter).open("ab", buffering=0)  # noqa: SIM115 - till close
        self._words: dict[int, str] = {}
        self._typed: dict[int, str] = {}
        self._attempts: dict[int, int] = {}

    @property
    def in_flight(self) -> int:
        """Rows submitted and not handed back yet."""
        return len(self._words)

    def submit(self, requests: pa.Table) -> None:
        """Take rows in, those with a `partial` where they were."""
        for row in requests.to_pylist():
            before = row[PARTIAL] or {"text": "", "attempts": 0}
            self._words[row[ROW]] = row[REQUEST][::-1]
            self._typed[row[ROW]] = before["text"]
            self._attempts[row[ROW]] = before["attempts"] + 1

    def step(self) -> pa.Table:
        """Type a letter of each row."""
        time.sleep(self._step_s)
        done = []
        for row, word in self._words.items():
            typed = self._typed[row]
            if len(typed) < len(word):
                self._typed[row] = typed + word[len(typed)]
                self._counter.write(b".")
            if len(self._typed[row]) == len(word):
                done.append(row)
        texts = [self._typed[row] for row in done]
        columns = {
            ROW: done,
            FAILURE: [None] * len(done),
            "text": texts,
            "length": [len(text) for text in texts],
            "output_tokens": [len(text) for text in texts],
            "attempts": [self._attempts[row] for row in done],
        }
        self.abort(done)
        return pa.table(columns, schema=_STEP)

    def partials(self) -> pa.Table:
        """Rows with a letter or more."""
        rows = [row for row in self._words if self._typed[row]]
        return pa.table(
            {
                ROW: pa.array(rows, pa.int64()),
                "progress": pa.array([len(self._typed[row]) for row in rows], pa.int64()),
                PARTIAL: pa.array(
                    [{"text": self._typed[r], "attempts": self._attempts[r]} for r in rows],
                    _PARTIAL,
                ),
            }
        )

    def suspend(self, rows: Collection[int]) -> pa.Table:
        """Take rows out, with their letters."""
        states = self.partials()
        self.abort(list(rows))
        return states.filter(pa.compute.is_in(states[ROW], pa.array(list(rows), pa.int64())))

    def time_left(self) -> Mapping[int, float]:
        """Exactly what the rest of each word takes."""
        return {r: (len(w) - len(self._typed[r])) * self._step_s for r, w in self._words.items()}

    def suspects(self) -> list[int]:
        """It never dies of a row."""
        return []

    def abort(self, rows: Sequence[int]) -> None:
        """Forget rows."""
        for row in rows:
            for known in (self._words, self._typed, self._attempts):
                known.pop(row, None)

    def stats(self) -> Mapping[str, float]:
        """None."""
        return {}

    def close(self) -> None:
        """Free the counter."""
        self._counter.close()
