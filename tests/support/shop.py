"""A small job for tests: lines of text in, reversed text out, at the pace it is told."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight.contract import Contract, Field
from overnight.engines.trivial import TrivialEngine, TrivialReverse
from overnight.home import Home
from overnight.job import InferenceJob, OutputCheck, each_result, each_row
from overnight.landing import DerivedSource, Lookback, Source
from overnight.run import House

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    import pyarrow as pa

    from overnight.warehouse.connect import Warehouse

DAY = "2026-11-20"


class Line(Contract):
    """Lines of text."""

    line_id: str = Field(description="Names the line.", str_length={"min_value": 1})
    text: str = Field(description="What it says.")
    weight: int | None = Field(description="A number, if there is one.", ge=0)


class Reversed(Contract):
    """Lines of text, reversed."""

    line_id: str = Field(description="Names the line.")
    weight: int | None = Field(description="The line's number.")
    reversed: str = Field(description="The text, last letter first.")
    length: int = Field(description="Characters.", ge=0)


lines = Source(name="lines", contract=Line, key="line_id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced(TrivialReverse):
    """Takes its time for each step, and notes each row that it hands back in a file.

    Attributes:
        step_seconds: how long a step takes.
        log: an append-only file of the texts that were inferred, one JSON string a line.
    """

    step_seconds: float = 0.0
    log: str = os.devnull

    def start(self) -> PacedEngine:
        return PacedEngine(self)


class PacedEngine(TrivialEngine):
    def __init__(self, spec: Paced) -> None:
        super().__init__(spec)
        self._pace = spec.step_seconds
        self._log = os.open(spec.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def step(self) -> pa.Table:
        if self._pace:
            time.sleep(self._pace)
        done = super().step()
        texts = [text for text in done["text"].to_pylist() if text is not None]
        if texts:
            os.write(self._log, "".join(json.dumps(text) + "\n" for text in texts).encode())
        return done


@each_row
def text_of(line: dict[str, Any]) -> str:
    return str(line["text"])


@each_result
def parse_reversed(result: dict[str, Any]) -> dict[str, Any]:
    if "?" in result["text"]:
        raise ValueError("a question has no answer")
    return {"reversed": result["text"]}


def reversing(**changes: Any) -> InferenceJob:
    """The job, with some of its settings changed."""
    settings: dict[str, Any] = {
        "name": "reversed_lines",
        "source": lines,
        "engine": Paced(window=64, batch=16),
        "prepare": text_of,
        "parse": parse_reversed,
        "output": Reversed,
        "checks": (
            OutputCheck(
                name="long_share",
                description="Lines that are very long.",
                breaks=lambda row: row.length > 1000,
                max_share=0.5,
            ),
        ),
        "split_rows": 50,
    }
    return InferenceJob(**{**settings, **changes})


class Known(Contract):
    """The newest line of each name."""

    line_id: str = Field(description="Names the line.")
    text: str = Field(description="What it says.")
    versions: int = Field(description="How often it landed.", ge=1)


class NewestLine(Contract):
    """The newest line of each name, reversed."""

    line_id: str = Field(description="Names the line.")
    versions: int = Field(description="How often the line landed.")
    reversed: str = Field(description="The text, last letter first.")


def newest(_: str, frames: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """The line that landed last; one that says `nobody` has nobody to stand for it."""
    place = pl.col("_input_id", "_line")
    last = (
        # Only what tells which is the newest is held in memory.
        frames["lines"]
        .select("line_id", "_day", place)
        .group_by("line_id")
        .agg(place.sort_by("_day", "_line").last(), versions=pl.len().cast(pl.Int64))
        .drop("line_id")
    )
    nobody = pl.col("text") == "nobody"
    return (
        frames["lines"]
        .join(last, on=["_input_id", "_line"])
        .with_columns(
            _reject_column=pl.when(nobody).then(pl.lit("text")),
            _reject_reason=pl.when(nobody).then(pl.lit("stands for nobody")),
        )
    )


def newest_lines(**changes: Any) -> InferenceJob:
    """A job without daily partitions, over everything that has landed."""
    settings: dict[str, Any] = {
        "name": "newest_lines",
        "source": DerivedSource(
            name="known_lines",
            contract=Known,
            key="line_id",
            inputs=(Lookback(source=lines, first=None),),
            derive=newest,
        ),
        "engine": Paced(window=64, batch=16),
        "prepare": text_of,
        "parse": parse_reversed,
        "output": NewestLine,
        "partitioned": False,
        "publish": "merge",
        "split_rows": 50,
    }
    return InferenceJob(**{**settings, **changes})


def house(warehouse: Warehouse, home: Path) -> House:
    """What a run needs, under one directory."""
    settings = Home(path=home, store_url=(home / "store").as_uri())
    return House(
        warehouse=warehouse,
        store=settings.store,
        cluster=settings.cluster,
        scratch=settings.scratch,
    )


def write_lines(home: Path, rows: Iterable[Any], day: str = DAY, name: str = "lines.jsonl") -> Path:
    """Put rows straight into the landing zone; text is written as it is."""
    file = home / "store" / "landing" / "lines" / day / name
    file.parent.mkdir(parents=True, exist_ok=True)
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    file.write_text(text)
    return file


def line(number: int, text: str | None = None) -> dict[str, Any]:
    return {"line_id": f"l{number}", "text": text or f"line number {number}", "weight": number}
