"""The audit: what would be published is held against what was read, before anyone can see it.

Every check runs in the database, over the very rows that would be published. Some block: if one
of them fails, nothing is published. Others only warn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight.checks import Check, graded, rejects_command
from overnight.contract import check_rows, polars_schema
from overnight.expectations import Limit
from overnight.history import ROW_COUNT, row_count, row_count_meaning
from overnight.journal import void
from overnight.quality import LENGTH_DRIFT, rows_of, text_checks, text_lengths, text_meanings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from overnight.history import History
    from overnight.job import InferenceJob, OutputCheck
    from overnight.plan import Plan
    from overnight.results import Filled
    from overnight.warehouse.preview import Preview

__all__ = ["Audit", "Check", "audit", "check_names", "only_warns", "too_many_rejects"]

RECONCILIATION = "reconciliation"
CONTRACT = "contract"
DEAD_LETTER_SHARE = "dead_letter_share"
REJECT_SHARE = "reject_share"

_REASON = 120  # characters of a dead letter's reason in a message
_REASONS = 3


@dataclass(frozen=True, slots=True)
class Audit:
    """All checks of one partition; it may be published if none that blocks failed.

    Attributes:
        rows: rows of the table that readers would see.
        published: input rows that they come from.
        checks: the outcomes, in the order in which they were made.
        lengths: of the text, if the job writes one: `value` characters in so many `rows`.
    """

    rows: int
    published: int
    checks: tuple[Check, ...]
    lengths: pl.DataFrame | None = None

    @property
    def passed(self) -> bool:
        """Whether the partition may be published."""
        return all(check.passed or not check.blocking for check in self.checks)

    @property
    def warnings(self) -> tuple[Check, ...]:
        """The checks that failed and do not stand in the way."""
        return tuple(check for check in self.checks if not check.passed and not check.blocking)

    def summary(self) -> dict[str, Any]:
        """What `lineage.runs` keeps of it (JSON-able): outcomes, and what later days need."""
        kept: dict[str, Any] = {
            "checks": {
                check.name: {
                    "passed": check.passed,
                    "blocking": check.blocking,
                    "message": check.message,
                }
                for check in self.checks
            }
        }
        if self.lengths is not None:
            kept["lengths"] = [list(pair) for pair in self.lengths.select("value", "rows").rows()]
        return kept

    def __str__(self) -> str:
        failed = [check for check in self.checks if not check.passed and check.blocking]
        return "; ".join(f"{check.name}: {check.message}" for check in failed) or "may be published"


def audit(
    job: InferenceJob,
    partition: str,
    plan: Plan,
    filled: Filled,
    preview: Preview,
    history: History,
    dropped: pl.DataFrame | None = None,
) -> Audit:
    """Hold what readers would see against what was read, and against the days before.

    Args:
        job: says what to hold it against.
        partition: which of its partitions.
        plan: what was read.
        filled: what was staged, and what could not be.
        preview: what readers would see.
        history: what was published on the days before.
        dropped: dead letters that somebody does without (`repairs.DECIDED`): they are accounted
            for like the others, but a person has accepted them.
    """
    text = job.expects.text
    lengths = None if text is None else text_lengths(text, preview)
    dead = filled.dead if dropped is None else filled.dead.filter(~void(filled.dead, dropped))
    rows = preview.count()
    published = preview.count_distinct((job.source.key,))
    one_to_one = job.output_key == (job.source.key,)
    keys = published if one_to_one else preview.count_distinct(job.output_key)
    return Audit(
        rows=rows,
        published=published,
        checks=(
            _reconciliation(plan, filled, published),
            _contract(job, rows, keys, filled, _over_partition(job, preview)),
            _dead_letter_share(job, plan, filled, dead),
            _reject_share(job, partition, plan),
            row_count(job, partition, published, history),
            *(
                []
                if lengths is None
                else text_checks(job, partition, preview, rows, dead, (lengths, history.lengths))
            ),
            *(_own(job, partition, check, preview, rows) for check in job.checks),
        ),
        lengths=lengths,
    )


def check_names(job: InferenceJob) -> dict[str, str]:
    """The checks of a job, with what each of them means."""
    own = {check.name: check.description for check in job.checks}
    text = {} if job.expects.text is None else text_meanings(job.expects.text)
    return {
        RECONCILIATION: "Rows read = published + rejected + dead-lettered: none lost, none twice, "
        "none that came from nowhere. If it fails, it is a fault of the platform: report it.",
        CONTRACT: f"Every row keeps the contract {job.output.__name__} and its key is "
        "unique. Rows that break it are dead letters: see `overnight dead-letters`.",
        DEAD_LETTER_SHARE: "The share of rows that could not be inferred is at most "
        f"{job.max_dead_letter_share:.2%}. If it fails, read the reasons in its message.",
        REJECT_SHARE: "The share of source rows that break their contract is at most "
        f"{job.expects.reject_share:.2%}; beyond {job.max_rejects.share:.2%} nothing is inferred "
        "or published. If it fails, correct the rows that `overnight rejects` lists.",
        ROW_COUNT: row_count_meaning(job),
        **text,
        **own,
    }


def only_warns(job: InferenceJob) -> frozenset[str]:
    """The checks of a job that never stand in the way of a publication."""
    own = {check.name for check in job.checks if not check.blocking}
    return frozenset({ROW_COUNT, LENGTH_DRIFT, *own})


def too_many_rejects(message: str) -> Check:
    """The check of the share of rejects when there were so many that nothing was inferred."""
    return Check(REJECT_SHARE, passed=False, message=message)


def _reconciliation(plan: Plan, filled: Filled, published: int) -> Check:
    accounted = published + plan.rejected + filled.dead.height
    figures = {
        "rows_in": plan.rows_in,
        "published": published,
        "rejected": plan.rejected,
        "dead_lettered": filled.dead.height,
    }
    words = (
        f"{plan.rows_in} rows in = {published} published + {plan.rejected} rejected + "
        f"{filled.dead.height} dead-lettered"
    )
    if accounted == plan.rows_in:
        return Check(RECONCILIATION, passed=True, message=words, figures=figures)
    off = accounted - plan.rows_in
    fault = f"{off} that came from nowhere" if off > 0 else f"{-off} lost"
    message = f"{words}: {fault}".replace(" = ", " ≠ ")
    return Check(RECONCILIATION, passed=False, message=message, figures=figures)


def _contract(
    job: InferenceJob, rows: int, keys: int, filled: Filled, computed: Sequence[str]
) -> Check:
    broken = filled.dead.filter(filled.dead["reason"].str.starts_with("contract:")).height
    figures = {"rows": rows, "distinct_keys": keys, "broke_the_contract": broken}
    if keys != rows:
        return Check(
            CONTRACT,
            passed=False,
            message=f"{rows - keys} of {rows} rows repeat a key {job.output_key}",
            figures=figures,
        )
    if computed:
        return Check(
            CONTRACT,
            passed=False,
            message=f"what is computed over the partition breaks {job.output.__name__}: "
            + "; ".join(computed),
            figures=figures,
        )
    return Check(
        CONTRACT,
        passed=True,
        message=f"{rows} rows keep {job.output.__name__}; {broken} that broke it are dead letters",
        figures=figures,
    )


def _over_partition(job: InferenceJob, preview: Preview) -> list[str]:
    """What is wrong with the columns that were computed, the first value of each."""
    declared = polars_schema(job.output)
    schema = pl.Schema({name: declared[name] for name in job.over_partition})
    wrong: dict[str, str] = {}
    for frame in preview.batches(schema) if schema else ():
        _, violations = check_rows(job.output, frame, only=job.over_partition)
        for one in violations.unique("column").iter_rows(named=True):
            told = f"column {one['column']} is {one['value'] or 'null'}: {one['reason']}"
            wrong.setdefault(one["column"], told)
    return list(wrong.values())


def _dead_letter_share(
    job: InferenceJob, plan: Plan, filled: Filled, undecided: pl.DataFrame
) -> Check:
    dropped = filled.dead.height - undecided.height

    def advice(_: bool) -> str:
        brief = pl.col("reason").str.slice(0, _REASON)
        found = (
            undecided.group_by(reason=brief)
            .agg(rows=pl.len(), key=pl.col("key").sort().first())
            .sort("rows", "reason", descending=[True, False])
            .head(_REASONS)
        )
        told = "; ".join(
            f"{row['rows']} {row['reason']!r}, such as {job.source.key} {row['key']}"
            for row in found.iter_rows(named=True)
        )
        return (
            f"Most frequent reasons: {told}. Correct the source rows or the job and run the "
            "partition again: what was inferred is kept. To allow more, raise "
            "`max_dead_letter_share`"
        )

    return graded(
        DEAD_LETTER_SHARE,
        undecided.height,
        plan.rows_in - plan.rejected,
        Limit(block=job.max_dead_letter_share),
        "dead letters" + (f", besides {dropped} that were dropped" if dropped else ""),
        advice,
    )


def _reject_share(job: InferenceJob, partition: str, plan: Plan) -> Check:
    def advice(_: bool) -> str:
        worst = plan.rejects.group_by("source").len().sort("len", "source", descending=True)
        commands = ", ".join(rejects_command(source, partition) for source in worst["source"])
        return (
            f"{commands} lists them with file, line, column and reason: have them corrected, land "
            "the file again and run the partition again. To allow more without a word, raise "
            "`Expectations.reject_share`"
        )

    return graded(
        REJECT_SHARE,
        plan.rejected,
        plan.rows_in,
        Limit(warn=job.expects.reject_share),
        "rejected, for they break the contract of their source",
        advice,
    )


def _own(
    job: InferenceJob, partition: str, check: OutputCheck, preview: Preview, rows: int
) -> Check:
    def advice(blocked: bool) -> str:
        return rows_of(job, partition, preview, check.breaks, blocked=blocked)

    limit = Limit(**{"block" if check.blocking else "warn": check.max_share})
    broken = preview.count_where(check.breaks)
    return graded(check.name, broken, rows, limit, check.description.rstrip("."), advice)
