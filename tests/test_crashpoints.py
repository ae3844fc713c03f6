from __future__ import annotations

import signal

import pytest

from overnight import crashpoints
from overnight.errors import ConfigError
from tests.warehouse.helpers import python

PASS = """
from overnight import crashpoints
for n in range(1, 4):
    crashpoints.reach("other")
    crashpoints.reach("here")
    print(n, flush=True)
"""


@pytest.mark.parametrize(
    ("setting", "passed", "code"),
    [("", "123", 0), ("here:2", "1", -signal.SIGKILL), ("here:9", "123", 0), ("else:1", "123", 0)],
)
def test_the_process_is_killed_at_the_nth_passage_and_only_there(
    setting: str, passed: str, code: int
) -> None:
    child = python(PASS, **{crashpoints.VARIABLE: setting})
    out, _ = child.communicate(timeout=60)
    assert (out.replace("\n", ""), child.returncode) == (passed, code)


@pytest.mark.parametrize("setting", ["here", "here:0", "here:x", ":1"])
def test_a_setting_that_means_nothing_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=crashpoints.VARIABLE):
        crashpoints._target(setting)


def test_declared_points_are_found() -> None:
    crashpoints.register("b.two", "a.one")
    assert {"a.one", "b.two"} <= set(crashpoints.registered())
