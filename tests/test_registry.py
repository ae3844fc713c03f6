"""Trained models in the store: saved once, verified when fetched, one in service."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from overnight import crashpoints
from overnight.engines.trivial import TrivialReverse
from overnight.errors import ConfigError, ModelError, ModelInServiceError
from overnight.model_version import CARD
from overnight.registry import ModelCard, Registry, RegistryRef
from overnight.store import StoreConfig
from tests.moto_server import moto_server, new_bucket
from tests.support.shop import reversing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from overnight.registry import ModelVersion

NAME = "fraud_model"
WEIGHTS = {"model.ubj": b"weights" * 1000, "scale.json": b"{}"}


def card(**changes: Any) -> ModelCard:
    settings: dict[str, Any] = {
        "first_day": "2026-11-01",
        "last_day": "2026-11-07",
        "features": ("amount", "night"),
        "metrics": {"auc_pr": 0.63},
        "inputs": ("sha256:00",),
        "created_at": dt.datetime(2026, 11, 8, tzinfo=dt.UTC),
    }
    return ModelCard(**{**settings, **changes})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def registry(root: Path, tmp_path: Path) -> Registry:
    return Registry(StoreConfig(root.as_uri()), tmp_path / "cache")


def save(registry: Registry, weights: bytes = b"other", **changes: Any) -> ModelVersion:
    return registry.save(NAME, files={"model.ubj": weights}, card=card(**changes))


def test_a_saved_model_comes_back_as_it_was(registry: Registry) -> None:
    saved = registry.save(NAME, files=WEIGHTS, card=card())
    assert registry.version(NAME, saved.version) == saved
    assert saved.card == card()
    path = saved.fetch()
    assert {file.name: file.read_bytes() for file in path.iterdir()} == WEIGHTS
    assert registry.in_service(NAME) is None
    assert saved.uri.endswith(f"/models/{NAME}/{saved.version}")


def test_saving_the_same_again_is_saving_it_once(registry: Registry) -> None:
    first = save(registry)
    later = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
    assert save(registry, created_at=later, metrics={}) == first
    assert registry.versions(NAME) == [first]


def test_other_weights_or_features_are_another_version(registry: Registry) -> None:
    first = save(registry)
    hours = range(1, 4)
    times = [first.card.created_at + dt.timedelta(hours=hour) for hour in hours]
    others = [
        save(registry, b"better", created_at=times[0]),
        save(registry, features=("night", "amount"), created_at=times[1]),
        registry.save(NAME, files={"model.json": b"other"}, card=card(created_at=times[2])),
    ]
    assert len({one.digest for one in (first, *others)}) == 4
    assert registry.versions(NAME) == [first, *others]


def test_the_newest_in_service_is_what_jobs_use(registry: Registry) -> None:
    first, second = save(registry), save(registry, b"better")
    registry.put_in_service(NAME, first)
    assert registry.in_service(NAME) == first
    registry.put_in_service(NAME, second, instead_of=first)
    assert registry.in_service(NAME) == second
    # Again, as a retried step does.
    registry.put_in_service(NAME, second, instead_of=first)
    registry.put_in_service(NAME, first, instead_of=second)
    assert registry.in_service(NAME) == first


def test_a_version_judged_against_another_one_is_not_put_in_service(registry: Registry) -> None:
    first, second, third = (save(registry, weights) for weights in (b"1", b"2", b"3"))
    with pytest.raises(ModelInServiceError, match=f"against {second.version}, and none is"):
        registry.put_in_service(NAME, first, instead_of=second)
    registry.put_in_service(NAME, first)
    for judged in (None, second):
        with pytest.raises(ModelInServiceError, match=f"and {first.version} is in service"):
            registry.put_in_service(NAME, third, instead_of=judged)
    assert registry.in_service(NAME) == first


def both_at_once(registry: Registry) -> tuple[list[str], ModelVersion | None]:
    """Two versions are judged against the same one, and put in service at the same time."""
    first = save(registry)
    registry.put_in_service(NAME, first)
    rivals = [save(registry, weights) for weights in (b"2", b"3")]
    barrier = threading.Barrier(2)
    won: list[str] = []
    lost: list[str] = []

    def promote(version: ModelVersion) -> None:
        barrier.wait()
        try:
            registry.put_in_service(NAME, version, instead_of=first)
            won.append(version.version)
        except ModelInServiceError:
            lost.append(version.version)

    threads = [threading.Thread(target=promote, args=(rival,)) for rival in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) + len(lost) == 2
    return won, registry.in_service(NAME)


@pytest.mark.parametrize("seed", range(20))
def test_of_two_promotions_at_once_one_wins(registry: Registry, seed: int) -> None:
    won, now = both_at_once(registry)
    assert now is not None, seed
    assert won == [now.version]


def test_a_bucket_keeps_models_as_well(tmp_path: Path) -> None:
    with moto_server() as endpoint:
        registry = Registry(new_bucket(endpoint), tmp_path / "cache")
        saved = registry.save(NAME, files=WEIGHTS, card=card())
        assert (saved.fetch() / "model.ubj").read_bytes() == WEIGHTS["model.ubj"]
        won, now = both_at_once(Registry(new_bucket(endpoint), tmp_path / "cache"))
        assert now is not None
        assert won == [now.version]


@pytest.mark.parametrize("how", ["truncated", "foreign", "gone"])
def test_a_file_that_is_not_the_saved_one_is_refused(
    registry: Registry, root: Path, how: str
) -> None:
    saved = registry.save(NAME, files=WEIGHTS, card=card())
    file = root / "models" / NAME / saved.version / "model.ubj"
    if how == "gone":
        file.unlink()
    else:
        file.write_bytes(b"x" * 7000 if how == "foreign" else file.read_bytes()[:100])
    with pytest.raises(ModelError) as caught:
        saved.fetch()
    message = str(caught.value)
    assert message.startswith(f"model file {saved.uri}/model.ubj: ")
    if how != "gone":
        assert f"declared 7000 bytes with digest {saved.files['model.ubj'].digest}" in message
        assert f"found {100 if how == 'truncated' else 7000} bytes with digest sha256:" in message
    assert not (registry._cache / NAME / saved.version / "model.ubj").exists()
    # Training it again is what the message says, and it helps.
    registry.save(NAME, files=WEIGHTS, card=card())
    assert (saved.fetch() / "model.ubj").read_bytes() == WEIGHTS["model.ubj"]


def test_what_was_fetched_is_not_fetched_again_unless_it_was_damaged(
    registry: Registry, root: Path
) -> None:
    saved = registry.save(NAME, files=WEIGHTS, card=card())
    path = saved.fetch()
    (path / "scale.json").write_bytes(b"damaged")
    (root / "models" / NAME / saved.version / "model.ubj").unlink()
    assert saved.fetch() == path
    assert (path / "scale.json").read_bytes() == b"{}"


def broken_card(text: dict[str, Any], how: str) -> str:
    if how == "torn":
        return json.dumps(text)[:50]
    if how == "features":
        text["card"]["features"] = ["night"]
    if how == "path":
        text["files"] = {"../../../etc/x": text["files"]["model.ubj"]}
    if how == "fields":
        del text["card"]["created_at"]
    if how == "no object":
        return "[]"
    return json.dumps(text)


@pytest.mark.parametrize("how", ["torn", "features", "path", "fields", "no object"])
def test_a_damaged_card_is_refused_and_saving_mends_it(
    registry: Registry, root: Path, how: str
) -> None:
    saved = save(registry)
    registry.put_in_service(NAME, saved)
    file = root / "models" / NAME / saved.version / CARD
    file.write_text(broken_card(json.loads(file.read_text()), how))
    with pytest.raises(ModelError, match=f"model card {saved.uri}/card.json: "):
        registry.in_service(NAME)
    assert save(registry) == saved
    assert registry.in_service(NAME) == saved


def test_a_damaged_entry_says_how_to_go_back(registry: Registry, root: Path) -> None:
    first, second = save(registry), save(registry, b"better")
    registry.put_in_service(NAME, first)
    registry.put_in_service(NAME, second, instead_of=first)
    entry = root / "models" / NAME / "in_service" / "00000002.json"
    entry.write_text("")
    with pytest.raises(ModelError, match=r"in_service/00000002\.json: .* remove it to go back"):
        registry.in_service(NAME)
    entry.unlink()
    assert registry.in_service(NAME) == first


@pytest.mark.parametrize(
    ("name", "files", "says"),
    [
        ("../x", {"a": b""}, "'../x'"),
        (NAME, {}, "has no files"),
        (NAME, {"../a": b""}, "'../a'"),
        (NAME, {CARD: b""}, "'card.json'"),
    ],
)
def test_names_that_cannot_be_used_are_refused(
    registry: Registry, root: Path, name: str, files: dict[str, bytes], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        registry.save(name, files=files, card=card())
    assert list(root.iterdir()) == []


def test_a_version_that_was_never_saved_is_told_with_those_that_were(registry: Registry) -> None:
    saved = save(registry)
    with pytest.raises(ModelError, match=f"no version 'nothing'.*{saved.version}"):
        registry.version(NAME, "nothing")
    with pytest.raises(ConfigError, match="no time zone"):
        card(created_at=dt.datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Modelled(TrivialReverse):
    """An engine with a trained model."""

    model: RegistryRef

    def identity(self) -> dict[str, Any]:
        return {"kind": self.kind, "model": self.model.resolve().digest}


def test_a_job_is_pinned_to_what_is_in_service_then(registry: Registry) -> None:
    job = reversing(engine=Modelled(model=RegistryRef(NAME)))
    with pytest.raises(ModelError, match=f"materialize the asset '{NAME}' first"):
        job.pinned(registry)
    with pytest.raises(ModelError, match="not decided yet"):
        job.fingerprint()
    first, second = save(registry), save(registry, b"better")
    registry.put_in_service(NAME, first)
    pinned = job.pinned(registry)
    registry.put_in_service(NAME, second, instead_of=first)
    travelled: Modelled = pickle.loads(pickle.dumps(pinned.engine))  # type: ignore[assignment]
    assert travelled.model.version == first
    assert travelled.identity() == pinned.fingerprint().identity
    assert pinned.pinned(registry).fingerprint() == pinned.fingerprint()
    assert job.pinned(registry).fingerprint().id != pinned.fingerprint().id
    assert hash(travelled.model) == hash(RegistryRef(NAME, first))


CHILD = """
import sys
from pathlib import Path
from overnight.registry import Registry
from overnight.store import StoreConfig
from tests.test_registry import promote
promote(Registry(StoreConfig(sys.argv[1]), Path(sys.argv[2])))
"""


def promote(registry: Registry) -> None:
    better = save(registry, b"better")
    registry.put_in_service(NAME, better, instead_of=registry.in_service(NAME))


def points() -> Iterator[tuple[str, int]]:
    for point in crashpoints.registered():
        if point.startswith("registry."):
            yield point, 1
        elif point.startswith("store."):
            # The weights, the card, the entry.
            yield from ((point, nth) for nth in (1, 2, 3))


@pytest.mark.parametrize(("point", "nth"), list(points()))
def test_a_kill_at_any_point_leaves_the_old_or_the_new_in_service(
    registry: Registry, root: Path, tmp_path: Path, point: str, nth: int
) -> None:
    old = save(registry, b"old")
    registry.put_in_service(NAME, old)
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, root.as_uri(), str(tmp_path / "cache")],
        env={**os.environ, crashpoints.VARIABLE: f"{point}:{nth}"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    now = registry.in_service(NAME)
    assert now is not None
    made = (point, nth) in {("registry.after_in_service", 1), ("store.after_rename", 3)}
    assert (now != old) == made
    assert now.fetch().is_dir()
    promote(registry)
    assert registry.in_service(NAME) == save(registry, b"better")
    assert len(registry.versions(NAME)) == 2
