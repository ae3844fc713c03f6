"""GCE's metadata server, for tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.spot.metadata_server import MetadataServer

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.spot.metadata_server import Answer

PREEMPTED = "/computeMetadata/v1/instance/preempted"


class GceMetadata(MetadataServer):
    """`with GceMetadata() as gce:`, then `gce.preempted = True`; `gce.address` is its host."""

    def __init__(self) -> None:
        super().__init__()
        self.preempted = False

    def answer(self, method: str, path: str, headers: Mapping[str, str]) -> Answer:
        flavor = {"Metadata-Flavor": "Google"}
        if headers.get("Metadata-Flavor") != "Google":
            return 403, b"", flavor
        if method == "GET" and path == PREEMPTED:
            return 200, b"TRUE" if self.preempted else b"FALSE", flavor
        return 404, b"", flavor
