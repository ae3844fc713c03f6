"""What is inferred: source -> request -> engine -> parsed row -> output table.

A job is a declaration: making one does no I/O and imports no engine. How a partition of it
is worked through is in `overnight.run`; when, in `overnight.orchestration`.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from overnight.contract import columns, describe
from overnight.errors import ConfigError
from overnight.plan import MaxRejects

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import sqlalchemy as sa

    from overnight.contract import Contract
    from overnight.engines.base import EngineSpec
    from overnight.landing import Source

FAILURE = "failure"


class FrameFunction(Protocol):
    """What `prepare` and `parse` are: a frame in, one value (or row) per row out."""

    def __call__(self, frame: pl.DataFrame, /) -> Any:
        """Work on all rows of a batch at once."""


def each_row(function: Callable[[dict[str, Any]], Any]) -> FrameFunction:
    """Let a function of one row, a dict, that returns its request serve as `prepare`."""

    @functools.wraps(function)
    def on_frame(frame: pl.DataFrame) -> pl.Series:
        return pl.Series("request", [function(row) for row in frame.iter_rows(named=True)])

    return on_frame


def each_result(function: Callable[[dict[str, Any]], dict[str, Any]]) -> FrameFunction:
    """Let a function of one result, a dict, that returns the output row serve as `parse`.

    A `ValueError` that it raises becomes the reason of that row's dead letter. Carried columns
    that it does not return are kept as they are.
    """

    @functools.wraps(function)
    def on_frame(frame: pl.DataFrame) -> pl.DataFrame:
        rows: list[dict[str, Any]] = []
        for result in frame.iter_rows(named=True):
            try:
                rows.append({**result, **function(result), FAILURE: None})
            except ValueError as error:
                rows.append({**result, FAILURE: f"parse: {error}"})
        return pl.DataFrame(rows, infer_schema_length=None)

    return on_frame


@dataclass(frozen=True, slots=True)
class OutputCheck:
    """One of a job's own checks on staged rows: how many may break a rule.

    Attributes:
        name: the asset check's name.
        description: what it means and what to do when it fails.
        breaks: given the staged table's columns, an SQL expression that is true for a row
            that breaks the rule.
        max_share: the largest share of rows, 0 to 1, that may break it; above it, nothing
            is published.
    """

    name: str
    description: str
    breaks: Callable[[Any], sa.ColumnElement[bool]]
    max_share: float

    def __post_init__(self) -> None:
        if not 0 <= self.max_share <= 1:
            raise ConfigError(
                f"check {self.name!r}: max_share is {self.max_share}, must be within 0 and 1"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceJob:
    """A declaration of what is inferred.

    Attributes:
        name: names the output table, the asset and the journal.
        source: where rows come from.
        engine: what turns requests into results.
        prepare: source rows -> requests, one for each row.
        parse: results (with the carried source columns) -> output columns. Runs when rows are
            staged, over journalled results, so a corrected `parse` costs no inference.
        output: the output table's contract.
        key: the output table's key columns within a partition; the source's key by default.
        carry: source columns that `parse` needs; those that the output names too are carried
            in any case.
        checks: the job's own checks on its results.
        max_rejects: how many source rows may break the input contract.
        max_dead_letter_share: the share of rows, 0 to 1, that may become dead letters.
        split_rows: the most rows that a worker is handed at once.
        version: change it when a helper of `prepare` or `parse` changes what they do; their
            own source is watched.
    """

    name: str
    source: Source
    engine: EngineSpec
    prepare: FrameFunction
    parse: FrameFunction
    output: type[Contract]
    key: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    checks: tuple[OutputCheck, ...] = ()
    max_rejects: MaxRejects = field(default_factory=MaxRejects)
    max_dead_letter_share: float = 0.05
    split_rows: int = 2000
    version: str = "1"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,47}", self.name):
            raise ConfigError(
                f"job name {self.name!r}: 1 to 48 lower-case letters, digits and underscores, "
                "a letter first"
            )
        if not 0 <= self.max_dead_letter_share <= 1:
            raise ConfigError(
                f"job {self.name!r}: max_dead_letter_share is {self.max_dead_letter_share}, "
                "must be within 0 and 1"
            )
        if self.split_rows < 1:
            raise ConfigError(f"job {self.name!r}: split_rows is {self.split_rows}, must be >= 1")
        source_columns = {column.name for column in columns(self.source.contract)}
        unknown = [name for name in self.carry if name not in source_columns]
        if unknown:
            raise ConfigError(
                f"job {self.name!r}: carry names {unknown}, which source "
                f"{self.source.name!r} does not have; it has {sorted(source_columns)}"
            )
        output_columns = {column.name for column in columns(self.output)}
        wanted = (*self.output_key, self.source.key)
        missing = [name for name in wanted if name not in output_columns]
        if missing:
            raise ConfigError(
                f"job {self.name!r}: the output contract {self.output.__name__} lacks the key "
                f"column(s) {missing}; it has {sorted(output_columns)}"
            )

    @property
    def output_key(self) -> tuple[str, ...]:
        """The output table's key columns within a partition."""
        return self.key or (self.source.key,)

    @property
    def carried(self) -> tuple[str, ...]:
        """The source columns that travel with a row into the journal, in the source's order."""
        wanted = {*self.carry, *(column.name for column in columns(self.output)), self.source.key}
        return tuple(c.name for c in columns(self.source.contract) if c.name in wanted)

    @property
    def code_version(self) -> str:
        """Digest of what the job's own code decides; the model's files are not read."""
        return digest([source_of(self.prepare), self.output_version, self.engine.kind])

    @property
    def output_version(self) -> str:
        """Digest of `parse` and the output contract."""
        return digest(
            {
                "parse": source_of(self.parse),
                "output": describe(self.output),
                "key": self.output_key,
                "version": self.version,
            }
        )

    def fingerprint(self) -> Fingerprint:
        """Digest of all that decides a result besides the row itself.

        Raises:
            ModelError: if the model is missing or its digest differs.
        """
        identity = self.engine.identity()
        dtypes = {c.name: str(c.dtype) for c in columns(self.source.contract)}
        decided_by = {
            "engine": self.engine.kind,
            "identity": identity,
            "carried": {name: dtypes[name] for name in self.carried},
            "version": self.version,
        }
        return Fingerprint(
            id=digest(decided_by),
            output_version=self.output_version,
            engine=self.engine.kind,
            identity=identity,
            prepare_source=source_of(self.prepare),
        )


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a result depends on besides its row.

    Attributes:
        id: digest over model, parameters, engine kind and carried columns; names the journal.
        output_version: digest over `parse` and the output contract: rows of a published
            partition are taken over as they are only if this is the same too.
        engine: the engine's kind.
        identity: the engine's own account of model and parameters.
        prepare_source: how requests are made, for lineage; what it makes of a row is part of
            that row's input hash.
    """

    id: str
    output_version: str
    engine: str
    identity: Mapping[str, Any]
    prepare_source: str


def digest(value: object) -> str:
    """24 hex digits that name a JSON-able value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=12).hexdigest()


def source_of(function: Callable[..., Any]) -> str:
    """The text of a function, the wrapped one if it is wrapped.

    Raises:
        ConfigError: if it was not defined in a file.
    """
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"{function!r} has no source text: define `prepare` and `parse` as functions of a "
            "module"
        ) from error
