"""Sizes that cannot work are refused where they are written down."""

from __future__ import annotations

from typing import Any

import pytest

from overnight.engines.sizes import BatchSizes
from overnight.errors import ConfigError


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_rows": 0}, r"batch_rows=0 is not in 1\.\.window_rows=8"),
        ({"batch_rows": 9}, r"batch_rows=9 is not in 1\.\.window_rows=8"),
        ({"threads": 0}, "threads=0, must be at least 1"),
    ],
)
def test_sizes_that_cannot_work_are_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        BatchSizes(**{"batch_rows": 4, "window_rows": 8, **changes})
