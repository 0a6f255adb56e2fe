"""The last copy of a package is damaged: every door says so, and says what to do."""

from pathlib import Path

from tests.builders import MIB, File, make_file
from tests.harness import Network, NodeProcess, eventually
from tests.harness.command import ods

from .test_damage import flip


def spoil(node: NodeProcess, file: File) -> None:
    """Damage a file as a disk does, and have the node read it."""
    flip(node.layout.blob(file.sha256), 7, keep_time=True)


def test_a_file_that_is_damaged_on_every_node_is_called_damaged(any_network: Network, tmp_path: Path) -> None:
    nodes = any_network.chain("a", "b", "c")
    a, b, _ = nodes
    file = make_file(tmp_path / "X.pkg", 3 * MIB)
    a.publish(file.path)
    for node in nodes:
        node.wait_holds(file.name, file.sha256)
    for node in nodes:
        spoil(node, file)
    for node in nodes:
        ods(node, "scrub", "--now", "--wait", "--timeout", "2m")
    for node in nodes:
        eventually(lambda node=node: node.presence(file.name) == "damaged", 60, node.tail)
        assert "Upload the same file again" in (node.package(file.name) or {})["reason"]
        status = ods(node, "status")
        assert "1 package is damaged here, and no node can give the file" in status.stdout
        answer = node.download(file.name)
        assert (answer.status, answer.json()["code"]) == (503, "blob_missing")
        assert "Upload the same file again" in answer.json()["detail"]
        fsck = ods(node, "fsck")
        assert (fsck.returncode, "set_aside: X.pkg" in fsck.stdout) == (1, True), fsck.stdout
    assert b.upload(file.path, replace="true").json()["effect"] == "repaired"
    for node in nodes:
        node.wait_holds(file.name, file.sha256)
        assert node.sha1(file.name) == file.sha1
        eventually(lambda node=node: node.api("GET", "/scrub")["damaged"] == 0, 20, node.tail)
        assert node.api("GET", "/scrub")["repaired"] == 1


def test_a_good_copy_is_not_released_for_one_that_rotted(any_network: Network, tmp_path: Path) -> None:
    """One right chunk is no proof: the other node reads its whole file, and is repaired from the good copy first."""
    a, b = any_network.node("a"), any_network.node("b", NODE_STAGE="test")
    b.join(a)
    files = [make_file(tmp_path / f"Rot{number}.pkg", 8 * MIB, number) for number in range(3)]
    for file in files:
        a.publish(file.path)
    for file in files:
        b.wait_holds(file.name, file.sha256)
    b.stop()
    for file in files:
        flip(b.layout.blob(file.sha256), 5 * MIB, keep_time=True)
    b.start()
    for file in files:
        a.api("PATCH", f"/packages/{file.name}", {"stage": "test"})
    for file in files:
        eventually(lambda file=file: a.presence(file.name) == "not_admitted", 60, a.tail)
        assert b.sha1(file.name) == file.sha1
        assert (b.presence(file.name), a.layout.blob(file.sha256).exists()) == ("held", False)


def test_a_last_copy_that_its_node_does_not_admit(network: Network, tmp_path: Path) -> None:
    node = network.node("a", NODE_TAGS_REFUSE="secret")
    file = make_file(tmp_path / "Dev.pkg", 2 * MIB)
    node.publish(file.path, tags="secret")
    assert node.presence(file.name) == "held"
    flip(node.layout.blob(file.sha256))
    answer = node.download(file.name)
    assert answer.status == 503
    assert "Upload the same file again" in answer.json()["detail"]
    for tags in ([], ["secret"]):
        assert node.presence(file.name) == "damaged"
        node.api("PATCH", f"/packages/{file.name}", {"tags": tags})
    node.restart()
    assert node.presence(file.name) == "damaged"
    scrub = ods(node, "scrub", "--now", "--wait", "--timeout", "1m")
    assert scrub.returncode == 1
    assert "No file is due. Dev.pkg is damaged here" in scrub.stdout
    assert node.upload(file.path).json()["effect"] == "repaired"
    assert node.sha1(file.name) == file.sha1


def test_a_file_that_comes_back_is_taken_back(network: Network, tmp_path: Path) -> None:
    node = network.node("a", NODE_TAGS_REFUSE="secret", REPLICATION_RECONCILE_S="2")
    file = make_file(tmp_path / "Away.pkg", 2 * MIB)
    node.publish(file.path, tags="secret")
    blob, away = node.layout.blob(file.sha256), tmp_path / "away"
    blob.rename(away)
    assert node.download(file.name).status == 503
    assert node.presence(file.name) == "damaged"
    away.rename(blob)
    eventually(lambda: node.presence(file.name) == "held", 30, node.tail)
    assert node.sha1(file.name) == file.sha1
    assert node.api("GET", "/scrub")["damaged"] == 0
