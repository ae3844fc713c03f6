"""Alerts: signed, delivered at least once, and kept while the webhook is down."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from overnight.alerts import SECRET, URL, Alert, Webhook, deliver, put, sign, verify
from overnight.errors import ConfigError
from overnight.lineage import tables
from tests.support.receiver import KEY, receiving

if TYPE_CHECKING:
    from overnight.warehouse.connect import Warehouse


@pytest.fixture(autouse=True)
def empty_outbox(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.execute(sa.delete(tables.alerts))


def alert(number: int, text: str = "it failed") -> Alert:
    return Alert(
        id=f"run:{number}", kind="run_failed", at="2026-11-25T02:00:00+00:00", job="haikus",
        partition="2026-11-24", text=text,
    )  # fmt: skip


def unsent(warehouse: Warehouse) -> list[tuple[str, int, str | None]]:
    c = tables.alerts.c
    query = sa.select(c.id, c.tries, c.last_error).where(c.sent_at.is_(None)).order_by(c.id)
    with warehouse.connect() as connection:
        return [(row.id, row.tries, row.last_error) for row in connection.execute(query)]


def test_an_alert_is_signed_and_told_once_however_often_it_is_noticed(
    warehouse: Warehouse,
) -> None:
    with receiving() as receiver:
        webhook = Webhook(receiver.url, KEY)
        for _ in range(2):
            put(warehouse, [alert(1), alert(2)])
            deliver(warehouse, webhook)
    assert receiver.unsigned == 0
    assert [told["id"] for told in receiver.alerts] == ["run:1", "run:2"]
    assert receiver.alerts[0] == {
        "id": "run:1", "kind": "run_failed", "at": "2026-11-25T02:00:00+00:00",
        "job": "haikus", "partition": "2026-11-24", "text": "it failed",
    }  # fmt: skip


def test_a_webhook_that_stumbles_is_tried_again_at_once(warehouse: Warehouse) -> None:
    put(warehouse, [alert(1)])
    with receiving() as receiver:
        receiver.answers = [503, 500]
        done = deliver(warehouse, Webhook(receiver.url, KEY))
    assert (done.sent, done.waiting, receiver.requests) == (1, 0, 3)


@pytest.mark.parametrize("answer", [302, 404, 410])
def test_an_answer_that_is_no_success_is_none(warehouse: Warehouse, answer: int) -> None:
    put(warehouse, [alert(1), alert(2)])
    with receiving() as receiver:
        receiver.answers = [answer]
        done = deliver(warehouse, Webhook(receiver.url, KEY))
        assert (done.sent, done.waiting) == (0, 2)
        assert done.error == f"the webhook answered {answer}"
        assert receiver.alerts == []


def test_nothing_is_lost_while_the_webhook_is_down(warehouse: Warehouse) -> None:
    with receiving() as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
    webhook = Webhook(receiver.url, KEY, retries=1)
    put(warehouse, [alert(1), alert(2)])
    for tries in (1, 2):
        done = deliver(warehouse, webhook)
        assert (done.sent, done.waiting) == (0, 2)
        error = "the webhook does not answer (NewConnectionError)"
        assert done.error == error
        assert unsent(warehouse) == [("run:1", tries, error), ("run:2", 0, None)]
    assert "private" not in error
    put(warehouse, [alert(3)])
    with receiving(port) as back:
        done = deliver(warehouse, webhook)
    assert (done.sent, done.waiting, done.error) == (3, 0, None)
    assert [told["id"] for told in back.alerts] == ["run:1", "run:2", "run:3"]


def test_a_secret_in_an_error_is_not_told(warehouse: Warehouse) -> None:
    put(warehouse, [alert(1, "no answer from postgresql://me:hunter2@db/x")])
    with receiving() as receiver:
        deliver(warehouse, Webhook(receiver.url, KEY))
    assert receiver.alerts[0]["text"] == "no answer from postgresql://me:***@db/x"
    assert "hunter2" not in repr(Webhook(receiver.url, "hunter2"))


def test_a_signature_holds_for_its_body_its_secret_and_its_time() -> None:
    header = sign(b"body", KEY, at=1000)
    assert verify(header, b"body", KEY, now=1200)
    assert not verify(header, b"Body", KEY, now=1200)
    assert not verify(header, b"body", "another", now=1200)
    assert not verify(header, b"body", KEY, now=1301)
    assert not verify(header.replace("t=1000", "t=1200"), b"body", KEY, now=1200)
    for nonsense in ("", "v1=00", "t=soon,v1=00", "t=1000"):
        assert not verify(nonsense, b"body", KEY, now=1000)


def test_a_webhook_needs_a_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(URL, raising=False)
    monkeypatch.delenv(SECRET, raising=False)
    assert Webhook.from_env() is None
    monkeypatch.setenv(URL, "https://example.org/hook")
    with pytest.raises(ConfigError, match=f"{SECRET} is not"):
        Webhook.from_env()
    monkeypatch.setenv(SECRET, KEY)
    assert Webhook.from_env() == Webhook("https://example.org/hook", KEY)
    monkeypatch.setenv(URL, "example.org/hook")
    with pytest.raises(ConfigError, match="must begin with http"):
        Webhook.from_env()


def test_a_delivery_ends_in_time(warehouse: Warehouse) -> None:
    put(warehouse, [alert(number) for number in range(5)])
    left = iter([True, True, False])
    with receiving() as receiver:
        done = deliver(warehouse, Webhook(receiver.url, KEY), in_time=lambda: next(left))
    assert (done.sent, done.waiting) == (2, 3)
