"""`kill -9` in the middle of things: nothing is lost, nothing is fetched twice, nothing half is ever served."""

import hashlib
import http.client
import random
import threading
from pathlib import Path

import pytest

from appliance.store.partial import PartialFile
from tests.builders import MIB, File, make_file
from tests.conftest import BIG
from tests.fakes.proxy import Proxy
from tests.harness import Network, NodeProcess, eventually
from tests.harness.node import download_path

SIZE = 512 * MIB if BIG else 96 * MIB
KILLS = 10


class Reader(threading.Thread):
    """A client that asks for a file all the time, and notes whatever it should not have been given."""

    def __init__(self, node: NodeProcess, file: File) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._file = file
        self.ended = threading.Event()
        self.wrong: list[str] = []
        self.answers: dict[int, int] = {}  #: how often each status was seen

    def run(self) -> None:
        while not self.ended.wait(0.02):
            connection = http.client.HTTPConnection("127.0.0.1", self._node.port, timeout=10)
            try:
                connection.request("GET", download_path(self._file.name))
                self._judge(connection.getresponse())
            except (OSError, http.client.HTTPException):
                pass  # the node is dead now, or died while it answered
            finally:
                connection.close()

    def _judge(self, response: http.client.HTTPResponse) -> None:
        self.answers[response.status] = self.answers.get(response.status, 0) + 1
        if response.status in {404, 503}:
            return
        if response.status != 200 or response.headers["Content-Length"] != str(self._file.size):
            self.wrong.append(f"{response.status} {response.headers}")
            return
        digest = hashlib.sha256()
        while block := response.read(MIB):
            digest.update(block)
        if digest.hexdigest() != self._file.sha256:
            self.wrong.append(f"a body with the SHA-256 {digest.hexdigest()}")


def verified_chunks(node: NodeProcess, file: File, package: str, source: NodeProcess) -> set[int]:
    """The chunks that a dead node's map says are in; each is checked against the bytes."""
    listed = source.api("GET", f"/packages/{package}/manifest")["chunks"]
    name = f"{package}-{file.sha256[:16]}"
    if not node.layout.chunk_map(name).exists():
        return set()
    from appliance.domain.manifest import Manifest

    manifest = Manifest(
        size=file.size, sha1=file.sha1, sha256=file.sha256, chunks=bytes.fromhex("".join(listed))
    )
    partial = PartialFile.open(node.layout, name, manifest)
    try:
        chunks = {index for index in range(manifest.count) if index in partial.chunks}
        buffer = memoryview(bytearray(MIB))
        for index in chunks:
            manifest.verify_chunk(
                index, buffer[: partial.read_into(index * MIB, buffer[: manifest.chunk_size(index)])]
            )
    finally:
        partial.close()
    return chunks


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_kills_in_mid_transfer_lose_no_verified_chunk_and_serve_no_half_file(
    network: Network, tmp_path: Path
) -> None:
    file = make_file(tmp_path / "Big.pkg", SIZE)
    a, b = network.node("a", proxied=True), network.node("b")
    proxy: Proxy = network.proxies["a"]
    proxy.limit(SIZE / 6)  # bytes a second: the transfer lasts longer than a node's start
    package = a.publish(file.path)["id"]
    reader = Reader(b, file)
    reader.start()
    b.join(a)

    chance = random.Random(20)
    safe: set[int] = set()
    fetched_again: list[tuple[int, set[int]]] = []
    for number in range(KILLS):
        # Kill at a random moment of what is left, but not before something new has arrived.
        wanted = proxy.sent + chance.uniform(0.4, 1.0) * SIZE / (KILLS + 2)
        eventually(lambda wanted=wanted: proxy.sent > wanted, 60, f"nothing arrives before kill {number}")
        b.kill9()
        fetched_again.append((number, safe & chunks_asked(proxy, 0)))
        now = verified_chunks(b, file, package, a)
        assert safe <= now, f"kill {number} lost chunks {sorted(safe - now)}"
        assert len(now) < file.size // MIB, "the transfer was over before the last kill: make it slower"
        safe = now
        proxy.requests.clear()  # all that follow are of the next life
        b.start()
    # Were nothing kept over a kill, there would be no more than what came since the last one.
    assert len(safe) > 2 * SIZE / (KILLS + 2) / MIB, f"only {len(safe)} chunks were kept"
    b.wait_holds(file.name, file.sha256, 120)
    fetched_again.append((KILLS, safe & chunks_asked(proxy, 0)))
    reader.ended.set()
    reader.join(30)

    assert [item for item in fetched_again if item[1]] == []
    assert b.sha1(file.name) == file.sha1
    assert reader.wrong == []
    assert reader.answers.get(503, 0) > 5, f"the reader saw too little: {reader.answers}"
    # The bytes that were sent in vain are at most what was under way at each kill: 4 connections.
    assert proxy.sent < SIZE + (KILLS + 1) * 4 * 8 * MIB
    # The source's own access log tells the same story as the proxy.
    ranges = [line["range"] for line in a.lines("request") if "/content" in line["path"]]
    assert len(ranges) >= KILLS


