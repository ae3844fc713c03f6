"""Trained models in the store: kept by what they are, and one of each name in service.

    <store>/models/<name>/<version>/<file>, card.json
    <store>/models/<name>/in_service/00000001.json, 00000002.json, ...

A version is named by its content, so saving it twice is saving it once. Which one is in service
is the entry with the highest number; each number can be created only once, which is what makes
putting one in service a compare-and-set on a directory and on a bucket alike, and its history
comes for free. How a model is trained and judged is not known here.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from overnight.crashpoints import reach, register
from overnight.errors import ModelError, ModelInServiceError
from overnight.model import ResolvedModel
from overnight.model_version import (
    CARD,
    ModelCard,
    ModelFile,
    ModelVersion,
    card_text,
    check_names,
    identity,
    model_folder,
    read_card,
    version_folder,
    version_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from overnight.store import Store, StoreConfig

__all__ = ["ModelCard", "ModelFile", "ModelVersion", "Registry", "RegistryRef"]

_ENTRY = re.compile(r".*/([0-9]{8})\.json")
_SAVING, _SAVED = "registry.before_card", "registry.after_card"
_SERVING, _SERVED = "registry.before_in_service", "registry.after_in_service"
register(_SAVING, _SAVED, _SERVING, _SERVED)


class Registry:
    """The models of a store.

    Args:
        store: where they are kept.
        cache: a local directory for what is fetched.
    """

    def __init__(self, store: StoreConfig, cache: Path) -> None:
        self._config = store
        self._cache = cache

    def save(self, name: str, *, files: Mapping[str, bytes], card: ModelCard) -> ModelVersion:
        """Keep a model; it is not in service yet.

        Saving the same files and features again gives the version that is there, with its card;
        what is missing or damaged of it is written anew.

        Args:
            name: the model's name.
            files: its files, by name.
            card: what is known of it.

        Raises:
            ConfigError: if a name cannot be used, or there are no files.
            StoreError: if the store cannot be written.
        """
        check_names(name, files)
        known = {file: ModelFile.of(data) for file, data in sorted(files.items())}
        digest = identity(known, card.features)
        version = ModelVersion(
            name=name,
            version=version_of(digest),
            digest=digest,
            card=card,
            files=known,
            store=self._config,
            cache=self._cache,
        )
        store = self._config.open()
        folder = version_folder(name, version.version)
        for file, data in files.items():
            store.put(f"{folder}/{file}", data)
        try:
            return self.version(name, version.version)
        except ModelError:
            # The card comes last: a version without one was not saved to its end.
            reach(_SAVING)
            store.put(f"{folder}/{CARD}", card_text(version))
            reach(_SAVED)
            return version

    def version(self, name: str, version: str) -> ModelVersion:
        """A saved version.

        Raises:
            ModelError: if there is none, or its card is damaged.
        """
        store = self._config.open()
        key = f"{version_folder(name, version)}/{CARD}"
        try:
            data = store.get(key)
        except FileNotFoundError:
            raise ModelError(
                f"model {name!r} has no version {version!r}: {store.url}/{key} does not exist; "
                f"there are {self._saved(store, name)}"
            ) from None
        return read_card(data, name=name, version=version, store=self._config, cache=self._cache)

    def versions(self, name: str) -> list[ModelVersion]:
        """Every saved version, the oldest first.

        Raises:
            ModelError: if a card is damaged.
        """
        saved = self._saved(self._config.open(), name)
        found = [self.version(name, version) for version in saved]
        return sorted(found, key=lambda one: (one.card.created_at, one.version))

    def in_service(self, name: str) -> ModelVersion | None:
        """The version that jobs use, or None.

        Raises:
            ModelError: if it is damaged, or not there.
        """
        _, version = self._newest(self._config.open(), name)
        return None if version is None else self.version(name, version)

    def put_in_service(
        self, name: str, version: ModelVersion, *, instead_of: ModelVersion | None = None
    ) -> None:
        """Have jobs use a version from now on; nothing changes if they do already.

        Args:
            name: the model's name.
            version: a saved version.
            instead_of: the version in service that it was judged against; None: there was none.

        Raises:
            ModelInServiceError: if another one is in service by now; names both.
            ModelError: if the version is not saved, or its card is damaged.
        """
        wanted = self.version(name, version.version).version
        judged = None if instead_of is None else instead_of.version
        store = self._config.open()
        number, current = self._newest(store, name)
        if current == wanted:
            return
        if current != judged:
            raise _overtaken(name, wanted, judged, current)
        entry = {
            "version": wanted,
            "instead_of": judged,
            "since": dt.datetime.now(tz=dt.UTC).isoformat(),
            # Tells the own entry from another's: see below.
            "token": secrets.token_hex(8),
        }
        key = f"{_service_folder(name)}/{number + 1:08d}.json"
        text = json.dumps(entry).encode()
        reach(_SERVING)
        try:
            store.put(key, text, create=True)
        except FileExistsError:
            # A bucket may answer a retried request with the object that its first try made.
            if store.get(key) != text:
                raise _overtaken(name, wanted, judged, self._newest(store, name)[1]) from None
        reach(_SERVED)

    def _saved(self, store: Store, name: str) -> list[str]:
        folder = model_folder(name)
        keys = [entry.key.removeprefix(f"{folder}/") for entry in store.list(folder)]
        return [key.removesuffix(f"/{CARD}") for key in keys if key.endswith(f"/{CARD}")]

    def _newest(self, store: Store, name: str) -> tuple[int, str | None]:
        """Number and version of the newest entry; (0, None) if there is none."""
        numbers = {
            int(match[1]): entry.key
            for entry in store.list(_service_folder(name))
            if (match := _ENTRY.fullmatch(entry.key))
        }
        if not numbers:
            return 0, None
        newest = max(numbers)
        try:
            version = json.loads(store.get(numbers[newest]))["version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(
                f"{store.url}/{numbers[newest]}: does not say which version of {name!r} is in "
                f"service ({type(error).__name__}: {error}); remove it to go back to the one before"
            ) from error
        return newest, str(version)


@dataclass(frozen=True, slots=True)
class RegistryRef:
    """A reference to the version of a trained model that is in service; picklable.

    Which one that is is decided once for a run (`pinned`), so that the fingerprint, the workers
    and the lineage name the same, whatever is put in service meanwhile.

    Attributes:
        name: the model's name, which is that of the asset that trains it.
        chosen: the version that was in service when it was decided; None before.
    """

    name: str
    chosen: ModelVersion | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        model_folder(self.name)

    @property
    def uri(self) -> str:
        """Where the model is kept."""
        return model_folder(self.name) if self.chosen is None else self.chosen.uri

    @property
    def version(self) -> ModelVersion:
        """The decided version.

        Raises:
            ModelError: if none is decided yet.
        """
        if self.chosen is None:
            raise ModelError(
                f"model {self.name!r}: which version is meant is not decided yet; use "
                "`pinned(registry)`, as a run does"
            )
        return self.chosen

    def pinned(self, registry: Registry) -> RegistryRef:
        """The same reference with its version decided.

        Raises:
            ModelError: if none is in service, or the one that is is damaged.
        """
        if self.chosen is not None:
            return self
        version = registry.in_service(self.name)
        if version is None:
            raise ModelError(
                f"no version of the model {self.name!r} is in service: materialize the asset "
                f"{self.name!r} first"
            )
        return dataclasses.replace(self, chosen=version)

    def resolve(self) -> ResolvedModel:
        """Fetch the decided version and verify it.

        Raises:
            ModelError: if none is decided yet, or a file of it is missing or another one.
        """
        version = self.version
        return ResolvedModel(path=version.fetch(), digest=version.digest, uri=version.uri)


def _service_folder(name: str) -> str:
    return f"{model_folder(name)}/in_service"


def _overtaken(
    name: str, version: str, judged: str | None, current: str | None
) -> ModelInServiceError:
    return ModelInServiceError(
        f"model {name!r}: version {version} was judged against {judged or 'none'}, and "
        f"{current or 'none'} is in service by now: judge it again"
    )
