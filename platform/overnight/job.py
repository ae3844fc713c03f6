"""What is inferred: source -> request -> engine -> parsed row -> output table.

A job is a declaration: making one does no I/O and imports no engine. How a partition of it
is worked through is in `overnight.run`; when, in `overnight.orchestration`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import polars as pl
import sqlalchemy as sa

from overnight.contract import PG_DIALECT, columns, describe, has_row_checks, sql_table
from overnight.errors import ConfigError
from overnight.expectations import Expectations
from overnight.fingerprint import Fingerprint, digest, source_of
from overnight.landing import WHOLE, check_partition, check_span
from overnight.plan import MaxRejects
from overnight.registry import RegistryRef
from overnight.spot.policy import SpotPolicy

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overnight.contract import Contract
    from overnight.engines.base import EngineSpec
    from overnight.landing import DerivedSource, Source
    from overnight.registry import Registry
    from overnight.warehouse.vectors import VectorIndex

__all__ = [
    "EMPTY",
    "FAILURE",
    "WHOLE",
    "EmptyOutput",
    "Fingerprint",
    "FrameFunction",
    "InferenceJob",
    "OutputCheck",
    "digest",
    "each_result",
    "each_row",
    "source_of",
]

FAILURE = "failure"
EMPTY = "empty: "
"""How the reason of a dead letter begins whose result says nothing."""
Publish = Literal["replace", "merge"]


class EmptyOutput(ValueError):  # noqa: N818 - what a result is, for `parse` to say
    """A result that says nothing: a dead letter that counts as an empty output."""


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

    A `ValueError` that it raises becomes the reason of that row's dead letter; `EmptyOutput` is
    one that counts as an empty output, too. Carried columns that it does not return are kept as
    they are.
    """

    @functools.wraps(function)
    def on_frame(frame: pl.DataFrame) -> pl.DataFrame:
        rows: list[dict[str, Any]] = []
        for result in frame.iter_rows(named=True):
            try:
                rows.append({**result, **function(result), FAILURE: None})
            except EmptyOutput as error:
                rows.append({**result, FAILURE: f"{EMPTY}{error}"})
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
        max_share: the largest share of rows, 0 to 1, that may break it.
        blocking: whether nothing is published above it; else that is a warning.
    """

    name: str
    description: str
    breaks: Callable[[Any], sa.ColumnElement[bool]]
    max_share: float
    blocking: bool = True

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
        source: where rows come from: landed as they are, or derived from what has landed.
        engine: what turns requests into results.
        prepare: source rows -> requests, one for each row.
        parse: results (with the carried source columns) -> output columns. Runs when rows are
            staged, over journalled results, so a corrected `parse` costs no inference.
        output: the output table's contract.
        key: the output table's key columns within a partition; the source's key by default.
        carry: source columns that `parse` needs; those that the output names too are carried
            in any case.
        checks: the job's own checks on its results.
        expects: what every job's partitions are held against: rows, rejects, texts.
        max_rejects: how many source rows may break the input contract.
        max_dead_letter_share: the share of rows, 0 to 1, that may become dead letters.
        split_rows: the most rows that a worker is handed at once.
        partitioned: whether its partitions are days; else `WHOLE` is the only one.
        publish: `replace` puts a partition's rows in the place of those before; `merge` leaves
            published rows that are still wanted untouched, and only takes away and adds.
        over_partition: output columns that need the whole partition, such as a rank: given the
            columns that `parse` returns, an SQL expression over the partition's rows. They are
            computed when everything is staged, reused rows included.
        indexes: indexes on the output table's vectors, made after the first publication.
        spot: on which machines, and by when.
        version: change it when a helper of `prepare` or `parse` changes what they do; their
            own source is watched.
    """

    name: str
    source: Source | DerivedSource
    engine: EngineSpec
    prepare: FrameFunction
    parse: FrameFunction
    output: type[Contract]
    key: tuple[str, ...] = ()
    carry: tuple[str, ...] = ()
    checks: tuple[OutputCheck, ...] = ()
    expects: Expectations = field(default_factory=Expectations)
    max_rejects: MaxRejects = field(default_factory=MaxRejects)
    max_dead_letter_share: float = 0.05
    split_rows: int = 2000
    partitioned: bool = True
    publish: Publish = "replace"
    over_partition: Mapping[str, Callable[[Any], sa.ColumnElement[Any]]] = field(
        default_factory=dict
    )
    indexes: tuple[VectorIndex, ...] = ()
    spot: SpotPolicy = field(default_factory=SpotPolicy)
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
        if self.publish not in get_args(Publish):
            raise ConfigError(
                f"job {self.name!r}: publish is {self.publish!r}, must be one of "
                f"{', '.join(get_args(Publish))}"
            )
        if not self.partitioned:
            check_span(self.source, WHOLE)
        self._check_over_partition()
        self.expects.check(self.name, {c.name: c.sql.lower() for c in columns(self.output)})
        source_columns = {column.name for column in columns(self.source.contract)}
        unknown = [name for name in self.carry if name not in source_columns]
        if unknown:
            raise ConfigError(
                f"job {self.name!r}: carry names {unknown}, which source "
                f"{self.source.name!r} does not have; it has {sorted(source_columns)}"
            )
        output_columns = {column.name for column in columns(self.output)}
        wanted = (*self.output_key, self.source.key, *(index.column for index in self.indexes))
        missing = [name for name in wanted if name not in output_columns]
        if missing:
            raise ConfigError(
                f"job {self.name!r}: the output contract {self.output.__name__} lacks the "
                f"column(s) {missing}; it has {sorted(output_columns)}"
            )

    def _check_over_partition(self) -> None:
        who = f"job {self.name!r}: over_partition"
        computed = set(self.over_partition)
        if unknown := sorted(computed - {column.name for column in columns(self.output)}):
            raise ConfigError(f"{who} names {unknown}, which {self.output.__name__} does not have")
        if taken := sorted(computed & {*self.output_key, self.source.key}):
            raise ConfigError(f"{who} names the key column(s) {taken}, which rows must bring")
        if computed and self.publish == "merge":
            raise ConfigError(f"{who} needs every row to be staged: it cannot go with merge")
        if computed and has_row_checks(self.output):
            raise ConfigError(
                f"{who} is computed after rows are checked, so {self.output.__name__} cannot have "
                "checks on whole rows: use OutputCheck"
            )
        self._over_partition_sql()

    def _over_partition_sql(self) -> dict[str, str]:
        """What the expressions are in SQL."""
        declared = sql_table(self.output, schema=None, name=self.name, metadata=sa.MetaData()).c
        known = sa.table(self.name, *(sa.column(name, declared[name].type) for name in self.parsed))
        texts = {}
        for name, expression in self.over_partition.items():
            try:
                compiled = expression(known.c).compile(dialect=PG_DIALECT)
            except Exception as error:
                raise ConfigError(
                    f"job {self.name!r}: over_partition[{name!r}] is no SQL expression over the "
                    f"columns {self.parsed}: {type(error).__name__}: {error}"
                ) from error
            texts[name] = f"{compiled} {sorted(compiled.params.items())}"
        return texts

    @property
    def parsed(self) -> list[str]:
        """The output columns that `parse` returns, in the contract's order."""
        return [c.name for c in columns(self.output) if c.name not in self.over_partition]

    def check_partition(self, partition: str) -> str:
        """Give back a partition key that the job has.

        Raises:
            ConfigError: if it has none of that name.
        """
        if self.partitioned:
            return check_partition(partition)
        if partition != WHOLE:
            raise ConfigError(
                f"job {self.name!r} has no daily partitions: its only one is {WHOLE!r}, not "
                f"{partition!r}"
            )
        return partition

    def pinned(self, registry: Registry) -> InferenceJob:
        """The same job with the exact version of each of its engine's models.

        Raises:
            ModelError: if a model is missing, or none of its versions is in service.
        """
        if not dataclasses.is_dataclass(self.engine):
            return self
        pinned: dict[str, Any] = {}
        for entry in dataclasses.fields(self.engine):
            value = getattr(self.engine, entry.name)
            if isinstance(value, RegistryRef):
                pinned[entry.name] = value.pinned(registry)
        engine: Any = dataclasses.replace(self.engine, **pinned) if pinned else self.engine
        return dataclasses.replace(self, engine=engine)

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
        return digest([self.prepare_source, self.output_version, self.engine.kind])

    @property
    def prepare_source(self) -> str:
        """The text of what makes a request of landed rows: `derive`, if it has one, `prepare`."""
        derive = getattr(self.source, "derive", None)
        functions = (self.prepare,) if derive is None else (derive, self.prepare)
        return "\n".join(map(source_of, functions))

    @property
    def output_version(self) -> str:
        """Digest of `parse`, the output contract and what is computed over the partition."""
        decided_by = {
            "parse": source_of(self.parse),
            "output": describe(self.output),
            "key": self.output_key,
            "version": self.version,
        }
        if self.over_partition:
            decided_by["over_partition"] = self._over_partition_sql()
        return digest(decided_by)

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
            prepare_source=self.prepare_source,
        )
