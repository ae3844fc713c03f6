"""From the journal to the stage: parsed, checked against the output contract, nothing else.

A result that cannot be parsed, or whose output breaks the contract, becomes a dead letter with
its reason. Whether there are too many of those is for the audit to say.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from overnight.contract import check_rows, columns, polars_schema
from overnight.errors import ContractError
from overnight.job import FAILURE
from overnight.warehouse.publications import DEAD_LETTERS

if TYPE_CHECKING:
    from collections.abc import Iterator

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
    carried = earlier.dead.drop("_input_id", "_line").join(
        taken.select("input_hash", "_input_id", "_line"), on="input_hash"
    )
    stay = earlier.rows.join(taken, on="input_hash", how="semi").filter(job.publish == "merge")
    if stay.height:
        stage.keep(earlier.rows.join(stay, on="input_hash", how="anti"))
        staged = 0
    else:
        staged = stage.reuse(taken.select("input_hash", "_input_id", "_line"))
    dead = [carried.select(DEAD_LETTERS.names())]
    measures: list[pl.DataFrame] = []
    inferred = 0
    for records in _records(plan, journal):
        fresh = records.filter(pl.col("attempt") == attempt)
        inferred += fresh.height
        measures.append(fresh.select([name for name in MEASURES if name in fresh.columns]))
        good, bad = parsed(job, records)
        dead.append(bad)
        staged += stage.copy(good)
    if job.over_partition:
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


def parsed(job: InferenceJob, records: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Turn journal records into rows for the stage and dead letters.

    Args:
        job: says how.
        records: journal records with their `_input_id` and `_line`.

    Returns:
        Rows with the contract's columns and the provenance; dead letters.

    Raises:
        ContractError: if `parse` does not give the columns that the contract declares.
    """
    failed = records.filter(pl.col("failure").is_not_null())
    finished = records.filter(pl.col("failure").is_null())
    if finished.is_empty():
        empty = pl.DataFrame(schema=_staged_schema(job))
        return empty, _dead(failed, pl.col("failure"))
    output = job.parse(finished.drop("failure"))
    if FAILURE not in output.columns:
        output = output.with_columns(pl.lit(None, pl.String).alias(FAILURE))
    output = output.with_columns(pl.col(FAILURE).cast(pl.String))
    unparsed = output.filter(pl.col(FAILURE).is_not_null())
    output = _typed(job, output.filter(pl.col(FAILURE).is_null()))
    only = job.parsed if job.over_partition else None
    ok, violations = check_rows(job.output, output.select(job.parsed), only=only)
    broken = _reasons(output, violations, job.source.key)
    reasons = pl.concat([unparsed.select(key=job.source.key, reason=FAILURE), broken])
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
    good = (
        output.filter(ok)
        .join(reasons, left_on=job.source.key, right_on="key", how="anti")
        .join(provenance, left_on=job.source.key, right_on="key", maintain_order="left")
        .select(_staged_schema(job).names())
    )
    lost = finished.join(reasons.unique("key"), on="key")
    return good, pl.concat([_dead(failed, pl.col("failure")), _dead(lost, pl.col("reason"))])


def _records(plan: Plan, journal: Journal) -> Iterator[pl.DataFrame]:
    wanted = plan.wanted.filter(pl.col("state") != "published")
    if wanted.height:
        yield from journal.records(wanted.select("input_hash", "_input_id", "_line"))


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
    return records.with_columns(reason.alias("reason")).select(
        pl.col(name).cast(kind) for name, kind in DEAD_LETTERS.items()
    )


def sample(job: InferenceJob, preview: Preview, rows: int = 5) -> pl.DataFrame:
    """A few rows that readers would see, the contract's columns only."""
    return preview.frame(rows).select([column.name for column in columns(job.output)])
