"""EC2 for tests: moto's, behind a proxy that refuses launches as EC2 does when it has no machines.

moto has every machine that is asked for, so the refusals are ours: the same XML and status.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import os
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest import mock
from urllib.parse import parse_qs, urlsplit

import boto3

from tests.moto_server import REGION, moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST_ERRORS = ("InsufficientInstanceCapacity", "InsufficientHostCapacity")
_REFUSAL = """<?xml version="1.0" encoding="UTF-8"?>
<Response><Errors><Error><Code>{code}</Code>
<Message>We currently do not have sufficient {instance_type} capacity.</Message>
</Error></Errors><RequestID>00000000-0000-0000-0000-000000000000</RequestID></Response>"""


@dataclass(frozen=True, slots=True)
class Launch:
    """One RunInstances request for workers, as it reached EC2."""

    instance_type: str
    market: str
    subnet: str
    count: int


@dataclass(slots=True)
class Ec2:
    """An account with a network of three zones and what the cluster file asks to be filled in.

    Attributes:
        url: what AWS_ENDPOINT_URL is set to.
        refusing: error codes by what is refused: an (instance type, market), or a subnet.
        launches: the requests for workers so far, refused ones included.
        actions: the names of all requests so far.
    """

    url: str
    refusing: dict[tuple[str, str] | str, str] = field(default_factory=dict)
    launches: list[Launch] = field(default_factory=list)
    actions: set[str] = field(default_factory=set)
    client: Any = None
    image: str = ""
    subnets: tuple[str, ...] = ()
    security_group: str = ""

    def refusal(self, launch: Launch) -> str | None:
        """The error code for a launch; None: it may go on."""
        by_type = self.refusing.get((launch.instance_type, launch.market))
        return by_type or self.refusing.get(launch.subnet)

    def workers(self) -> list[dict[str, Any]]:
        """The workers that there are."""
        found = self.client.describe_instances(
            Filters=[
                {"Name": "instance-state-name", "Values": ["pending", "running"]},
                {"Name": "tag:ray-node-type", "Values": ["worker"]},
            ]
        )
        return [made for each in found["Reservations"] for made in each["Instances"]]

    def instance(self, instance_id: str) -> dict[str, Any]:
        """One instance, whatever has become of it."""
        found = self.client.describe_instances(InstanceIds=[instance_id])
        instance: dict[str, Any] = found["Reservations"][0]["Instances"][0]
        return instance

    def start_over(self) -> None:
        """Forget what was asked for, and end all machines."""
        every = self.client.describe_instances()["Reservations"]
        ids = [made["InstanceId"] for each in every for made in each["Instances"]]
        if ids:
            self.client.terminate_instances(InstanceIds=ids)
        self.refusing.clear()
        self.launches.clear()
        self.actions.clear()


def tags(instance: dict[str, Any]) -> dict[str, str]:
    """The tags of an instance by key."""
    return {tag["Key"]: tag["Value"] for tag in instance["Tags"]}


@contextlib.contextmanager
def ec2() -> Iterator[Ec2]:
    """An account of its own; boto3 finds it through the environment meanwhile."""
    with moto_server() as behind:
        made = Ec2(url="")
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(made, behind))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        made.url = f"http://127.0.0.1:{server.server_address[1]}"
        found = {"AWS_ENDPOINT_URL": made.url, "AWS_DEFAULT_REGION": REGION}
        try:
            with mock.patch.dict(os.environ, found):
                made.client = boto3.client("ec2", region_name=REGION)
                _furnish(made)
                yield made
        finally:
            made.client.close()
            server.shutdown()
            server.server_close()


def _furnish(account: Ec2) -> None:
    ec2 = account.client
    vpc = ec2.create_vpc(CidrBlock="10.7.0.0/16")["Vpc"]["VpcId"]
    account.subnets = tuple(
        ec2.create_subnet(
            VpcId=vpc, CidrBlock=f"10.7.{number}.0/24", AvailabilityZone=f"{REGION}{letter}"
        )["Subnet"]["SubnetId"]
        for number, letter in enumerate("abc")
    )
    account.security_group = ec2.create_security_group(
        GroupName="overnight", Description="workers", VpcId=vpc
    )["GroupId"]
    account.image = ec2.describe_images(
        Filters=[{"Name": "name", "Values": ["ubuntu/images/hvm-ssd/*"]}]
    )["Images"][0]["ImageId"]
    iam = boto3.client("iam", region_name=REGION)
    for name in ("overnight-head", "overnight-worker"):
        # moto's accounts are one for the whole process.
        with contextlib.suppress(iam.exceptions.EntityAlreadyExistsException):
            iam.create_instance_profile(InstanceProfileName=name)
    iam.close()


def _handler(account: Ec2, behind: str) -> type[http.server.BaseHTTPRequestHandler]:
    address = urlsplit(behind).netloc

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            asked = {name: values[0] for name, values in parse_qs(body.decode()).items()}
            account.actions.add(asked["Action"])
            if asked["Action"] == "RunInstances" and "worker" in asked.values():
                launch = Launch(
                    instance_type=asked["InstanceType"],
                    market=asked.get("InstanceMarketOptions.MarketType", "on-demand"),
                    subnet=asked["SubnetId"],
                    count=int(asked["MaxCount"]),
                )
                account.launches.append(launch)
                if code := account.refusal(launch):
                    refusal = _REFUSAL.format(code=code, instance_type=launch.instance_type)
                    # EC2 calls a lack of its own machines a server error.
                    self._answer(500 if code in HOST_ERRORS else 400, refusal.encode())
                    return
            upstream = http.client.HTTPConnection(address, timeout=30)
            try:
                upstream.request("POST", self.path, body, dict(self.headers))
                answer = upstream.getresponse()
                self._answer(answer.status, answer.read())
            finally:
                upstream.close()

        def _answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "text/xml")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            """Keep quiet."""

    return Handler
