"""Fetching chunks from peers that say anything at all, over raw sockets."""

import contextlib
import hashlib
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Self

import pytest

from appliance.domain.errors import (
    PeerBusy,
    PeerError,
    PeerMisbehaved,
    PeerRefused,
    PeerUnreachable,
    StorageFull,
)
from appliance.domain.manifest import CHUNK_SIZE
from appliance.peering.address import PeerAddress
from appliance.peering.content import ContentPool
from appliance.peering.identity import Identity
from appliance.peering.pace import Limits
from appliance.peering.signing import Message, verify_request
from tests.builders import manifest_of

Script = Callable[[socket.socket, bytes, int], bool | None]


class RawServer:
    """Calls a script for each request head: with the connection, the head and the connection's number (from 0).

    The script says whether the connection goes on; it closes it otherwise.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.heads: list[bytes] = []
        self.connections = 0
        self.open = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._accepting = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in (self._accepting, *self._threads):
            thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.append(connection)
            thread = threading.Thread(target=self._serve, args=(connection, self.connections), daemon=True)
            self.connections += 1
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        data = b""
        self.open += 1
        try:
            while True:
                while b"\r\n\r\n" not in data:
                    part = connection.recv(65_536)
                    if not part:
                        return
                    data += part
                head, _, data = data.partition(b"\r\n\r\n")
                self.heads.append(head)
                if not self.script(connection, head, number):
                    return
        except OSError:
            return
        finally:
            self.open -= 1
            connection.close()


def answer(body: bytes, *headers: str, status: str = "200 OK", length: int | None = None) -> bytes:
    """An HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


DATA = random.Random(3).randbytes(3 * CHUNK_SIZE + 1000)
MANIFEST = manifest_of(DATA)
ME = Identity.generate()
PROMPT = Limits(connect_s=2, silence_s=0.5, head_s=2, window_s=0.5, min_rate=100_000)


def now() -> int:
    return time.time_ns() // 1_000_000


def wanted(head: bytes) -> tuple[int, int]:
    match = re.search(rb"Range: bytes=(\d+)-(\d+)", head)
    assert match is not None
    return int(match[1]), int(match[2])


def part(head: bytes, *headers: str) -> bytes:
    """The right answer."""
    first, last = wanted(head)
    range_ = f"Content-Range: bytes {first}-{last}/{len(DATA)}"
    return answer(DATA[first : last + 1], range_, *headers, status="206 Partial Content")


def honest(connection: socket.socket, head: bytes, number: int) -> bool:
    connection.sendall(part(head))
    return True


class Got:
    """Collects chunks, and checks them as a transfer does."""

    def __init__(self) -> None:
        self.chunks: dict[int, bytes] = {}

    def __call__(self, index: int, data: memoryview) -> None:
        MANIFEST.verify_chunk(index, data)
        self.chunks[index] = bytes(data)


_pools: list[ContentPool] = []


def pool_of(limits: Limits = PROMPT) -> ContentPool:
    """A pool that is closed after the test."""
    _pools.append(ContentPool(ME, now, limits))
    return _pools[-1]


@pytest.fixture(autouse=True)
def _close_pools() -> Iterator[None]:
    yield
    while _pools:
        _pools.pop().close()


def fetch(
    pool: ContentPool, server: RawServer, run: range = range(4), path: str = "", got: Got | None = None
) -> Got:
    got = got or Got()
    with pool.connection(PeerAddress(node="n", url=server.url + path)) as connection:
        connection.fetch("p", MANIFEST, run, got)
    return got


@pytest.mark.parametrize("run", [range(4), range(1), range(3, 4), range(1, 3)])
def test_the_right_bytes(run: range) -> None:
    with RawServer(honest) as server:
        got = fetch(pool_of(), server, run)
        assert list(got.chunks) == list(run)
        assert b"".join(got.chunks.values()) == DATA[run.start * CHUNK_SIZE : run.stop * CHUNK_SIZE]


def test_the_request_is_signed_and_asks_for_these_bytes() -> None:
    with RawServer(honest) as server:
        fetch(pool_of(), server, range(1, 3), "/base")
        head = server.heads[0].decode()
    first, *lines = head.split("\r\n")
    path = f"/base/peer/v1/packages/p/content?sha256={MANIFEST.sha256}"
    assert first == f"GET {path} HTTP/1.1"
    headers = dict(line.split(": ", 1) for line in lines)
    assert headers["Range"] == f"bytes={CHUNK_SIZE}-{3 * CHUNK_SIZE - 1}"
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    keys = {ME.node_id: ME.public_key}
    message = Message("GET", f"http://x{path}", headers)
    assert (
        verify_request(message, b"", authority=headers["Host"], key_for=keys.get, now=now).node == ME.node_id
    )


