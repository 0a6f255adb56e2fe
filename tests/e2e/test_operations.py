"""What an operator does: stop, start, move to another database, look."""

import shutil
import uuid
from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.fakes.mongod import Mongod
from tests.harness import Network, NodeProcess, eventually
from tests.harness.command import ods
from tests.harness.node import PASSWORD, free_port


@pytest.mark.mongo
def test_a_node_moves_from_sqlite_to_mongodb_and_back(
    network: Network, tmp_path: Path, mongod: Mongod
) -> None:
    a, b = network.chain("a", "b")
    files = [make_file(tmp_path / f"p{number}.pkg", 2 * MIB + number, number) for number in range(3)]
    for file in files:
        a.publish(file.path, tags="moved")
    long = make_file(tmp_path / "long.pkg", 66 * MIB)
    a.publish(long.path)
    b.wait_holds(long.name, long.sha256)
    a.api("DELETE", "/packages/p2.pkg")
    id, events = a.id, a.api("GET", "/events?limit=500")["items"]
    before = a.api("GET", "/packages?withdrawn=true")["items"]

    mongo = mongod.url(f"moved{uuid.uuid4().hex[:8]}")
    for database in (mongo, ""):
        archive = tmp_path / f"export-{bool(database)}"
        done = ods(a, "export", str(archive))
        assert done.returncode == 0, done.stderr
        a.stop()
        if not database:
            for old in a.data.glob("ods.sqlite3*"):
                old.unlink()
        a.settings["DATABASE_URL"] = database
        done = ods(a, "import", str(archive))
        assert done.returncode == 0, done.stderr + done.stdout
        a.start()
        assert a.api("GET", "/system")["database"] == ("mongodb" if database else "sqlite")
        assert a.id == id
        assert a.api("GET", "/packages?withdrawn=true")["items"] == before
        known = {event["seq"]: event for event in a.api("GET", "/events?limit=500")["items"]}
        assert [known[event["seq"]] for event in events] == events
        for file in (*files[:2], long):
            assert a.sha1(file.name) == file.sha1
        assert a.head("p2.pkg").status == 410
        again = make_file(tmp_path / f"new{bool(database)}.pkg", MIB, 7)
        a.publish(again.path)
        b.wait_holds(again.name, again.sha256)
        a.wait_holds(again.name, again.sha256)
        a.api("DELETE", f"/packages/{again.name}")
        before = a.api("GET", "/packages?withdrawn=true")["items"]
        events = a.api("GET", "/events?limit=500")["items"]


def test_a_package_that_was_damaged_on_disk_is_found_and_fetched_again(
    network: Network, tmp_path: Path
) -> None:
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "Thing.pkg", 5 * MIB)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
    blob = b.layout.blob(file.sha256)
    with blob.open("r+b") as damaged:
        damaged.seek(3 * MIB)
        byte = damaged.read(1)
        damaged.seek(3 * MIB)
        damaged.write(bytes([byte[0] ^ 1]))
    fetched = b.metric("ods_fetched_bytes_total")
    b.api("POST", f"/packages/{file.name}/verify")
    eventually(lambda: b.events("package.damaged"), 20, "the damage is not found")
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1
    assert b.metric("ods_fetched_bytes_total") - fetched == MIB, "of the damaged file four chunks are right"
    # Deleted behind its back: the next reader brings it back.
    b.layout.blob(file.sha256).unlink()
    shutil.rmtree(b.layout.packages)
    b.layout.packages.mkdir()
    assert b.download(file.name).status == 503
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1


def test_an_older_file_that_is_kept_while_the_newer_is_out_of_reach_is_no_fault(
    network: Network, tmp_path: Path
) -> None:
    a, b, c = network.node("a"), network.node("b", NODE_TAGS_REFUSE="large"), network.node("c")
    b.join(a)
    c.join(b)
    old, new = make_file(tmp_path / "Thing.pkg", MIB, 1), make_file(tmp_path / "new" / "Thing.pkg", MIB, 2)
    a.publish(old.path)
    c.wait_holds(old.name, old.sha256)
    a.publish(new.path, replace="true", tags="large")
    eventually(lambda: c.presence(new.name) == "waiting", 20, c.tail)
    assert c.sha1(old.name) == old.sha1
    done = ods(c, "fsck", "--read-data")
    assert (done.returncode, "nothing is wrong" in done.stdout) == (0, True), done.stdout


