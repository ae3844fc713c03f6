"""A code location for tests of the command line."""

from __future__ import annotations

from tests.support.shop import newest_lines, reversing

JOBS = (reversing(), newest_lines())
