"""Databases that are older than what peers know, or lack something: nothing that was acknowledged stays away."""

from pathlib import Path

from appliance.domain.names import package_id
from tests.builders import MIB, File, make_file
from tests.harness import Network, NodeProcess, eventually
from tests.harness.command import ods
from tests.harness.saved import SavedNode, count_docs, delete_docs, empty_database

#: comparisons at an interval come too late for these tests: what they show follows from starts and reconnections
RARELY = {"REPLICATION_DIGEST_S": "3600"}


def files(tmp_path: Path, kind: str, count: int) -> list[File]:
    return [
        make_file(tmp_path / f"{kind}{number}.pkg", MIB // 4 + number, f"{kind}{number}")
        for number in range(count)
    ]


def publish(node: NodeProcess, some: list[File]) -> None:
    for file in some:
        node.publish(file.path)


def arrive(node: NodeProcess, some: list[File]) -> None:
    for file in some:
        node.wait_holds(file.name, file.sha256, 40)


def delete_records(node: NodeProcess, other: NodeProcess, package: str) -> None:
    """Delete a package's records on one node; the other has them all, since what only their author knew is gone."""

    def counts() -> list[int]:
        return [count_docs(one, "records", "package", package) for one in (node, other)]

    eventually(lambda: counts()[0] == counts()[1] >= 2, 40, other.tail)
    assert delete_docs(node, "records", "package", package) >= 2


def test_a_copy_that_was_put_back_while_a_peer_was_away(any_network: Network, tmp_path: Path) -> None:
    any_network.settings |= RARELY
    a, b = any_network.chain("a", "b")
    old, lost, new = (files(tmp_path, kind, count) for kind, count in (("old", 2), ("lost", 3), ("new", 8)))
    publish(b, old)
    arrive(a, old)
    b.stop()
    copy = SavedNode(b, tmp_path / "copy")
    b.start()
    publish(b, lost)
    arrive(a, lost)
    a.stop()
    b.stop()
    copy.put_back(b)
    b.start()
    publish(b, new)
    a.start()
    arrive(a, [*old, *lost, *new])
    arrive(b, [*old, *lost, *new])
    eventually(lambda: b.events("node.rolled_back"), 20, b.tail)
    assert b.events("node.twin_detected") == [], "it is one node that was restored"
    again = files(tmp_path, "again", 2)
    publish(b, again)
    arrive(a, again)


def test_an_export_that_was_imported_while_a_peer_was_away(any_network: Network, tmp_path: Path) -> None:
    any_network.settings |= RARELY
    a, b = any_network.chain("a", "b")
    old, lost, new = (files(tmp_path, kind, count) for kind, count in (("old", 2), ("lost", 3), ("new", 6)))
    publish(b, old)
    arrive(a, old)
    archive = tmp_path / "site.tar"
    done = ods(b, "export", str(archive))
    assert done.returncode == 0, done.stderr
    publish(b, lost)
    arrive(a, lost)
    a.stop()
    b.stop()
    empty_database(b)
    done = ods(b, "import", str(archive))
    assert done.returncode == 0, done.stderr
    b.start()
    publish(b, new)
    a.start()
    arrive(a, [*old, *lost, *new])
    arrive(b, [*old, *lost, *new])


def test_both_sides_were_put_back(any_network: Network, tmp_path: Path) -> None:
    """What only one of them still knows comes from a third node, whatever the positions in the feeds say."""
    any_network.settings |= RARELY
    a, b, c = any_network.chain("a", "b", "c")
    old, lost, new = (files(tmp_path, kind, count) for kind, count in (("old", 1), ("lost", 1), ("new", 3)))
    publish(b, old)
    for node in (a, c):
        arrive(node, old)
    copies = []
    for node in (a, b):
        node.stop()
        copies.append((node, SavedNode(node, tmp_path / f"copy-{node.name}")))
        node.start()
    publish(a, lost)
    for node in (b, c):
        arrive(node, lost)
    for node in (a, b, c):
        node.stop()
    for node, copy in copies:
        copy.put_back(node)
    for node in (a, b):
        node.start()
    publish(a, new)
    c.start()
    for node in (a, b, c):
        arrive(node, [*old, *lost, *new])


def test_a_record_that_a_fault_deleted_comes_back(any_network: Network, tmp_path: Path) -> None:
    """While the node runs and after it was stopped; its feed's position is behind the record, and stays there."""
    any_network.settings["REPLICATION_DIGEST_S"] = "2"
    a, b = any_network.chain("a", "b")
    some = files(tmp_path, "some", 3)
    publish(b, some)
    arrive(a, some)
    id = package_id(some[0].name)
    delete_records(a, b, id)
    eventually(lambda: count_docs(a, "records", "package", id) >= 2, 40, a.tail)

    a.settings["REPLICATION_DIGEST_S"] = b.settings["REPLICATION_DIGEST_S"] = "3600"
    b.restart()
    a.stop()
    id = package_id(some[1].name)
    delete_records(a, b, id)
    assert delete_docs(a, "packages", "_id", id) == 1
    a.start()
    arrive(a, some)
    assert count_docs(a, "records", "package", id) >= 2
    eventually(lambda: a.metric("ods_records_healed_total") >= 2, 30, a.tail)
    assert list(a.lines("records_healed"))


def test_a_peer_that_lacks_something_is_told_to_look(any_network: Network, tmp_path: Path) -> None:
    """It would compare in an hour; the one that starts finds what the other lacks, and says so."""
    any_network.settings |= RARELY
    a, b = any_network.chain("a", "b")
    [file] = files(tmp_path, "some", 1)
    publish(b, [file])
    arrive(a, [file])
    id = package_id(file.name)
    delete_records(a, b, id)
    b.restart()
    eventually(lambda: count_docs(a, "records", "package", id) >= 2, 40, a.tail)


def test_what_only_the_restored_node_has_and_only_its_peers_know(
    any_network: Network, tmp_path: Path
) -> None:
    """The database is older than the package, and the peer that knows its record has no byte of it."""
    a, b = any_network.node("a", NODE_STAGE="dev"), any_network.node("b")
    b.join(a)
    [old] = files(tmp_path, "old", 1)
    publish(a, [old])
    arrive(b, [old])
    archive = tmp_path / "site.tar"
    done = ods(a, "export", str(archive))
    assert done.returncode == 0, done.stderr
    large = make_file(tmp_path / "large.pkg", 65 * MIB, "large")  # its record has no room for its chunks
    only = [*files(tmp_path, "only", 2), large]
    for file in only:
        a.publish(file.path, stage="dev")
    for file in only:
        eventually(lambda file=file: count_docs(b, "packages", "_id", package_id(file.name)), 40, b.tail)
    for node in (b, a):
        node.stop()
    empty_database(a)
    done = ods(a, "import", str(archive))
    assert done.returncode == 0, done.stderr
    a.start()
    a.restart()
    b.start()
    arrive(a, [old, *only])
    assert a.events("package.damaged") == []
