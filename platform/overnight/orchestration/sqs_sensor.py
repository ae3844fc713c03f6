"""A sensor that is told by S3, through SQS, what has landed, instead of listing to find out.

A message says only that a partition has changed; the partition is then looked at as
`landing_sensor` does. A tick keeps in its cursor what the messages said, with what is needed to
delete them; they are deleted by the next tick, when the cursor is known to be kept. A message
that comes twice is thus nothing new, and none is lost.

A message that nothing can be made of is logged, and deleted like the others.
"""

from __future__ import annotations

import contextlib
import json
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import dagster as dg

from overnight.errors import ConfigError, StoreError
from overnight.landing import sources_of
from overnight.landing.arrival import SETTLE_S
from overnight.landing.events import read_message
from overnight.landing.watch import Cursor, Watch
from overnight.orchestration.schedule import job_of
from overnight.orchestration.sensor import INTERVAL_S, TICK_S, Starter, Tick, now_utc

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Sequence

    from overnight.job import InferenceJob
    from overnight.landing import Source

MESSAGES_A_TICK = 500
_BATCH = 10  # SQS's most
_SHOWN = 200


@dataclass(slots=True)
class Told:
    """The cursor: one for each source, changed days not looked at yet, messages to delete."""

    sources: dict[str, Cursor] = field(default_factory=dict)
    changed: set[tuple[str, str]] = field(default_factory=set)
    receipts: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, text: str | None) -> Told:
        """Read what `text` wrote; a new one if there is none, or it cannot be understood."""
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
            if text:
                told = json.loads(text)
                return cls(
                    {name: Cursor.of(value) for name, value in told["sources"].items()},
                    {(source, day) for source, day in told["changed"]},
                    [str(receipt) for receipt in told["receipts"]],
                )
        return cls()

    def text(self) -> str:
        """As a string."""
        return json.dumps(
            {
                "sources": {name: cursor.value() for name, cursor in self.sources.items()},
                "changed": sorted(self.changed),
                "receipts": self.receipts,
            },
            separators=(",", ":"),
        )


def sqs_landing_sensor(
    queue_url: str,
    jobs: Sequence[InferenceJob],
    *,
    partitions: dg.TimeWindowPartitionsDefinition,
    also: Sequence[Source] = (),
    endpoint_url: str | None = None,
    region: str | None = None,
    settle_s: float = SETTLE_S,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.STOPPED,
    clock: Callable[[], dt.datetime] = now_utc,
    tick_s: float = TICK_S,
) -> dg.SensorDefinition:
    """Start what reads a partition that is complete, told by S3's events in a queue.

    The queue is this sensor's alone, and for all sources: whoever takes a message, it is gone
    for others. What landed before the bucket sent events is not seen; let `landing_sensors` look
    once, or use a backfill.

    Needs the resource `store`, an `s3://` one; credentials are those of the AWS chain.

    Args:
        queue_url: the queue that the bucket's notifications go to, `https://…`.
        jobs: what to start; not those that Dagster's declarative automation starts.
        partitions: those of the daily jobs.
        also: further sources whose data versions are told to Dagster.
        endpoint_url: a server in place of AWS.
        region: the queue's; none for the environment's.
        settle_s: see `landing_sensor`.
        default_status: likewise.
        clock: likewise.
        tick_s: likewise.

    Raises:
        ConfigError: if the queue's URL or a number cannot be used.
    """
    if not queue_url.startswith(("https://", "http://")):
        raise ConfigError(f"queue_url {queue_url!r}: use https://sqs.<region>.amazonaws.com/…")
    sources = {**sources_of(jobs), **{source.name: source for source in also}}
    watches = {name: Watch(source=source, settle_s=settle_s) for name, source in sources.items()}
    starter = Starter(jobs=tuple(jobs), partitions=partitions, settle_s=settle_s)

    @dg.sensor(
        name="sqs_landing",
        description=f"Starts {', '.join(job.name for job in jobs)} when S3 tells that files "
        "have landed.",
        jobs=[job_of(job.name) for job in jobs],
        minimum_interval_seconds=INTERVAL_S,
        default_status=default_status,
        required_resource_keys={"store"},
        metadata={"queue": queue_url, "settle_s": settle_s},
    )
    def landed(context: dg.SensorEvaluationContext) -> dg.SensorResult:
        until = time.monotonic() + tick_s
        store = context.resources.store.config.open()
        told = Told.read(context.cursor)
        with queue(queue_url, endpoint_url, region) as messages:
            messages.delete(told.receipts)
            told.receipts = []
            for message in messages.take(lambda: time.monotonic() < until):
                changes = read_message(message["Body"], store.url, sources)
                for why in changes.unknown:
                    context.log.warning(
                        "message %s %s; it is dropped: %.*s",
                        *(message["MessageId"], why, _SHOWN, message["Body"]),
                    )
                told.changed |= changes.days
                told.receipts.append(message["ReceiptHandle"])
        taken = len(told.receipts)
        tick = Tick(store=store, instance=context.instance, now=clock())
        for name, watch in watches.items():
            cursor = told.sources.setdefault(name, Cursor())
            days = {day for source, day in told.changed if source == name}
            look = watch.look(
                store, cursor, now=tick.now, in_time=lambda: time.monotonic() < until, only=days
            )
            told.changed -= {(name, day) for day in days - set(look.left)}
            starter.start(tick, watch.source, look, cursor)
        return tick.result(told.text(), f"{taken} messages in the queue, and nothing to start")

    return landed


@contextlib.contextmanager
def queue(url: str, endpoint_url: str | None, region: str | None) -> Iterator[Queue]:
    """A queue of SQS.

    Raises:
        StoreError: if it cannot be asked.
    """
    # A third of a second to import, and only this sensor needs it.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = boto3.client("sqs", endpoint_url=endpoint_url, region_name=region)
        with contextlib.closing(client):
            yield Queue(client, url)
    except (BotoCoreError, ClientError) as error:
        raise StoreError(
            f"cannot ask the queue {url}: {error}; is it there, and may it be read?"
        ) from error


@dataclass(frozen=True, slots=True)
class Queue:
    """Messages, some at a time."""

    client: Any
    url: str

    def take(self, in_time: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Messages, each once, until there are no others, or enough, or the time is up."""
        taken: set[str] = set()
        while len(taken) < MESSAGES_A_TICK and in_time():
            answer = self.client.receive_message(QueueUrl=self.url, MaxNumberOfMessages=_BATCH)
            messages = [m for m in answer.get("Messages", []) if m["MessageId"] not in taken]
            # A queue that hides messages only for a moment hands them out again and again.
            if not messages:
                return
            taken |= {message["MessageId"] for message in messages}
            yield from messages

    def delete(self, receipts: Sequence[str]) -> None:
        """Delete messages; one that cannot be is handed out again, which does no harm."""
        for start in range(0, len(receipts), _BATCH):
            batch = receipts[start : start + _BATCH]
            self.client.delete_message_batch(
                QueueUrl=self.url,
                Entries=[
                    {"Id": str(number), "ReceiptHandle": receipt}
                    for number, receipt in enumerate(batch)
                ],
            )
