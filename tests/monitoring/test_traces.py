"""Traces of a partition's way, received as an OpenTelemetry collector does."""

from __future__ import annotations

import gzip
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from overnight.errors import TooManyRejectsError
from overnight.monitoring.traces import ENDPOINTS
from overnight.run import run_partition
from tests.support import shop
from tests.support.shop import DAY, line, reversing, write_lines
from tests.warehouse.helpers import forget_lineage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.warehouse.connect import Warehouse

pytestmark = pytest.mark.usefixtures("ray_head")


@dataclass
class Collector:
    """A collector of traces on 127.0.0.1."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            request = ExportTraceServiceRequest.FromString(body)
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    found.spans += scope.spans
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def fresh_table(warehouse: Warehouse) -> None:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.reversed_lines")
        forget_lineage(connection)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_each_phase_is_a_span_of_the_run(
    collector: Collector, warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS[1], collector.url)
    write_lines(home, map(line, range(20)))
    report = run_partition(reversing(), DAY, run_id="the-run", house=shop.house(warehouse, home))
    root = collector.named("partition")
    for phase in ("plan", "infer", "stage", "audit", "publish"):
        span = collector.named(phase)
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
        took = (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9
        assert took == pytest.approx(report.seconds[phase], abs=0.05)
    assert attributes(root) == {
        "overnight.job": "reversed_lines", "overnight.partition": DAY,
        "overnight.run_id": "the-run", "overnight.attempt": report.attempt,
        "overnight.rows_in": 20, "overnight.inferred": 20, "overnight.rows": 20,
    }  # fmt: skip


def test_a_failure_is_its_phase_s(
    collector: Collector, warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENDPOINTS[0], f"{collector.url}/v1/traces")
    write_lines(home, ["{broken"] * 5)
    with pytest.raises(TooManyRejectsError):
        run_partition(reversing(), DAY, run_id="r", house=shop.house(warehouse, home))
    plan = collector.named("plan")
    assert plan.status.code == Status.STATUS_CODE_ERROR
    assert [event.name for event in plan.events] == ["exception"]
    assert collector.named("partition").status.code == Status.STATUS_CODE_ERROR


def test_a_collector_that_is_gone_fails_no_run(
    collector: Collector, warehouse: Warehouse, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        nobody = f"http://127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv(ENDPOINTS[1], nobody)
    write_lines(home, map(line, range(3)))
    report = run_partition(reversing(), DAY, run_id="r", house=shop.house(warehouse, home))
    assert report.published == 3
    assert collector.spans == []


def test_nothing_of_it_is_imported_where_nobody_listens() -> None:
    code = (
        "import sys, overnight.run, overnight.monitoring.traces as t\n"
        "with t.traced(job='j', partition='p', run_id='r') as trace, trace.span('plan'):\n"
        "    trace.tell(rows=1)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
