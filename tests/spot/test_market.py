"""Prices: through boto3 where AWS answers, from the dated table where it does not."""

from __future__ import annotations

import datetime as dt
import json
import logging
import socket
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.stub import Stubber

from overnight.errors import ConfigError
from overnight.spot import price_table
from overnight.spot.market import OWN_PRICE, Market, Price, region_of
from tests.moto_server import moto_server

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AT = dt.datetime(2026, 11, 21, 2, 40, tzinfo=dt.UTC)
HOUR = AT.replace(minute=0)
LISTED = Price(1.212, "table", price_table.AS_OF)
LISTED_SPOT = Price(round(1.212 * 0.45, 6), "table", price_table.AS_OF)


class Stubbed:
    """botocore's own clients, whose answers are put in line; notes who was asked."""

    def __init__(self, prepare: Callable[[Stubber], object]) -> None:
        self._prepare = prepare
        self.asked: list[tuple[str, str]] = []

    def __call__(self, service: str, region: str) -> Any:
        self.asked.append((service, region))
        client = boto3.client(
            service, region_name=region, aws_access_key_id="x", aws_secret_access_key="y"
        )
        stubber = Stubber(client)
        self._prepare(stubber)
        stubber.activate()
        return client


def quote(price: str, when: dt.datetime) -> dict[str, Any]:
    return {"SpotPrice": price, "Timestamp": when, "AvailabilityZone": "eu-west-1b"}


def product(dollars: str, **attributes: str) -> str:
    dimension = {"unit": "Hrs", "pricePerUnit": {"USD": dollars}}
    term = {"effectiveDate": "2026-10-01T00:00:00Z", "priceDimensions": {"d": dimension}}
    return json.dumps(
        {"product": {"attributes": attributes}, "terms": {"OnDemand": {"t": term}, "Reserved": {}}}
    )


def test_a_spot_price_is_the_last_change_before_the_hour_on_whichever_page() -> None:
    asked_for = {
        "InstanceTypes": ["g5.2xlarge"],
        "ProductDescriptions": ["Linux/UNIX"],
        "Filters": [{"Name": "availability-zone", "Values": ["eu-west-1b"]}],
        "StartTime": HOUR,
        "EndTime": HOUR,
    }
    changed = HOUR - dt.timedelta(minutes=5)

    def prepare(stubber: Stubber) -> None:
        first = [quote("0.5", HOUR - dt.timedelta(days=1)), quote("0.9", AT)]
        stubber.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": first, "NextToken": "more"},
            asked_for,
        )
        stubber.add_response(
            "describe_spot_price_history",
            {"SpotPriceHistory": [quote("0.6", changed)]},
            {**asked_for, "NextToken": "more"},
        )

    clients = Stubbed(prepare)
    market = Market(connect=clients)
    found = Price(0.6, "aws", changed)
    assert market.spot_price("g5.2xlarge", "eu-west-1b", AT) == found
    assert market.spot_price("g5.2xlarge", "eu-west-1b", HOUR) == found
    assert clients.asked == [("ec2", "eu-west-1")]