def test_connections_are_kept_and_shared() -> None:
    with RawServer(honest) as server:
        pool = pool_of()
        for _ in range(3):
            fetch(pool, server)
        assert server.connections == 1
        with pool.connection(PeerAddress(node="n", url=server.url)) as one:
            one.fetch("p", MANIFEST, range(1), Got())
            fetch(pool, server)  # at the same time: a second one
        assert server.connections == 2
        pool.close()
        fetch(pool, server)
        assert server.connections == 3
        pool.close()


def test_each_request_has_a_nonce_of_its_own_also_after_a_lost_connection() -> None:
    def once(connection: socket.socket, head: bytes, number: int) -> bool:
        if number == 0 and len(server.heads) > 1:
            return False  # closed over the second request, as by a peer that restarts
        return honest(connection, head, number)

    with RawServer(once) as server:
        pool = pool_of()
        fetch(pool, server)
        assert len(fetch(pool, server).chunks) == 4
        nonces = [re.search(rb'nonce="(\w+)"', head) for head in server.heads]
        assert len({match[1] for match in nonces if match}) == len(server.heads) == 3
        pool.close()


def test_a_connection_that_the_peer_closed_while_idle_is_replaced() -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(part(head))
        return number > 0

    with RawServer(script) as server:
        pool = pool_of()
        fetch(pool, server)
        while server.open:
            time.sleep(0.01)
        assert len(fetch(pool, server).chunks) == 4
        assert server.connections == 2
        pool.close()


def test_a_fresh_connection_that_is_closed_is_not_tried_again() -> None:
    with RawServer(lambda *_: False) as server, pytest.raises(PeerUnreachable):
        fetch(pool_of(), server)
    assert len(server.heads) == 1


Make = Callable[[bytes], bytes]


def changed(before: str, after: str) -> Make:
    return lambda head: part(head).replace(before.encode(), after.encode(), 1)


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (changed("206 Partial", "200 Partial"), PeerUnreachable),
        (changed("206 Partial", "416 Partial"), PeerRefused),
        (lambda _: answer(b"", status="404 No"), PeerRefused),
        (lambda _: answer(b"", "Retry-After: 9", status="503 Later"), PeerBusy),
        (lambda _: answer(b"", status="500 Oops"), PeerUnreachable),
        (lambda _: answer(b"", "Location: http://127.0.0.1:1/", status="302 Found"), PeerUnreachable),
        (changed("bytes 0-", "bytes 1-"), PeerMisbehaved),
        (changed(f"/{len(DATA)}", "/*"), PeerMisbehaved),
        (changed(f"/{len(DATA)}", f"/{len(DATA) + 1}"), PeerMisbehaved),
        (changed("Content-Range", "X-Range"), PeerMisbehaved),
        (changed(f"Content-Length: {len(DATA)}", f"Content-Length: {len(DATA) - 1}"), PeerMisbehaved),
        (changed(f"Content-Length: {len(DATA)}", f"Content-Length: {len(DATA) + 1}"), PeerMisbehaved),
        (changed("Content-Length:", "X-Length:"), PeerMisbehaved),
        (lambda head: part(head, "Transfer-Encoding: chunked"), PeerMisbehaved),
        (lambda head: part(head, "Content-Encoding: gzip"), PeerMisbehaved),
        (lambda head: part(head, f"content-length: {len(DATA)}"), PeerUnreachable),
        (lambda head: part(head, "no colon"), PeerUnreachable),
        (lambda head: part(head)[:-1], PeerUnreachable),
        (lambda head: part(head)[: CHUNK_SIZE + 5000], PeerUnreachable),
        (lambda head: part(head)[:20], PeerUnreachable),
        (lambda _: b"", PeerUnreachable),
        (lambda _: b"nonsense\r\n\r\n", PeerUnreachable),
        (lambda _: b"HTTP/1.1\r\n\r\n", PeerUnreachable),
        (lambda _: "HTTP/1.1 ²²² x\r\n\r\n".encode("latin-1"), PeerUnreachable),
        (lambda _: b"HTTP/1.1 404 No\r\nContent-Length: \xb2\r\n\r\n", PeerRefused),
        (lambda _: b"HTTP/1.1 206 x\r\n" + b"X: " + b"y" * 100_000, PeerUnreachable),
        (lambda head: part(head, "Content-Type: text/html"), PeerUnreachable),  # a proxy's page
        (lambda _: answer(b"<html>", "Content-Type: text/html", status="403 Forbidden"), PeerUnreachable),
    ],
    ids=range(28),
)
def test_everything_else_is_refused(make: Make, error: type[PeerError]) -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(make(head))
        return False

    with RawServer(script) as server:
        pool = pool_of()
        with pytest.raises(error) as caught:
            fetch(pool, server)
        assert caught.value.message
        assert pool._idle == [], "the connection is not used again"


