"""What a machine costs: asked from AWS within seconds, else taken from a dated table.

Nothing waits for a price and nothing fails for the lack of an answer: without credentials,
rights or network the table's price is used, and is marked as such. Adding prices up belongs
to `overnight.ledger`.
"""

from __future__ import annotations

import datetime as dt
import functools
import json
import logging
import math
import os
import re
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from overnight.errors import ConfigError
from overnight.redact import redact
from overnight.spot import price_table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    _Question = Callable[[Any], "Price | None"]

__all__ = ["OWN_PRICE", "Market", "Price", "Source", "region_of"]

_log = logging.getLogger(__name__)

OWN_PRICE = "OVERNIGHT_PRICE_PER_HOUR"
Source = Literal["aws", "table", "setting", "none"]

_PATIENCE_S = 4.0
_CONNECT_S = 2.0
_READ_S = 3.0
# An AWS that did not answer is left alone for a while, so that waiting does not add up.
_SILENCE_S = 600.0
# The Price List has few endpoints; this one knows all regions.
_PRICING_REGION = "us-east-1"
_REGION = re.compile(r"([a-z]{2}(?:-[a-z]+)+-\d+)(?:-[a-z]+-\d+)?[a-z]")
_ON_DEMAND_LINUX = {
    "operatingSystem": "Linux",
    "tenancy": "Shared",
    "preInstalledSw": "NA",
    "capacitystatus": "Used",
}


@dataclass(frozen=True, slots=True)
class Price:
    """What an hour of a machine costs.

    Attributes:
        dollars_per_hour: USD; None if it is not known.
        source: `aws`: asked from it; `table`: see `price_table`; `setting`: see `OWN_PRICE`;
            `none`: not known.
        as_of: since when it is, or was, the price; None where nobody says.
    """

    dollars_per_hour: float | None
    source: Source
    as_of: dt.datetime | None = None


def region_of(zone: str | None) -> str | None:
    """The AWS region of an availability zone or local zone; None if it is no zone of AWS."""
    found = _REGION.fullmatch(zone or "")
    return found[1] if found else None


class Market:
    """Prices of machines, each asked for once; safe to share between threads.

    Args:
        own_price: USD that an hour of a machine costs, whichever it is: own hardware, or
            prices that were agreed on. Only the ledger uses it; see `own`.
        connect: makes the boto3 client of a service in a region.
        patience_s: seconds that an answer is waited for.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        *,
        own_price: float | None = None,
        connect: Callable[[str, str], Any] | None = None,
        patience_s: float = _PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.own = None if own_price is None else Price(own_price, "setting")
        self._connect = connect or _client
        self._patience_s = patience_s
        self._clock = clock
        self._answers: dict[tuple[object, ...], Price | None] = {}
        self._silent_until: dict[tuple[str, str], float] = {}

    @staticmethod
    def from_env(env: Mapping[str, str] = os.environ) -> Market:
        """The process's market, with `OVERNIGHT_PRICE_PER_HOUR` if it is set.

        Raises:
            ConfigError: if that is not a number of dollars.
        """
        text = env.get(OWN_PRICE) or None
        return _shared(None if text is None else _dollars(text))

    def spot_price(self, instance_type: str, zone: str | None, at: dt.datetime) -> Price:
        """What a spot machine cost at a time, to the hour: its price when the hour began.

        AWS keeps 90 days. Without a zone of AWS, without an answer, or for older times:
        what the table holds typical in us-east-1.

        Raises:
            ConfigError: if nobody knows the instance type; names those spelled like it.
        """
        region = region_of(zone)
        hour = at.astimezone(dt.UTC).replace(minute=0, second=0, microsecond=0)

        def ask(client: Any) -> Price | None:
            return _spot_quote(client, instance_type, str(zone), hour)

        found = region and self._ask("ec2", region, ask, (instance_type, zone, hour))
        if found:
            return found
        return Price(price_table.list_price(instance_type).spot, "table", price_table.AS_OF)

    def on_demand_price(self, instance_type: str, region: str | None) -> Price:
        """What a machine costs on demand now (Linux, shared tenancy).

        Without a region or without an answer: the table's price in us-east-1.

        Raises:
            ConfigError: if nobody knows the instance type; names those spelled like it.
        """

        def ask(client: Any) -> Price | None:
            return _on_demand_quote(client, instance_type, str(region))

        found = region and self._ask("pricing", _PRICING_REGION, ask, (instance_type, region))
        if found:
            return found
        return Price(price_table.list_price(instance_type).on_demand, "table", price_table.AS_OF)

    def _ask(
        self, service: str, region: str, question: _Question, key: tuple[object, ...]
    ) -> Price | None:
        """AWS's answer; None if it has none, or does not answer."""
        from botocore.exceptions import ClientError

        key = (service, *key)
        if key in self._answers:
            return self._answers[key]
        if self._clock() < self._silent_until.get((service, region), -math.inf):
            return None

        def ask() -> Price | None:
            client = self._connect(service, region)
            try:
                return question(client)
            finally:
                client.close()

        try:
            answer = _within(self._patience_s, ask)
        except ClientError as error:
            if error.response["Error"]["Code"] != "InvalidParameterValue":
                self._fall_silent(service, region, error)
                return None
            # It does not know the instance type, and will not know it later.
            answer = None
        except Exception as error:  # noqa: BLE001 - no price is worth a run
            self._fall_silent(service, region, error)
            return None
        self._answers[key] = answer
        return answer

    def _fall_silent(self, service: str, region: str, error: Exception) -> None:
        self._silent_until[service, region] = self._clock() + _SILENCE_S
        _log.info(
            "AWS gives no prices (%s in %s: %s); for %.0f minutes they come from the table of %s",
            service, region, redact(str(error)) or type(error).__name__,
            _SILENCE_S / 60, f"{price_table.AS_OF:%Y-%m-%d}",
        )  # fmt: skip