def chunks_asked(proxy: Proxy, since: int) -> set[int]:
    """The chunks of all content requests from number `since` on."""
    return {chunk for request in proxy.contents()[since:] for chunk in request.chunks}


def test_a_killed_source_is_waited_for(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Big.pkg", 48 * MIB)
    a, b = network.node("a", proxied=True), network.node("b")
    proxy = network.proxies["a"]
    a.publish(file.path)
    proxy.limit(24 * MIB)
    b.join(a)
    eventually(lambda: proxy.sent > 12 * MIB, 30, "nothing arrives")
    a.kill9()
    eventually(lambda: b.head(file.name).status == 503, 10, "b does not say that it is arriving")
    before = proxy.sent
    proxy.limit(0)
    a.start()
    b.wait_holds(file.name, file.sha256, 90)
    assert b.sha1(file.name) == file.sha1
    assert proxy.sent - before < file.size - 4 * MIB


def test_everything_survives_a_kill_of_all_nodes(any_network: Network, tmp_path: Path) -> None:
    nodes = any_network.chain("a", "b", "c")
    files = [make_file(tmp_path / f"p{number}.pkg", MIB + number, number) for number in range(4)]
    for file in files:
        nodes[0].publish(file.path, tags="kept", notes="still here")
    for file in files:
        nodes[2].wait_holds(file.name, file.sha256)
    nodes[0].api("DELETE", "/packages/p3.pkg")
    eventually(lambda: nodes[2].head("p3.pkg").status == 410, 20, "c does not learn the withdrawal")
    ids = [node.id for node in nodes]
    for node in nodes:
        node.kill9()
    for node in nodes:
        node.start()
    for node, id in zip(nodes, ids, strict=True):
        assert node.api("GET", "/about")["node_id"] == id
        for file in files[:3]:
            package = node.package(file.name)
            assert package is not None
            assert (package["tags"], package["notes"], package["presence"]) == (
                ["kept"],
                "still here",
                "held",
            )
            assert node.sha1(file.name) == file.sha1
        assert node.head("p3.pkg").status == 410
    last = make_file(tmp_path / "last.pkg", 2 * MIB)
    nodes[0].publish(last.path)
    # MongoDB keeps the locks of a killed process's transaction for a while: see tests.fakes.mongod.
    nodes[2].wait_holds(last.name, last.sha256, 120)


def test_a_stop_during_a_transfer_is_quick_and_the_transfer_goes_on(network: Network, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Big.pkg", 64 * MIB)
    a, b = network.node("a", proxied=True), network.node("b")
    proxy = network.proxies["a"]
    package = a.publish(file.path)["id"]
    proxy.limit(16 * MIB)
    b.join(a)
    eventually(lambda: proxy.sent > 12 * MIB, 30, "nothing arrives")
    assert b.stop() == 0
    safe = verified_chunks(b, file, package, a)
    assert 4 <= len(safe) < 64
    assert "Traceback" not in b.log_text()
    since = len(proxy.contents())
    proxy.limit(0)
    b.start()
    b.wait_holds(file.name, file.sha256)
    assert not safe & chunks_asked(proxy, since)
    assert b.sha1(file.name) == file.sha1
