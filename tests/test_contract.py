"""What a declaration must be, what breaks a row, and what a fingerprint of a contract sees."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Annotated, Any

import pandera.polars as pandera
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from overnight.contract import (
    Contract,
    Field,
    Timestamp,
    arrow_schema,
    check_rows,
    columns,
    describe,
    polars_schema,
    shown,
)
from overnight.errors import ConfigError, ContractError


class Reading(Contract):
    """One reading
    of a sensor.

    Not in the comment.
    """

    sensor: str = Field(description="Which sensor.", str_length={"min_value": 1, "max_value": 5})
    place: str | None = Field(alias='pl"ace; x', description="Where.", isin=["in", "out"])
    value: float = Field(description="Measured.", ge=0)
    raw: float | None = Field(description="May be anything.", metadata={"allow_nan": True})
    at: Timestamp = Field(description="When.", nullable=True)
    tags: Annotated[pl.List, pl.String] | None = Field(description="Words.")
    vector: Annotated[pl.Array, pl.Float32, 2] | None = Field(description="Embedding.")

    @pandera.check("value")
    @classmethod
    def not_thirteen(cls, data: pandera.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select(pl.col(data.key) != 13)

    @pandera.dataframe_check
    @classmethod
    def in_is_warm(cls, data: pandera.PolarsData) -> pl.LazyFrame:
        return data.lazyframe.select((pl.col('pl"ace; x') != "in") | (pl.col("value") > 10))


GOOD: dict[str, Any] = {
    "sensor": "s1",
    'pl"ace; x': "out",
    "value": 1.0,
    "raw": None,
    "at": None,
    "tags": ["a"],
    "vector": [1.0, 2.0],
}


def readings(*changes: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame([GOOD | change for change in changes], schema=polars_schema(Reading))


def test_rows_that_keep_the_contract_pass() -> None:
    frame = readings({}, {"raw": float("nan")}, {"tags": None, "vector": None, 'pl"ace; x': None})
    ok, violations = check_rows(Reading, frame)
    assert ok.to_list() == [True, True, True]
    assert violations.schema == {
        "row": pl.Int64,
        "column": pl.String,
        "value": pl.String,
        "reason": pl.String,
    }
    assert violations.is_empty()


@pytest.mark.parametrize(
    ("change", "column", "value", "reason"),
    [
        ({"sensor": None}, "sensor", None, "is null, but the column may not be"),
        ({"sensor": ""}, "sensor", "''", "must have at least 1 and at most 5 characters"),
        ({"sensor": "a\0b"}, "sensor", r"'a\x00b'", "contains a NUL character"),
        ({'pl"ace; x': "up"}, 'pl"ace; x', "'up'", "must be one of ['in', 'out']"),
        ({"value": -1.0}, "value", "-1.0", "must be >= 0"),
        ({"value": 13.0}, "value", "13.0", "breaks the check 'not_thirteen'"),
        ({"value": float("nan")}, "value", "nan", "is not a finite number"),
        ({"value": float("inf")}, "value", "inf", "is not a finite number"),
        ({"tags": ["a", None]}, "tags", "['a', None]", "holds a null element"),
        ({"tags": ["\0"]}, "tags", r"['\x00']", "contains a NUL character"),
        ({"vector": [1.0, None]}, "vector", "[1.0, None]", "holds a null element"),
        (
            {"vector": [1.0, float("inf")]},
            "vector",
            "[1.0, inf]",
            "holds an element that is not a finite number",
        ),
        ({'pl"ace; x': "in", "value": 9.0}, None, None, "breaks the check 'in_is_warm'"),
    ],
)
def test_a_violation_names_row_column_value_and_reason(
    change: dict[str, Any], column: str | None, value: str | None, reason: str
) -> None:
    ok, violations = check_rows(Reading, readings({}, change, {}))
    assert ok.to_list() == [True, False, True]
    assert violations.rows() == [(1, column, value, reason)]


def test_violations_come_by_row_and_then_in_the_order_of_columns() -> None:
    frame = readings({"value": -1.0, "sensor": None}, {"vector": [None, 0.0], "sensor": ""})
    _, violations = check_rows(Reading, frame)
    assert violations.select("row", "column").rows() == [
        (0, "sensor"),
        (0, "value"),
        (1, "sensor"),
        (1, "vector"),
    ]


def test_an_empty_frame_passes() -> None:
    ok, violations = check_rows(Reading, readings())
    assert (ok.len(), violations.height) == (0, 0)
    assert ok.dtype == pl.Boolean


def test_a_contract_that_lets_everything_through_passes_all_rows() -> None:
    class Anything(Contract):
        count: int | None = Field(description="How many, if it is known.")

    ok, violations = check_rows(Anything, pl.DataFrame({"count": [1, None]}))
    assert ok.to_list() == [True, True]
    assert violations.is_empty()


def test_a_frame_of_another_dtype_is_an_error_not_a_violation() -> None:
    with pytest.raises(ContractError, match="column 'value' must be Float64, the frame has String"):
        check_rows(Reading, readings({}).with_columns(pl.col("value").cast(pl.String)))
    with pytest.raises(ContractError, match=r"column 'sensor' must be String, .* no such column"):
        check_rows(Reading, readings({}).drop("sensor"))


def test_duplicates_in_a_unique_column_are_all_violations() -> None:
    class Once(Contract):
        code: str | None = Field(description="Code.", unique=True)

    ok, violations = check_rows(Once, pl.DataFrame({"code": ["a", "b", "a", None, None]}))
    assert ok.to_list() == [False, True, False, True, True]
    assert violations["reason"].unique().to_list() == ["must be unique"]


def test_a_check_that_fails_to_run_is_a_configuration_error_that_names_it() -> None:
    class Wrong(Contract):
        a: int = Field(description="A.")

        @pandera.check("a")
        @classmethod
        def misspelled(cls, data: pandera.PolarsData) -> pl.LazyFrame:
            return data.lazyframe.select(pl.col("b") > 0)

    with pytest.raises(ConfigError, match=r"Wrong: the check 'misspelled' on column 'a'.*\bb\b"):
        check_rows(Wrong, pl.DataFrame({"a": [1]}))


def test_checks_do_not_depend_on_the_environment() -> None:
    # pandera itself can be switched off; promise 3 cannot.
    code = (
        "import polars as pl\n"
        "from overnight.contract import Contract, Field, check_rows\n"
        "class C(Contract):\n    a: int = Field(description='A.', ge=0)\n"
        "print(check_rows(C, pl.DataFrame({'a': [-1]}))[0].to_list())"
    )
    off = {"PANDERA_VALIDATION_ENABLED": "False", "PANDERA_VALIDATION_DEPTH": "SCHEMA_ONLY"}
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "platform", **off},
    )
    assert run.stdout.strip() == "[False]"


def test_optional_annotations_and_nullable_fields_are_nullable() -> None:
    assert {column.name: column.nullable for column in columns(Reading)} == {
        "sensor": False,
        'pl"ace; x': True,
        "value": False,
        "raw": True,
        "at": True,
        "tags": True,
        "vector": True,
    }


def test_arrow_schema_is_that_of_a_frame() -> None:
    assert readings({}).to_arrow().schema.equals(arrow_schema(Reading))
    assert arrow_schema(Reading).field("at").type == pa.timestamp("us", tz="UTC")


@pytest.mark.parametrize(
    ("annotation", "sql"),
    [
        (str, "TEXT"),
        (bool, "BOOLEAN"),
        (pl.Int8, "SMALLINT"),
        (pl.Int16, "SMALLINT"),
        (pl.Int32, "INTEGER"),
        (int, "BIGINT"),
        (pl.UInt32, "BIGINT"),
        (pl.Float32, "REAL"),
        (float, "DOUBLE PRECISION"),
        (pl.Date, "DATE"),
        (Timestamp, "TIMESTAMP WITH TIME ZONE"),
        (Annotated[pl.List, pl.String], "TEXT[]"),
        (Annotated[pl.List, pl.Float32], "REAL[]"),
        (Annotated[pl.Array, pl.Float32, 384], "vector(384)"),
    ],
)
def test_each_dtype_has_its_sql_type(annotation: Any, sql: str) -> None:
    contract = declare("a", annotation)
    assert [column.sql for column in columns(contract)] == [sql]


@pytest.mark.parametrize(
    "annotation",
    [
        pl.UInt64,
        pl.Duration,
        pl.Categorical,
        Annotated[pl.Datetime, "ns", "UTC"],
        Annotated[pl.Datetime, "us", None],
        Annotated[pl.Array, pl.Float64, 3],
        Annotated[pl.Array, pl.Float32, 16_001],
        pl.Object,
    ],
)
def test_a_dtype_without_a_counterpart_is_refused_at_declaration(annotation: Any) -> None:
    with pytest.raises(ConfigError, match="column 'a'"):
        declare("a", annotation)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("", "1 to 63 bytes"),
        ("x" * 64, "1 to 63 bytes"),
        ("é" * 32, "1 to 63 bytes"),
        ("a\0b", "NUL"),
        ("\ud800", "surrogate"),
        ("_run_id", "reserved"),
        ("partition_key", "reserved"),
        ("*", "pattern"),
        ("^a.*$", "pattern"),
    ],
)
def test_a_name_that_cannot_be_a_column_is_refused_at_declaration(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        declare(name, str)


@pytest.mark.parametrize("description", [None, "", "  "])
def test_every_field_needs_a_description(description: str | None) -> None:
    with pytest.raises(ConfigError, match=r"contract Declared, column 'a': needs a description"):
        declare("a", str, description=description)


def test_two_fields_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two fields have the same column name"):
        type(
            "Twice",
            (Contract,),
            {
                "__annotations__": {"a": str, "b": int},
                "a": Field(alias="x", description="A."),
                "b": Field(alias="x", description="B."),
            },
        )


def test_a_contract_can_extend_another() -> None:
    class More(Reading):
        extra: int = Field(description="More.")

    assert [column.name for column in columns(More)][-1] == "extra"
    ok, _ = check_rows(More, readings({}, {"value": 13.0}).with_columns(extra=pl.lit(1, pl.Int64)))
    assert ok.to_list() == [True, False]


def test_a_description_changes_no_fingerprint_and_a_check_does() -> None:
    assert describe(declare("a", int)) == describe(declare("a", int, description="Another."))
    assert describe(declare("a", int)) != describe(declare("a", int, ge=0))
    assert describe(declare("a", int)) != describe(declare("a", int, nullable=True))
    assert describe(declare("a", int)) != describe(declare("a", pl.Int32))


def test_a_fingerprint_is_equal_in_another_process() -> None:
    code = (
        "import json\n"
        "from overnight.contract import Contract, Field, describe\n"
        "class C(Contract):\n"
        "    a: str = Field(description='A.', isin={'x', 'y', 'z', 'w'})\n"
        "print(json.dumps(describe(C)))"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": "platform", "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(seen) == 1
    assert json.loads(seen.pop())["columns"][0]["dtype"] == "String"


def test_declaring_a_contract_imports_no_engine_and_not_ray() -> None:
    code = (
        "import sys, overnight.contract, overnight.landing\n"
        "print(sorted({'torch', 'ray', 'vllm', 'xgboost', 'dagster'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": "platform"},
    )
    assert run.stdout.strip() == "[]"


@given(st.one_of(st.text(), st.binary(), st.lists(st.floats()), st.integers()))
def test_a_shown_value_is_short_and_can_be_stored_anywhere(value: object) -> None:
    text = shown(value)
    assert len(text) <= 200
    assert "\0" not in text
    text.encode()


@given(st.lists(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=3)))
def test_text_passes_exactly_when_it_has_no_nul(texts: list[str]) -> None:
    ok, _ = check_rows(declare("a", str), pl.DataFrame({"a": texts}, schema={"a": pl.String}))
    assert ok.to_list() == ["\0" not in text for text in texts]


def declare(
    name: str, annotation: Any, *, description: str | None = "Something.", **rules: Any
) -> type[Contract]:
    field = Field(alias=name, description=description, **rules)
    return type("Declared", (Contract,), {"__annotations__": {"a": annotation}, "a": field})
