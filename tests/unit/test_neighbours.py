"""Nodes that are not registered here, and over whom they are reached."""

from types import SimpleNamespace
from typing import Any

import pytest

from appliance.domain.node import NodeBody
from web.neighbours import reach


def node(name: str, *peers: str) -> NodeBody:
    return NodeBody(name=name, url="", stage="prod", version="", peers=peers)


@pytest.mark.parametrize("says", ["cairo", "berlin"])
@pytest.mark.parametrize("down", [False, True])
def test_one_end_says_who_is_registered_with_whom(says: str, down: bool) -> None:
    """A node that goes right after it joined has not said itself whom it is registered with."""
    nodes = {
        "here": node("Amsterdam", "berlin"),
        "berlin": node("Berlin", "here", *(["cairo"] if says == "berlin" else [])),
        "cairo": node("Cairo", *(["berlin"] if says == "cairo" else [])),
    }
    berlin = SimpleNamespace(id="berlin", name="Berlin", down=down, last_error="refused", last_seen=7)
    app: Any = SimpleNamespace(
        peers=SimpleNamespace(all=lambda: [berlin]),
        identity=SimpleNamespace(node_id="here"),
        holdings=SimpleNamespace(nodes=nodes),
    )
    found = reach(app)["cairo"]
    assert found.text == f"Cairo is reached only through Berlin{', which is down' if down else ''}."
    assert found.since == (7 if down else 0)
