"""S3's event messages: which partition of which source a change was in.

Three forms are understood: S3's own notifications, the same by way of SNS, and EventBridge's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus, urlsplit

from overnight.errors import ConfigError
from overnight.landing.zone import check_partition

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

TEST_EVENT = "s3:TestEvent"


@dataclass(frozen=True, slots=True)
class Changes:
    """What a message says: days by source, and why some of it (or all) says nothing to us."""

    days: frozenset[tuple[str, str]]
    unknown: tuple[str, ...] = ()


def read_message(body: str, store_url: str, sources: Collection[str]) -> Changes:
    """Read a message; whatever is in it, no error is raised.

    Args:
        body: the message, as SQS hands it over.
        store_url: `s3://bucket/prefix`.
        sources: names of the sources that are watched.
    """
    try:
        objects = list(_objects(json.loads(body)))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        return Changes(frozenset(), (f"is no S3 event ({type(error).__name__})",))
    parts = urlsplit(store_url)
    prefix = "/".join(part for part in (parts.path.strip("/"), "landing") if part)
    days = set()
    unknown = []
    for bucket, key in objects:
        found = _place(key.removeprefix(f"{prefix}/"))
        if bucket != parts.netloc or not key.startswith(f"{prefix}/"):
            unknown.append(f"is about s3://{bucket}/{key}, which is not below {store_url}/landing/")
        elif found is None or found[0] not in sources:
            unknown.append(f"is about s3://{bucket}/{key}, which is in no partition of a source")
        else:
            days.add(found)
    return Changes(frozenset(days), tuple(unknown))


def _objects(told: Any) -> Iterator[tuple[str, str]]:
    if told.get("Event") == TEST_EVENT:
        return
    if "Message" in told and "TopicArn" in told:
        yield from _objects(json.loads(told["Message"]))
    elif "detail" in told:
        # EventBridge leaves keys as they are.
        yield str(told["detail"]["bucket"]["name"]), str(told["detail"]["object"]["key"])
    else:
        for record in told["Records"]:
            yield (
                str(record["s3"]["bucket"]["name"]),
                unquote_plus(str(record["s3"]["object"]["key"])),
            )


def _place(key: str) -> tuple[str, str] | None:
    source, _, rest = key.partition("/")
    partition, slash, _ = rest.partition("/")
    try:
        return (source, check_partition(partition)) if slash else None
    except ConfigError:
        return None
