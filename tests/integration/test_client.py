"""Calls to a peer's JSON endpoints are bounded, whatever the peer does."""

import gzip
import json
import socket
import time
import zlib
from collections.abc import Callable

import pytest

from appliance.domain.errors import PeerBusy, PeerError, PeerMisbehaved, PeerRefused, PeerUnreachable
from appliance.peering import client as module
from appliance.peering.address import PeerAddress
from appliance.peering.client import PeerClient
from appliance.peering.identity import Identity
from appliance.peering.signing import Message, verify_request
from appliance.peering.wire import manifest_json
from tests.builders import manifest_of
from tests.integration.test_content_pool import RawServer, answer

ME = Identity.generate()
NODE = b'{"id":"%s","version":"1","time":5,"record":{}}' % (b"a" * 52)
MIB = 1024 * 1024


def now() -> int:
    return time.time_ns() // 1_000_000


def client(server: RawServer, path: str = "", read_s: float = 5.0) -> PeerClient:
    return PeerClient(ME, PeerAddress(node="n", url=server.url + path), now=now, read_s=read_s)


def saying(data: bytes) -> Callable[[socket.socket, bytes, int], bool]:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(data)
        return True

    return script


def asked(data: bytes) -> object:
    """What a client makes of an answer to `GET node`: the result, or the error."""
    with RawServer(saying(data)) as server:
        return client(server).node()


def test_a_good_answer_and_a_connection_that_is_kept() -> None:
    with RawServer(saying(answer(NODE))) as server:
        caller = client(server)
        assert [caller.node().version for _ in range(3)] == ["1"] * 3
        assert server.connections == 1


def test_every_request_is_signed_for_that_very_peer() -> None:
    with RawServer(saying(answer(b"", status="202 Accepted"))) as server:
        client(server, "/base").announce([{"kind": "package", "id": "p", "revision": 1}])
        head = server.heads[0].decode()
    first, *lines = head.split("\r\n")
    assert first == "POST /base/peer/v1/announcements HTTP/1.1"
    headers = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = b'{"records":[{"kind":"package","id":"p","revision":1}]}'
    signed = verify_request(
        Message("POST", "http://x/base/peer/v1/announcements", headers),
        body,
        authority=f"127.0.0.1:{server.port}",
        key_for={ME.node_id: ME.public_key}.get,
        now=now,
    )
    assert signed.node == ME.node_id


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (answer(b"", status="500 Oops"), PeerUnreachable),
        (answer(b"", status="503 Later"), PeerBusy),
        (answer(b"", status="429 Slow"), PeerBusy),
        (answer(b"", status="404 No"), PeerRefused),
        (answer(b"", "Location: http://127.0.0.1:1/", status="302 Found"), PeerUnreachable),
        (answer(b"", "Location: http://127.0.0.1:1/", status="307 Found"), PeerUnreachable),
        (answer(b"<html>"), PeerUnreachable),
        (answer(b"\xff\xfe"), PeerUnreachable),
        (answer(b"[" * 100_000), PeerUnreachable),
        (answer(b"[]"), PeerMisbehaved),
        (answer(b"null"), PeerMisbehaved),
        (answer(b""), PeerMisbehaved),
        (answer(NODE[:-1]), PeerUnreachable),
        (answer(NODE, length=len(NODE) + 10), PeerUnreachable),
        (answer(NODE, "Content-Encoding: gzip"), PeerError),
        (answer(b"", status="204 No Content"), PeerMisbehaved),
        (b"nonsense\r\n\r\n", PeerUnreachable),
        (b"", PeerUnreachable),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", PeerError),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 200, PeerUnreachable),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", PeerUnreachable),
    ],
    ids=range(21),
)
def test_bad_answers_are_errors_of_the_peer(data: bytes, error: type[PeerError]) -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(data)
        return False

    with RawServer(script) as server, pytest.raises(error) as caught:
        client(server).node()
    assert caught.value.message


def test_redirects_are_not_followed() -> None:
    with RawServer(saying(answer(NODE))) as other:
        data = answer(b"", f"Location: {other.url}/peer/v1/node", status="301 Moved")
        with RawServer(saying(data)) as server, pytest.raises(PeerUnreachable, match="redirect"):
            client(server).node()
        assert other.heads == []


