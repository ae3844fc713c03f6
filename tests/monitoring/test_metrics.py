"""The metrics endpoint, scraped as Prometheus does."""

from __future__ import annotations

import json
import re
import socket
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import pytest
import sqlalchemy as sa
from prometheus_client.parser import text_string_to_metric_families

from overnight.errors import ConfigError
from overnight.lineage import live, record, repairs
from overnight.monitoring.endpoint import WarehouseCollector, serving
from overnight.monitoring.totals import BOUNDS
from overnight.run import run_partition
from overnight.warehouse.connect import Warehouse
from overnight.workers.progress import Histogram, PoolProgress
from tests.support import shop
from tests.support.shop import DAY, line, reversing, write_lines
from tests.warehouse.helpers import forget_lineage, new_table, start

if TYPE_CHECKING:
    from collections.abc import Iterator

DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "overnight.json"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Samples:
    with urllib.request.urlopen(url, timeout=20) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in families
            for sample in family.samples
        }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


@pytest.fixture
def endpoint(warehouse: Warehouse, tmp_path: Path) -> Iterator[str]:
    with warehouse.begin() as connection:
        connection.exec_driver_sql("DROP TABLE IF EXISTS published.reversed_lines")
        forget_lineage(connection)
    url = warehouse.url(hide_password=False)
    collector = WarehouseCollector(home=tmp_path, url=url, cache_s=0)
    with serving(collector, host="127.0.0.1", port=0) as address:
        yield address


@pytest.mark.usefixtures("ray_head")
def test_counters_say_what_lineage_says(endpoint: str, warehouse: Warehouse, home: Path) -> None:
    job = "reversed_lines"
    write_lines(home, [*map(line, range(40)), '{"line_id": "bad"}', line(77, "!fail on purpose")])
    house = shop.house(warehouse, home)
    run_partition(reversing(), DAY, run_id="r", house=house)
    first = scrape(endpoint)
    assert of(first, "overnight_up") == 1
    for name, value in {
        "rows_inferred_total": 41, "rows_published_total": 40, "rows_reused_total": 0,
        "rows_rejected_total": 1, "rows_dead_lettered_total": 1, "publications_total": 1,
        "open_dead_letters": 1, "interruptions_total": 0,
    }.items():  # fmt: skip
        assert of(first, f"overnight_{name}", job=job) == value, name
    assert of(first, "overnight_attempts_total", job=job, outcome="published") == 1
    with warehouse.connect() as connection:
        query = "SELECT sum(useful_gpu_s), sum(machine_s) FROM lineage.ledger"
        useful, machine_s = connection.execute(sa.text(query)).one()
    assert of(first, "overnight_gpu_seconds_total", job=job, kind="useful") == pytest.approx(useful)
    assert of(first, "overnight_machine_seconds_total", job=job) == pytest.approx(machine_s)

    with warehouse.connect() as connection:
        query = (
            "SELECT partition_key, key, input_hash, inferred_attempt "
            "FROM lineage.current_dead_letters"
        )
        dead = pl.DataFrame([dict(row) for row in connection.execute(sa.text(query)).mappings()])
    repairs.decide(warehouse, "drop", job=job, dead_letters=dead)
    run_partition(reversing(), DAY, run_id="r2", house=house)
    second = scrape(endpoint)
    assert of(second, "overnight_open_dead_letters", job=job) == 0
    assert of(second, "overnight_rows_inferred_total", job=job) == 41
    assert of(second, "overnight_rows_reused_total", job=job) == 41
    counters = [key for key in first if key[0].endswith(("_total", "_bucket", "_count", "_sum"))]
    assert all(second[key] >= first[key] for key in counters), "a counter went backwards"


