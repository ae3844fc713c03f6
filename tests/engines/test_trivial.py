"""The trivial engine, which is also what the protocol means."""

from __future__ import annotations

import pickle

import pyarrow as pa
import pytest

from overnight.engines.base import EngineSpec
from overnight.engines.trivial import TrivialReverse
from overnight.errors import ConfigError, EngineDied


def requests(*texts: str | None) -> pa.Table:
    return pa.table(
        {"row": pa.array(range(len(texts)), pa.int64()), "request": pa.array(texts, pa.string())}
    )


def test_rows_come_back_reversed_with_the_declared_columns() -> None:
    spec = TrivialReverse()
    engine = spec.start()
    engine.submit(requests("abc", "é"))
    assert engine.in_flight == 2
    done = engine.step()
    assert done.schema.names == ["row", "failure", *spec.result_schema.names]
    assert done["text"].to_pylist() == ["cba", "é"]
    assert done["length"].to_pylist() == [3, 1]
    assert engine.in_flight == 0


def test_a_slow_row_comes_back_later_and_a_bad_one_with_its_reason() -> None:
    engine = TrivialReverse(window=8, batch=4).start()
    engine.submit(requests("!slow 2 a", "!fail why", None, "b", "c"))
    order = [[(row["row"], row["failure"]) for row in engine.step().to_pylist()] for _ in range(4)]
    assert order == [
        [(1, "told: why"), (2, "null_request"), (3, None)],
        [(4, None)],
        [(0, None)],
        [],
    ]


def test_death_names_the_rows_of_the_step() -> None:
    engine = TrivialReverse(window=8, batch=2).start()
    engine.submit(requests("a", "b", "c", "!die", "e"))
    engine.step()
    with pytest.raises(EngineDied):
        engine.step()
    assert engine.suspects() == [2, 3]


def test_an_aborted_row_never_comes_back() -> None:
    engine = TrivialReverse().start()
    engine.submit(requests("a", "b"))
    engine.abort([0])
    assert engine.step()["row"].to_pylist() == [1]


def test_the_spec_travels_and_validates() -> None:
    spec = TrivialReverse(window=4, batch=2)
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert isinstance(spec, EngineSpec)
    with pytest.raises(ConfigError, match="batch=0"):
        TrivialReverse(batch=0)
