"""The rows that a worker holds, across splits: which wait, which are in flight, which are done.

No engine and no journal here: only who is who. Rows get ids of their own, since the `row` of
two splits of different attempts may be the same number.
"""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pyarrow as pa

from overnight.engines.base import FAILURE, PARTIAL, REQUEST, ROW
from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    import numpy.typing as npt

    from overnight.journal import JournalWriter

    Ids = npt.NDArray[np.int64]

_OWN = ("key", "input_hash")


class Provenance(TypedDict):
    """Who infers: the run, the attempt (fencing token), the machine's name."""

    run_id: str
    attempt: int
    machine: str


@dataclass(slots=True, eq=False)
class Held:
    """A split that the worker holds."""

    split_id: str
    base: int
    requests: pa.Table
    fixed: pa.Table
    done: npt.NDArray[np.bool_]
    left: int
    writer: JournalWriter
    provenance: Provenance
    ticket: Future[int]
    admitted: int = 0
    sequence: int = 0

    @property
    def ids(self) -> range:
        """The ids of its rows."""
        return range(self.base, self.base + len(self.done))

    def records(self, at: Ids, results: pa.Table) -> pa.Table:
        """Journal records of the rows at positions `at`, which `results` are about."""
        whole = len(at) == len(self.done) and np.array_equal(at, np.arange(len(at)))
        fixed = self.fixed if whole else self.fixed.take(pa.array(at))
        columns = self._origin(fixed, results[FAILURE])
        columns |= {n: fixed[n] for n in fixed.column_names if n not in _OWN}
        columns |= {n: results[n] for n in results.column_names if n not in (ROW, FAILURE)}
        return pa.table(columns)

    def partial_records(self, at: Ids, states: pa.Table) -> pa.Table:
        """Partial records of the rows at positions `at`; `states`: their progress and partial."""
        fixed = self.fixed.take(pa.array(at))
        columns = self._origin(fixed, pa.nulls(len(at), pa.string()))
        return pa.table(columns | {n: states[n] for n in ("progress", PARTIAL)})

    def hashes(self, at: Ids) -> list[bytes]:
        """The `input_hash`es of the rows at positions `at`."""
        hashes: list[bytes] = self.fixed["input_hash"].take(pa.array(at)).to_pylist()
        return hashes

    def _origin(self, fixed: pa.Table, failure: Any) -> dict[str, Any]:
        rows = fixed.num_rows
        return {
            "key": fixed["key"],
            "input_hash": fixed["input_hash"],
            FAILURE: failure,
            "run_id": pa.repeat(self.provenance["run_id"], rows),
            "attempt": pa.repeat(pa.scalar(self.provenance["attempt"], pa.int64()), rows),
            "machine": pa.repeat(self.provenance["machine"], rows),
        }


