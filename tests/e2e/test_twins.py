"""Two running copies of one node: both stop writing and say so, and what the one that stays accepted is not lost."""

from pathlib import Path

from tests.builders import MIB, File, make_file
from tests.harness import Network, NodeProcess, eventually, workers
from tests.harness.command import ods
from tests.harness.saved import SavedNode


def made(tmp_path: Path, name: str) -> File:
    return make_file(tmp_path / name, MIB // 4, name)


def red(node: NodeProcess) -> str:
    """Why a node is not ready because of a twin; "" if it is."""
    answer = node.request("GET", "/health/ready", anonymous=True)
    check = answer.json()["checks"]["twin"]
    assert answer.status == (200 if check["ok"] else 503)
    return str(check["reason"])


def test_two_running_copies_of_one_node(any_network: Network, tmp_path: Path) -> None:
    a, b = any_network.chain("a", "b")
    old, between, later = (made(tmp_path, f"{name}.pkg") for name in ("old", "between", "later"))
    b.publish(old.path)
    a.wait_holds(old.name, old.sha256)
    b.stop()
    copy = any_network.node("copy", start=False)
    SavedNode(b, tmp_path / "saved").put_back(copy)
    b.start()
    b.publish(between.path)
    copy.start(wait=False)
    eventually(lambda: copy.status("/health/live") == 200, 60, copy.tail)
    accepted = []
    for node in (b, copy):
        for number in range(2):
            file = made(tmp_path, f"{node.name}{number}.pkg")
            if node.upload(file.path).status == 201 and node is b:
                accepted.append(file)  # what only the copy holds ends with it
    for node, other in ((b, copy), (copy, b)):
        eventually(lambda node=node: red(node), 40, node.tail)
        assert f"at {other.url}" in red(node)
        assert "restart the other" in red(node)
        assert list(node.lines("twin_detected"))
        assert len(node.events("node.twin_detected")) == 1
        refused = node.upload(later.path)
        assert refused.status == 503
        assert refused.json()["code"] == "twin_running"
        for method, body in (("PATCH", b'{"notes": "x"}'), ("DELETE", None)):
            answer = node.request(method, f"/api/v1/packages/{old.name}", body)
            assert (answer.status, answer.json()["code"]) == (503, "twin_running")
        assert node.sha1(old.name) == old.sha1, "downloads go on"
        shown = ods(node, "status")
        assert shown.returncode == 75
        assert "Another copy of this node" in shown.stdout
    assert "Another copy of this node" in b.request("GET", "/ui/").body.decode()
    during = made(tmp_path, "during.pkg")
    a.publish(during.path)
    b.wait_holds(during.name, during.sha256)  # what others do still comes

    copy.stop()
    b.restart()
    assert not red(b)
    b.publish(later.path)
    for file in (old, between, later, *accepted):
        a.wait_holds(file.name, file.sha256)
        b.wait_holds(file.name, file.sha256)
    eventually(lambda: a.peer(b)["url"] == b.url, 20, a.tail)

    def told() -> bool:
        return {each["name"] for each in (a.package(during.name) or {})["replicas"]} >= {"b"}

    eventually(told, 20, "a is not told what b fetched while it wrote nothing")


def test_a_twin_that_a_worker_notices(network: Network, tmp_path: Path) -> None:
    """The worker reads the peers' feeds; only the serving process knows what the node's record has to say."""
    a = network.node("a")
    b = network.node("b", WORKER_EMBEDDED="false")
    b.join(a)
    b.stop()
    copy = network.node("copy", start=False)
    SavedNode(b, tmp_path / "saved").put_back(copy)
    with workers(b, 2):
        b.start()
        copy.start(wait=False)
        for node in (b, copy):
            eventually(lambda node=node: node.status("/health/live") == 200 and red(node), 60, node.tail)
        url = b.url
        copy.stop()
        b.restart()
        assert not red(b)
        file = made(tmp_path, "later.pkg")
        b.publish(file.path)
        a.wait_holds(file.name, file.sha256)
        eventually(lambda: a.peer(b)["url"] == url, 20, a.tail)


def test_processes_and_restarts_of_one_node_are_no_twins(any_network: Network, tmp_path: Path) -> None:
    """Also of one that was put back, and whose clock then runs behind: only names tell, no times."""
    a = any_network.node("a")
    b = any_network.node("b", WORKER_EMBEDDED="false", REPLICATION_DIGEST_S="1")
    with workers(b, 2):
        b.join(a)
        first, second, third = (made(tmp_path, f"{number}.pkg") for number in range(3))
        b.publish(first.path)
        a.wait_holds(first.name, first.sha256)
        b.restart()
        a.restart()
        a.publish(second.path)
        eventually(lambda: b.package(second.name), 40, b.tail)
        b.kill9()
        b.start()
        b.publish(third.path)
        a.wait_holds(third.name, third.sha256)
        assert b.events("node.twin_detected") == b.events("node.rolled_back") == []
        assert not red(b)
    assert not list(b.lines("twin_detected"))
    assert "Traceback" not in b.log_text(), b.tail()
