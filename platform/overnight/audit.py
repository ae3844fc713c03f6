"""The audit: what is staged is held against what was read, before anyone can see it.

Every check runs in the database, over the very rows that would be published.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from overnight.job import InferenceJob
    from overnight.plan import Plan
    from overnight.results import Filled
    from overnight.warehouse.stage import Stage

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
        published: input rows that would be published.
        checks: the outcomes, in the order in which they were made.
    """

    published: int
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    def __str__(self) -> str:
        failed = [f"{check.name}: {check.message}" for check in self.checks if not check.passed]
        return "; ".join(failed) or "every check passed"


def audit(job: InferenceJob, plan: Plan, filled: Filled, stage: Stage) -> Audit:
    """Hold what is staged against what was read."""
    published = stage.count_distinct((job.source.key,))
    staged = stage.count()
    one_to_one = job.output_key == (job.source.key,)
    keys = published if one_to_one else stage.count_distinct(job.output_key)
    return Audit(
        published=published,
        checks=(
            _reconciliation(plan, filled, published),
            _contract(job, staged, keys, filled),
            _dead_letter_share(job, plan, filled),
            *_own(job, stage, staged),
        ),
    )


def check_names(job: InferenceJob) -> dict[str, str]:
    """The checks of a job, with what each of them means."""
    own = {check.name: check.description for check in job.checks}
    return {
        RECONCILIATION: "Rows read = published + rejected + dead-lettered: none lost, none twice, "
        "none that came from nowhere. If it fails, it is a fault of the platform: report it.",
        CONTRACT: f"Every staged row keeps the contract {job.output.__name__} and its key is "
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


def _contract(job: InferenceJob, staged: int, keys: int, filled: Filled) -> Check:
    broken = filled.dead.filter(filled.dead["reason"].str.starts_with("contract:")).height
    figures = {"staged": staged, "distinct_keys": keys, "broke_the_contract": broken}
    if keys != staged:
        return Check(
            CONTRACT,
            passed=False,
            message=f"{staged - keys} of {staged} staged rows repeat a key {job.output_key}",
            figures=figures,
        )
    return Check(
        CONTRACT,
        passed=True,
        message=f"{staged} staged rows keep {job.output.__name__}; {broken} that broke it are "
        "dead letters",
        figures=figures,
    )


def _dead_letter_share(job: InferenceJob, plan: Plan, filled: Filled) -> Check:
    accepted = plan.rows_in - plan.rejected
    share = filled.dead.height / accepted if accepted else 0.0
    limit = job.max_dead_letter_share
    return _share(DEAD_LETTER_SHARE, filled.dead.height, accepted, share, limit, "dead letters")


def _own(job: InferenceJob, stage: Stage, staged: int) -> list[Check]:
    outcomes = []
    for check in job.checks:
        broken = stage.count_where(check.breaks)
        share = broken / staged if staged else 0.0
        outcomes.append(
            _share(check.name, broken, staged, share, check.max_share, check.description)
        )
    return outcomes


def _share(name: str, rows: int, of: int, share: float, limit: float, what: str) -> Check:
    return Check(
        name,
        passed=share <= limit,
        message=f"{rows} of {of} rows ({share:.2%}; at most {limit:.2%} allowed): {what}",
        figures={"rows": rows, "of": of, "share": share, "limit": limit},
    )