def test_what_arrived_before_the_cut_is_kept() -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(part(head)[: 2 * CHUNK_SIZE + 5000])
        return False

    got = Got()
    with RawServer(script) as server, pytest.raises(PeerUnreachable):
        fetch(pool_of(), server, got=got)
    assert sorted(got.chunks) == [0, 1]


def test_more_than_was_asked_for_is_never_taken_for_the_next_answer() -> None:
    forged = b"HTTP/1.1 206 OK\r\n\r\n" + bytes(5000)

    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(part(head) + forged)
        return True

    with RawServer(script) as server:
        pool = pool_of()
        for _ in range(2):
            got = Got()
            with contextlib.suppress(PeerMisbehaved):
                fetch(pool, server, range(3, 4), got=got)
            assert got.chunks in ({}, {3: DATA[3 * CHUNK_SIZE :]})
        pool.close()


def test_a_wrong_bit_ends_the_run_and_the_connection() -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        data = bytearray(part(head))
        data[-1] ^= 1
        connection.sendall(data)
        return True

    got = Got()
    with RawServer(script) as server:
        pool = pool_of()
        with pytest.raises(Exception, match="Chunk 3"):
            fetch(pool, server, got=got)
        assert sorted(got.chunks) == [0, 1, 2]
        assert pool._idle == []


def test_an_error_of_ours_is_not_blamed_on_the_peer() -> None:
    def full(index: int, data: memoryview) -> None:
        raise StorageFull

    def broken(index: int, data: memoryview) -> None:
        raise OSError(5, "Input/output error")

    with RawServer(honest) as server:
        for on_chunk, error in ((full, StorageFull), (broken, OSError)):
            pool = pool_of()
            with pytest.raises(error), pool.connection(PeerAddress(node="n", url=server.url)) as connection:
                connection.fetch("p", MANIFEST, range(4), on_chunk)


@pytest.mark.parametrize("send", [0, 100, CHUNK_SIZE + 5000])
def test_a_peer_that_falls_silent_is_given_up(send: int) -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        connection.sendall(part(head)[:send])
        return True

    with RawServer(script) as server:
        began = time.monotonic()
        with pytest.raises(PeerUnreachable):
            fetch(pool_of(), server)
        assert time.monotonic() - began < 5


@pytest.mark.parametrize("beginning", [0, 300])
def test_a_peer_that_trickles_is_given_up(beginning: int) -> None:
    def script(connection: socket.socket, head: bytes, number: int) -> bool:
        data = part(head)
        connection.sendall(data[:beginning])
        for byte in data[beginning:]:
            connection.sendall(bytes([byte]))
            time.sleep(0.02)
        return True

    limits = Limits(connect_s=2, silence_s=2, head_s=0.5, window_s=0.5, min_rate=4096)
    with RawServer(script) as server:
        began = time.monotonic()
        with pytest.raises(PeerUnreachable):
            fetch(pool_of(limits), server)
        assert time.monotonic() - began < 5


def test_many_at_once() -> None:
    digests: list[str] = []

    with RawServer(honest) as server:
        pool = pool_of(Limits())

        def work() -> None:
            for _ in range(5):
                got = fetch(pool, server)
                whole = b"".join(got.chunks[index] for index in range(4))
                digests.append(hashlib.sha256(whole).hexdigest())

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert digests == [MANIFEST.sha256] * 40
        assert server.connections <= 8
        assert len(pool._idle) <= 8
        pool.close()
