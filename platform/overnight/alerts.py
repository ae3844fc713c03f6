"""Alerts: what happened and which command shows more, told to a webhook and never lost.

An alert is first put into the outbox `lineage.alerts`, then delivered. One that cannot be
delivered stays there and is tried again at the next tick, so that a webhook that is down costs a
delay; a receiver may get one twice and tells by its `id`.

The POST's body is JSON: `id`, `kind`, `at` (ISO 8601), `job`, `partition`, `text`. It is signed:
the header `Overnight-Signature: t=<seconds since 1970>,v1=<hex>` holds the HMAC-SHA256, with the
shared secret, of the time, a full stop and the body. `verify` is how a receiver checks it.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from overnight.errors import ConfigError
from overnight.lineage import tables
from overnight.redact import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from overnight.warehouse.connect import Warehouse

__all__ = ["Alert", "Delivered", "Webhook", "deliver", "put", "verify"]

URL, SECRET = "OVERNIGHT_WEBHOOK_URL", "OVERNIGHT_WEBHOOK_SECRET"
SIGNATURE = "Overnight-Signature"
TOLERANCE_S = 300.0
_AT_ONCE = 100
_LONGEST = 4_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something that a person should know.

    Attributes:
        id: the same for the same event, however often it is seen.
        kind: `run_failed` or `late`.
        at: when it happened, ISO 8601.
        job: the job, or the asset, that it is about.
        partition: of the job; empty if there is none.
        text: what happened, and which command shows more.
    """

    id: str
    kind: str
    at: str
    job: str
    partition: str
    text: str


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where alerts go.

    Attributes:
        url: of the receiver; may hold a token.
        secret: what both sides know.
        timeout_s: seconds for connecting, and for the answer.
        retries: further tries at once, the first after 0.5 s, each of the others after twice
            the wait before.
    """

    url: str = field(repr=False)
    secret: str = field(repr=False)
    timeout_s: float = 5.0
    retries: int = 2

    @classmethod
    def from_env(cls) -> Webhook | None:
        """As the `OVERNIGHT_WEBHOOK_*` variables say; None without a URL.

        Raises:
            ConfigError: if the URL is none, or there is no secret for it.
        """
        url = os.environ.get(URL)
        if not url:
            return None
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{URL} must begin with http:// or https://")
        secret = os.environ.get(SECRET)
        if not secret:
            raise ConfigError(
                f"{URL} is set and {SECRET} is not: alerts are signed with it, so choose one that "
                "the receiver knows too"
            )
        return cls(url, secret)

    def send(self, alert: Alert) -> str | None:
        """Deliver one; None, or in words why not."""
        import urllib3

        body = json.dumps(asdict(alert)).encode()
        # Everything but a success is a failure: a redirect would turn the POST into something else.
        retries = urllib3.Retry(
            total=self.retries,
            redirect=False,
            status_forcelist=range(500, 600),
            allowed_methods=None,
            backoff_factor=0.5,
            raise_on_status=False,
        )
        headers = {
            "Content-Type": "application/json",
            SIGNATURE: sign(body, self.secret, at=int(time.time())),
        }
        with urllib3.PoolManager() as pool:
            try:
                answer = pool.request(
                    "POST",
                    self.url,
                    body=body,
                    headers=headers,
                    retries=retries,
                    timeout=urllib3.Timeout(self.timeout_s),
                )
            except urllib3.exceptions.HTTPError as error:
                return self._without_url(error)
        if 200 <= answer.status < 300:  # noqa: PLR2004 - the successes of HTTP
            return None
        return f"the webhook answered {answer.status}"

    def _without_url(self, error: Exception) -> str:
        """What is wrong; libraries quote the URL's path, which may be a secret itself."""
        reason = getattr(error, "reason", None) or error
        return f"the webhook does not answer ({type(reason).__name__})"


def sign(body: bytes, secret: str, *, at: int) -> str:
    """The value of the signature's header, for a body sent `at` so many seconds since 1970."""
    signed = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256)
    return f"t={at},v1={signed.hexdigest()}"


def verify(
    header: str, body: bytes, secret: str, *, now: float, tolerance_s: float = TOLERANCE_S
) -> bool:
    """Whether a body was signed with the secret, and not long ago.

    Args:
        header: the value of `Overnight-Signature`.
        body: as it was received.
        secret: what both sides know.
        now: seconds since 1970.
        tolerance_s: how old, or how far ahead, a signature may be, in seconds.
    """
    fields = dict(part.partition("=")[::2] for part in header.split(","))
    try:
        at = int(fields["t"])
    except (KeyError, ValueError):
        return False
    return abs(now - at) <= tolerance_s and hmac.compare_digest(
        sign(body, secret, at=at).encode(), header.encode()
    )


def put(warehouse: Warehouse, alerts: Iterable[Alert]) -> None:
    """Put alerts into the outbox, in one transaction; those that are in it already stay."""
    rows = [
        {**asdict(alert), "text": redact(alert.text)[:_LONGEST], "happened_at": alert.at}
        for alert in alerts
    ]
    for row in rows:
        del row["at"]
    if rows:
        with warehouse.begin() as connection:
            connection.execute(insert(tables.alerts).on_conflict_do_nothing(), rows)


@dataclass(frozen=True, slots=True)
class Delivered:
    """What came of a delivery: how many were sent, how many wait, and why."""

    sent: int
    waiting: int
    error: str | None = None


def deliver(
    warehouse: Warehouse, webhook: Webhook, *, in_time: Callable[[], bool] = lambda: True
) -> Delivered:
    """Send what waits in the outbox, the oldest first; stops at the first that fails.

    Args:
        warehouse: where the outbox is.
        webhook: where to.
        in_time: whether there is time for another.
    """
    c = tables.alerts.c
    waits = sa.select(tables.alerts).where(c.sent_at.is_(None)).order_by(c.created_at, c.id)
    with warehouse.connect() as connection:
        rows = connection.execute(waits.limit(_AT_ONCE)).mappings().all()
    sent, error = 0, None
    for row in rows:
        if error is not None or not in_time():
            break
        alert = Alert(
            id=row["id"],
            kind=row["kind"],
            at=row["happened_at"],
            job=row["job"],
            partition=row["partition"],
            text=row["text"],
        )
        error = webhook.send(alert)
        sent += error is None
        outcome = {"sent_at": sa.func.now()} if error is None else {"last_error": error}
        with warehouse.begin() as connection:
            connection.execute(
                sa.update(tables.alerts)
                .where(c.id == alert.id)
                .values(tries=c.tries + 1, **outcome)
            )
    with warehouse.connect() as connection:
        count = sa.select(sa.func.count()).where(c.sent_at.is_(None))
        return Delivered(sent, connection.execute(count).scalar_one(), error)
