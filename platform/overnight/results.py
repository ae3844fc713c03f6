"""From the journal to the stage: parsed, checked against the output contract, nothing else.

A result that cannot be parsed, or whose output breaks the contract, becomes a dead letter with
its reason. Whether there are too many of those is for the audit to say.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from overnight.contract import check_rows, columns, polars_schema
from overnight.errors import ContractError
from overnight.job import FAILURE
from overnight.ranking import Rank
from overnight.warehouse.publications import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from concurrent.futures import Future
    from typing import Self

    from overnight.job import InferenceJob
    from overnight.journal import Journal
    from overnight.plan import Plan
    from overnight.publication import Earlier
    from overnight.warehouse.preview import Preview
    from overnight.warehouse.stage import Stage

PROVENANCE = pl.Schema(
    {
        "_run_id": pl.String,
        "_attempt": pl.Int64,
        "_machine": pl.String,
        "_input_hash": pl.Binary,
        "_input_id": pl.Int64,
        "_line": pl.Int64,
        "_attempts": pl.Int32,
    }
)
MEASURES = ("prompt_tokens", "output_tokens", "cached_tokens", "ttft_s", "latency_s")


@dataclass(slots=True)
class Filled:
    """What was staged, and what could not be.

    Attributes:
        staged: rows in the stage.
        dead: dead letters: key, input_hash, reason, run_id, attempt, machine, _input_id, _line.
        inferred: rows that this attempt inferred, dead letters included.
        reused: rows taken over from an earlier attempt or publication.
        kept_from: `_input_id`s of the files that published rows which stay came from.
        measures: for each row that this attempt inferred, the engine's own figures (`MEASURES`).
    """

    staged: int
    dead: pl.DataFrame
    inferred: int
    reused: int
    kept_from: frozenset[int]
    measures: pl.DataFrame


def fill_stage(
    job: InferenceJob,
    plan: Plan,
    journal: Journal,
    stage: Stage,
    attempt: int,
    earlier: Earlier,
) -> Filled:
    """Stage every wanted row that has a result, unless it is published and stays.

    Args:
        job: says how to parse and what to hold the output against.
        plan: the rows that are wanted.
        journal: where results are.
        stage: where they go.
        attempt: whose rows count as inferred now.
        earlier: what is published, to be taken over where the plan found it unchanged.

    Raises:
        ContractError: if `parse` does not give the columns that the contract declares.
    """
    taken = plan.wanted.filter(pl.col("state") == "published")
    carried = earlier.dead.clear()
    staged, stay = 0, earlier.rows.clear()
    if taken.height:
        places = taken.select("input_hash", "_input_id", "_line")
        carried = earlier.dead.drop("_input_id", "_line").join(places, on="input_hash")
        if job.publish == "merge":
            stay = earlier.rows.join(taken, on="input_hash", how="semi")
        if stay.height:
            stage.keep(earlier.rows.join(stay, on="input_hash", how="anti"))
        else:
            staged = stage.reuse(places)
    dead = [carried.select(DEAD_LETTERS.names())]
    measures: list[pl.DataFrame] = []
    inferred = 0
    batches = _with_last(_records(plan, journal))
    ranked = False
    with _Copier(stage) as copier:
        for nth, (records, last) in enumerate(batches):
            fresh = records.filter(pl.col("attempt") == attempt)
            inferred += fresh.height
            measures.append(fresh.select([name for name in MEASURES if name in fresh.columns]))
            good, bad = parsed(job, records)
            dead.append(bad)
            if last and not nth and not staged:
                good, ranked = _ranked(job, good)
            if last:  # there is nothing to parse meanwhile
                staged += copier.finish() + stage.copy(good)
            else:
                staged += copier.copy(good)
    if job.over_partition and not ranked:
        stage.compute(job.over_partition)
    all_dead = pl.concat(dead)
    return Filled(
        staged=staged,
        dead=all_dead,
        inferred=inferred,
        reused=plan.wanted.height - inferred,
        kept_from=frozenset(stay["_input_id"].unique()),
        measures=pl.concat(measures) if measures else pl.DataFrame(),
    )


class _Copier:
    """Stages one batch while its caller parses the next; never more than one."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stage-copy")
        self._copying: Future[int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is under way: nobody else may use the stage before."""
        self._thread.shutdown()

    def copy(self, frame: pl.DataFrame) -> int:
        """Begin to stage a batch; how many rows the one before had."""
        before = self.finish()
        self._copying = self._thread.submit(self._stage.copy, frame)
        return before

    def finish(self) -> int:
        """How many rows the last batch had, once it is staged."""
        copying, self._copying = self._copying, None
        return 0 if copying is None else copying.result()


def parsed(job: InferenceJob, records: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Turn journal records into rows for the stage and dead letters.

    Args:
        job: says how.
        records: journal records with their `_input_id` and `_line`; the source's key may be
            there as `key` only.

    Returns:
        Rows with the contract's columns and the provenance; dead letters.

    Raises:
        ContractError: if `parse` does not give the columns that the contract declares.
    """
    if job.source.key not in records.columns:
        records = records.with_columns(pl.col("key").alias(job.source.key))
    failed, finished = _parted(records, records["failure"].is_not_null())
    if finished.is_empty():
        empty = pl.DataFrame(schema=_staged_schema(job))
        return empty, _dead(failed, pl.col("failure"))
    output = job.parse(finished.drop("failure"))
    unparsed = output.clear()
    if FAILURE in output.columns:
        output = output.with_columns(pl.col(FAILURE).cast(pl.String))
        unparsed, output = _parted(output, output[FAILURE].is_not_null())
    output = _typed(job, output)
    only = job.parsed if job.over_partition else None
    rows = output.select(job.parsed)
    ok, violations = check_rows(job.output, rows, only=only)
    dead = _dead(failed, pl.col("failure"))
    if unparsed.height or violations.height:
        broken = _reasons(output, violations, job.source.key)
        if unparsed.height:
            key = pl.col(job.source.key).cast(pl.String)
            broken = pl.concat([unparsed.select(key=key, reason=FAILURE), broken])
        rows = rows.filter(ok).join(broken, left_on=job.source.key, right_on="key", how="anti")
        lost = finished.join(broken.unique("key"), on="key")
        dead = pl.concat([dead, _dead(lost, pl.col("reason"))])
    good = _with_provenance(rows, finished, job.source.key)
    return good.select(_staged_schema(job).names()), dead


def _parted(rows: pl.DataFrame, mask: pl.Series) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The rows where a mask without nulls is true, mostly none, and the others."""
    if not mask.any():
        return rows.clear(), rows
    return rows.filter(mask), rows.filter(~mask)


def _records(plan: Plan, journal: Journal) -> Iterator[pl.DataFrame]:
    wanted = plan.wanted.filter(pl.col("state") != "published")
    if wanted.height:
        yield from journal.records(wanted.select("input_hash", "_input_id", "_line"))


def _with_last(batches: Iterator[pl.DataFrame]) -> Iterator[tuple[pl.DataFrame, bool]]:
    """Each batch, and whether it is the last."""
    before = next(batches, None)
    while before is not None:
        after = next(batches, None)
        yield before, after is None
        before = after


def _ranked(job: InferenceJob, rows: pl.DataFrame) -> tuple[pl.DataFrame, bool]:
    """All rows of a partition with what is computed over it, if that can be done in memory."""
    ranks = {name: rank for name, rank in job.over_partition.items() if isinstance(rank, Rank)}
    if len(ranks) < len(job.over_partition):
        return rows, False
    return rows.with_columns(rank.of(rows).alias(name) for name, rank in ranks.items()), True


def _with_provenance(rows: pl.DataFrame, finished: pl.DataFrame, key: str) -> pl.DataFrame:
    provenance = finished.select(
        pl.col("key"),
        _run_id="run_id",
        _attempt="attempt",
        _machine="machine",
        _input_hash="input_hash",
        _input_id="_input_id",
        _line="_line",
        # A row whose engine cannot go on from where another was is inferred by one alone.
        _attempts="attempts" if "attempts" in finished.columns else pl.lit(1, pl.Int32),
    )
    if rows[key].equals(provenance["key"]):  # one for one, as most parsers have it
        return rows.hstack(provenance.drop("key"))
    return rows.join(provenance, left_on=key, right_on="key", maintain_order="left")


def _staged_schema(job: InferenceJob) -> pl.Schema:
    return pl.Schema({**_parsed_schema(job), **PROVENANCE})


def _parsed_schema(job: InferenceJob) -> pl.Schema:
    declared = polars_schema(job.output)
    return pl.Schema({name: declared[name] for name in job.parsed})


def _typed(job: InferenceJob, output: pl.DataFrame) -> pl.DataFrame:
    """Cast what Python inferred to what the contract declares."""
    declared = _parsed_schema(job)
    if output.is_empty():
        return pl.DataFrame(schema=declared)
    missing = [name for name in declared.names() if name not in output.columns]
    if missing:
        raise ContractError(
            f"job {job.name!r}: parse returns no column(s) {missing}; it returns "
            f"{[c for c in output.columns if not c.startswith('_')]}"
        )
    try:
        return output.cast({name: declared[name] for name in declared.names()})
    except pl.exceptions.PolarsError as error:
        raise ContractError(
            f"job {job.name!r}: what parse returns does not fit {job.output.__name__}: {error}"
        ) from error


def _reasons(output: pl.DataFrame, violations: pl.DataFrame, key: str) -> pl.DataFrame:
    keys = output.select(key=pl.col(key).cast(pl.String)).with_row_index("row")
    return (
        violations.with_columns(pl.col("row").cast(keys["row"].dtype))
        .join(keys, on="row")
        .select(
            "key",
            reason=pl.format(
                "contract: column {} is {}: {}",
                pl.col("column").fill_null("?"),
                pl.col("value").fill_null("null"),
                pl.col("reason"),
            ),
        )
    )


def _dead(records: pl.DataFrame, reason: pl.Expr) -> pl.DataFrame:
    if records.is_empty():
        return pl.DataFrame(schema=DEAD_LETTERS)
    return records.with_columns(reason.alias("reason")).select(
        pl.col(name).cast(kind) for name, kind in DEAD_LETTERS.items()
    )


def sample(job: InferenceJob, preview: Preview, rows: int = 5) -> pl.DataFrame:
    """A few rows that readers would see, the contract's columns only."""
    return preview.frame(rows).select([column.name for column in columns(job.output)])