@functools.cache
def _shared(own_price: float | None) -> Market:
    return Market(own_price=own_price)


def _dollars(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        message = (
            f"{OWN_PRICE}={text!r} is not a price: give what an hour of a machine costs in "
            "dollars, such as 1.25"
        )
        raise ConfigError(message)
    return value


def _client(service: str, region: str) -> Any:
    # boto3 takes a third of a second to import, and only this needs it.
    import boto3
    from botocore.config import Config

    bounded = Config(
        connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": 1}
    )
    return boto3.Session().client(service, region_name=region, config=bounded)


def _within(seconds: float, ask: Callable[[], Price | None]) -> Price | None:
    """Bounds what no setting of boto3 does: resolving names, finding credentials, pages.

    In a thread of its own, which a process that ends does not wait for.
    """
    answer: Future[Price | None] = Future()

    def run() -> None:
        try:
            answer.set_result(ask())
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits
            answer.set_exception(error)

    threading.Thread(target=run, name="overnight-price", daemon=True).start()
    try:
        return answer.result(timeout=seconds)
    except TimeoutError:
        if answer.done():
            raise
        message = f"no answer within {seconds:g} s"
        raise TimeoutError(message) from None


def _spot_quote(client: Any, instance_type: str, zone: str, at: dt.datetime) -> Price | None:
    """The last change before `at`, which AWS tells along with those after it."""
    pages = client.get_paginator("describe_spot_price_history").paginate(
        InstanceTypes=[instance_type],
        ProductDescriptions=["Linux/UNIX"],
        Filters=[{"Name": "availability-zone", "Values": [zone]}],
        StartTime=at,
        EndTime=at,
    )
    quotes = [
        (quote["Timestamp"], float(quote["SpotPrice"]))
        for page in pages
        for quote in page["SpotPriceHistory"]
        if quote["Timestamp"] <= at
    ]
    if not quotes:
        return None
    since, dollars = max(quotes)
    return Price(dollars, "aws", since)


def _on_demand_quote(client: Any, instance_type: str, region: str) -> Price | None:
    wanted = {**_ON_DEMAND_LINUX, "instanceType": instance_type, "regionCode": region}
    pages = client.get_paginator("get_products").paginate(
        ServiceCode="AmazonEC2",
        Filters=[{"Type": "TERM_MATCH", "Field": k, "Value": v} for k, v in wanted.items()],
    )
    for page in pages:
        for text in page["PriceList"]:
            if (price := _of_product(json.loads(text))) is not None:
                return price
    return None


def _of_product(product: Mapping[str, Any]) -> Price | None:
    """The price in a product of the Price List, None if it is not for machines on demand."""
    attributes = product["product"]["attributes"]
    # Capacity blocks and reservations are listed with the same type, partly at nothing.
    if attributes.get("marketoption", "OnDemand") != "OnDemand":
        return None
    for term in product["terms"].get("OnDemand", {}).values():
        for dimension in term["priceDimensions"].values():
            dollars = float(dimension["pricePerUnit"].get("USD", 0))
            if dimension["unit"] == "Hrs" and dollars > 0:
                since = dt.datetime.fromisoformat(term["effectiveDate"])
                return Price(dollars, "aws", since)
    return None
