"""What a node says of a package that goes nowhere, of nodes that say nothing, and of a peer that does not answer."""

import json
from pathlib import Path

from tests.builders import make_file
from tests.harness import Network, eventually
from tests.harness.command import ods


def test_a_package_that_no_node_admits(any_network: Network, tmp_path: Path) -> None:
    a, b = any_network.chain("a", "b")
    file = make_file(tmp_path / "Dev.pkg", 1000, 1)
    stays = "No node admits a dev package: it stays only here until it is promoted."
    assert a.publish(file.path, stage="dev")["notice"] == stays
    assert a.api("GET", "/packages/Dev.pkg")["notice"] == stays
    listed = a.api("GET", "/packages")["items"]
    assert [item["notice"] for item in listed] == [stays]
    waited = ods(a, "package", "add", str(file.path), "--stage", "dev", "--wait", "--timeout", "30s")
    assert (waited.returncode, "on every node" in waited.stdout) == (1, False)
    assert stays in waited.stderr
    assert "no node admits it" in ods(a, "package", "list").stdout
    a.api("PATCH", "/packages/Dev.pkg", {"stage": "prod"})
    b.wait_holds(file.name, file.sha256)
    assert a.api("GET", "/packages/Dev.pkg")["notice"] == ""
    assert "no node admits it" not in ods(a, "package", "list").stdout


def test_every_node_is_listed_and_a_silent_one_says_why(any_network: Network, tmp_path: Path) -> None:
    a, b, c = any_network.chain("a", "b", "c")
    first = make_file(tmp_path / "First.pkg", 1000, 2)
    a.publish(first.path)
    # What c says of it comes behind what c says of whom it is registered with.
    eventually(lambda: len(a.api("GET", "/packages/First.pkg")["replicas"]) == 3, 60, "a hears nothing of c")
    b.kill9()
    file = make_file(tmp_path / "Lone.pkg", 1000, 1)
    a.publish(file.path)
    eventually(lambda: a.api("GET", "/peers")["items"][0]["failures"], 60, "no call to b failed")
    (peer,) = a.api("GET", "/peers")["items"]
    assert peer["health"] in {"does not answer", "down"}
    assert peer["failing_since"]
    told = {one["name"]: one for one in a.api("GET", "/packages/Lone.pkg")["unheard"]}
    assert told["b"]["reason"] == peer["health"]
    assert told["b"]["since"] == peer["failing_since"]
    assert "reached only through b" in told["c"]["reason"]
    shown = ods(a, "package", "show", "Lone.pkg").stdout
    assert "reached only through b" in shown
    status = ods(a, "status").stdout
    assert f"b: {peer['health']} since" in status
    listed = ods(a, "peer", "list").stdout
    assert "next try" in listed
    gone = ods(a, "package", "withdraw", "Lone.pkg", "--yes")
    assert "ods package restore Lone.pkg" in gone.stderr
    assert "/Packages/Lone.pkg" not in ods(a, "package", "show", "Lone.pkg").stdout
    for one in json.loads(ods(c, "package", "list", "--json").stdout):
        assert one["presence"] != "arriving" or one["retry_at"]


def test_what_is_missing_says_when_it_is_looked_at_again(any_network: Network, tmp_path: Path) -> None:
    a, b = any_network.chain("a", "b")
    file = make_file(tmp_path / "Late.pkg", 40_000_000, 1)
    a.publish(file.path, stage="dev")
    a.wait_holds(file.name, file.sha256)
    eventually(lambda: b.package(file.name), 30, "b has not heard of it")
    a.api("PATCH", f"/packages/{file.name}", {"stage": "prod"})
    seen = []

    def arrived() -> bool:
        (listed,) = b.api("GET", "/packages")["items"]
        if listed["presence"] in {"arriving", "waiting"}:
            seen.append(listed["retry_at"])
        return bool(listed["presence"] == "held")

    eventually(arrived, 60, "it does not arrive")
    assert all(seen)
