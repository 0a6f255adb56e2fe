"""What is not there at the start is waited for, and what does not belong together is refused."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.builders import MIB, make_file
from tests.fakes.mongod import Mongod
from tests.harness import Network, NodeProcess, eventually, workers
from tests.harness.command import ods
from tests.harness.saved import empty_database


def checks(node: NodeProcess) -> dict[str, dict[str, object]]:
    try:
        answer = node.request("GET", "/health/ready", anonymous=True)
    except OSError as exc:
        raise AssertionError(f"nobody answers: {exc}") from exc
    found: dict[str, dict[str, object]] = answer.json()["checks"]
    return found


def refused(node: NodeProcess, *words: str) -> None:
    """It ends by itself, not well, with one sentence."""
    before = len(node.log_text())
    node.start(wait=False)
    assert node.process is not None
    assert node.process.wait(60) not in {0, None}
    node.process = None
    said = [line for line in node.log_text()[before:].splitlines() if line.startswith("ods: ")]
    assert len(said) == 1, node.tail()
    for word in words:
        assert word in said[0]
    assert "Traceback" not in node.log_text()


@pytest.mark.mongo
def test_a_database_that_is_away_is_waited_for(network: Network, tmp_path: Path, own_mongod: Mongod) -> None:
    node = network.node("a", database_url=own_mongod.url("x"), WORKER_EMBEDDED="false")
    file = make_file(tmp_path / "Thing.pkg", 3 * MIB)
    node.publish(file.path)
    node.stop()
    own_mongod.stop()
    node.start(wait=False)
    with workers(node) as [beside]:
        eventually(lambda: checks(node).get("store", {}).get("ok") is False, 30, node.tail)
        assert "MongoDB" in str(checks(node)["store"]["reason"])
        assert node.status("/health/live") == 200
        for method, path in (("GET", "/api/v1/packages"), ("GET", "/ui/"), ("PUT", "/api/v1/packages/x.pkg")):
            answer = node.request(method, path, b"x" * 100_000 if method == "PUT" else None)
            assert (answer.status, int(answer.headers["retry-after"]) > 0) == (503, True)
            assert answer.json()["code"] == "store_unavailable"
        # Macs are served from the public directory, with the same validators.
        assert node.holds(file.name, file.sha256)
        assert node.sha1(file.name) == file.sha1
        part = node.download(file.name, {"Range": "bytes=5-9", "If-Range": f'"{file.sha256}"'})
        assert (part.status, part.body) == (206, file.path.read_bytes()[5:10])
        assert node.head("Other.pkg").status == node.head("..%2Fods.sqlite3").status == 404
        assert node.running
        assert beside.poll() is None
        own_mongod.start()
        node.wait_ready()
        node.publish(make_file(tmp_path / "Later.pkg", MIB).path)
        node.api("POST", f"/packages/{file.name}/verify")
        eventually(lambda: '"package_verified"' in node.log_text(), 30, node.tail)  # by the worker
        beside.send_signal(signal.SIGTERM)
        assert beside.wait(20) == 0
    assert sum(1 for _ in node.lines("start_waits")) <= 4, "a line when it begins to wait, not at each try"
    assert "Traceback" not in node.log_text()


@pytest.mark.mongo
def test_a_start_that_waits_can_be_stopped(network: Network, own_mongod: Mongod) -> None:
    url = own_mongod.url("x")
    own_mongod.kill()
    node = network.node("a", database_url=url, start=False)
    node.start(wait=False)
    eventually(lambda: node.status("/health/live") == 200, 30, node.tail)
    eventually(lambda: list(node.lines("start_waits")), 30, node.tail)
    began = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - began < 10


@pytest.mark.mongo
def test_what_waiting_does_not_help_ends_the_start(network: Network, mongod: Mongod) -> None:
    url = mongod.url("x").replace("mongodb://", "mongodb://nobody:wrong@") + "?authSource=admin"
    refused(network.node("a", database_url=url, start=False), "refuses the user", "database.url")


def test_a_node_whose_key_was_lost_does_not_start_as_another(any_network: Network, tmp_path: Path) -> None:
    a = any_network.node("a")
    file = make_file(tmp_path / "Thing.pkg", MIB)
    a.publish(file.path)
    old = a.id
    a.stop()
    identity = a.layout.identity
    backup = tmp_path / "backup"
    identity.rename(backup)
    refused(a, "identity", "backup", "ods init --new-identity")
    assert not identity.exists(), "a backup is put where nothing stands in its way"
    with workers(a) as [beside]:
        assert beside.wait(60) not in {0, None}
    shutil.copytree(backup, identity)
    key = bytearray((identity / "node.key").read_bytes())
    key[60] ^= 1
    (identity / "node.key").write_bytes(key)
    refused(a, "node.key", "backup")
    shutil.rmtree(identity)
    shutil.copytree(backup, identity)
    a.start()
    assert a.id == old
    assert a.sha1(file.name) == file.sha1
    # For good: deliberately.
    a.stop()
    (identity / "node.key").unlink()
    done = ods(a, "init", "--new-identity")
    assert done.returncode == 0, done.stderr
    a._id = ""
    a.start()
    assert a.id != old
    assert a.sha1(file.name) == file.sha1
    assert [node["name"] for node in a.api("GET", "/nodes")["items"]] == ["a"]


@pytest.mark.mongo
def test_two_nodes_on_one_database(network: Network, mongod: Mongod) -> None:
    url = mongod.url(f"shared{os.getpid()}x{time.monotonic_ns()}")
    first = network.node("a", database_url=url)
    refused(network.node("b", database_url=url, start=False), "belongs to the node", first.id[:8])


def test_a_lost_database_ends_the_start_and_its_export_gives_it_back(
    any_network: Network, tmp_path: Path
) -> None:
    node = any_network.node("a")
    file = make_file(tmp_path / "Thing.pkg", MIB)
    node.publish(file.path)
    export = tmp_path / "site.tar"
    assert ods(node, "export", str(export)).returncode == 0
    node.stop()
    empty_database(node)
    for _ in range(2):
        refused(node, "although this node had one", "ods import", "--empty-database")
    done = ods(node, "init")
    assert done.returncode != 0
    assert "ods import" in done.stderr
    done = ods(node, "import", str(export))
    assert done.returncode == 0, done.stderr
    node.start()
    node.wait_holds(file.name, file.sha256)


@pytest.mark.parametrize("how", ["header", "middle", "truncated", "empty", "not a database"])
def test_a_damaged_database_ends_the_start(network: Network, tmp_path: Path, how: str) -> None:
    node = network.node("a")
    file = make_file(tmp_path / "Thing.pkg", MIB)
    node.publish(file.path)
    node.stop()
    database = node.data / "ods.sqlite3"
    data = bytearray(database.read_bytes())
    match how:
        case "header":
            data[0:200] = bytes(200)
        case "middle":
            for page in range(3, len(data) // 4096):
                data[page * 4096 : page * 4096 + 50] = b"\xff" * 50
        case "truncated":
            del data[len(data) // 2 :]
        case "empty":
            data.clear()
        case "not a database":
            data[:] = b"hello" * 10_000
    database.write_bytes(data)
    refused(node, "ods import")
    assert node.files("blobs"), "the packages stay"


def test_broken_certificates_are_one_sentence(network: Network) -> None:
    node = network.node("a", start=False, HTTP_TLS_SELF_SIGNED="true")
    node.settings["NODE_URL"] = node.url.replace("http:", "https:")
    assert ods(node, "init").returncode == 0
    for name in ("tls.crt", "tls.key"):
        path = node.layout.identity / name
        kept = path.read_bytes()
        path.write_bytes(b"nonsense")
        refused(node, "tls.crt", "delete both")
        path.write_bytes(kept)
