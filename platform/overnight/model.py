"""Models: where one is, and proof that it is the one that was declared.

A model's digest is part of every fingerprint, so it must not depend on where the files lie
or when they were copied. What a model is *used for* belongs to the engines.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from overnight.errors import ModelError

_VERSION_DIGITS = 16
_PATTERNS = ("*.safetensors", "*.json")
_hashes: dict[tuple[str, int, int], str] = {}


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """A model that is here and verified: its directory, its digest, and what it was asked by."""

    path: Path
    digest: str
    uri: str

    @property
    def version(self) -> str:
        """The first digits of its digest: what people and tables call it."""
        return short_digest(self.digest)


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A reference to a model directory; picklable, and nothing is read before `resolve`.

    Attributes:
        uri: a local directory, or a hub id such as `owner/name`.
        digest: `sha256:<hex>` that the model must have, or None to take what is there.
        revision: a branch, tag or commit of a hub model; ignored for a local directory.
    """

    uri: str
    digest: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not self.uri.strip():
            msg = "ModelRef: uri is empty; give a model directory or a hub id like 'owner/name'"
            raise ModelError(msg)
        if self.digest is not None and not self.digest.startswith("sha256:"):
            msg = f"ModelRef: digest {self.digest!r} is not of the form 'sha256:<hex>'"
            raise ModelError(msg)

    @classmethod
    def from_env(cls, var: str, default: ModelRef) -> ModelRef:
        """The model that the environment variable names, else the default.

        A model named by the environment is not the default one, so it does not inherit its
        digest; `<var>_DIGEST` may declare one.
        """
        uri = os.environ.get(var, "").strip()
        if not uri:
            return default
        return cls(uri=uri, digest=os.environ.get(f"{var}_DIGEST", "").strip() or None)

    def resolve(self) -> ResolvedModel:
        """Find the model (downloading it when it is a hub id) and verify its digest.

        Raises:
            ModelError: if it is not there, is no model, or its digest is not the declared one.
        """
        path = self._locate()
        digest = directory_digest(path)
        if self.digest is not None and digest != self.digest:
            msg = (
                f"model {path}: declared digest {self.digest}, found {digest}; restore the "
                "declared files, or declare the new digest if the change is meant (every row "
                "is then inferred again)"
            )
            raise ModelError(msg)
        return ResolvedModel(path=path, digest=digest, uri=self.uri)

    def pinned(self) -> ModelRef:
        """The same reference with its digest filled in, so that another machine must agree.

        Raises:
            ModelError: as `resolve`.
        """
        return dataclasses.replace(self, digest=self.resolve().digest)

    def _locate(self) -> Path:
        path = Path(self.uri).expanduser()
        if path.is_dir():
            return path.resolve()
        if path.exists():
            msg = f"model {path}: is a file; give the directory that holds config.json"
            raise ModelError(msg)
        if not _looks_like_hub_id(self.uri):
            msg = f"model {path}: no such directory; put the model there or correct the path"
            raise ModelError(msg)
        return _download(self.uri, self.revision)


def short_digest(digest: str) -> str:
    """The first digits of `sha256:<hex>`: enough to name a model among its versions."""
    return digest.removeprefix("sha256:")[:_VERSION_DIGITS]


def directory_digest(path: Path) -> str:
    """Digest of a model directory: `sha256:<hex>` over names and contents of its files.

    Covers `*.safetensors` and `*.json` directly in it, sorted by name; for each the line
    `name NUL sha256(content) LF`. Location, order and times do not matter.

    Raises:
        ModelError: if the directory holds no `config.json`.
    """
    if not (path / "config.json").is_file():
        msg = f"model {path}: has no config.json, so it is not a model directory"
        raise ModelError(msg)
    files = sorted({f for p in _PATTERNS for f in path.glob(p) if f.is_file()}, key=_name)
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}\0{_file_hash(file)}\n".encode())
    return f"sha256:{total.hexdigest()}"


def _name(file: Path) -> str:
    return file.name


def _file_hash(file: Path) -> str:
    stat = file.stat()
    identity = (str(file.resolve()), stat.st_size, stat.st_mtime_ns)
    found = _hashes.get(identity)
    if found is None:
        with file.open("rb") as content:
            found = hashlib.file_digest(content, "sha256").hexdigest()
        _hashes[identity] = found
    return found


def _looks_like_hub_id(uri: str) -> bool:
    parts = uri.split("/")
    return len(parts) in {1, 2} and all(parts) and not uri.startswith((".", "~"))


def _download(uri: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                uri,
                revision=revision,
                allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"],
            )
        )
    except Exception as error:  # the hub's client raises a dozen unrelated kinds
        msg = (
            f"model {uri!r}: is no directory here, and the hub did not give it "
            f"({type(error).__name__}); put the model in a directory and name that, or check "
            "the id, the network and HF_HUB_OFFLINE"
        )
        raise ModelError(msg) from error
