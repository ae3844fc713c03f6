"""The audit: what would be published is held against what was read, before anyone can see it.

Every check runs in the database, over the very rows that would be published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from overnight.contract import check_rows, polars_schema
from overnight.journal import void

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from overnight.job import InferenceJob
    from overnight.plan import Plan
    from overnight.results import Filled
    from overnight.warehouse.preview import Preview

RECONCILIATION = "reconciliation"
CONTRACT = "contract"
DEAD_LETTER_SHARE = "dead_letter_share"


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check: whether it passed, and in words why."""

    name: str
    passed: bool
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Audit:
    """All checks of one partition; it may be published if each of them passed.

    Attributes:
        rows: rows of the table that readers would see.
        published: input rows that they come from.
        checks: the outcomes, in the order in which they were made.
    """

    rows: int
    published: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        failed = [f"{check.name}: {check.message}" for check in self.checks if not check.passed]
        return "; ".join(failed) or "every check passed"


def audit(
    job: InferenceJob,
    plan: Plan,
    filled: Filled,
    preview: Preview,
    dropped: pl.DataFrame | None = None,
) -> Audit:
    """Hold what readers would see against what was read.

    Args:
        job: says what to hold it against.
        plan: what was read.
        filled: what was staged, and what could not be.
        preview: what readers would see.
        dropped: dead letters that somebody does without (`repairs.DECIDED`): they are accounted
            for like the others, but a person has accepted them.
    """
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
            _dead_letter_share(job, plan, filled, dropped),
            *_own(job, preview, rows),
        ),
    )


def check_names(job: InferenceJob) -> dict[str, str]:
    """The checks of a job, with what each of them means."""
    own = {check.name: check.description for check in job.checks}
    return {
        RECONCILIATION: "Rows read = published + rejected + dead-lettered: none lost, none twice, "
        "none that came from nowhere. If it fails, it is a fault of the platform: report it.",
        CONTRACT: f"Every row keeps the contract {job.output.__name__} and its key is "
        "unique. Rows that break it are dead letters: see `overnight dead-letters`.",
        DEAD_LETTER_SHARE: "The share of rows that could not be inferred is at most "
        f"{job.max_dead_letter_share:.2%}. If it fails, read the reasons with "
        "`overnight dead-letters`.",
        **own,
    }


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
    job: InferenceJob, plan: Plan, filled: Filled, dropped: pl.DataFrame | None
) -> Check:
    accepted = plan.rows_in - plan.rejected
    known = 0 if dropped is None else int(void(filled.dead, dropped).sum())
    unknown = filled.dead.height - known
    share = unknown / accepted if accepted else 0.0
    what = "dead letters" + (f", besides {known} that were dropped" if known else "")
    return _share(DEAD_LETTER_SHARE, unknown, accepted, share, job.max_dead_letter_share, what)


def _own(job: InferenceJob, preview: Preview, rows: int) -> list[Check]:
    outcomes = []
    for check in job.checks:
        broken = preview.count_where(check.breaks)
        share = broken / rows if rows else 0.0
        outcomes.append(_share(check.name, broken, rows, share, check.max_share, check.description))
    return outcomes


def _share(name: str, rows: int, of: int, share: float, limit: float, what: str) -> Check:
    return Check(
        name,
        passed=share <= limit,
        message=f"{rows} of {of} rows ({share:.2%}; at most {limit:.2%} allowed): {what}",
        figures={"rows": rows, "of": of, "share": share, "limit": limit},
    )
