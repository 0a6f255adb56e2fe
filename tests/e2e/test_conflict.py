"""Two different files under one name, put in on both sides of a broken connection, become one everywhere."""

from pathlib import Path

import pytest

from tests.builders import MIB, File, make_file
from tests.harness import Network, NodeProcess, eventually


def converge(nodes: list[NodeProcess], name: str, files: list[File]) -> File:
    """Wait until all nodes serve the same one of the files, and return it."""

    def same() -> File | None:
        tags = {node.head(name).headers.get("etag") for node in nodes}
        return next((file for file in files if tags == {f'"{file.sha256}"'}), None)

    def why() -> str:
        return "the nodes serve different files: " + str([node.package(name) for node in nodes])

    winner = eventually(same, 60, why)
    assert winner is not None
    for node in nodes:
        assert node.sha1(name) == winner.sha1
    return winner


@pytest.mark.parametrize("extra", [0, 1], ids=["b wrote later", "b wrote more"])
def test_uploads_on_both_sides_of_a_partition_converge(network: Network, tmp_path: Path, extra: int) -> None:
    a, b, c = (
        network.node("a", proxied=True),
        network.node("b", proxied=True),
        network.node("c", proxied=True),
    )
    b.join(a)
    c.join(b)
    for proxy in network.proxies.values():
        proxy.down()
    ours = make_file(tmp_path / "a" / "Suite.pkg", 3 * MIB, "a")
    theirs = make_file(tmp_path / "b" / "Suite.pkg", 4 * MIB, "b")
    a.publish(ours.path)
    b.publish(theirs.path)
    for number in range(extra):
        b.api("PATCH", "/packages/Suite.pkg", {"notes": f"edit {number}"})
    assert (a.sha1("Suite.pkg"), b.sha1("Suite.pkg")) == (ours.sha1, theirs.sha1)
    assert c.package("Suite.pkg") is None
    for proxy in network.proxies.values():
        proxy.up()

    winner = converge([a, b, c], "Suite.pkg", [ours, theirs])
    assert winner is theirs  # the later one wins whoever wrote it
    loser_node, loser = a, ours
    # The node whose file lost says so, and keeps it.
    events = eventually(
        lambda: loser_node.events("package.superseded"), 20, "no event tells of the lost file"
    )
    assert loser.sha256 in str(events[0])
    assert any(name.endswith(loser.sha256) for name in loser_node.files("blobs"))


def test_nodes_that_were_never_up_together_converge(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    one, other = make_file(tmp_path / "1" / "X.pkg", MIB, 1), make_file(tmp_path / "2" / "X.pkg", MIB, 2)
    b.stop()
    a.publish(one.path)
    a.stop()
    b.start()
    b.publish(other.path)
    a.start()
    converge([a, b], "X.pkg", [one, other])


def test_an_edit_behind_a_partition_does_not_undo_a_replacement(any_network: Network, tmp_path: Path) -> None:
    a, b = any_network.chain("a", "b")
    one, other = make_file(tmp_path / "1" / "X.pkg", MIB, 1), make_file(tmp_path / "2" / "X.pkg", MIB, 2)
    a.publish(one.path)
    b.wait_holds("X.pkg", one.sha256)
    a.stop()
    b.publish(other.path, replace="true")
    b.stop()
    a.start()
    a.api("PATCH", "/packages/X.pkg", {"notes": "edited"})
    b.start()
    converge([a, b], "X.pkg", [other])
    for node in (a, b):
        eventually(lambda node=node: node.package("X.pkg")["notes"] == "edited", 20, "the edit is lost")
    assert len(b.events("package.reinstated")) == 1


def test_a_withdrawal_and_a_replacement_on_both_sides_converge(network: Network, tmp_path: Path) -> None:
    a, b = network.node("a", proxied=True), network.node("b", proxied=True)
    b.join(a)
    one, other = make_file(tmp_path / "1" / "X.pkg", MIB, 1), make_file(tmp_path / "2" / "X.pkg", MIB, 2)
    a.publish(one.path)
    b.wait_holds("X.pkg", one.sha256)
    for proxy in network.proxies.values():
        proxy.down()
    a.api("DELETE", "/packages/X.pkg")
    b.publish(other.path, replace="true")
    b.api("PATCH", "/packages/X.pkg", {"notes": "wanted"})  # later than the tombstone
    assert a.head("X.pkg").status == 410
    for proxy in network.proxies.values():
        proxy.up()
    converge([a, b], "X.pkg", [other])
