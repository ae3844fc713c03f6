"""The sensor that S3 tells by way of SQS what has landed; S3 and SQS are moto's."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus

import boto3
import dagster as dg
import pytest

from overnight.errors import ConfigError, StoreError
from overnight.landing.events import read_message
from overnight.orchestration import sqs_landing_sensor
from tests.moto_server import REGION, moto_server, new_bucket
from tests.orchestration.landed import DAILY, SETTLE_S, Zone, definitions
from tests.support.shop import lines, reversing

if TYPE_CHECKING:
    from collections.abc import Iterator

DAY = "2024-11-24"
RUN = ("reversed_lines_job", DAY)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with moto_server() as url:
        yield url


@dataclass
class Queued(Zone):
    """A zone whose sensor listens to a queue."""

    endpoint: str = ""
    queue: str = ""

    def __post_init__(self) -> None:
        self.sqs = boto3.client("sqs", endpoint_url=self.endpoint, region_name=REGION)
        name = self.store.url.removeprefix("s3://").split("/")[0]
        self.queue = self.queue or self.sqs.create_queue(
            QueueName=name, Attributes={"VisibilityTimeout": "0"}
        )["QueueUrl"].replace("http://localhost:5000", self.endpoint)
        self.sensor = sqs_landing_sensor(
            self.queue,
            self.jobs,
            partitions=DAILY,
            endpoint_url=self.endpoint,
            region=REGION,
            settle_s=SETTLE_S,
            clock=lambda: self.now,
        )
        self.definitions = definitions(self.store, self.jobs, sensors=[self.sensor])
        self.repository = self.definitions.get_repository_def()

    def notify(self) -> None:
        """Have the bucket send its events to the queue."""
        bucket = self.store.url.removeprefix("s3://").split("/")[0]
        arn = self.sqs.get_queue_attributes(QueueUrl=self.queue, AttributeNames=["QueueArn"])
        s3 = boto3.client("s3", endpoint_url=self.endpoint, region_name=REGION)
        s3.put_bucket_notification_configuration(
            Bucket=bucket,
            NotificationConfiguration={
                "QueueConfigurations": [
                    {
                        "QueueArn": arn["Attributes"]["QueueArn"],
                        "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"],
                    }
                ]
            },
        )
        s3.close()

    def send(self, body: str) -> None:
        self.sqs.send_message(QueueUrl=self.queue, MessageBody=body)

    def left(self) -> int:
        got = self.sqs.get_queue_attributes(
            QueueUrl=self.queue, AttributeNames=["ApproximateNumberOfMessages"]
        )
        return int(got["Attributes"]["ApproximateNumberOfMessages"])


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


@pytest.fixture
def zone(endpoint: str, instance: dg.DagsterInstance) -> Queued:
    return Queued(new_bucket(endpoint).open(), instance, endpoint=endpoint)


def event(zone: Zone, key: str) -> str:
    bucket, _, prefix = zone.store.url.removeprefix("s3://").partition("/")
    where = {"bucket": {"name": bucket}, "object": {"key": quote_plus(f"{prefix}/{key}")}}
    return json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": where}]})


def test_the_buckets_own_events_start_a_partition_once(zone: Queued) -> None:
    zone.notify()
    zone.land(DAY, "a b+c.jsonl")
    zone.land("2024-11-23", "a.jsonl")
    unsettled = zone.tick()
    assert not unsettled.runs
    assert f"lines of {DAY}: 1 files" in unsettled.why_not
    zone.land(DAY, "_SUCCESS", content=b"")
    assert zone.tick().runs == [RUN]
    zone.wait(SETTLE_S)
    assert zone.tick().runs == [("reversed_lines_job", "2024-11-23")]
    # A bucket's times are whole seconds: the mark could be as new as the late file.
    zone.store.delete([f"landing/lines/{DAY}/_SUCCESS"])
    zone.land(DAY, "late.jsonl")
    assert not zone.tick().runs
    zone.wait(SETTLE_S)
    assert zone.tick().runs == [RUN]
    zone.tick()
    assert zone.left() == 0


def test_a_message_is_deleted_only_when_the_cursor_is_kept(zone: Queued) -> None:
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    zone.send(event(zone, f"landing/lines/{DAY}/a.jsonl"))
    lost = zone.evaluate()
    assert len(lost.run_requests) == 1
    assert zone.left() == 1
    assert zone.tick().runs == [RUN]
    assert zone.left() == 1, "the cursor has been handed over only now"
    zone.tick()
    assert zone.left() == 0


def test_messages_that_come_twice_or_for_a_day_that_is_done_start_nothing(zone: Queued) -> None:
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    for _ in range(25):
        zone.send(event(zone, f"landing/lines/{DAY}/a.jsonl"))
    assert zone.tick().runs == [RUN]
    zone.send(event(zone, f"landing/lines/{DAY}/a.jsonl"))
    again = zone.tick()
    assert not again.runs
    assert "nothing to start" in again.why_not


def test_what_nothing_can_be_made_of_is_logged_once_and_holds_up_nothing(
    zone: Queued, capfd: pytest.CaptureFixture[str]
) -> None:
    zone.land(DAY, "a.jsonl", "_SUCCESS")
    for body in ("not json", "[1, 2]", event(zone, "journal/x"), '{"Event": "s3:TestEvent"}'):
        zone.send(body)
    zone.send(event(zone, f"landing/lines/{DAY}/a.jsonl"))
    assert zone.tick().runs == [RUN]
    assert not zone.tick().runs
    said = [text for text in capfd.readouterr().err.splitlines() if "it is dropped" in text]
    assert len(said) == 3
    assert any("is no S3 event" in message and "not json" in message for message in said)
    assert any("journal/x, which is not below" in message for message in said)
    assert zone.left() == 0


@pytest.mark.parametrize(
    ("body", "days"),
    [
        ({"Event": "s3:TestEvent"}, set()),
        ({"Records": []}, set()),
        (
            {
                "detail-type": "Object Created",
                "detail": {
                    "bucket": {"name": "b"},
                    "object": {"key": f"p/landing/lines/{DAY}/a+b"},
                },
            },
            {("lines", DAY)},
        ),
        (
            {
                "TopicArn": "arn",
                "Message": json.dumps(
                    {
                        "Records": [
                            {
                                "s3": {
                                    "bucket": {"name": "b"},
                                    "object": {"key": f"p%2Flanding/lines/{DAY}/x%C3%A9+1.jsonl"},
                                }
                            }
                        ]
                    }
                ),
            },
            {("lines", DAY)},
        ),
    ],
)
def test_all_forms_of_events_are_understood(body: Any, days: set[tuple[str, str]]) -> None:
    changes = read_message(json.dumps(body), "s3://b/p", ["lines"])
    assert (changes.days, changes.unknown) == (days, ())


@pytest.mark.parametrize(
    ("bucket", "key"),
    [
        ("other", f"p/landing/lines/{DAY}/a"),
        ("b", f"landing/lines/{DAY}/a"),
        ("b", f"p/landing/nobody/{DAY}/a"),
        ("b", "p/landing/lines/today/a"),
        ("b", f"p/landing/lines/{DAY}"),
    ],
)
def test_events_about_something_else_are_named(bucket: str, key: str) -> None:
    where = {"bucket": {"name": bucket}, "object": {"key": key}}
    changes = read_message(json.dumps({"Records": [{"s3": where}]}), "s3://b/p", ["lines"])
    assert not changes.days
    assert f"s3://{bucket}/{key}" in changes.unknown[0]


def test_a_queue_that_does_not_exist_is_an_error_that_names_it(
    endpoint: str, instance: dg.DagsterInstance
) -> None:
    missing = f"{endpoint}/123456789012/no-such-queue"
    zone = Queued(new_bucket(endpoint).open(), instance, endpoint=endpoint, queue=missing)
    with pytest.raises(StoreError, match=f"cannot ask the queue {missing}.*is it there"):
        zone.evaluate()
    with pytest.raises(ConfigError, match="queue_url 'arn:x': use https"):
        sqs_landing_sensor("arn:x", [reversing(source=lines)], partitions=DAILY)
