"""EC2's notices, from a real HTTP server that behaves as its metadata service does, or worse."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from overnight.spot.ec2 import Ec2
from overnight.spot.metadata import Endpoint
from tests.spot.imds import ACTION, LIFE_CYCLE, REBALANCE, TOKEN, Imds
from tests.spot.metadata_server import ELSEWHERE, MISBEHAVIOURS, Misbehaviour

if TYPE_CHECKING:
    from collections.abc import Iterator

AT = 1_795_400_000.0


@pytest.fixture
def imds() -> Iterator[Imds]:
    with Imds() as server:
        yield server


def asking(imds: Imds, **options: Any) -> Ec2:
    return Ec2(Endpoint.parse(imds.url, variable="here"), **options)


def test_without_a_notice_nothing_is_told_and_one_token_is_enough(imds: Imds) -> None:
    ec2 = asking(imds)
    for _ in range(3):
        look = ec2.look()
        assert (look.notices, look.error, look.idle) == ((), None, None)
    assert imds.requests[f"PUT {TOKEN}"] == 1
    assert imds.asked(ACTION) == imds.asked(REBALANCE) == 3
    assert imds.asked(LIFE_CYCLE) == 1


@pytest.mark.parametrize("action", ["terminate", "stop", "hibernate"])
def test_every_action_is_an_interruption_at_its_time(imds: Imds, action: str) -> None:
    imds.interrupt(at=AT, action=action)
    (notice,) = asking(imds, clock=lambda: AT - 120).look().notices
    assert (notice.kind, notice.source, notice.deadline) == ("interruption", "ec2", AT)
    assert notice.seen_at == AT - 120
    assert action in notice.detail


def test_a_rebalance_recommendation_has_no_deadline(imds: Imds) -> None:
    imds.recommend_rebalance(since=AT)
    (notice,) = asking(imds).look().notices
    assert (notice.kind, notice.deadline) == ("rebalance", None)


def test_a_token_is_renewed_before_it_expires(imds: Imds) -> None:
    now = 0.0
    ec2 = asking(imds, monotonic=lambda: now)
    ec2.look()
    now = 21_500.0  # of 21,600
    ec2.look()
    assert imds.requests[f"PUT {TOKEN}"] == 2


def test_a_token_that_is_not_good_any_more_is_replaced_within_the_same_look(imds: Imds) -> None:
    ec2 = asking(imds)
    ec2.look()
    imds.expire_tokens()
    imds.interrupt(at=AT)
    look = ec2.look()
    assert len(look.notices) == 1
    assert look.error is None
    assert imds.requests[f"PUT {TOKEN}"] == 2


@pytest.mark.parametrize("says_ttl", [True, False])
def test_tokens_that_live_shortly_do_no_harm(imds: Imds, *, says_ttl: bool) -> None:
    imds.says_ttl = says_ttl
    imds.expire_tokens(longest_ttl=1)
    ec2 = asking(imds)
    end = time.monotonic() + 30
    while imds.requests[f"PUT {TOKEN}"] < 3:
        assert ec2.look().error is None
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("life_cycle", ["on-demand", "scheduled"])
def test_only_spot_instances_are_watched(imds: Imds, life_cycle: str) -> None:
    imds.life_cycle = life_cycle
    idle = asking(imds).look().idle
    assert idle is not None
    assert life_cycle in idle


def test_a_service_that_does_not_know_life_cycles_is_watched(imds: Imds) -> None:
    imds.life_cycle = None
    imds.interrupt(at=AT)
    look = asking(imds).look()
    assert len(look.notices) == 1
    assert look.idle is None


@pytest.mark.parametrize("how", [how for how in MISBEHAVIOURS if how != "slow"])
@pytest.mark.parametrize("path", ["/", TOKEN, ACTION])
def test_a_bad_service_is_an_error_in_words_and_no_notice(
    imds: Imds, how: Misbehaviour, path: str
) -> None:
    imds.interrupt(at=AT)
    imds.misbehave(how, path=path)
    ec2 = asking(imds)
    look = ec2.look()
    assert look.notices == ()
    assert look.error is not None
    assert "session-token" not in look.error
    assert imds.asked(ELSEWHERE) == 0
    imds.misbehave(None)
    assert len(ec2.look().notices) == 1


@pytest.mark.parametrize("how", MISBEHAVIOURS)
def test_one_bad_page_does_not_hide_the_other(imds: Imds, how: Misbehaviour) -> None:
    imds.recommend_rebalance(since=AT)
    imds.misbehave(how, path=ACTION)
    assert [notice.kind for notice in asking(imds).look().notices] == ["rebalance"]


def test_a_slow_service_is_waited_for(imds: Imds) -> None:
    imds.interrupt(at=AT)
    imds.misbehave("slow")
    assert len(asking(imds).look().notices) == 1


def test_an_answer_without_end_is_not_read_to_its_end(imds: Imds) -> None:
    imds.misbehave("flood")
    error = asking(imds).look().error
    assert error is not None
    assert "more than 16384 bytes" in error


def test_nobody_there_is_an_error_in_words() -> None:
    with Imds() as gone:
        ec2 = asking(gone)
    error = ec2.look().error
    assert error is not None
    assert "Connection refused" in error


def test_a_token_that_cannot_be_had_in_a_container_says_what_to_set(imds: Imds) -> None:
    imds.misbehave("hang", path=TOKEN)
    error = asking(imds).look().error
    assert error is not None
    assert "HttpPutResponseHopLimit" in error
    assert imds.asked(TOKEN) == 1


def test_a_proxy_in_the_environment_is_not_used(
    imds: Imds, monkeypatch: pytest.MonkeyPatch
) -> None:
    imds.interrupt(at=AT)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    assert len(asking(imds).look().notices) == 1


@pytest.mark.parametrize(
    "told",
    [
        {},
        {"action": "terminate"},
        {"action": "terminate", "time": None},
        {"action": "terminate", "time": 5},
        {"action": "terminate", "time": "soon"},
        {"action": "terminate", "time": "2026-11-20T02:00:00"},
        {"action": "terminate", "time": "0001-01-01T00:00:00+14:00"},
        {"action": "reboot", "time": "2026-11-20T02:00:00Z"},
        {"action": ["terminate"], "time": "2026-11-20T02:00:00Z"},
        ["terminate", "2026-11-20T02:00:00Z"],
        "terminate",
        None,
    ],
)
def test_a_notice_without_an_action_or_a_time_is_an_error(imds: Imds, told: object) -> None:
    imds.tell(ACTION, json.dumps(told).encode())
    look = asking(imds).look()
    assert look.notices == ()
    assert look.error is not None
    assert ACTION in look.error


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(body=st.binary(max_size=200) | st.just(b"[" * 10_000) | st.just(b'{"a":' * 3_000))
def test_no_garbage_is_a_notice(imds: Imds, body: bytes) -> None:
    imds.tell(ACTION, body)
    imds.tell(REBALANCE, body)
    look = asking(imds).look()
    assert look.notices == ()
    assert look.error is not None
