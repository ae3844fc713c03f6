"""OpenTelemetry traces of a partition's way: a span for the run, one for each of its phases.

They are sent by OTLP over HTTP if an endpoint is named by OpenTelemetry's own variables; without
one, nothing of it is imported. A collector that does not answer costs `FLUSH_S` at most, and
never the run.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
FLUSH_S = 3.0

__all__ = ["ENDPOINTS", "FLUSH_S", "Trace", "traced"]


class Trace(Protocol):
    """The trace of one run of a partition."""

    def span(self, phase: str) -> AbstractContextManager[object]:
        """A phase's span, for a `with` block; an error in the block is the span's."""

    def tell(self, **attributes: float | str) -> None:
        """Say more of the run: attributes of its own span, named `overnight.<name>`."""


class _Nothing:
    def span(self, phase: str) -> AbstractContextManager[object]:  # noqa: ARG002 - as declared
        return contextlib.nullcontext()

    def tell(self, **attributes: float | str) -> None:
        """Nobody listens."""


class _Spans:
    def __init__(self, tracer: Any, root: Any) -> None:
        self._tracer = tracer
        self._root = root

    def span(self, phase: str) -> AbstractContextManager[object]:
        found: AbstractContextManager[object] = self._tracer.start_as_current_span(phase)
        return found

    def tell(self, **attributes: float | str) -> None:
        self._root.set_attributes(_named(attributes))


@contextlib.contextmanager
def traced(*, job: str, partition: str, run_id: str) -> Iterator[Trace]:
    """Trace what happens in the block, if somebody listens.

    Args:
        job: the inference job.
        partition: of the job.
        run_id: the orchestrator's run.
    """
    if not any(os.environ.get(name) for name in ENDPOINTS):
        yield _Nothing()
        return
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or "overnight"})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    # The exporter tries again until its timeout, and so does the end of the process.
    exporter = OTLPSpanExporter(timeout=FLUSH_S)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    tracer = provider.get_tracer("overnight")
    about = {"job": job, "partition": partition, "run_id": run_id}
    try:
        with tracer.start_as_current_span("partition", attributes=_named(about)) as root:
            yield _Spans(tracer, root)
    finally:
        provider.force_flush(int(1000 * FLUSH_S))
        provider.shutdown()


def _named(attributes: dict[str, Any]) -> dict[str, Any]:
    return {f"overnight.{name}": value for name, value in attributes.items()}
