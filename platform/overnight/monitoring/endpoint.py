"""The endpoint that Prometheus scrapes: it reads the warehouse when it is asked, and not else."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from overnight.errors import ConfigError, OvernightError
from overnight.monitoring.now import now
from overnight.monitoring.totals import totals
from overnight.warehouse.connect import Warehouse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from prometheus_client.core import Metric

__all__ = ["WarehouseCollector", "serving"]

CACHE_S = 5.0
# Prometheus gives up after 10 s.
CONNECT_S = 2.0
_STATEMENT_MS = 5000

_log = logging.getLogger(__name__)


class WarehouseCollector(Collector):
    """Metrics of a warehouse; one that does not answer is told by `overnight_up 0`.

    Args:
        home: see `Warehouse.open`; the embedded server runs as long as it is asked.
        url: likewise.
        cache_s: seconds for which an answer is good.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        home: Path,
        url: str | None = None,
        cache_s: float = CACHE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._home = home
        self._url = url
        self._cache_s = cache_s
        self._clock = clock
        self._lock = threading.Lock()
        self._warehouse: Warehouse | None = None
        self._seen: Sequence[Metric] = ()
        self._seen_at: float | None = None

    def collect(self) -> Sequence[Metric]:
        """All metrics; of scrapes at the same time, one asks the warehouse."""
        with self._lock:
            at = self._clock()
            if self._seen_at is None or at - self._seen_at >= self._cache_s:
                self._seen, self._seen_at = self._ask(), at
            return self._seen

    def describe(self) -> Sequence[Metric]:
        """Nothing: to be registered needs no warehouse."""
        return []

    def close(self) -> None:
        """Leave the warehouse."""
        with self._lock:
            if self._warehouse is not None:
                self._warehouse.close()
                self._warehouse = None

    def _ask(self) -> Sequence[Metric]:
        up = GaugeMetricFamily("overnight_up", "Whether the warehouse answers: 1 or 0")
        try:
            found = self._read()
        except OvernightError as error:
            _log.warning("no metrics: %s", error)
            up.add_metric([], 0)
            return [up]
        up.add_metric([], 1)
        return [up, *found]

    def _read(self) -> list[Metric]:
        if self._warehouse is None:
            self._warehouse = Warehouse.open(
                home=self._home, url=self._url, connect_timeout_s=CONNECT_S
            )
        with self._warehouse.connect() as connection:
            # All figures are of the same moment, and no reader is a burden for long.
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.exec_driver_sql(f"SET LOCAL statement_timeout = {_STATEMENT_MS}")
            return [*totals(connection), *now(connection)]


@contextlib.contextmanager
def serving(collector: WarehouseCollector, *, host: str, port: int) -> Iterator[str]:
    """Answer scrapes while in the block; gives the URL.

    Args:
        collector: what is asked; it is closed at the end.
        host: the address to listen on.
        port: the TCP port; 0 for one that is free.

    Raises:
        ConfigError: if nothing can listen there.
    """
    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, thread = start_http_server(port, addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error.strerror or error}; choose another with "
            "--host and --port"
        ) from error
    try:
        shown = f"[{host}]" if ":" in host else host
        yield f"http://{shown}:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        collector.close()
