"""The outcome of a check, and how a share of rows becomes one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from overnight.expectations import Limit

__all__ = ["Check", "dead_letters_command", "graded", "passing", "query", "rejects_command"]


@dataclass(frozen=True, slots=True)
class Check:
    """The outcome of one check: whether it passed, and in words why.

    Attributes:
        name: the asset check's.
        passed: whether all is well.
        message: what was found and, if it did not pass, what to do.
        figures: by name, for the history of the check.
        blocking: whether nothing may be published if it did not pass; else that is a warning.
    """

    name: str
    passed: bool
    message: str
    figures: Mapping[str, Any] = field(default_factory=dict)
    blocking: bool = True


def passing(name: str, message: str, **figures: Any) -> Check:
    """A check that has nothing to complain about."""
    return Check(name, passed=True, message=message, figures=figures)


def graded(
    name: str, rows: int, of: int, limit: Limit, what: str, advice: Callable[[bool], str]
) -> Check:
    """Hold a share of rows against what is allowed.

    Args:
        name: the check's.
        rows: that have it.
        of: how many.
        limit: what is allowed.
        what: they have, in words.
        advice: what to do, given whether nothing is published because of them.
    """
    share = rows / of if of else 0.0
    blocks = limit.block is not None and share > limit.block
    warns = limit.warn is not None and share > limit.warn
    allowed = limit.block if blocks or limit.warn is None else limit.warn
    bound = "" if allowed is None else f"; at most {allowed:.2%} allowed"
    figures: dict[str, Any] = {"rows": rows, "of": of, "share": share}
    figures |= {"limit": allowed} if allowed is not None else {}
    message = f"{rows} of {of} rows ({share:.2%}{bound}): {what}"
    if not (blocks or warns):
        return passing(name, message, **figures)
    message = f"{message}. {advice(blocks)}"
    return Check(name, passed=False, message=message, figures=figures, blocking=blocks)


def query(text: str, **values: object) -> str:
    """The command that shows the rows of a query, with names in braces replaced by values."""
    return f'`overnight sql "{text.format(**values) if values else text}"`'


def rejects_command(source: str, partition: str) -> str:
    """The command that lists the rejects of a partition."""
    return f"`overnight rejects {source} --partition {partition}`"


def dead_letters_command(job: str, partition: str) -> str:
    """The command that lists the dead letters of what is published."""
    return f"`overnight dead-letters {job} --partition {partition}`"