def test_times_to_first_token_are_a_histogram(endpoint: str, warehouse: Warehouse) -> None:
    attempt = start(warehouse, new_table(warehouse))
    seconds = (0.02, 0.02, 0.4, 7.0)
    bins = Histogram.of(seconds).counts
    with warehouse.begin() as connection:
        statement = sa.text(
            "INSERT INTO lineage.runs (attempt, run_id, job, partition_key, table_name, "
            "fingerprint, output_version, rows_in, published, rejected, dead_lettered, "
            "inferred, reused, ttft) "
            "SELECT attempt, run_id, job, partition_key, table_name, fingerprint, output_version, "
            "4, 4, 0, 0, 4, 0, CAST(:ttft AS jsonb) FROM lineage.attempts WHERE attempt = :attempt"
        )
        told = json.dumps({"bins": list(bins), "sum": sum(seconds)})
        connection.execute(statement, {"ttft": told, "attempt": attempt.attempt})
    record.finish_attempt(warehouse, attempt, outcome="published")
    samples = scrape(endpoint)
    assert of(samples, "overnight_ttft_seconds_count", job=attempt.job) == 4
    assert of(samples, "overnight_ttft_seconds_sum", job=attempt.job) == pytest.approx(7.44)
    buckets = {bound: of(samples, "overnight_ttft_seconds_bucket", job=attempt.job, le=bound)
               for bound in BOUNDS}  # fmt: skip
    for bound, count in buckets.items():
        assert count == sum(second <= float(bound) for second in seconds), bound


def test_what_runs_now_is_told_until_it_ends(endpoint: str, warehouse: Warehouse) -> None:
    attempt = start(warehouse, new_table(warehouse))
    now = iter((0.0, 100.0, 100.0))
    tell = live.Teller(warehouse, attempt, lambda: next(now))
    tell(PoolProgress(
        seconds=10.0, rows=20, total=100, prompt_tokens=200, output_tokens=20, in_flight=4,
        workers=1, lost=0, waiting=6,
        gauges={"running": 4.0, "kv_cache_usage": 0.25, "draft_acceptance": 0.75},
    ))  # fmt: skip
    labels = {"job": attempt.job, "partition": attempt.partition_key}
    samples = scrape(endpoint)
    assert of(samples, "overnight_running_attempts", job=attempt.job) == 1
    for name, value in {
        "rows_done": 20, "rows_planned": 100, "rows_per_second": 2, "in_flight_rows": 4,
        "kv_cache_usage_ratio": 0.25, "draft_acceptance_ratio": 0.75, "eta_seconds": 40,
    }.items():  # fmt: skip
        assert of(samples, f"overnight_running_{name}", **labels) == value, name
    record.finish_attempt(warehouse, attempt, outcome="failed", error=ValueError("no"))
    after = scrape(endpoint)
    assert of(after, "overnight_attempts_total", job=attempt.job, outcome="failed") == 1
    assert not [name for name, _ in after if name == "overnight_running_rows_done"]


def test_a_warehouse_that_is_down_is_told_and_comes_back(home: Path, tmp_path: Path) -> None:
    with Warehouse.open(home=home) as warehouse:
        url = warehouse.url(hide_password=False)
        collector = WarehouseCollector(home=tmp_path, url=url, cache_s=0)
        with serving(collector, host="127.0.0.1", port=0) as address:
            assert of(scrape(address), "overnight_up") == 1
            warehouse.close()
            assert scrape(address) == {("overnight_up", ()): 0.0}
            with Warehouse.open(home=home):
                assert of(scrape(address), "overnight_up") == 1


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        collector = WarehouseCollector(home=tmp_path)
        with (
            pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}"),
            serving(collector, host="127.0.0.1", port=port),
        ):
            pass


def test_the_dashboard_asks_for_metrics_that_exist(endpoint: str, warehouse: Warehouse) -> None:
    attempt = start(warehouse, new_table(warehouse))
    record.finish_attempt(warehouse, attempt, outcome="failed")
    with urllib.request.urlopen(endpoint, timeout=20) as answer:
        told = set(re.findall(r"^# TYPE (\S+)", answer.read().decode(), flags=re.MULTILINE))
    dashboard = json.loads(DASHBOARD.read_text())
    asked = set()
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        for target in panel["targets"]:
            asked |= set(re.findall(r"overnight_\w+", target["expr"]))
    assert len(asked) >= 10
    assert {re.sub(r"_bucket$", "", name) for name in asked} <= told
