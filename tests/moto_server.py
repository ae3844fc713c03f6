"""A real S3 server for tests: moto's, on a free port of this machine, with dummy credentials."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from typing import TYPE_CHECKING
from unittest import mock

import boto3
from moto.server import ThreadedMotoServer

from overnight.store import StoreConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

SECRET = "not-a-real-secret-key"
REGION = "eu-central-1"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "not-a-real-key-id",
    "AWS_SECRET_ACCESS_KEY": SECRET,
    "AWS_EC2_METADATA_DISABLED": "true",
}
_numbers = itertools.count()


@contextlib.contextmanager
def moto_server() -> Iterator[str]:
    """A server's endpoint URL; the environment has credentials for it meanwhile."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    with mock.patch.dict(os.environ, ENVIRONMENT):
        server.start()
        try:
            host, port = server.get_host_and_port()
            yield f"http://{host}:{port}"
        finally:
            server.stop()


def new_bucket(endpoint: str, prefix: str = "some/prefix") -> StoreConfig:
    """A store in a bucket that nobody else uses."""
    bucket = f"overnight-test-{next(_numbers)}"
    client = boto3.client("s3", endpoint_url=endpoint, region_name=REGION)
    client.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    client.close()
    return StoreConfig(f"s3://{bucket}/{prefix}".rstrip("/"), endpoint_url=endpoint, region=REGION)
