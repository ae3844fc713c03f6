"""EC2's answers, each of them: what is asked for next, and that no shortage ends a job.

The client is boto3's own; botocore's Stubber checks each call and answer against EC2's model.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal

import boto3
import pytest
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from moto import mock_aws

from overnight.errors import ConfigError
from overnight.spot.acquire import acquire
from overnight.spot.capacity import ACTIONS, Candidate, Pool, action_for
from tests.moto_server import SECRET

if TYPE_CHECKING:
    from collections.abc import Iterator

TEMPLATE = "lt-0123456789abcdef0"
CHEAP = Candidate(instance_type="g6.2xlarge", zone="us-west-2b", spot_usd=0.35, on_demand_usd=0.98)
DEAR = Candidate(instance_type="g5.2xlarge", zone="us-west-2a", spot_usd=0.45, on_demand_usd=1.21)
SHORTAGES = [
    "InsufficientInstanceCapacity", "InsufficientHostCapacity",
    "InsufficientReservedInstanceCapacity", "MaxSpotInstanceCountExceeded", "Unsupported",
    "SpotMaxPriceTooLow", "UnfulfillableCapacity", "InsufficientCapacity",
]  # fmt: skip


def codes(action: str) -> list[str]:
    return [code for code, then in ACTIONS.items() if then == action]


def client() -> Any:
    return boto3.client(
        "ec2", region_name="us-west-2", aws_access_key_id="none", aws_secret_access_key=SECRET
    )


@pytest.fixture
def ec2() -> Iterator[tuple[Any, Stubber]]:
    made = client()
    with Stubber(made) as stubber:
        yield made, stubber
        stubber.assert_no_pending_responses()


def pool(market: Literal["spot", "on_demand"] = "spot") -> Pool:
    return Pool((DEAR, CHEAP), market=market)


def call(candidate: Candidate, market: str = "spot") -> dict[str, Any]:
    override = {"InstanceType": candidate.instance_type, "AvailabilityZone": candidate.zone}
    template = {"LaunchTemplateId": TEMPLATE, "Version": "$Default"}
    return {
        "Type": "instant",
        "TargetCapacitySpecification": {
            "TotalTargetCapacity": 1, "DefaultTargetCapacityType": market
        },
        "LaunchTemplateConfigs": [
            {"LaunchTemplateSpecification": template, "Overrides": [override]}
        ],
    }  # fmt: skip


def refuse(
    stubber: Stubber, code: str, candidate: Candidate, market: str = "spot", *, raises: bool
) -> None:
    """Both ways in which CreateFleet says no."""
    if raises:
        stubber.add_client_error(
            "create_fleet", code, "not now", 400, expected_params=call(candidate, market)
        )
        return
    failure = {"Lifecycle": market, "ErrorCode": code, "ErrorMessage": "not now"}
    answer = {"FleetId": "fleet-1", "Errors": [failure], "Instances": []}
    stubber.add_response("create_fleet", answer, call(candidate, market))


def grant(stubber: Stubber, candidate: Candidate, market: str = "spot") -> None:
    started = {"Lifecycle": market, "InstanceIds": ["i-1"], "InstanceType": candidate.instance_type}
    stubber.add_response(
        "create_fleet", {"FleetId": "fleet-2", "Errors": [], "Instances": [started]},
        call(candidate, market),
    )  # fmt: skip


@pytest.mark.parametrize("raises", [True, False], ids=["raised", "in the answer"])
@pytest.mark.parametrize("code", codes("next"))
def test_a_shortage_leads_to_the_next_candidate(
    ec2: tuple[Any, Stubber], code: str, *, raises: bool
) -> None:
    asked, stubber = ec2
    refuse(stubber, code, CHEAP, raises=raises)
    grant(stubber, DEAR)
    candidates = pool()
    got = acquire(asked, candidates, template=TEMPLATE, now=1000)
    assert (got.instance_id, got.candidate, got.market) == ("i-1", DEAR, "spot")
    assert got.errors == (("g6.2xlarge in us-west-2b", code),)
    assert candidates.available(1000) == (DEAR,)


@pytest.mark.parametrize("raises", [True, False], ids=["raised", "in the answer"])
@pytest.mark.parametrize("code", codes("next"))
def test_a_shortage_everywhere_leads_to_on_demand_if_that_is_asked_for(
    ec2: tuple[Any, Stubber], code: str, *, raises: bool
) -> None:
    asked, stubber = ec2
    refuse(stubber, code, CHEAP, raises=raises)
    refuse(stubber, code, DEAR, raises=raises)
    refuse(stubber, code, CHEAP, "on-demand", raises=raises)
    grant(stubber, DEAR, "on-demand")
    got = acquire(asked, pool(), template=TEMPLATE, now=0, on_demand=pool("on_demand"))
    assert (got.instance_id, got.candidate, got.market) == ("i-1", DEAR, "on_demand")
    assert [there for there, _ in got.errors] == [CHEAP.place, DEAR.place, CHEAP.place]


@pytest.mark.parametrize("code", codes("next"))
def test_a_shortage_of_everything_says_when_to_ask_again(
    ec2: tuple[Any, Stubber], code: str
) -> None:
    asked, stubber = ec2
    refuse(stubber, code, CHEAP, raises=True)
    refuse(stubber, code, DEAR, raises=False)
    candidates = pool()
    got = acquire(asked, candidates, template=TEMPLATE, now=1000)
    assert (got.instance_id, got.retry_at) == (None, 1000 + candidates.backoff_s)
    # Until then, nobody is asked.
    again = acquire(asked, candidates, template=TEMPLATE, now=1001)
    assert (again.instance_id, again.errors, again.retry_at) == (None, (), got.retry_at)


@pytest.mark.parametrize("code", codes("wait"))
def test_a_busy_ec2_is_asked_later_and_no_candidate_is_blamed(
    ec2: tuple[Any, Stubber], code: str
) -> None:
    asked, stubber = ec2
    refuse(stubber, code, CHEAP, raises=True)
    candidates = pool()
    got = acquire(asked, candidates, template=TEMPLATE, now=0, on_demand=pool("on_demand"))
    assert (got.instance_id, got.retry_at) == (None, candidates.backoff_s)
    assert candidates.available(0) == (CHEAP, DEAR)


@pytest.mark.parametrize("code", codes("on_demand"))
def test_an_account_without_spot_goes_on_on_demand(ec2: tuple[Any, Stubber], code: str) -> None:
    asked, stubber = ec2
    refuse(stubber, code, CHEAP, raises=True)
    grant(stubber, CHEAP, "on-demand")
    spot = pool()
    got = acquire(asked, spot, template=TEMPLATE, now=0, on_demand=pool("on_demand"))
    assert (got.instance_id, got.market) == ("i-1", "on_demand")
    assert spot.next_at(0) == spot.backoff_s


@pytest.mark.parametrize("raises", [True, False], ids=["raised", "in the answer"])
@pytest.mark.parametrize("code", codes("fatal"))
def test_what_somebody_has_to_mend_is_an_error_that_says_so(
    ec2: tuple[Any, Stubber], code: str, *, raises: bool
) -> None:
    asked, stubber = ec2
    refuse(stubber, code, CHEAP, raises=raises)
    with pytest.raises(ConfigError) as caught:
        acquire(asked, pool(), template=TEMPLATE, now=0)
    told = str(caught.value)
    assert f"refuses to start g6.2xlarge in us-west-2b: {code} (not now)" in told
    assert SECRET not in told


@pytest.mark.parametrize("code", [*codes("next"), *codes("wait"), *codes("fatal")])
def test_an_error_of_run_instances_means_the_same(ec2: tuple[Any, Stubber], code: str) -> None:
    asked, stubber = ec2
    stubber.add_client_error("run_instances", code, "not now", 400)
    with pytest.raises(ClientError) as caught:
        asked.run_instances(ImageId="ami-1", InstanceType="g6.2xlarge", MinCount=1, MaxCount=1)
    assert action_for(caught.value.response["Error"]["Code"]) == ACTIONS[code]


def test_an_unknown_code_costs_a_try_and_is_logged(
    ec2: tuple[Any, Stubber], caplog: pytest.LogCaptureFixture
) -> None:
    asked, stubber = ec2
    refuse(stubber, "SomethingNew", CHEAP, raises=False)
    grant(stubber, DEAR)
    assert acquire(asked, pool(), template=TEMPLATE, now=0).candidate == DEAR
    assert "EC2 answered SomethingNew, which is not known here" in caplog.text


def test_every_code_of_a_shortage_leads_on() -> None:
    assert {action_for(code) for code in SHORTAGES} == {"next"}
    assert action_for("Server.InsufficientInstanceCapacity") == "next"
    assert action_for("Client.UnauthorizedOperation") == "fatal"


def test_an_unreachable_ec2_is_asked_later() -> None:
    asked = boto3.client(
        "ec2", region_name="us-west-2", endpoint_url="http://127.0.0.1:1",
        aws_access_key_id="none", aws_secret_access_key=SECRET,
        config=boto3.session.Config(retries={"max_attempts": 0}),
    )  # fmt: skip
    got = acquire(asked, pool(), template=TEMPLATE, now=0)
    assert (got.instance_id, got.errors) == (None, ((CHEAP.place, "ServiceUnavailable"),))


@mock_aws
def test_the_call_is_one_that_starts_a_spot_machine() -> None:
    asked = client()
    image = asked.describe_images()["Images"][0]["ImageId"]
    template = asked.create_launch_template(
        LaunchTemplateName="worker", LaunchTemplateData={"ImageId": image}
    )["LaunchTemplate"]["LaunchTemplateId"]
    got = acquire(asked, pool(), template=template, now=0)
    found = asked.describe_instances(InstanceIds=[got.instance_id])
    (instance,) = found["Reservations"][0]["Instances"]
    assert instance["InstanceType"] == "g6.2xlarge"
    assert instance.get("InstanceLifecycle") == "spot"


def test_candidates_are_asked_by_the_price_of_their_market() -> None:
    other = Candidate(instance_type="g4dn.xlarge", zone="a", spot_usd=0.4, on_demand_usd=0.5)
    assert Pool((DEAR, other, CHEAP)).candidates == (CHEAP, other, DEAR)
    assert Pool((DEAR, other, CHEAP), market="on_demand").candidates == (other, CHEAP, DEAR)
    assert Pool((CHEAP,)).places(0) == ("g6.2xlarge in us-west-2b",)


def test_each_failure_in_a_row_doubles_the_rest_and_success_ends_it() -> None:
    candidates = Pool((CHEAP, DEAR), backoff_s=100, longest_s=350)
    now, rests = 0.0, []
    for _ in range(4):
        until = candidates.failed(CHEAP, now)
        rests.append(until - now)
        assert candidates.available(until - 1) == (DEAR,)
        assert candidates.available(until) == (CHEAP, DEAR)
        now = until
    assert rests == [100, 200, 350, 350]
    candidates.worked(CHEAP)
    assert candidates.failed(CHEAP, now) == now + 100
    assert candidates.next_at(now) == now
    candidates.failed(DEAR, now)
    assert candidates.next_at(now + 1) == now + 100


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"candidates": ()}, "no candidates"),
        ({"candidates": (CHEAP,), "backoff_s": 0}, "backoff_s is 0"),
        ({"candidates": (CHEAP,), "backoff_s": 10, "longest_s": 5}, "at most longest_s, 5"),
    ],
)
def test_pools_that_cannot_be_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        Pool(**fields)


def test_no_code_stands_in_two_lists() -> None:
    from overnight.spot import capacity

    lists = (capacity._NEXT, capacity._WAIT, capacity._ON_DEMAND, capacity._FATAL)
    assert len(list(itertools.chain(*lists))) == len(ACTIONS)
