"""A node that is gone for good leaves every node's lists; one that still runs comes back."""

import secrets
from pathlib import Path
from typing import Any

from tests.builders import make_file
from tests.harness import Network, eventually
from tests.harness.node import NodeProcess


def names(node: NodeProcess, what: str) -> set[str]:
    return {item["name"] for item in node.api("GET", f"/{what}")["items"]}


def events(node: NodeProcess, type_: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = node.api("GET", f"/events?type={type_}")["items"]
    return found


def test_a_node_that_is_gone_is_forgotten_everywhere(any_network: Network, tmp_path: Path) -> None:
    a, b, c = any_network.chain("a", "b", "c")
    old = make_file(tmp_path / "Old.pkg", 1000, 1)
    a.publish(old.path)
    c.wait_holds("Old.pkg", old.sha256)
    eventually(lambda: len(events(a, "package.replicated")) == 1, 20, "it is not told to be everywhere")
    c.kill9()
    late = make_file(tmp_path / "Late.pkg", 1000, 2)
    a.publish(late.path)
    b.wait_holds("Late.pkg", late.sha256)
    eventually(lambda: not b.api("GET", "/peers/c")["healthy"], 30, "b does not miss c")
    assert len(events(a, "package.replicated")) == 1  # c is waited for

    assert a.request("DELETE", "/api/v1/nodes/c").status == 204
    for node in (a, b):
        eventually(lambda node=node: names(node, "nodes") == {"a", "b"}, 20, f"{node.name} remembers c")
        replicas = (node.package("Old.pkg") or {})["replicas"]
        assert {replica["name"] for replica in replicas} == {"a", "b"}
    eventually(lambda: len(events(a, "package.replicated")) == 2, 20, "c is waited for")
    (told,) = events(a, "node.removed")
    assert (told["actor"], told["data"]["name"]) == ("admin", "c")
    assert a.request("DELETE", "/api/v1/nodes/c").status == 404


def test_a_registration_with_a_removed_node_ends_once_it_is_down(network: Network) -> None:
    a, b, c = network.chain("a", "b", "c")
    eventually(lambda: "c" in names(a, "nodes"), 20, "a has not heard of c")
    c.kill9()
    file = make_file(network.root / "Some.pkg", 10, 1)
    b.publish(file.path)

    def missed() -> bool:
        b.api("PATCH", "/packages/Some.pkg", {"notes": secrets.token_hex(4)})  # c would be told
        return events(b, "peer.down") != []

    eventually(missed, 60, "c is not down for b")
    a.api("DELETE", "/nodes/c")
    eventually(lambda: names(b, "peers") == {"a"}, 20, "b keeps its registration with c")
    (left,) = events(b, "peer.left")
    assert left["data"]["name"] == "c"
    c.start()
    eventually(lambda: not c.api("GET", "/peers/b")["healthy"], 60, "c is let in")
    assert names(a, "nodes") == {"a", "b"}


def test_a_node_that_runs_comes_back_by_itself(network: Network) -> None:
    a, b, c = network.chain("a", "b", "c")
    eventually(lambda: "c" in names(a, "nodes"), 20, "a has not heard of c")
    a.api("DELETE", "/nodes/c")
    eventually(lambda: events(a, "node.removed") != [], 20, "the removal is not in the log")
    for node in (a, b, c):
        eventually(lambda node=node: names(node, "nodes") == {"a", "b", "c"}, 20, f"{node.name} misses c")


def test_what_may_not_be_removed(network: Network) -> None:
    a, _ = network.chain("a", "b")
    own = a.request("DELETE", "/api/v1/nodes/a")
    assert (own.status, own.json()["code"]) == (409, "conflict")
    registered = a.request("DELETE", "/api/v1/nodes/b")
    assert registered.status == 409
    assert "ods peer remove b" in registered.json()["detail"]
    unknown = a.request("DELETE", "/api/v1/nodes/nobody")
    assert (unknown.status, unknown.json()["code"]) == (404, "node_unknown")
    assert names(a, "nodes") == {"a", "b"}