def test_when_to_come_back() -> None:
    for value, seconds in (("7", 7), ("999999999", 3600), ("soon", 5), ("-1", 5), ("", 5)):
        data = answer(b"", f"Retry-After: {value}", status="503 Later")
        with RawServer(saying(data)) as server, pytest.raises(PeerBusy) as caught:
            client(server).node()
        assert caught.value.details["retry_after"] == seconds


def test_the_reason_of_a_refusal_is_passed_on_in_short() -> None:
    body = b'{"code":"invite_refused","detail":"%s"}' % (b"x" * 5000)
    with (
        RawServer(saying(answer(body, status="409 Conflict"))) as server,
        pytest.raises(PeerRefused) as caught,
    ):
        client(server).node()
    assert caught.value.details["code"] == "invite_refused"
    assert len(caught.value.message) < 500


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", MIB)
    sent = 0

    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        nonlocal sent
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(b" " * 65_536)
            sent += 65_536

    with RawServer(script) as server, pytest.raises(PeerMisbehaved, match="larger"):
        client(server).node()
    assert sent < 20 * MIB


@pytest.mark.parametrize("way", ["gzip", "deflate"])
def test_a_decompression_bomb(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", MIB)
    bomb = gzip.compress(bytes(64 * MIB)) if way == "gzip" else zlib.compress(bytes(64 * MIB))
    assert len(bomb) < 100_000
    with RawServer(saying(answer(bomb, f"Content-Encoding: {way}"))) as server, pytest.raises(PeerMisbehaved):
        client(server).node()


def test_a_huge_error_is_cut_off_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWER", MIB)
    with RawServer(saying(answer(b"x" * (2 * MIB), status="404 No"))) as server, pytest.raises(PeerError):
        client(server).node()


@pytest.mark.parametrize(
    "first", [b"", b"HTTP/1.1 200 OK\r\n", answer(NODE[:5], length=len(NODE))], ids=range(3)
)
def test_a_silent_peer_is_given_up(first: bytes) -> None:
    with RawServer(saying(first)) as server:
        began = time.monotonic()
        with pytest.raises(PeerUnreachable):
            client(server, read_s=0.3).node()
        assert time.monotonic() - began < 3


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    address = PeerAddress(node="n", url=f"http://127.0.0.1:{port}")
    with pytest.raises(PeerUnreachable, match="refused"):
        PeerClient(ME, address, now=now).node()


def test_a_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        RawServer(saying(answer(b"", status="403 Proxy"))) as proxy,
        RawServer(saying(answer(NODE))) as server,
    ):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert client(server).node().version == "1"
        assert proxy.heads == []


def test_after_an_error_the_next_call_works() -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(answer(NODE) if number else answer(NODE, length=len(NODE) + 5))
        return bool(number)

    with RawServer(script) as server:
        caller = client(server)
        with pytest.raises(PeerUnreachable):
            caller.node()
        assert caller.node().version == "1"


def test_the_other_calls() -> None:
    manifest = manifest_of(b"hello")
    answers = {
        "changes": b'{"feed":"f","next":1,"more":false,"records":[]}',
        "manifest": json.dumps(manifest_json(manifest)).encode(),
        "packages/p ": b"{}",
        "packages/q ": b"[]",
    }

    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        body = next((body for part, body in answers.items() if part.encode() in head), b"")
        connection.sendall(answer(body))
        return True

    with RawServer(script) as server:
        caller = client(server)
        assert caller.changes(5, "f", 0.1).next == 1
        assert b"GET /peer/v1/changes?since=5&feed=f&wait=0.1 " in server.heads[0]
        assert caller.manifest("p", manifest.sha256, manifest.size) == manifest
        assert caller.package("p") == {}
        with pytest.raises(PeerMisbehaved):
            caller.package("q")
        answers["manifest"] = b'{"size":5}'
        with pytest.raises(PeerMisbehaved):
            caller.manifest("p", manifest.sha256, manifest.size)
