"""One version of a trained model: what it is, what is known of it, and fetching it verified.

Which versions there are, and which is in service, is for `overnight.registry`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError, ModelError
from overnight.model import short_digest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from overnight.store import Store, StoreConfig

CARD = "card.json"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,47}")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_REMEDY = "train the model again, or put another version in service"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What is known of a trained model.

    Attributes:
        first_day: the first day of the data it was trained from, an ISO date.
        last_day: the last one.
        features: the columns it reads, in its order.
        metrics: by name, on held-out data.
        parameters: how it was trained; JSON-able.
        inputs: digests of the landing files that it was trained from.
        created_at: when, aware.
    """

    first_day: str
    last_day: str
    features: tuple[str, ...]
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    parameters: Mapping[str, Any] = field(default_factory=dict, hash=False)
    inputs: tuple[str, ...] = ()
    created_at: dt.datetime

    def __post_init__(self) -> None:
        if self.created_at.tzinfo is None:
            raise ConfigError(f"model card: created_at {self.created_at} has no time zone")

    def as_json(self) -> dict[str, Any]:
        """The card, JSON-able."""
        return {**dataclasses.asdict(self), "created_at": self.created_at.isoformat()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelCard:
        """The card that `as_json` gave.

        Raises:
            KeyError: if a field is missing.
            TypeError: if a field is of another type.
            ValueError: if the time is none.
        """
        known = {entry.name: data[entry.name] for entry in dataclasses.fields(cls)}
        for name in ("features", "inputs"):
            known[name] = tuple(known[name])
        return cls(**{**known, "created_at": dt.datetime.fromisoformat(known["created_at"])})


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file of a model: its size in bytes, and `sha256:` with the digest of its bytes."""

    size: int
    digest: str

    @classmethod
    def of(cls, data: bytes) -> ModelFile:
        """What describes some bytes."""
        return cls(len(data), sha256(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelVersion:
    """One version of a model, which never changes.

    Attributes:
        name: the model's name.
        version: names its content: the first digits of `digest`.
        digest: `sha256:<hex>` over its files and features.
        card: what is known of it.
        files: what it consists of, by name.
        store: where it is kept.
        cache: a local directory for what is fetched.
    """

    name: str
    version: str
    digest: str
    card: ModelCard = field(hash=False)
    files: Mapping[str, ModelFile] = field(hash=False)
    store: StoreConfig
    cache: Path

    @property
    def uri(self) -> str:
        """Where it is kept."""
        return f"{self.store.url.rstrip('/')}/{version_folder(self.name, self.version)}"

    def fetch(self) -> Path:
        """A local directory with its files, each one verified.

        Raises:
            ModelError: if a file is missing, truncated or another one; names the file, and the
                digests declared and found.
            StoreError: if the store cannot be read.
        """
        directory = self.cache / self.name / self.version
        try:
            directory.mkdir(parents=True, exist_ok=True)
            store: Store | None = None
            for name, file in self.files.items():
                if _digest_of(directory / name) != file.digest:
                    store = store or self.store.open()
                    self._download(store, name, file, directory / name)
        except OSError as error:
            raise ModelError(
                f"model {self.name} {self.version}: cannot be kept in {directory}: "
                f"{error.strerror or error}"
            ) from error
        return directory

    def _download(self, store: Store, name: str, file: ModelFile, target: Path) -> None:
        where = f"{self.uri}/{name}"
        # Several workers of a machine may do this at once: each file appears whole, or not yet.
        fresh = target.with_name(f".{name}.{secrets.token_hex(8)}")
        digest = hashlib.sha256()
        try:
            with fresh.open("xb") as copy:
                for chunk in _chunks(store, version_folder(self.name, self.version), name):
                    digest.update(chunk)
                    copy.write(chunk)
            found = ModelFile(fresh.stat().st_size, f"sha256:{digest.hexdigest()}")
            if found != file:
                raise ModelError(
                    f"model file {where}: declared {file.size} bytes with digest {file.digest}, "
                    f"found {found.size} bytes with digest {found.digest}: truncated, or another "
                    f"one than was saved; {_REMEDY}"
                )
            fresh.replace(target)
        finally:
            fresh.unlink(missing_ok=True)


def card_text(version: ModelVersion) -> bytes:
    """What `card.json` holds for a version."""
    return json.dumps(
        {
            "name": version.name,
            "version": version.version,
            "digest": version.digest,
            "files": {name: dataclasses.asdict(file) for name, file in version.files.items()},
            "card": version.card.as_json(),
        },
        indent=1,
    ).encode()


def read_card(
    data: bytes, *, name: str, version: str, store: StoreConfig, cache: Path
) -> ModelVersion:
    """The version that a `card.json` describes.

    Raises:
        ModelError: if the card is damaged, or is not that version's.
    """
    where = f"{store.url.rstrip('/')}/{version_folder(name, version)}/{CARD}"
    try:
        found = json.loads(data)
        files = {file: ModelFile(**known) for file, known in found["files"].items()}
        card = ModelCard.from_json(found["card"])
        declared = found["digest"]
        check_names(name, files)
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise ModelError(
            f"model card {where}: is damaged ({type(error).__name__}: {error}); {_REMEDY}"
        ) from error
    digest = identity(files, card.features)
    if declared != digest or version != version_of(digest):
        raise ModelError(
            f"model card {where}: declares the digest {declared}, and what it says of files and "
            f"features has {digest}; {_REMEDY}"
        )
    return ModelVersion(
        name=name, version=version, digest=digest, card=card, files=files, store=store, cache=cache
    )


def identity(files: Mapping[str, ModelFile], features: tuple[str, ...]) -> str:
    """Digest of a model: what its files hold, and what it reads in which order."""
    text = json.dumps([[[name, files[name].digest] for name in sorted(files)], list(features)])
    return sha256(text.encode())


def version_of(digest: str) -> str:
    """The name of the version with a digest."""
    return short_digest(digest)


def model_folder(name: str) -> str:
    """Where a model is in the store.

    Raises:
        ConfigError: if the name cannot be used.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"model name {name!r}: 1 to 48 lower-case letters, digits and underscores, a letter "
            "first"
        )
    return f"models/{name}"


def version_folder(name: str, version: str) -> str:
    """Where a version is in the store."""
    return f"{model_folder(name)}/{version}"


def check_names(name: str, files: Mapping[str, object]) -> None:
    """Refuse a model without files, or with a file that cannot be named so.

    Raises:
        ConfigError: if so.
    """
    model_folder(name)
    if not files:
        raise ConfigError(f"model {name!r}: it has no files")
    for file in files:
        if not _FILE.fullmatch(file) or file == CARD:
            raise ConfigError(
                f"model {name!r}: file name {file!r}: up to 100 letters, digits, '_', '.' and "
                f"'-', a letter or digit first, and not {CARD}"
            )


def sha256(data: bytes) -> str:
    """`sha256:` and the digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _chunks(store: Store, folder: str, name: str) -> Iterator[bytes]:
    try:
        yield from store.stream(f"{folder}/{name}")
    except FileNotFoundError:
        raise ModelError(f"model file {store.url}/{folder}/{name}: is gone; {_REMEDY}") from None


def _digest_of(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    except FileNotFoundError:
        return None
