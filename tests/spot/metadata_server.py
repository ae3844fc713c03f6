"""A real HTTP server on 127.0.0.1 that stands in for a cloud's metadata service, good or bad."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

Misbehaviour = Literal["garbage", "hang", "drip", "redirect", "500", "flood", "no-http", "slow"]
MISBEHAVIOURS: tuple[Misbehaviour, ...] = get_args(Misbehaviour)
GARBAGE = b'\xff\xfe<html>{"action": \x00'
ELSEWHERE = "/elsewhere"


Answer = tuple[int, bytes, dict[str, str]]


class MetadataServer:
    """Counts what it is asked; a subclass says what it answers.

    Everything can be changed while it runs. `requests` counts `METHOD path`.
    """

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()
        self.garbage = GARBAGE
        self._lock = threading.Lock()
        self._misbehaviours: dict[str, Misbehaviour] = {}
        self._wake = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.serve(self)

            do_PUT = do_GET  # noqa: N815 - the name the server looks for

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._wake.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def misbehave(self, how: Misbehaviour | None, *, path: str = "/") -> None:
        """From now on, for every path that starts with `path`; None: behave again."""
        with self._lock:
            self._misbehaviours = {} if how is None else {path: how}
            # Whoever hangs is let go.
            self._wake.set()
            self._wake = threading.Event()

    def asked(self, path: str) -> int:
        """How many requests there were to paths that start so."""
        with self._lock:
            return sum(
                count
                for line, count in self.requests.items()
                if line.partition(" ")[2].startswith(path)
            )

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        """Status, body, headers."""
        raise NotImplementedError

    def serve(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        with self._lock:
            self.requests[f"{handler.command} {handler.path}"] += 1
            how = self._misbehaviour(handler.path)
            wake = self._wake
            answer = self.answer(handler.command, handler.path, handler.headers)
        # Whoever asks need not wait for the end.
        with contextlib.suppress(OSError):
            if how in ("hang", "drip", "flood", "no-http"):
                _answer_badly(handler, how, wake)
            else:
                _send(handler, *self._bent(answer, how, wake))

    def _misbehaviour(self, asked: str) -> Misbehaviour | None:
        for path, how in self._misbehaviours.items():
            if asked.startswith(path) and asked != ELSEWHERE:
                return how
        return None

    def _bent(self, answer: Answer, how: Misbehaviour | None, wake: threading.Event) -> Answer:
        if how == "slow":
            wake.wait(0.2)
        if how == "500":
            return 500, b"oh", {}
        if how == "redirect":
            return 302, b"", {"Location": self.url + ELSEWHERE}
        if how == "garbage":
            return 200, self.garbage, {}
        return answer


def _answer_badly(
    handler: BaseHTTPRequestHandler, how: Misbehaviour | None, wake: threading.Event
) -> None:
    if how == "hang":
        wake.wait(60)
    elif how == "drip":
        # Every single byte arrives in good time.
        handler.wfile.write(b"HTTP/1.0 200 OK\r\nx: ")
        while not wake.wait(0.1):
            handler.wfile.write(b"y")
    elif how == "flood":
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\n")
        while not wake.is_set():
            handler.wfile.write(b" " * 65_536)
    else:
        handler.wfile.write(b"220 mail ready\r\n" * 3)


def _send(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]
) -> None:
    handler.send_response(status)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
