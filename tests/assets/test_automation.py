"""When Dagster refreshes the embeddings by itself, decided by its own evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from assets.definitions import build_definitions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMBEDDINGS = dg.AssetKey("document_embeddings")
MODEL = dg.AssetKey("embedding_model")


@dg.asset_check(asset=MODEL, blocking=True)
def model_is_licensed() -> dg.AssetCheckResult:
    """A check that somebody may add to what the embeddings depend on."""
    return dg.AssetCheckResult(passed=True)


class Daemon:
    """Dagster's automation, tick by tick."""

    def __init__(self, *checks: Any) -> None:
        self.definitions = dg.Definitions.merge(
            build_definitions(), dg.Definitions(asset_checks=checks)
        )
        self.instance = dg.DagsterInstance.ephemeral()
        days = self.definitions.resolve_asset_graph().get(dg.AssetKey("documents")).partitions_def
        assert days is not None
        self.days = days.get_partition_keys()
        self._cursor: Any = None
        assert not self.refreshes(), "there is nothing yet"

    def refreshes(self) -> bool:
        """Whether the next tick asks for a refresh, and none after it does."""
        asked = self._tick()
        assert not self._tick(), "once is enough"
        return asked

    def _tick(self) -> bool:
        result = dg.evaluate_automation_conditions(
            self.definitions,
            self.instance,
            asset_selection=dg.AssetSelection.assets(EMBEDDINGS),
            cursor=self._cursor,
        )
        self._cursor = result.cursor
        return result.total_requested == 1

    def observe(self, asset: dg.AssetKey, version: str, partition: str | None = None) -> None:
        tags = {"dagster/data_version": version}
        self.instance.report_runless_asset_event(
            dg.AssetObservation(asset, partition=partition, tags=tags)
        )

    def land(self, ago: int, version: str = "v1") -> None:
        self.observe(dg.AssetKey("documents"), version, self.days[-1 - ago])

    def check(self, *, passed: bool) -> None:
        self.instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(MODEL, "model_is_licensed", passed=passed, metadata={})
        )


@pytest.fixture
def daemon(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    made = Daemon()
    with made.instance:
        yield made


@pytest.fixture
def checked(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Daemon]:
    """The same, where a dependency has a blocking check."""
    monkeypatch.setenv("OVERNIGHT_HOME", str(home))
    made = Daemon(model_is_licensed)
    with made.instance:
        yield made


def test_documents_that_land_are_embedded_though_other_days_have_none(daemon: Daemon) -> None:
    daemon.observe(MODEL, "m1")
    daemon.land(5)
    assert daemon.refreshes()
    daemon.land(2)
    assert daemon.refreshes()
    daemon.land(5, "v2")
    assert daemon.refreshes(), "an old day that changed counts as well"


def test_another_model_is_a_reason_too(daemon: Daemon) -> None:
    daemon.observe(MODEL, "m1")
    daemon.land(0)
    assert daemon.refreshes()
    daemon.observe(MODEL, "m2")
    assert daemon.refreshes()


def test_nothing_is_embedded_before_blocking_checks_of_what_it_is_made_from_have_passed(
    checked: Daemon,
) -> None:
    checked.observe(MODEL, "m1")
    checked.land(0)
    assert not checked.refreshes(), "nobody has checked yet"
    checked.check(passed=False)
    assert not checked.refreshes()
    checked.check(passed=True)
    assert checked.refreshes()


def test_documents_that_land_are_told_by_the_sensor_and_embedded_once(
    daemon: Daemon, home: Path
) -> None:
    daemon.observe(MODEL, "m1")
    folder = home / "store" / "landing" / "documents" / daemon.days[-1]
    folder.mkdir(parents=True)
    (folder / "changes.jsonl").touch()
    (folder / "_SUCCESS").touch()
    sensor = daemon.definitions.resolve_sensor_def("documents_landing")
    resources: Any = daemon.definitions.resources

    def tick(cursor: str | None) -> Any:
        with dg.build_sensor_context(
            instance=daemon.instance,
            cursor=cursor,
            repository_def=daemon.definitions.get_repository_def(),
            resources={"store": resources["store"]},
        ) as context:
            return sensor.evaluate_tick(context)

    told = tick(None)
    assert not told.run_requests, "the condition starts it"
    (event,) = told.asset_events
    daemon.instance.report_runless_asset_event(event)
    assert daemon.refreshes()
    assert not tick(told.cursor).asset_events
    assert not daemon.refreshes()