def test_leaving_ends_the_exchange_on_both_sides(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    first, second = make_file(tmp_path / "1.pkg", MIB, 1), make_file(tmp_path / "2.pkg", MIB, 2)
    a.publish(first.path)
    b.wait_holds(first.name, first.sha256)
    b.api("DELETE", f"/peers/{a.id}")
    assert b.api("GET", "/peers")["items"] == []
    eventually(lambda: a.api("GET", "/peers")["items"] == [], 10, "a does not learn that b left")
    a.publish(second.path)
    assert b.sha1(first.name) == first.sha1
    assert b.package(second.name) is None
    b.join(a)
    b.wait_holds(second.name, second.sha256)


def test_a_node_on_any_free_port_tells_the_one_that_it_took(network: Network) -> None:
    node = network.node("any", start=False)
    del node.settings["NODE_URL"]
    node.settings["HTTP_PORT"] = "0"
    node.start(wait=False)

    def told() -> str:
        return next((line for line in node.log_text().splitlines() if line.startswith("Node URL:")), "")

    eventually(told, 30, node.tail)
    node.port = int(told().rpartition(":")[2])
    assert node.port > 0
    about = node.api("GET", "/about")
    assert about["url"] == f"http://127.0.0.1:{node.port}"
    assert about["download_url"].startswith(about["url"])


def test_joining_leaves_no_warning(network: Network) -> None:
    a, b = network.node("a"), network.node("b")
    b.join(a)
    for node in (a, b):
        eventually(lambda node=node: len(node.api("GET", "/nodes")["items"]) == 2, 20, node.tail)
        assert '"level": "warning"' not in node.log_text(), node.tail(30)


def test_an_invite_works_once(network: Network) -> None:
    a, b, c = (network.node(name) for name in "abc")
    invite = a.invite()
    b.api("POST", "/peers/join", {"invite": invite})
    for bad in (invite, invite[:-4], "ods1.nonsense", ""):
        answer = c.request("POST", "/api/v1/peers/join", f'{{"invite": "{bad}"}}'.encode())
        assert answer.status in {400, 409, 502}, (bad, answer)
        assert answer.headers["content-type"].startswith("application/problem+json")
    assert c.api("GET", "/peers")["items"] == []
    assert [peer["name"] for peer in a.api("GET", "/peers")["items"]] == ["b"]


def test_no_secret_is_in_the_logs(network: Network, tmp_path: Path) -> None:
    a, b = network.node("a"), network.node("b")
    invite = a.invite()
    b.api("POST", "/peers/join", {"invite": invite})
    token = a.api("POST", "/tokens", {"name": "robot"})["token"]
    assert (
        a.request("GET", "/api/v1/about", None, {"Authorization": f"Bearer {token}"}, anonymous=True).status
        == 200
    )
    a.publish(make_file(tmp_path / "x.pkg", MIB).path)
    b.wait_holds("x.pkg", make_file(tmp_path / "x.pkg", MIB).sha256)
    for node in (a, b):
        node.stop()
        text = node.log_text()
        assert "listening" in text
        for secret in (PASSWORD, invite, invite[5:60], token, token.rpartition("_")[2]):
            assert secret not in text
        assert "Traceback" not in text


def test_nodes_with_their_own_certificates_pin_each_other(network: Network, tmp_path: Path) -> None:
    import ssl
    import urllib.request

    nodes = []
    for name in "ab":
        node = network.node(name, start=False, HTTP_TLS_SELF_SIGNED="true")
        node.settings["NODE_URL"] = node.url.replace("http:", "https:")
        node.start(wait=False)
        nodes.append(node)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def call(node: NodeProcess, method: str, path: str, body: bytes | None = None) -> bytes:
        from tests.harness.node import AUTHORIZATION

        headers = {"Authorization": AUTHORIZATION, "Content-Type": "application/octet-stream"}
        request = urllib.request.Request(f"{node.settings['NODE_URL']}{path}", body, headers, method=method)
        with urllib.request.urlopen(request, timeout=20, context=context) as answer:
            data: bytes = answer.read()
            return data

    def answers(node: NodeProcess) -> bool:
        try:
            return bool(call(node, "GET", "/health/ready"))
        except OSError:
            return False

    for node in nodes:
        eventually(lambda node=node: answers(node), 30, f"{node.name} is not ready")
    import json

    a, b = nodes
    invite = json.loads(call(a, "POST", "/api/v1/peers/invites", b"{}"))["invite"]
    call(b, "POST", "/api/v1/peers/join", json.dumps({"invite": invite}).encode())
    file = make_file(tmp_path / "tls.pkg", 12 * MIB)
    call(a, "PUT", "/api/v1/packages/tls.pkg", file.path.read_bytes())

    def arrived(node: NodeProcess, name: str) -> bool:
        try:
            return call(node, "GET", f"/Packages/{name}") == file.path.read_bytes()
        except OSError:
            return False

    eventually(lambda: arrived(b, "tls.pkg"), 30, b.tail)

    a.stop()
    (a.layout.identity / "tls.crt").unlink()  # a new certificate is made; only a can tell the others
    a.start(wait=False)
    eventually(lambda: answers(a), 30, a.tail)
    call(a, "PUT", "/api/v1/packages/later.pkg", file.path.read_bytes())
    eventually(lambda: arrived(b, "later.pkg"), 30, b.tail)


def test_a_node_that_moved_is_found_again_by_its_peers(network: Network, tmp_path: Path) -> None:
    a = network.node("a")
    b = network.node("b", REPLICATION_RECONCILE_S="900")  # does not find it by asking again and again
    b.join(a)
    a.stop()
    b.publish(make_file(tmp_path / "meanwhile.pkg", MIB).path)  # nobody is at the old address
    eventually(lambda: not b.peer(a)["healthy"], 60)
    a.port = free_port()
    a.url = f"http://127.0.0.1:{a.port}"
    a.settings |= {"HTTP_PORT": str(a.port), "NODE_URL": a.url}
    a.start()
    eventually(lambda: b.peer(a)["url"] == a.url and b.peer(a)["healthy"], 60, b.tail)
    file = make_file(tmp_path / "moved.pkg", MIB + 1)
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
