"""Declaring a job: what is refused, and what a fingerprint depends on."""

from __future__ import annotations

from typing import Any

import polars as pl
import pytest

from overnight.errors import ConfigError
from overnight.job import OutputCheck, each_result, each_row
from tests.support.shop import Paced, reversing


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"name": "Has Spaces"}, "'Has Spaces'"),
        ({"name": "../x"}, "'../x'"),
        ({"max_dead_letter_share": 1.5}, "1.5"),
        ({"split_rows": 0}, "split_rows is 0"),
        ({"carry": ("nothing",)}, "nothing"),
        ({"key": ("nothing",)}, "nothing"),
    ],
)
def test_a_wrong_declaration_names_the_wrong_value(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        reversing(**changes)
    assert says in str(caught.value)


def test_a_checks_share_must_be_one() -> None:
    with pytest.raises(ConfigError, match="max_share is 2"):
        OutputCheck(name="x", description="x", breaks=lambda row: row.x, max_share=2)


def test_only_what_decides_a_result_changes_the_fingerprint() -> None:
    before = reversing().fingerprint()
    assert reversing(split_rows=7, max_dead_letter_share=0.5).fingerprint() == before
    assert reversing(engine=Paced(window=128, batch=8)).fingerprint().id == before.id
    assert reversing(version="2").fingerprint().id != before.id
    assert reversing(carry=("text",)).fingerprint().id != before.id


def test_parse_and_contract_change_the_output_version_alone() -> None:
    @each_result
    def other(result: dict[str, Any]) -> dict[str, Any]:
        return {"reversed": result["text"] + "!"}

    before, after = reversing().fingerprint(), reversing(parse=other).fingerprint()
    assert after.id == before.id
    assert after.output_version != before.output_version
    assert reversing(parse=other).code_version != reversing().code_version


def test_a_function_without_source_is_refused() -> None:
    made: dict[str, Any] = {}
    exec("def parse(frame): return frame", made)
    with pytest.raises(ConfigError, match="no source text"):
        reversing(parse=made["parse"]).fingerprint()


def test_each_row_makes_a_request_of_each_row() -> None:
    requests = each_row(lambda row: f"{row['a']}!")(pl.DataFrame({"a": [1, 2]}))
    assert requests.to_list() == ["1!", "2!"]


def test_each_result_keeps_what_it_does_not_return_and_notes_what_fails() -> None:
    def parse(result: dict[str, Any]) -> dict[str, Any]:
        if result["text"] == "bad":
            raise ValueError("no good")
        return {"said": result["text"].upper()}

    output = each_result(parse)(pl.DataFrame({"id": ["a", "b"], "text": ["good", "bad"]}))
    assert output["said"].to_list() == ["GOOD", None]
    assert output["id"].to_list() == ["a", "b"]
    assert output["failure"].to_list() == [None, "parse: no good"]
