"""GCE's notice, from a real HTTP server that behaves as its metadata server does, or worse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from overnight.spot.gce import Gce
from overnight.spot.metadata import Endpoint
from tests.spot.gce_metadata import PREEMPTED, GceMetadata
from tests.spot.imds import Imds
from tests.spot.metadata_server import ELSEWHERE, MISBEHAVIOURS, Misbehaviour

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.spot.metadata_server import MetadataServer

NOW = 1_795_400_000.0


@pytest.fixture
def gce() -> Iterator[GceMetadata]:
    with GceMetadata() as server:
        yield server


def asking(server: MetadataServer) -> Gce:
    endpoint = Endpoint.parse(server.address, variable="here")
    return Gce(endpoint, every_s=5, clock=lambda: NOW)


def test_a_preemption_is_told_when_it_happens(gce: GceMetadata) -> None:
    asked = asking(gce)
    assert (asked.look().notices, asked.look().error) == ((), None)
    gce.preempted = True
    (notice,) = asked.look().notices
    assert (notice.kind, notice.source) == ("interruption", "gce")
    # It may have been told for as long as there are seconds between two looks.
    assert notice.deadline == NOW + 25
    assert gce.requests == {f"GET {PREEMPTED}": 3}


@pytest.mark.parametrize("how", [how for how in MISBEHAVIOURS if how != "slow"])
def test_a_bad_server_is_an_error_in_words_and_no_notice(
    gce: GceMetadata, how: Misbehaviour
) -> None:
    gce.preempted = True
    gce.misbehave(how)
    look = asking(gce).look()
    assert look.notices == ()
    assert look.error is not None
    assert gce.asked(ELSEWHERE) == 0
    gce.misbehave(None)
    assert len(asking(gce).look().notices) == 1


def test_another_clouds_service_is_an_error_and_no_notice() -> None:
    with Imds() as imds:
        look = asking(imds).look()
    assert look.notices == ()
    assert look.error is not None