class Window:
    """Splits in the order in which they came, and the ids that go round again.

    Args:
        result_schema: the engine's.
        partial_type: of its rows in mid-generation; None if they cannot go on elsewhere.
    """

    def __init__(self, result_schema: pa.Schema, partial_type: pa.DataType | None = None) -> None:
        self._partial_type = partial_type
        self._begun: dict[int, Any] = {}
        self._results = set(result_schema.names) | {FAILURE, "run_id", "attempt", "machine"}
        self._held: list[Held] = []
        self._again: list[int] = []
        self._next_base = 0

    @property
    def waiting(self) -> int:
        """Rows that are not with the engine, those that go round again included."""
        return len(self._again) + sum(len(h.done) - h.admitted for h in self._held)

    @property
    def held(self) -> list[Held]:
        """The splits that it holds."""
        return list(self._held)

    def weights(self) -> dict[int, float]:
        """How many rows with the engine each attempt has."""
        rows: dict[int, float] = {}
        for held in self._held:
            attempt = held.provenance["attempt"]
            begun = float(np.count_nonzero(~held.done[: held.admitted])) or 1e-9
            rows[attempt] = rows.get(attempt, 0.0) + begun
        return rows

    def __len__(self) -> int:
        """Rows that are undecided."""
        return sum(held.left for held in self._held)

    def check(self, table: pa.Table) -> None:
        """Raise ConfigError unless the table can be inferred and journaled."""
        missing = {ROW, REQUEST, *_OWN} - set(table.column_names)
        if missing:
            msg = f"a split's table lacks {sorted(missing)}; it has {table.column_names}"
            raise ConfigError(msg)
        both = self._results & set(table.column_names)
        if both:
            msg = f"carried columns {sorted(both)} have the names of result columns; rename them"
            raise ConfigError(msg)

    def add(
        self, split_id: str, table: pa.Table, writer: JournalWriter, provenance: Provenance
    ) -> Held:
        """Take a split in, at the end of the queue."""
        rows = table.num_rows
        ids = np.arange(self._next_base, self._next_base + rows)
        held = Held(
            split_id=split_id,
            base=self._next_base,
            requests=self._requests(ids, table),
            fixed=table.select(
                [n for n in table.column_names if n not in (ROW, REQUEST, PARTIAL)]
            ).combine_chunks(),
            done=np.zeros(rows, np.bool_),
            left=rows,
            writer=writer,
            provenance=provenance,
            ticket=Future(),
        )
        self._next_base += rows
        if rows:
            self._held.append(held)
        return held

    def take(self, limit: int) -> pa.Table:
        """Up to `limit` rows to submit now: those that go round again first."""
        again, self._again = self._again[:limit], self._again[limit:]
        tables = [table for table in [self.requests(again)] if table.num_rows]
        limit -= len(again)
        for held in self._held:
            if limit <= 0:
                break
            part = held.requests.slice(held.admitted, limit)
            held.admitted += part.num_rows
            limit -= part.num_rows
            if part.num_rows:
                tables.append(part)
        return pa.concat_tables(tables) if tables else _NOTHING

    def requests(self, ids: Iterable[int]) -> pa.Table:
        """Rows to submit, by id; those that are decided or dropped are left out."""
        tables = [
            held.requests.take(pa.array(at[~held.done[at]]))
            for held, at in self._located(np.fromiter(ids, np.int64))
        ]
        return self._going_on(pa.concat_tables(tables)) if tables else _NOTHING

    def begun(self, states: pa.Table) -> None:
        """Rows that go round again do so from these states: `row`, `partial`."""
        self._begun = dict(zip(states[ROW].to_pylist(), states[PARTIAL].to_pylist(), strict=True))

    def partial_records(self, states: pa.Table) -> Iterator[tuple[Held, pa.Table]]:
        """For each split its partial records: `row`, `progress` and `partial` say of which rows."""
        ids = states[ROW].to_numpy()
        for held, at in self._located(ids):
            mine = states.filter(pa.array(np.isin(ids, at + held.base)))
            yield held, held.partial_records(at, mine)

    def hand_back(self, finishing: Collection[int]) -> Iterator[tuple[Held, list[bytes]]]:
        """Forget all rows but some; for each split, the hashes of those of its rows that stay."""
        stay = np.fromiter(finishing, np.int64)
        located = {id(held): at for held, at in self._located(stay)}
        for held in list(self._held):
            at = located.get(id(held), np.empty(0, np.int64))
            at = at[~held.done[at]]
            rest = np.ones(len(held.done), np.bool_)
            rest[at] = False
            held.done |= rest
            held.left = len(at)
            held.admitted = len(held.done)
            if not held.left:
                self._held.remove(held)
            yield held, held.hashes(at)
        self._again = []

    def finish(self, results: pa.Table) -> Iterator[tuple[Held, pa.Table, pa.Table]]:
        """Mark rows as decided; for each split its results and its journal records.

        Results of rows that were dropped, or decided before, are ignored.
        """
        ids = results[ROW].to_numpy()
        for held, at in list(self._located(ids)):
            fresh = at[~held.done[at]]
            if not len(fresh):
                continue
            mine = results
            if len(fresh) != len(ids):
                chosen = np.flatnonzero(np.isin(ids, fresh + held.base))
                mine = results.take(pa.array(chosen))
            held.done[fresh] = True
            held.left -= len(fresh)
            if not held.left:
                self._held.remove(held)
            yield held, mine, held.records(fresh, mine)

    def undecided(self) -> list[int]:
        """Ids that were submitted and not decided, in the order of admission."""
        again = set(self._again)
        return [
            held.base + int(at)
            for held in self._held
            for at in np.flatnonzero(~held.done[: held.admitted])
            if held.base + int(at) not in again
        ]

    def requeue(self, ids: Iterable[int]) -> None:
        """Let ids go round again, before any new row."""
        self._again = [*ids, *self._again]

    def drop(self, wanted: Callable[[Held], bool]) -> list[Held]:
        """Forget splits, whatever state their rows are in; returns them."""
        dropped = [held for held in self._held if wanted(held)]
        self._held = [held for held in self._held if not wanted(held)]
        gone = [held.ids for held in dropped]
        self._again = [i for i in self._again if not any(i in ids for ids in gone)]
        return dropped

    def _requests(self, ids: Ids, table: pa.Table) -> pa.Table:
        requests = pa.table({ROW: ids, REQUEST: _plain(table[REQUEST])})
        if self._partial_type is None:
            return requests
        if PARTIAL in table.column_names:
            before = table[PARTIAL].cast(self._partial_type)
        else:
            before = pa.nulls(len(ids), self._partial_type)
        return requests.append_column(PARTIAL, before)

    def _going_on(self, requests: pa.Table) -> pa.Table:
        if not self._begun or PARTIAL not in requests.column_names:
            return requests
        states = [
            self._begun.get(row, before)
            for row, before in zip(
                requests[ROW].to_pylist(), requests[PARTIAL].to_pylist(), strict=True
            )
        ]
        at = requests.schema.get_field_index(PARTIAL)
        return requests.set_column(at, PARTIAL, pa.array(states, self._partial_type))

    def _located(self, ids: Ids) -> Iterator[tuple[Held, Ids]]:
        for held in self._held:
            at = ids[(ids >= held.base) & (ids < held.base + len(held.done))] - held.base
            if len(at):
                yield held, at


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    # polars hands out large strings; splits of different producers must concatenate.
    if pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type):
        return column.cast(pa.string())
    return column


_NOTHING = pa.table({ROW: pa.array([], pa.int64()), REQUEST: pa.array([], pa.string())})
