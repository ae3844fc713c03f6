"""A webhook's receiver: a real HTTP server that answers what a test tells it to."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from overnight.alerts import SIGNATURE, verify

if TYPE_CHECKING:
    from collections.abc import Iterator

KEY = "known to both"


@dataclass
class Receiver:
    """What came, and what the next answers are; 200 once `answers` is used up."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    requests: int = 0
    alerts: list[dict[str, Any]] = field(default_factory=list)
    unsigned: int = 0


@contextlib.contextmanager
def receiving(port: int = 0) -> Iterator[Receiver]:
    """A receiver on 127.0.0.1; nobody answers after the block."""
    receiver = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.requests += 1
            answer = receiver.answers.pop(0) if receiver.answers else 200
            if not verify(self.headers.get(SIGNATURE, ""), body, KEY, now=time.time()):
                receiver.unsigned += 1
            elif answer == 200:
                receiver.alerts.append(json.loads(body))
            self.send_response(answer)
            if answer == 302:
                self.send_header("Location", receiver.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing: a test's output is the test's."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hooks/very-private"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
