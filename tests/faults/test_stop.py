"""SIGTERM: the process ends in time with code 0, whatever its clients do, and everything is resumed afterwards."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import pytest
from tusclient import client as tus

from appliance.peering.address import PeerAddress
from appliance.peering.client import PeerClient
from appliance.peering.identity import Identity
from appliance.server import STOP_SLACK_S
from config.settings import Server
from tests.builders import MIB, make_file
from tests.fakes.mongod import Mongod
from tests.harness import Network, NodeProcess, eventually
from tests.harness.node import AUTHORIZATION

GRACE_S = Server().grace_s  #: for requests and jobs that do not end
LIMIT_S = GRACE_S + STOP_SLACK_S + 5.0  #: what is promised, and room for a busy machine


def send(node: NodeProcess, head: str, body: bytes = b"") -> socket.socket:
    """Begin a request that never ends."""
    sock = socket.create_connection(("127.0.0.1", node.port), timeout=30)
    sock.sendall(f"{head}\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n".encode() + body)
    return sock


def stop_in_time(node: NodeProcess) -> float:
    began = time.monotonic()
    assert node.stop() == 0, node.tail()
    took = time.monotonic() - began
    assert took < LIMIT_S, f"{took:.1f} s\n{node.tail()}"
    return took


def test_slow_clients_do_not_hold_up_the_stop_and_resume(any_network: Network, tmp_path: Path) -> None:
    a = any_network.node("a", proxied=True)
    b = any_network.node("b", NOTIFICATIONS_ALLOW_PRIVATE="true")
    b.join(a)
    held, coming = (
        make_file(tmp_path / "held.pkg", 30 * MIB, 1),
        make_file(tmp_path / "coming.pkg", 20 * MIB, 2),
    )
    a.publish(held.path)
    b.wait_holds(held.name, held.sha256)
    any_network.proxies["a"].limit(200_000)
    a.publish(coming.path)
    eventually(lambda: b.presence(coming.name) == "arriving", 20, b.tail)
    with contextlib.ExitStack() as stack:
        # A destination that takes the connection and says nothing.
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        b.api(
            "POST",
            "/destinations",
            {
                "name": "silent",
                "kind": "webhook",
                "url": f"http://127.0.0.1:{silent.getsockname()[1]}/",
                "events": ["*"],
            },
        )
        identity = Identity.load(a.layout.identity / "node.key")
        assert identity is not None
        poll = PeerClient(
            identity, PeerAddress(url=b.url, node=b.id), now=lambda: time.time_ns() // 1_000_000
        )
        stopping = threading.Event()
        answers: list[object] = []

        def wait_for_news() -> None:
            page = poll.changes(0, "", 0.0)
            while not stopping.is_set():
                page = poll.changes(page.next, page.feed, 30.0)
            answers.append(page)

        waiting = threading.Thread(target=wait_for_news, daemon=True)
        waiting.start()
        client = tus.TusClient(f"{b.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
        stream = stack.enter_context(held.path.open("rb"))
        upload = client.uploader(file_stream=stream, chunk_size=5 * MIB, metadata={"filename": "tus.pkg"})
        upload.upload_chunk()
        path = upload.url.removeprefix(b.url)
        more = stream.read(3 * MIB)
        requests = [
            send(
                b,
                "PUT /api/v1/packages/put.pkg HTTP/1.1",
                b"Content-Length: 9000000\r\n\r\n" + b"x" * 500_000,
            ),
            send(
                b,
                f"PATCH {path} HTTP/1.1",
                f"Tus-Resumable: 1.0.0\r\nUpload-Offset: {upload.offset}\r\nContent-Length: {25 * MIB}\r\n"
                "Content-Type: application/offset+octet-stream\r\n\r\n".encode()
                + more,
            ),
            send(b, f"GET /Packages/{held.name} HTTP/1.1", b"\r\n"),
            send(b, "GET /ui/live?topics=packages HTTP/1.1", b"\r\n"),
            send(b, "GET /health/live HTTP/1.1", b""),  # headers that never end
        ]
        for sock in requests:
            stack.callback(sock.close)
        requests[2].recv(1000)
        stopping.set()
        stop_in_time(b)
        waiting.join(5)
        assert len(answers) == 1, "who waits for news is answered"
    any_network.proxies["a"].limit(0)
    b.start()
    with held.path.open("rb") as stream:
        again = client.uploader(url=upload.url, file_stream=stream, chunk_size=5 * MIB)
        assert again.offset >= 5 * MIB, "what arrived stays"
        again.upload()
    assert b.sha1("tus.pkg") == held.sha1
    b.wait_holds(coming.name, coming.sha256)
    assert b.sha1(coming.name) == coming.sha1


@pytest.mark.mongo
def test_a_frozen_database_does_not_hold_up_the_stop(
    network: Network, tmp_path: Path, own_mongod: Mongod
) -> None:
    node = network.node("a", database_url=own_mongod.url("x"))
    file = make_file(tmp_path / "Thing.pkg", MIB)
    node.publish(file.path)
    own_mongod.freeze()
    try:
        sock = send(node, "PUT /api/v1/packages/put.pkg HTTP/1.1", b"Content-Length: 10\r\n\r\n0123456789")
        with sock:
            stop_in_time(node)
    finally:
        own_mongod.thaw()
    node.start()
    assert node.sha1(file.name) == file.sha1


def test_without_clients_it_is_quick(network: Network) -> None:
    node = network.node("a")
    assert stop_in_time(node) < GRACE_S
