"""What a result depends on, and the digests that say whether it is the same."""

from __future__ import annotations

import hashlib
import inspect
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from overnight.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a result depends on besides its row.

    Attributes:
        id: digest over model, parameters, engine kind and carried columns; names the journal.
        output_version: digest over `parse` and the output contract: rows of a published
            partition are taken over as they are only if this is the same too.
        engine: the engine's kind.
        identity: the engine's own account of model and parameters.
        prepare_source: how requests are made, for lineage; what it makes of a row is part of
            that row's input hash.
    """

    id: str
    output_version: str
    engine: str
    identity: Mapping[str, Any]
    prepare_source: str


def digest(value: object) -> str:
    """24 hex digits that name a JSON-able value."""
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(canonical.encode(), digest_size=12).hexdigest()


def source_of(function: Callable[..., Any]) -> str:
    """The text of a function, the wrapped one if it is wrapped.

    Raises:
        ConfigError: if it was not defined in a file.
    """
    try:
        return inspect.getsource(inspect.unwrap(function))
    except (OSError, TypeError) as error:
        raise ConfigError(
            f"{function!r} has no source text: define `prepare` and `parse` as functions of a "
            "module"
        ) from error
