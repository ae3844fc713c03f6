"""Trace files, good and bad; and what a replay counts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from overnight.errors import SourceError
from overnight.spot.deadline import DeadlinePolicy
from overnight.spot.decision import Decision, OneMarket
from overnight.spot.replay import Market, Task, least_cost, replay
from overnight.spot.traces import Trace, pools, read_trace
from tests.benchmarks import bench_spot_traces
from tests.benchmarks.harness import Case

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

GOOD: dict[str, Any] = {"metadata": {"gap_seconds": 60}, "data": [1, 0, 1]}


def written(path: Path, content: Any) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def trace(values: Sequence[int], *, place: str = "a", gap_s: float = 60, **rest: Any) -> Trace:
    available = tuple(bool(value) for value in values)
    return Trace(place=place, kind="made", gap_s=gap_s, available=available, **rest)


def test_a_trace_is_read_with_its_zone_and_prices(tmp_path: Path) -> None:
    file = written(tmp_path / "us-west-2b_v100_1.json", {**GOOD, "prices": [0.9, 1, 1.1]})
    assert read_trace(file) == Trace(
        place="us-west-2b", kind="us-west-2_v100_1", gap_s=60, available=(True, False, True),
        prices=(0.9, 1.0, 1.1),
    )  # fmt: skip


def test_missing_values_count_as_no_spot_and_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = written(tmp_path / "mine.json", {**GOOD, "data": [1, None, 1, None]})
    assert read_trace(file).available == (True, False, True, False)
    assert read_trace(file).place == "mine"
    assert "2 of 4 values are missing: no spot there" in caplog.text


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("{", "cannot be read as JSON"),
        ([], "metadata.gap_seconds is None"),
        ({"data": [1]}, "metadata.gap_seconds is None"),
        ({**GOOD, "metadata": {"gap_seconds": 0}}, "gap_seconds is 0, must be above 0"),
        ({**GOOD, "metadata": {"gap_seconds": "60"}}, "gap_seconds is '60'"),
        ({**GOOD, "data": []}, "data must be a list"),
        ({**GOOD, "data": [1, 2]}, r"data\[1\] is 2, must be 0 or 1"),
        ({**GOOD, "data": [1, "0"]}, r"data\[1\] is '0'"),
        ('{"metadata": {"gap_seconds": 60}, "data": [1, NaN]}', r"data\[1\] is nan"),
        ({**GOOD, "prices": [1.0]}, "prices must be as many as data, 3, not 1"),
        ({**GOOD, "prices": [1.0, 1.0, -1]}, r"prices\[2\] is -1, must be above 0"),
        ({**GOOD, "prices": [1.0, None, 1]}, r"prices\[1\] is None"),
    ],
)
def test_what_is_no_trace_is_refused_by_file_and_place(
    tmp_path: Path, content: Any, named: str
) -> None:
    with pytest.raises(SourceError, match=named) as caught:
        read_trace(written(tmp_path / "bad.json", content))
    assert "bad.json" in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere\.json"):
        read_trace(tmp_path / "nowhere.json")


def test_only_traces_with_the_same_gap_are_pooled(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SourceError, match=r"gap_seconds are \[30, 60\]"):
        pools([trace([1]), trace([1], place="b", gap_s=30)])
    ((first, second),) = pools([trace([1, 1]), trace([0, 1, 1], place="b")])
    assert "different lengths, only the first 2 values" in caplog.text
    assert Market([first, second]).offers == [("a",), ("a", "b")]


def test_a_machine_is_paid_from_asking_and_works_after_the_changeover() -> None:
    task = Task(work_s=90, ends_s=1000, changeover_s=30, on_demand_usd=36, spot_usd=12)
    market = Market([trace([1] * 10)])
    spot = replay(market, task, 0, OneMarket(market="spot"))
    assert (spot.cost, spot.ended_s, spot.missed, spot.machines) == (
        pytest.approx(120 * 12 / 3600), 120, False, 1
    )  # fmt: skip
    only = replay(market, task, 0, OneMarket(market="on_demand"))
    assert only.cost == pytest.approx(task.on_demand_cost) == pytest.approx(1.2)
    assert least_cost(market, task, 0) == pytest.approx(spot.cost)


def test_work_before_a_loss_is_kept_and_the_next_machine_starts_anew() -> None:
    task = Task(work_s=60, ends_s=220, changeover_s=30, on_demand_usd=36, spot_usd=12)
    done = replay(Market([trace([1, 0, 0, 1, 1])]), task, 0, OneMarket(market="spot"))
    # 30 s of work in the first minute, none in the next two, 30 s from 3:30 on.
    assert (done.ended_s, done.missed, done.machines) == (240, True, 2)
    assert done.cost == pytest.approx(120 * 12 / 3600)


def test_a_trace_that_ends_first_is_a_missed_deadline() -> None:
    task = Task(work_s=600, ends_s=10_000, changeover_s=0)
    done = replay(Market([trace([1, 1])]), task, 0, OneMarket(market="spot"))
    assert (done.ended_s, done.missed) == (None, True)


def test_the_price_is_that_of_the_moment_and_the_place() -> None:
    flat = trace([1, 0, 0], prices=(36.0, 36.0, 36.0))
    market = Market([flat, trace([0, 1, 1], place="b", prices=(1.0, 72.0, 3.6))])
    task = Task(work_s=150, ends_s=1000, changeover_s=0, on_demand_usd=100)
    done = replay(market, task, 0, OneMarket(market="spot"))
    assert done.cost == pytest.approx(0.6 + 1.2 + 0.03)


def test_a_policy_that_takes_what_is_not_there_is_found_out() -> None:
    class Stubborn:
        def decide(self, now: float, **_: Any) -> Decision:
            return Decision(at=now, market="spot", place="a", rule="spot", reason="hope")

    task = Task(work_s=600, ends_s=1000, changeover_s=0)
    with pytest.raises(ValueError, match="not on offer"):
        replay(Market([trace([1, 0, 0])]), task, 0, Stubborn())


def test_several_places_cost_less_than_one() -> None:
    zones = [trace([1, 1, 0, 0] * 60, gap_s=600), trace([0, 1, 1, 1] * 60, place="b", gap_s=600)]
    task = Task(work_s=6 * 3600, ends_s=9 * 3600, changeover_s=120)
    costs = []
    for pool in (zones[:1], zones):
        by = DeadlinePolicy(started=0, ends=task.ends_s, changeover_s=120)
        done = replay(Market(pool), task, 0, by)
        assert not done.missed
        costs.append(done.cost / task.on_demand_cost)
    assert costs[1] < 0.45 < costs[0]


def test_the_benchmark_prints_its_table_for_any_folder_of_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench_spot_traces, "WORK_H", (1.0,))
    monkeypatch.setattr(bench_spot_traces, "_WORST_CASE_S", 2 * 3600)
    for zone, values in (("a", [1, 1, 0]), ("b", [0, 1, 1]), ("c", [1, 0, 1])):
        content = {"metadata": {"gap_seconds": 1800}, "data": values * 20}
        written(tmp_path / f"eu-north-1{zone}_t4.json", content)
    missed, cost = bench_spot_traces.figures(Case(model="", traces=str(tmp_path)))
    assert (missed.ratio, missed.most, cost.most) == (0, 0, 0.4)
    assert 1 / 3 < cost.ratio < 1
    printed = capsys.readouterr().out
    for name in (*bench_spot_traces.ONE_ZONE, *bench_spot_traces.ALL_ZONES, "knowing the future"):
        assert f"\n{name} " in printed


def test_the_benchmark_says_when_it_has_no_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(bench_spot_traces.VARIABLE, raising=False)
    monkeypatch.setattr(bench_spot_traces, "_USUAL", tmp_path / "none")
    assert bench_spot_traces.figures(Case(model="")) == []
    assert "name one with --traces or OVERNIGHT_SPOT_TRACES" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="is no directory"):
        bench_spot_traces.figures(Case(model="", traces=str(tmp_path / "mine")))
