"""Real vLLM on CPU, stopped in mid-generation: what was generated is kept, and goes on."""

from __future__ import annotations

import contextlib
import gc
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest

from overnight.engines.base import Resumable, ResumableSpec
from overnight.engines.vllm import PARTIAL_TYPE, VllmGenerate, VllmSizes
from overnight.model import ModelRef
from tests.tiny_model import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    # vLLM and torch warn about themselves while they are imported.
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.timeout(180),
]

ROWS = 32
CONTEXT = 512
PROMPTS = [f"Row {i} of the night: {'abcdefgh'[i % 8] * (i % 30)}" for i in range(ROWS)]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> VllmGenerate:
    model = make_tiny_model(tmp_path_factory.mktemp("model"), context=CONTEXT)
    return VllmGenerate(
        model=ModelRef(str(model)).pinned(),
        dtype="float32",
        max_tokens=160,
        min_tokens=100,
        sizes=VllmSizes(max_num_seqs=ROWS, max_num_batched_tokens=2048, kv_cache_gib=1),
    )


@pytest.fixture(scope="module")
def engine(spec: VllmGenerate) -> Iterator[Any]:
    made = spec.start()
    yield made
    made.close()
    gc.collect()


def submit(engine: Any, rows: list[int], partial: pa.Array | None = None) -> None:
    table = pa.table({"row": pa.array(rows, pa.int64()), "request": [PROMPTS[r] for r in rows]})
    if partial is not None:
        table = table.append_column("partial", partial)
    engine.submit(table)


def finish(engine: Any) -> dict[int, dict[str, Any]]:
    back: dict[int, dict[str, Any]] = {}
    while engine.in_flight:
        back |= {row["row"]: row for row in engine.step().to_pylist()}
    return back


def until_generated(engine: Any, tokens: int) -> None:
    """Step until the furthest row has so many tokens."""
    while max(engine.partials()["progress"].to_pylist(), default=0) < tokens:
        assert not engine.step().num_rows, "a row was finished before it could be interrupted"


@contextlib.contextmanager
def sampling(engine: Any, **changes: Any) -> Iterator[Any]:
    """Have the engine sample in another way for a while; the way, to be changed further."""
    whole, engine._sampling = engine._sampling, engine._sampling.clone()
    for name, value in changes.items():
        setattr(engine._sampling, name, value)
    try:
        yield engine._sampling
    finally:
        engine._sampling = whole


@pytest.fixture(scope="module")
def guessing(spec: VllmGenerate) -> Iterator[Any]:
    made = replace(spec, speculative_tokens=4).start()
    yield made
    made.close()
    gc.collect()


@pytest.fixture(scope="module")
def undisturbed(engine: Any) -> dict[int, dict[str, Any]]:
    submit(engine, list(range(ROWS)))
    return finish(engine)


def test_the_spec_and_its_engine_say_that_rows_can_go_on(spec: VllmGenerate, engine: Any) -> None:
    assert isinstance(spec, ResumableSpec)
    assert spec.partial_type == PARTIAL_TYPE
    assert isinstance(engine, Resumable)
    assert replace(spec, structured={"regex": "[a-z]+"}).partial_type is None


def test_greedy_rows_that_go_on_end_as_if_nothing_had_happened(
    engine: Any, undisturbed: dict[int, dict[str, Any]]
) -> None:
    submit(engine, list(range(ROWS)))
    until_generated(engine, 50)
    states = engine.suspend(set(range(ROWS)))
    assert engine.in_flight == 0
    assert states["row"].to_pylist() == list(range(ROWS))
    assert min(states["progress"].to_pylist()) >= 1

    submit(engine, list(range(ROWS)), states["partial"])
    resumed = finish(engine)

    for row, expected in undisturbed.items():
        for column in ("text", "finish_reason", "prompt_tokens", "output_tokens", "failure"):
            assert resumed[row][column] == expected[column], (row, column)
        assert resumed[row]["attempts"] == 2
        assert expected["attempts"] == 1


def test_guessing_ahead_changes_no_row_that_goes_on(
    guessing: Any, undisturbed: dict[int, dict[str, Any]]
) -> None:
    submit(guessing, list(range(ROWS)))
    until_generated(guessing, 50)
    states = guessing.suspend(set(range(ROWS)))
    submit(guessing, list(range(ROWS)), states["partial"])
    resumed, accepted = {}, 0.0
    while guessing.in_flight:
        resumed |= {row["row"]: row for row in guessing.step().to_pylist()}
        accepted = max(accepted, guessing.stats().get("draft_acceptance", 0.0))

    for row, expected in undisturbed.items():
        for column in ("text", "finish_reason", "prompt_tokens", "output_tokens", "failure"):
            assert resumed[row][column] == expected[column], (row, column)
    assert 0 < accepted <= 1


def test_guessing_ahead_does_not_go_past_the_models_context(engine: Any, guessing: Any) -> None:
    for left in range(1, 8):
        # What has just been said again and again will be guessed again.
        text = pa.table({"row": [0], "request": [("ab" * CONTEXT)[: CONTEXT - left]]})
        engine.submit(text)
        guessing.submit(text)
        plain, guessed = finish(engine)[0], finish(guessing)[0]
        assert guessed["output_tokens"] == plain["output_tokens"] == left
        assert guessed["text"] == plain["text"]


