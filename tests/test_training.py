"""Training a model, judging it against the one in service, putting it there or not."""

from __future__ import annotations

import datetime as dt
import os
import signal
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from overnight import crashpoints
from overnight.errors import ConfigError, ModelError, ModelInServiceError, NotLandedError
from overnight.landing import Lookback
from overnight.registry import Registry
from overnight.store import StoreConfig
from overnight.training import Trained, TrainedModel, train_model
from tests.support.shop import DAY, line, lines, write_lines

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import polars as pl

    from overnight.training import TrainingReport

NAME = "length_model"


def train(day: str, frames: Mapping[str, pl.LazyFrame]) -> Trained:
    """A model that remembers how long lines are; of the last line of all it is asked."""
    rows = frames["lines"].sort("_day", "_line").collect()
    lengths = rows["text"].str.len_chars()
    return Trained(
        files={"length.txt": str(lengths[:-1].mean()).encode()},
        features=("text",),
        first_day=str(rows["_day"].min()),
        last_day=day,
        held_out=int(lengths[-1]),
    )


def judge(model: Path, length: int) -> dict[str, float]:
    text = (model / "length.txt").read_text()
    if text == "unreadable":
        raise ModelError("length.txt holds no number")
    return {"closeness": -abs(float(text) - length), "length": float(text)}


lengths = TrainedModel(
    name=NAME,
    inputs=(Lookback(source=lines, first=-1),),
    train=train,
    judge=judge,
    metric="closeness",
    margin=0.5,
)


@pytest.fixture(autouse=True)
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path


def registry(home: Path) -> Registry:
    return Registry(StoreConfig((home / "store").as_uri()), home / "cache")


def trained(home: Path, model: TrainedModel = lengths, day: str = DAY) -> TrainingReport:
    return train_model(
        model,
        day,
        store=StoreConfig((home / "store").as_uri()),
        registry=registry(home),
        scratch=home / "scratch",
        clock=lambda: dt.datetime(2026, 11, 21, tzinfo=dt.UTC),
    )


def land(home: Path, *lengths: int, day: str = DAY) -> None:
    write_lines(home, [line(n, "x" * length) for n, length in enumerate(lengths)], day)


def test_the_first_model_goes_into_service_with_its_card(tmp_path: Path) -> None:
    land(tmp_path, 10, day="2026-11-19")
    land(tmp_path, 20, 16)
    report = trained(tmp_path)
    assert report.check.passed
    assert "none was in service" in report.check.message
    version = registry(tmp_path).in_service(NAME)
    assert version == report.version
    assert version is not None
    assert (version.fetch() / "length.txt").read_text() == "15.0"
    card = version.card
    assert (card.first_day, card.last_day, card.features) == ("2026-11-19", DAY, ("text",))
    assert card.metrics == {"closeness": -1.0, "length": 15.0}
    assert len(card.inputs) == 2
    assert all(digest.startswith("sha256:") for digest in card.inputs)
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize(("margin", "passes"), [(0.5, False), (4.0, True)])
def test_a_model_that_is_worse_does_not_replace_the_one_in_service(
    tmp_path: Path, margin: float, passes: bool
) -> None:
    land(tmp_path, 10, 10)
    first = trained(tmp_path)
    land(tmp_path, 13, 10)
    second = trained(tmp_path, replace(lengths, margin=margin))
    assert second.check.passed == passes
    # Both are judged on what was held out now.
    assert (second.metrics["closeness"], second.before_metrics["closeness"]) == (-3.0, 0.0)
    assert first.version.version in second.check.message
    now = registry(tmp_path).in_service(NAME)
    assert now == (second if passes else first).version
    assert len(registry(tmp_path).versions(NAME)) == 2


def test_a_model_that_is_good_enough_for_nobody_does_not_go_into_service(tmp_path: Path) -> None:
    land(tmp_path, 10, 10)
    report = trained(tmp_path, replace(lengths, at_least={"length": 11.0}))
    assert not report.check.passed
    assert "length is 10.0000, must be >= 11.0000" in report.check.message
    assert registry(tmp_path).in_service(NAME) is None


def test_training_again_on_the_same_changes_nothing(tmp_path: Path) -> None:
    land(tmp_path, 10, 10)
    first, second = trained(tmp_path), trained(tmp_path)
    assert first.version == second.version
    assert second.check.passed
    assert len(registry(tmp_path).versions(NAME)) == 1


@pytest.mark.parametrize("how", ["truncated", "unreadable"])
def test_a_model_in_service_that_cannot_be_judged_is_replaced(tmp_path: Path, how: str) -> None:
    land(tmp_path, 10, 10)
    first = trained(tmp_path)
    if how == "truncated":
        (tmp_path / "cache" / NAME / first.version.version / "length.txt").unlink(missing_ok=True)
        kept = tmp_path / "store" / "models" / NAME / first.version.version / "length.txt"
        kept.write_bytes(kept.read_bytes()[:1])
    else:
        other = registry(tmp_path).save(
            NAME, files={"length.txt": b"unreadable"}, card=first.version.card
        )
        registry(tmp_path).put_in_service(NAME, other, instead_of=first.version)
    land(tmp_path, 13, 10)
    second = trained(tmp_path)
    assert "cannot be judged" in second.check.message
    assert registry(tmp_path).in_service(NAME) == second.version


def test_another_model_put_in_service_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    land(tmp_path, 10, 10)
    first = trained(tmp_path)
    rival = registry(tmp_path).save(NAME, files={"length.txt": b"9"}, card=first.version.card)
    judged: list[Path] = []

    def slow(model: Path, length: int) -> dict[str, float]:
        judged.append(model)
        if len(judged) == 2:
            registry(tmp_path).put_in_service(NAME, rival, instead_of=first.version)
        return judge(model, length)

    land(tmp_path, 11, 11)
    with pytest.raises(ModelInServiceError, match=rival.version):
        trained(tmp_path, replace(lengths, judge=slow))
    assert registry(tmp_path).in_service(NAME) == rival


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotLandedError, match=f"'lines' has not landed for {DAY}"):
        trained(tmp_path)
    land(tmp_path, 10, 10)
    with pytest.raises(ConfigError, match=r"judge gives no \['auc'\]"):
        trained(tmp_path, replace(lengths, metric="auc"))
    with pytest.raises(ConfigError, match="margin is -1"):
        replace(lengths, margin=-1)
    with pytest.raises(ConfigError, match="'Length Model'"):
        replace(lengths, name="Length Model")


CHILD = """
import sys
from pathlib import Path
from tests.test_training import trained
trained(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("point", [p for p in crashpoints.registered() if "registry." in p])
def test_a_kill_while_a_model_goes_into_service_leaves_one_that_works(
    tmp_path: Path, point: str
) -> None:
    land(tmp_path, 10, 10)
    first = trained(tmp_path)
    land(tmp_path, 12, 12)
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        env={**os.environ, crashpoints.VARIABLE: f"{point}:1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    now = registry(tmp_path).in_service(NAME)
    assert now is not None
    assert (now == first.version) == (point != "registry.after_in_service")
    assert now.fetch().is_dir()
    report = trained(tmp_path)
    assert registry(tmp_path).in_service(NAME) == report.version != first.version
    assert list((tmp_path / "scratch").iterdir()) == []
