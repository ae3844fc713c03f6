"""Asking a cloud's metadata service: no proxy, no redirect, little time and little memory.

Whatever answers at that address is not trusted: it can only make a look fail.
"""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from overnight.errors import ConfigError
from overnight.spot.types import NoticeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from _typeshed import WriteableBuffer

REQUEST_TIMEOUT_S = 1.0
"""One request, from connecting to the last byte of the answer."""
LOOK_TIMEOUT_S = 3.0
"""All requests of one look."""
_MOST_BYTES = 16 * 1024
_OK, _REDIRECTS = 200, range(300, 400)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a metadata service answers, over plain HTTP."""

    host: str
    port: int = 80

    @classmethod
    def parse(cls, text: str, *, variable: str) -> Endpoint:
        """Read `http://host[:port][/]`, or without the scheme where the cloud leaves it out.

        Raises:
            ConfigError: if it is anything else; names the `variable` that it comes from.
        """
        try:
            url = urlsplit(text if "://" in text else f"http://{text}")
            host, port = url.hostname, 80 if url.port is None else url.port
        except ValueError:
            host, port, url = None, 0, urlsplit("")
        plain = url.username is None and url.password is None and not (url.query or url.fragment)
        if not (host and port and plain and url.scheme == "http" and url.path in ("", "/")):
            # The value is not repeated: it may hold a password.
            raise ConfigError(
                f"{variable} is not the address of a metadata service: "
                "it has to look like http://169.254.169.254 or http://127.0.0.1:1338"
            )
        if not host.isascii() or any(letter.isspace() for letter in host):
            raise ConfigError(f"{variable} names a host that cannot exist")
        return cls(host, port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}" if self.port == 80 else f"http://{host}:{self.port}"  # noqa: PLR2004


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete answer: its status, its body, and its headers by lower-case name."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def found(self) -> bool:
        """Whether the service has what was asked for."""
        return self.status == _OK


def ask(endpoint: Endpoint, method: str, path: str, headers: Mapping[str, str]) -> Answer:
    """One request; returns after at most `REQUEST_TIMEOUT_S`.

    Raises:
        NoticeError: if there is no answer, or one that is too long or points elsewhere.
    """
    connection = _Connection(endpoint, time.monotonic() + REQUEST_TIMEOUT_S)
    try:
        connection.request(method, path, headers=dict(headers))
        response = connection.getresponse()
        body = response.read(_MOST_BYTES + 1)
    except TimeoutError as error:
        raise NoticeError(f"{endpoint} did not answer within {REQUEST_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise NoticeError(f"{endpoint} cannot be reached: {error.strerror or error}") from error
    except (http.client.HTTPException, ValueError) as error:
        what = type(error).__name__
        raise NoticeError(f"{endpoint} does not answer as a web server does ({what})") from error
    finally:
        connection.close()
    if response.status in _REDIRECTS:
        raise NoticeError(
            f"{endpoint} redirects {path} (HTTP {response.status}), which no metadata service "
            "does; redirects are not followed"
        )
    if len(body) > _MOST_BYTES:
        raise NoticeError(f"{endpoint} answers {path} with more than {_MOST_BYTES} bytes")
    return Answer(
        response.status, body, {name.lower(): value for name, value in response.getheaders()}
    )


class _Connection(http.client.HTTPConnection):
    """A connection whose every wait ends at `until` (monotonic seconds), however slow the drip."""

    def __init__(self, endpoint: Endpoint, until: float) -> None:
        super().__init__(endpoint.host, endpoint.port, timeout=REQUEST_TIMEOUT_S)
        self._until = until

    def connect(self) -> None:
        super().connect()
        # Without the detour, the timeout would count anew for every byte that arrives.
        self.sock = _BoundedSocket(self.sock.detach(), self._until)


class _BoundedSocket(socket.socket):
    def __init__(self, fileno: int, until: float) -> None:
        super().__init__(fileno=fileno)
        self._until = until
        self.settimeout(REQUEST_TIMEOUT_S)

    def recv_into(self, buffer: WriteableBuffer, nbytes: int = 0, flags: int = 0) -> int:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self.settimeout(left)
        return super().recv_into(buffer, nbytes, flags)