def test_guessing_ahead_keeps_to_a_structure(engine: Any, guessing: Any) -> None:
    pattern = r"\[(night|day)(, (night|day)){9,19}\]"
    # The prompt says what the structure allows and what it does not: some guesses are refused.
    rows = pa.table({"row": [0, 1], "request": ["[night, day, dusk, night" * 3, "a day"]})
    texts = []
    for one in (engine, guessing):
        with sampling(one, min_tokens=0, structured_outputs=_regex(pattern)):
            one.submit(rows)
            texts.append([row["text"] for _, row in sorted(finish(one).items())])
    plain, guessed = texts
    assert all(re.fullmatch(pattern, text) for text in plain)
    assert guessed == plain


def _regex(pattern: str) -> Any:
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(regex=pattern)


def test_times_and_counts_are_those_of_all_attempts(engine: Any) -> None:
    submit(engine, [0])
    until_generated(engine, 5)
    first = engine.suspend({0})["partial"].to_pylist()[0]
    submit(engine, [0], pa.array([first], PARTIAL_TYPE))
    until_generated(engine, 60)
    second = engine.suspend({0})["partial"].to_pylist()[0]
    submit(engine, [0], pa.array([second], PARTIAL_TYPE))
    (row,) = finish(engine).values()

    assert first["tokens"] == second["tokens"][: len(first["tokens"])]
    assert row["attempts"] == 3
    assert row["ttft_s"] == first["ttft_s"] == second["ttft_s"]
    assert first["latency_s"] < second["latency_s"] < row["latency_s"]
    assert row["cached_tokens"] == first["cached_tokens"]
    assert row["prompt_tokens"] == len(PROMPTS[0].encode())


def test_a_row_keeps_every_token_however_often_it_is_stopped(
    engine: Any, undisturbed: dict[int, dict[str, Any]]
) -> None:
    submit(engine, [1])
    tokens: list[int] = []
    for _ in range(4):
        until_generated(engine, len(tokens) + 3)
        states = engine.suspend({1})
        before, tokens = tokens, states["partial"][0].as_py()["tokens"]
        assert len(tokens) >= len(before) + 3
        assert tokens[: len(before)] == before
        submit(engine, [1], states["partial"])
    assert finish(engine)[1]["text"] == undisturbed[1]["text"]


def test_rows_that_have_not_begun_and_rows_that_stay(engine: Any) -> None:
    submit(engine, [2, 3])
    until_generated(engine, 10)
    submit(engine, [4])
    states = engine.suspend({2, 4})
    assert set(states["row"].to_pylist()) <= {2, 4}
    assert set(engine.time_left()) == {3}
    assert set(finish(engine)) == {3}


def test_a_row_is_told_how_long_it_will_take(
    engine: Any, undisturbed: dict[int, dict[str, Any]]
) -> None:
    # 32 rows have ended by now, all with 100 tokens or more.
    assert all(row["output_tokens"] >= 100 for row in undisturbed.values())
    submit(engine, [5])
    until_generated(engine, 1)
    early = engine.time_left()[5]
    until_generated(engine, 60)
    late = engine.time_left()[5]
    finish(engine)
    assert 0 < late < early


def test_a_stop_string_across_the_cut_still_stops(engine: Any) -> None:
    row, cut = 7, 30

    def typed() -> str:
        state = engine._llm.output_processor.request_states[engine._names[str(row)]]
        return str(state.detokenizer.output_text)

    with sampling(engine, min_tokens=0, ignore_eos=True) as stopping:
        submit(engine, [row])
        text = finish(engine)[row]["text"]
        # A string that begins before the interruption, ends after it, and comes but once.
        stop = text[cut - 2 : cut + 4]
        assert text.find(stop) == cut - 2
        stopping.stop = [stop]
        submit(engine, [row])
        expected = finish(engine)[row]

        submit(engine, [row])
        while not engine.partials().num_rows or len(typed()) < cut:
            assert not engine.step().num_rows
        states = engine.suspend({row})
        assert len(states["partial"][0].as_py()["tokens"]) < expected["output_tokens"]
        submit(engine, [row], states["partial"])
        result = finish(engine)[row]
    assert expected["finish_reason"] == result["finish_reason"] == "stop"
    assert result["text"] == expected["text"] == text[: cut - 2]
    assert result["output_tokens"] == expected["output_tokens"]


def test_sampled_rows_go_on_with_what_they_have(spec: VllmGenerate, engine: Any) -> None:
    with sampling(engine, temperature=1.0, seed=7):
        submit(engine, [6])
        until_generated(engine, 30)
        states = engine.suspend({6})
        kept = states["partial"][0].as_py()["tokens"]
        submit(engine, [6], states["partial"])
        until_generated(engine, len(kept) + 5)
        assert engine.partials()["partial"][0].as_py()["tokens"][: len(kept)] == kept
        (row,) = finish(engine).values()
    assert row["failure"] is None
    assert row["output_tokens"] >= spec.min_tokens
