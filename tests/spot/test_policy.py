"""What a policy may say, and by when it wants a run to be done."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from overnight.errors import ConfigError
from overnight.spot.policy import SpotPolicy, check_instance_types

BERLIN = ZoneInfo("Europe/Berlin")
EVENING = dt.datetime(2025, 3, 29, 22, 0, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"pricing": "cheap"}, "pricing is 'cheap', must be one of spot, on_demand, deadline"),
        ({"pricing": "deadline"}, "needs a deadline or max_runtime_min"),
        ({"max_runtime_min": 0}, "max_runtime_min is 0"),
        ({"max_runtime_min": -5}, "max_runtime_min is -5"),
        ({"max_runtime_min": float("nan")}, "max_runtime_min is nan"),
        ({"max_runtime_min": float("inf")}, "max_runtime_min is inf"),
        ({"deadline": dt.time(6)}, "deadline 06:00:00 has no timezone"),
        ({"deadline": dt.datetime(2030, 1, 1)}, "has no timezone"),  # noqa: DTZ001 - the fault
        (
            {"pricing": "deadline", "max_runtime_min": 60, "retry_on_interrupt": False},
            "contradicts retry_on_interrupt=False",
        ),
        ({"instance_types": ("g6",)}, "'g6' is not of the form family.size"),
        ({"instance_types": ("G6.2xlarge",)}, "'G6.2xlarge' is not of the form"),
        ({"instance_types": ("g6.2xlarge ",)}, "'g6.2xlarge ' is not of the form"),
        ({"instance_types": ("g6.2xlarge", "g5.xlarge", "g6.2xlarge")}, "g6.2xlarge twice"),
        ({"instance_types": "g6.2xlarge"}, "must be a tuple: ('g6.2xlarge',)"),
    ],
)
def test_what_cannot_be_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SpotPolicy(**fields)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "name", ["g6.2xlarge", "p5.48xlarge", "u-6tb1.112xlarge", "m7i-flex.large", "m7a.metal-48xl"]
)
def test_instance_types_of_every_form_are_taken(name: str) -> None:
    assert SpotPolicy(instance_types=(name,)).instance_types == (name,)


def test_an_unknown_instance_type_is_named_with_what_may_have_been_meant() -> None:
    policy = SpotPolicy(instance_types=("g6.2xlarge", "g6.3xlarge", "q9.tiny"))
    with pytest.raises(ConfigError) as caught:
        check_instance_types(policy, {"g6.2xlarge", "g6.xlarge", "p5.48xlarge"})
    told = str(caught.value)
    assert "'g6.3xlarge' (did you mean g6.xlarge or g6.2xlarge?)" in told
    assert told.endswith("'q9.tiny'")
    check_instance_types(SpotPolicy(instance_types=("g6.2xlarge",)), {"g6.2xlarge"})


def test_without_limits_a_run_may_take_as_long_as_it_takes() -> None:
    assert SpotPolicy().ends_at(EVENING) is None


def test_a_time_of_day_is_the_next_one_on_the_clocks_of_its_zone() -> None:
    six = SpotPolicy(deadline=dt.time(6, tzinfo=BERLIN))
    # Clocks go forward that night: at 6 in the morning they are two hours ahead of UTC.
    assert six.ends_at(EVENING) == dt.datetime(2025, 3, 30, 4, tzinfo=dt.UTC)
    at_six = dt.datetime(2025, 3, 30, 4, tzinfo=dt.UTC)
    assert six.ends_at(at_six) == dt.datetime(2025, 3, 31, 4, tzinfo=dt.UTC)
    just_before = at_six - dt.timedelta(seconds=1)
    assert six.ends_at(just_before.astimezone(ZoneInfo("Asia/Tokyo"))) == at_six


def test_the_earlier_of_deadline_and_longest_runtime_counts() -> None:
    instant = EVENING + dt.timedelta(hours=2)
    for minutes, hours in ((60, 1), (600, 2)):
        policy = SpotPolicy(pricing="deadline", max_runtime_min=minutes, deadline=instant)
        assert policy.ends_at(EVENING) == EVENING + dt.timedelta(hours=hours)


@pytest.mark.parametrize("late", [dt.timedelta(0), dt.timedelta(days=3)])
def test_a_deadline_in_the_past_is_refused(late: dt.timedelta) -> None:
    policy = SpotPolicy(pricing="deadline", deadline=EVENING)
    with pytest.raises(ConfigError, match=r"2025-03-29T22:00:00\+00:00 is in the past"):
        policy.ends_at(EVENING + late)


def test_a_start_without_timezone_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no timezone"):
        SpotPolicy().ends_at(EVENING.replace(tzinfo=None))