def test_a_price_on_demand_is_read_from_the_price_list_and_asked_for_once() -> None:
    def prepare(stubber: Stubber) -> None:
        listed = [
            product("0.0000000000", marketoption="OnDemand"),
            product("0.7000000000", marketoption="CapacityBlock"),
            product("1.3540000000", marketoption="OnDemand"),
        ]
        fields = {
            "operatingSystem": "Linux",
            "tenancy": "Shared",
            "preInstalledSw": "NA",
            "capacitystatus": "Used",
            "instanceType": "g5.2xlarge",
            "regionCode": "eu-west-1",
        }
        filters = [{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in fields.items()]
        stubber.add_response(
            "get_products",
            {"PriceList": listed},
            {"ServiceCode": "AmazonEC2", "Filters": filters},
        )

    clients = Stubbed(prepare)
    market = Market(connect=clients)
    found = Price(1.354, "aws", dt.datetime(2026, 10, 1, tzinfo=dt.UTC))
    assert market.on_demand_price("g5.2xlarge", "eu-west-1") == found
    assert market.on_demand_price("g5.2xlarge", "eu-west-1") == found
    assert clients.asked == [("pricing", "us-east-1")]


def test_boto3_asks_a_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with moto_server() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", endpoint)
        # moto knows one price, and which types there are in a zone.
        found = Market().spot_price("g4dn.xlarge", "us-east-1a", AT)
        assert (found.dollars_per_hour, found.source) == (0.00001, "aws")
        with pytest.raises(ConfigError, match=r"'g4dn\.xlarg'; did you mean"):
            Market().spot_price("g4dn.xlarg", "us-east-1a", AT)


@pytest.mark.parametrize(
    ("zone", "region"),
    [
        ("us-east-1a", "us-east-1"),
        ("us-gov-west-1b", "us-gov-west-1"),
        ("ap-southeast-2c", "ap-southeast-2"),
        ("us-west-2-lax-1a", "us-west-2"),
        ("us-central1-a", None),
        ("rack 7", None),
        (None, None),
    ],
)
def test_the_region_of_a_zone(zone: str | None, region: str | None) -> None:
    assert region_of(zone) == region


def test_without_credentials_the_table_answers_and_one_line_is_logged(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    market = Market()
    with caplog.at_level(logging.INFO, logger="overnight.spot.market"):
        assert market.spot_price("g5.2xlarge", "us-east-1a", AT) == LISTED_SPOT
        assert market.spot_price("g5.2xlarge", "us-east-1b", AT) == LISTED_SPOT
    (line,) = caplog.messages
    assert "Unable to locate credentials" in line
    assert "2026-06-01" in line


def test_a_server_that_never_answers_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        port = mute.getsockname()[1]
        monkeypatch.setenv("AWS_ENDPOINT_URL_PRICING", f"http://127.0.0.1:{port}")
        market = Market(patience_s=0.05)
        with caplog.at_level(logging.INFO, logger="overnight.spot.market"):
            assert market.on_demand_price("g5.2xlarge", "eu-west-1") == LISTED
    assert "no answer within 0.05 s" in caplog.text


def test_a_refusal_silences_the_service_for_a_while_and_keeps_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients = Stubbed(
        lambda stubber: stubber.add_client_error(
            "get_products", "AccessDeniedException", "AKIAIOSFODNN7EXAMPLE may not"
        )
    )
    now = 0.0
    market = Market(connect=clients, clock=lambda: now)
    with caplog.at_level(logging.INFO, logger="overnight.spot.market"):
        assert market.on_demand_price("g5.2xlarge", "eu-west-1") == LISTED
        assert market.on_demand_price("g5.xlarge", "eu-west-1").source == "table"
    assert len(clients.asked) == len(caplog.messages) == 1
    assert "AccessDenied" in caplog.text
    assert "AKIA" not in caplog.text
    now = 601.0
    assert market.on_demand_price("g5.2xlarge", "eu-west-1") == LISTED
    assert len(clients.asked) == 2


def test_a_type_that_aws_does_not_know_silences_nothing() -> None:
    clients = Stubbed(
        lambda stubber: stubber.add_client_error(
            "describe_spot_price_history", "InvalidParameterValue", "Invalid instance type"
        )
    )
    market = Market(connect=clients)
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"'g5.2xlrge'; did you mean g5.2xlarge or"):
            market.spot_price("g5.2xlrge", "us-east-1a", AT)
    assert market.spot_price("g5.2xlarge", "us-east-1a", AT).source == "table"
    assert len(clients.asked) == 2


@pytest.mark.parametrize(
    "text", ['{"product": {}}', "[]", "<html>", product("dear"), product("NaN")]
)
def test_an_answer_that_cannot_be_read_is_no_answer(text: str) -> None:
    clients = Stubbed(lambda stubber: stubber.add_response("get_products", {"PriceList": [text]}))
    assert Market(connect=clients).on_demand_price("g5.2xlarge", "eu-west-1") == LISTED


def test_nobody_is_asked_without_a_place_in_aws() -> None:
    clients = Stubbed(lambda _: None)
    market = Market(connect=clients)
    assert market.spot_price("g5.2xlarge", None, AT) == LISTED_SPOT
    assert market.on_demand_price("g5.2xlarge", None) == LISTED
    with pytest.raises(ConfigError, match=r"'n1-standard-4'.*these are known: c7i.2xlarge, "):
        market.spot_price("n1-standard-4", "us-central1-a", AT)
    assert clients.asked == []


def test_every_type_of_the_table_has_both_prices() -> None:
    for name in price_table.known_types():
        listed = price_table.list_price(name)
        assert 0 < listed.spot < listed.on_demand


def test_an_own_price_comes_from_the_environment() -> None:
    assert Market.from_env({OWN_PRICE: "1.25"}).own == Price(1.25, "setting")
    assert Market.from_env({OWN_PRICE: ""}).own is None
    assert Market.from_env({}) is Market.from_env({})


@pytest.mark.parametrize("text", ["1,25", "$2", "-1", "nan", "inf"])
def test_an_own_price_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=OWN_PRICE) as caught:
        Market.from_env({OWN_PRICE: text})
    assert repr(text) in str(caught.value)
