"""Finding a model and proving which one it is."""

from __future__ import annotations

import hashlib
import pickle
import shutil
from typing import TYPE_CHECKING

import pytest

from overnight.errors import ModelError
from overnight.model import ModelRef

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text('{"a": 1}')
    (path / "model.safetensors").write_bytes(b"weights")
    (path / "README.md").write_text("not part of the model")
    return path


def test_the_digest_is_over_names_and_contents_in_order(directory: Path) -> None:
    lines = "".join(
        f"{name}\0{hashlib.sha256((directory / name).read_bytes()).hexdigest()}\n"
        for name in ("config.json", "model.safetensors")
    )
    expected = f"sha256:{hashlib.sha256(lines.encode()).hexdigest()}"
    found = ModelRef(str(directory)).resolve()
    assert (found.path, found.digest, found.uri) == (directory, expected, str(directory))


def test_the_digest_does_not_depend_on_the_place(directory: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(directory, tmp_path / "elsewhere")
    (copy / "README.md").write_text("other notes")
    assert ModelRef(str(copy)).resolve().digest == ModelRef(str(directory)).resolve().digest


def test_a_changed_file_is_noticed_although_hashes_are_cached(directory: Path) -> None:
    pinned = ModelRef(str(directory)).pinned()
    assert pinned.resolve().digest == pinned.digest
    (directory / "model.safetensors").write_bytes(b"weightS!")
    with pytest.raises(ModelError, match="declared digest") as caught:
        pinned.resolve()
    assert str(directory) in str(caught.value)
    assert str(pinned.digest) in str(caught.value)
    assert ModelRef(str(directory)).resolve().digest in str(caught.value)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path / "missing", "no such directory"),
        (lambda path: path / "config.json", "is a file"),
        (lambda path: path.parent, "not a model directory"),
    ],
)
def test_what_is_no_model_is_refused_by_name(directory: Path, make: object, message: str) -> None:
    path = make(directory)  # type: ignore[operator]
    with pytest.raises(ModelError, match=message) as caught:
        ModelRef(str(path)).resolve()
    assert str(path) in str(caught.value)


def test_a_hub_model_without_a_hub_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"nobody/no-such-model.*put the model in a directory"):
        ModelRef("nobody/no-such-model").resolve()


def test_the_environment_names_another_model(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = ModelRef("default-model", digest="sha256:00")
    monkeypatch.delenv("SUMMARY_MODEL", raising=False)
    assert ModelRef.from_env("SUMMARY_MODEL", default) == default
    monkeypatch.setenv("SUMMARY_MODEL", str(directory))
    assert ModelRef.from_env("SUMMARY_MODEL", default) == ModelRef(str(directory))
    monkeypatch.setenv("SUMMARY_MODEL_DIGEST", "sha256:11")
    assert ModelRef.from_env("SUMMARY_MODEL", default).digest == "sha256:11"


def test_a_reference_travels_and_validates() -> None:
    ref = ModelRef("a/b", digest="sha256:00", revision="main")
    assert pickle.loads(pickle.dumps(ref)) == ref
    with pytest.raises(ModelError, match="empty"):
        ModelRef(" ")
    with pytest.raises(ModelError, match="md5"):
        ModelRef("a/b", digest="md5:00")
