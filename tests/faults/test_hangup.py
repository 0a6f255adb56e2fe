"""SIGHUP reads the certificate again, for connections from then on, and never ends a process."""

import datetime
import hashlib
import http.client
import json
import os
import signal
import ssl
from pathlib import Path
from typing import Any

from appliance.peering.tls import fingerprint
from tests.builders import MIB, make_file
from tests.harness import Network, NodeProcess, eventually, workers
from tests.harness.node import AUTHORIZATION
from tests.keys import make_certificate


def context() -> ssl.SSLContext:
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    return made


def connect(node: NodeProcess) -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("127.0.0.1", node.port, timeout=30, context=context())


def call(
    connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    connection.request(method, path, body, {"Authorization": AUTHORIZATION})
    answer = connection.getresponse()
    return answer.status, answer.read()


def api(node: NodeProcess, method: str, path: str, data: Any = None) -> Any:
    connection = connect(node)
    try:
        status, body = call(
            connection, method, f"/api/v1{path}", json.dumps(data).encode() if data is not None else None
        )
    finally:
        connection.close()
    assert 200 <= status < 300, (status, body)
    return json.loads(body)


def shown(node: NodeProcess) -> str:
    """The fingerprint of the certificate that a new connection is shown."""
    connection = connect(node)
    try:
        connection.connect()
        return hashlib.sha256(connection.sock.getpeercert(True)).hexdigest()
    finally:
        connection.close()


def ready(node: NodeProcess) -> bool:
    connection = connect(node)
    try:
        return call(connection, "GET", "/health/ready")[0] == 200
    except OSError:
        return False
    finally:
        connection.close()


def arrived(node: NodeProcess, name: str) -> bool:
    connection = connect(node)
    try:
        return call(connection, "HEAD", f"/Packages/{name}")[0] == 200
    finally:
        connection.close()


def test_a_new_certificate_is_served_and_told_to_peers(network: Network, tmp_path: Path) -> None:
    nodes = []
    for name in "ab":
        node = network.node(name, start=False, HTTP_TLS_SELF_SIGNED="true", REPLICATION_RECONCILE_S="900")
        node.settings["NODE_URL"] = node.url.replace("http:", "https:")
        nodes.append(node.start(wait=False))
    a, b = nodes
    for node in nodes:
        eventually(lambda node=node: ready(node), 60, node.tail)
    api(b, "POST", "/peers/join", {"invite": api(a, "POST", "/peers/invites", {})["invite"]})
    first, second = make_file(tmp_path / "1.pkg", MIB, 1), make_file(tmp_path / "2.pkg", 3 * MIB, 2)
    connection = connect(a)
    assert call(connection, "PUT", "/api/v1/packages/1.pkg", first.path.read_bytes())[0] == 201
    eventually(lambda: arrived(b, "1.pkg"), 60, b.tail)
    files = a.layout.identity / "tls.crt", a.layout.identity / "tls.key"
    old = shown(a)

    # One that cannot be used: told, and the one before is kept.
    kept = files[1].read_bytes()
    files[1].write_bytes(b"nonsense")
    os.kill(a.pid, signal.SIGHUP)
    eventually(lambda: api(a, "GET", "/events?type=certificate.refused")["items"], 20, a.tail)
    assert shown(a) == old
    files[1].write_bytes(kept)

    make_certificate(*files, "127.0.0.1", now=datetime.datetime.now(datetime.UTC))
    os.kill(a.pid, signal.SIGHUP)
    new = fingerprint(files[0])
    eventually(lambda: shown(a) == new, 20, a.tail)
    assert call(connection, "GET", "/api/v1/about")[0] == 200, "open connections go on"
    connection.close()
    # The peer that pinned the old one hears of it, and fetches.
    connection = connect(a)
    assert call(connection, "PUT", "/api/v1/packages/2.pkg", second.path.read_bytes())[0] == 201
    connection.close()
    eventually(lambda: arrived(b, "2.pkg"), 60, b.tail)
    assert a.running
    assert b.running


def ignores_hangup(pid: int) -> bool:
    """SigIgn of proc(5): a mask, lowest signal first."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("SigIgn:"):
            return bool(int(line.split()[1], 16) & 1 << (signal.SIGHUP - 1))
    return False


def test_without_tls_it_does_nothing_and_never_kills(network: Network) -> None:
    node = network.node("a", start=False, WORKER_EMBEDDED="false")
    node.start(wait=False)
    eventually(
        lambda: ignores_hangup(node.pid), 20, "it can still be killed"
    )  # before it loads what takes long
    while node.status("/health/ready") != 200:
        os.kill(node.pid, signal.SIGHUP)
        assert node.running, node.tail()
    with workers(node) as [beside]:
        eventually(lambda: "Worker is running." in node.log_text(), 60, node.tail)
        for _ in range(5):
            os.kill(node.pid, signal.SIGHUP)
            beside.send_signal(signal.SIGHUP)
        assert node.status("/health/ready") == 200
        assert beside.poll() is None
        beside.send_signal(signal.SIGTERM)
        assert beside.wait(20) == 0
    assert node.stop() == 0
    assert "Traceback" not in node.log_text()
