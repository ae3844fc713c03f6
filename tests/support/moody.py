"""An engine that fails on some rows until a file says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.shop import Paced, PacedEngine

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Moody(Paced):
    """Fails rows that say `ill` until the file `well` exists.

    Attributes:
        well: the file.
    """

    well: str = ""

    def start(self) -> MoodyEngine:
        return MoodyEngine(self)


class MoodyEngine(PacedEngine):
    def __init__(self, spec: Moody) -> None:
        super().__init__(spec)
        self._well = Path(spec.well)

    def submit(self, requests: pa.Table) -> None:
        if not self._well.exists():
            texts = [
                f"!fail {text}" if text and "ill" in text else text
                for text in requests["request"].to_pylist()
            ]
            at = requests.schema.get_field_index("request")
            requests = requests.set_column(at, "request", [texts])
        super().submit(requests)
