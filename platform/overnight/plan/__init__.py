"""Planning a partition: which rows are accepted, which are done already, who gets the rest.

`build` reads a partition once and decides; `hashing` says when two rows ask for the same;
`rejects` counts what is refused; `splits` holds the result and hands it out.
"""

from __future__ import annotations

from overnight.plan.build import build_plan
from overnight.plan.rejects import MaxRejects
from overnight.plan.splits import Plan, Split

__all__ = ["MaxRejects", "Plan", "Split", "build_plan"]
