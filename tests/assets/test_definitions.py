"""What the code location says of each asset: it is what people see in the UI."""

from __future__ import annotations

from typing import Any

import pytest

from assets.definitions import build_definitions

GRAPH = build_definitions().resolve_asset_graph()
NODES = [GRAPH.get(key) for key in sorted(GRAPH.get_all_asset_keys())]
OURS = [node for node in NODES if node.is_materializable]


@pytest.mark.parametrize("node", NODES, ids=lambda node: node.key.to_user_string())
def test_every_asset_has_a_group_a_kind_and_a_description(node: Any) -> None:
    assert node.group_name in {"magazine", "payments", "search", "shop"}
    assert node.kinds
    assert node.description is not None
    assert node.description.endswith(".")


@pytest.mark.parametrize("node", OURS, ids=lambda node: node.key.to_user_string())
def test_every_table_and_model_of_ours_has_an_owner(node: Any) -> None:
    assert node.owners
    assert all(owner.startswith("team:") for owner in node.owners)


def test_a_table_is_described_by_its_contract() -> None:
    described = {node.key.to_user_string(): node.description for node in NODES}
    assert described["daily_summaries"] == "One summary for each article of a day."
    assert described["articles"].startswith("An article of the shop's magazine")
