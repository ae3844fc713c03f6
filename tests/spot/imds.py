"""EC2's instance metadata service, version 2, for tests: notices come and go as they say."""

from __future__ import annotations

import itertools
import json
import time
from typing import TYPE_CHECKING

from tests.spot.metadata_server import MetadataServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.spot.metadata_server import Answer

TOKEN = "/latest/api/token"
ACTION = "/latest/meta-data/spot/instance-action"
REBALANCE = "/latest/meta-data/events/recommendations/rebalance"
LIFE_CYCLE = "/latest/meta-data/instance-life-cycle"
_TTL = "x-aws-ec2-metadata-token-ttl-seconds"
_LONGEST_TTL = 21_600


def zulu(time_s: float) -> str:
    """A time as EC2 writes it, in whole seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time_s))


class Imds(MetadataServer):
    """`with Imds() as imds:`, then `imds.interrupt(...)`; `imds.url` is its endpoint."""

    def __init__(self, *, life_cycle: str | None = "spot") -> None:
        super().__init__()
        self.life_cycle = life_cycle
        self.says_ttl = True
        self._tokens: dict[str, float] = {}
        self._numbers = itertools.count()
        self._longest_ttl = _LONGEST_TTL
        self._told: dict[str, bytes] = {}

    def interrupt(self, *, at: float | str, action: str = "terminate") -> None:
        """Decide an interruption at a fixed time: Unix seconds, or text that is told as it is."""
        when = at if isinstance(at, str) else zulu(at)
        self.tell(ACTION, json.dumps({"action": action, "time": when}).encode())

    def recommend_rebalance(self, *, since: float | str) -> None:
        when = since if isinstance(since, str) else zulu(since)
        self.tell(REBALANCE, json.dumps({"noticeTime": when}).encode())

    def tell(self, path: str, body: bytes | None) -> None:
        """Hold `body` at `path`; None: nothing is there any more."""
        with self._lock:
            if body is None:
                self._told.pop(path, None)
            else:
                self._told[path] = body

    def expire_tokens(self, *, longest_ttl: int = _LONGEST_TTL) -> None:
        """No token given so far is good any more; those to come live so many seconds at most."""
        with self._lock:
            self._tokens.clear()
            self._longest_ttl = longest_ttl

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        if path == TOKEN:
            return self._new_token(headers) if method == "PUT" else (405, b"", {})
        token = headers.get("x-aws-ec2-metadata-token", "")
        if self._tokens.get(token, 0) <= time.monotonic():
            return 401, b"", {}
        if path == LIFE_CYCLE and self.life_cycle is not None:
            return 200, self.life_cycle.encode(), {}
        if path in self._told:
            return 200, self._told[path], {}
        return 404, b"", {}

    def _new_token(self, headers: Mapping[str, str]) -> Answer:
        asked = headers.get(_TTL, "")
        if not (asked.isdecimal() and 1 <= int(asked) <= _LONGEST_TTL):
            return 400, b"", {}
        ttl = min(int(asked), self._longest_ttl)
        token = f"AQAEA-session-token-{next(self._numbers)}=="
        self._tokens[token] = time.monotonic() + ttl
        return 200, token.encode(), {_TTL: str(ttl)} if self.says_ttl else {}
