"""Notices of EC2, from the instance metadata service, version 2 only.

A session token is asked for with PUT and sent with every GET. `spot/instance-action` is not
found until an interruption is decided, then holds what happens to the instance, and when (two
minutes ahead at best); `events/recommendations/rebalance` often warns many minutes earlier.
Both are best effort.
Source: Amazon EC2 user guide, "Spot Instance interruption notices" and "Rebalance
recommendations".
"""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from overnight.spot.metadata import LOOK_TIMEOUT_S, Endpoint, ask
from overnight.spot.types import Look, Notice, NoticeError, unix_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from overnight.spot.metadata import Answer

ADDRESS = Endpoint("169.254.169.254")
TOKEN_TTL_S = 21_600
_TOKEN_PATH = "/latest/api/token"  # noqa: S105 - a path
_TTL_HEADER = "x-aws-ec2-metadata-token-ttl-seconds"
_ACTIONS = ("terminate", "stop", "hibernate")
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404


class Ec2:
    """The notices of one instance.

    Args:
        endpoint: where its metadata service answers.
        clock: Unix seconds.
        monotonic: seconds that only grow; a token's age is measured in them.
    """

    name = "ec2"

    def __init__(
        self,
        endpoint: Endpoint = ADDRESS,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._endpoint = endpoint
        self._clock = clock
        self._monotonic = monotonic
        self._token: tuple[str, float] | None = None
        self._life_cycle: str | None = None

    def look(self) -> Look:
        """All that the instance is told now; takes a few seconds at most."""
        until = time.monotonic() + LOOK_TIMEOUT_S
        notices: list[Notice] = []
        errors: list[str] = []
        for read in (self._interruption, self._rebalance, self._read_life_cycle):
            try:
                notices += read()
            except NoticeError as error:
                errors.append(str(error))
            if self._token is None or time.monotonic() > until:
                break
        idle = None
        if self._life_cycle not in (None, "spot"):
            idle = f"an {self._life_cycle} instance of EC2 gets no interruption notices"
        return Look(tuple(notices), "; ".join(dict.fromkeys(errors)) or None, idle)

    def _interruption(self) -> list[Notice]:
        path = "/latest/meta-data/spot/instance-action"
        answer = self._get(path)
        if answer is None:
            return []
        told = _object(answer.body, path)
        action, deadline = told.get("action"), _time(told, "time", path)
        if action not in _ACTIONS:
            raise NoticeError(f"{path} names none of the actions {', '.join(_ACTIONS)}")
        detail = f"EC2 will {action} this instance at {_zulu(deadline)}"
        return [Notice("interruption", "ec2", deadline, self._clock(), detail)]

    def _rebalance(self) -> list[Notice]:
        path = "/latest/meta-data/events/recommendations/rebalance"
        answer = self._get(path)
        if answer is None:
            return []
        since = _time(_object(answer.body, path), "noticeTime", path)
        detail = f"since {_zulu(since)} EC2 expects to interrupt this instance"
        return [Notice("rebalance", "ec2", None, self._clock(), detail)]

    def _read_life_cycle(self) -> list[Notice]:
        """Once it is known it stays: an instance is bought as spot or it is not."""
        if self._life_cycle is None:
            path = "/latest/meta-data/instance-life-cycle"
            answer = self._get(path)
            if answer is not None:
                if not re.fullmatch(rb"[a-z-]{1,32}", answer.body.strip()):
                    raise NoticeError(f"{path} names no life cycle")
                self._life_cycle = answer.body.strip().decode()
        return []

    def _get(self, path: str) -> Answer | None:
        """None if there is nothing at `path`."""
        answer = self._send(path)
        if answer.status == _UNAUTHORIZED:
            self._token = None
            answer = self._send(path)
        if answer.status == _NOT_FOUND:
            return None
        if answer.status != _OK:
            raise NoticeError(f"{self._endpoint}{path} answered HTTP {answer.status}")
        return answer

    def _send(self, path: str) -> Answer:
        if self._token is None or self._monotonic() >= self._token[1]:
            self._token = None
            self._token = self._new_token()
        return ask(self._endpoint, "GET", path, {"X-aws-ec2-metadata-token": self._token[0]})

    def _new_token(self) -> tuple[str, float]:
        now = self._monotonic()
        try:
            answer = ask(self._endpoint, "PUT", _TOKEN_PATH, {_TTL_HEADER: str(TOKEN_TTL_S)})
        except NoticeError as error:
            if not isinstance(error.__cause__, TimeoutError):
                raise
            raise NoticeError(
                f"{error}; for a container the instance's HttpPutResponseHopLimit has to be 2"
            ) from error
        if answer.status != _OK:
            raise NoticeError(f"{self._endpoint} gives no session token: HTTP {answer.status}")
        if not re.fullmatch(rb"[!-~]{1,1024}", answer.body):
            raise NoticeError(f"{self._endpoint} gives something that is no session token")
        life = answer.headers.get(_TTL_HEADER, "")
        ttl = int(life) if re.fullmatch("[0-9]{1,6}", life) else TOKEN_TTL_S
        # Renewed early, so that none expires on its way.
        return answer.body.decode(), now + 0.9 * min(ttl, TOKEN_TTL_S)


def _object(body: bytes, path: str) -> dict[str, Any]:
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise NoticeError(f"{path} holds no JSON object")
    return told


def _time(told: dict[str, Any], name: str, path: str) -> float:
    try:
        return unix_time(told.get(name))
    except ValueError as error:
        raise NoticeError(f"{path} has no time with a zone in `{name}`") from error


def _zulu(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
