"""Fetches runs of chunks from peers: the hot path of replication.

Plain sockets with a large receive buffer, one reused 1 MiB buffer a connection, keep-alive connections shared by all
transfers. `http.client` and requests copy every byte through Python objects and are two to five times slower
(measured; see docs/performance.md). What the peer may send is bounded by what was asked for, byte by byte.
"""

import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from appliance.domain.errors import PeerMisbehaved, PeerUnreachable
from appliance.domain.manifest import CHUNK_SIZE, Manifest
from appliance.store.filesystem import aligned_buffer

from .address import PeerAddress
from .answers import foreign, is_of_a_node, refusal
from .identity import Identity
from .pace import USUAL, Limits, Pace
from .signing import sign_request
from .tls import client_context, same_certificate

RECEIVE_BUFFER = 4 * 1024 * 1024
IDLE_S = 20.0  #: how long an unused connection is kept; peers close theirs after 30 s
IDLE_MAX = 16  #: unused connections of all peers together
_MAX_HEAD = 32_768
_MAX_PROBLEM = 65_536
_STATUS = re.compile(r"[1-5][0-9]{2}")
_LENGTH = re.compile(r"[0-9]{1,12}")

OnChunk = Callable[[int, memoryview], memoryview | None]


class Connection:
    """One connection to a peer; one thread at a time uses it."""

    def __init__(
        self,
        identity: Identity,
        address: PeerAddress,
        now: Callable[[], int],
        limits: Limits = USUAL,
    ) -> None:
        self._identity = identity
        self._address = address
        self._now = now
        self._limits = limits
        self._socket: socket.socket | None = None
        self._buffer = aligned_buffer(CHUNK_SIZE)
        self._used = False
        self.idle_since = 0.0

    def fetch(self, package: str, manifest: Manifest, run: range, on_chunk: OnChunk) -> None:
        """Fetch neighbouring chunks; what `on_chunk` raises ends it.

        Args:
            package: Package id.
            manifest: What its bytes are.
            run: Chunk indexes, ascending by one.
            on_chunk: Called with each chunk's index and bytes. They are valid only during the call, unless it keeps
                them and returns another buffer of the size of a chunk.

        Raises:
            PeerUnreachable: No connection, or it broke or was too slow.
            PeerBusy: Come back later. PeerRefused: the peer does not give it.
            PeerMisbehaved: It sent something else than was asked for.
        """
        first = run.start * CHUNK_SIZE
        length = min(run.stop * CHUNK_SIZE, manifest.size) - first
        path = f"/peer/v1/packages/{package}/content?sha256={manifest.sha256}"
        with self._translated():
            status, headers, rest = self._request(path, f"bytes={first}-{first + length - 1}")
            if status != 206:
                raise refusal(status, headers, self._problem(headers, rest))
        if not is_of_a_node(headers):
            raise foreign(self._address.url)
        self._used = False  # until all of the body is here, what follows is not the head of an answer
        expected = f"bytes {first}-{first + length - 1}/{manifest.size}"
        if (
            headers.get("content-range") != expected
            or headers.get("content-length") != str(length)
            or "transfer-encoding" in headers
            or "content-encoding" in headers
        ):
            raise PeerMisbehaved("It answered with another range than was asked for.")
        self._receive(manifest, run, rest, on_chunk)

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Errors of the connection are the peer's; those of `on_chunk`, such as a full disk, are not."""
        try:
            yield
        except TimeoutError as exc:
            raise PeerUnreachable(f"{self._address.url} was silent for too long.") from exc
        except ssl.SSLError as exc:
            raise PeerUnreachable(f"TLS with {self._address.url} failed: {exc.reason or exc}.") from exc
        except OSError as exc:
            raise PeerUnreachable(f"{self._address.url}: {exc.strerror or exc}.") from exc

    def _request(self, path: str, range_: str) -> tuple[int, dict[str, str], bytes]:
        if self._socket is not None and self._used:
            try:
                return self._ask(self._socket, path, range_)
            except (ConnectionError, ssl.SSLError):
                self.close()  # the peer closed it while it was idle: one fresh try
        return self._ask(self._connect(), path, range_)

    def _ask(self, to: socket.socket, path: str, range_: str) -> tuple[int, dict[str, str], bytes]:
        """Send the request, signed for this one time: the same nonce twice would be a replay."""
        headers = sign_request(self._identity, "GET", self._address.url + path, b"", now=self._now)
        authority, slash, base = self._address.url.partition("://")[2].partition("/")
        lines = [f"GET {slash}{base}{path} HTTP/1.1", f"Host: {authority}", f"Range: {range_}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        to.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
        return self._head(to)

    def _connect(self) -> socket.socket:
        self.close()
        host, port = self._address.host_port
        error: OSError | None = None
        for family, kind, protocol, _, target in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            plain = socket.socket(family, kind, protocol)
            try:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                plain.settimeout(self._limits.connect_s)
                plain.connect(target)
                made = self._socket = self._secured(plain, host)
            except OSError as exc:
                plain.close()
                error = exc
                continue
            made.settimeout(self._limits.silence_s)
            self._used = False
            return made
        raise error or OSError(f"no address for {host}")

    def _secured(self, plain: socket.socket, host: str) -> socket.socket:
        if not self._address.tls:
            return plain
        pin = self._address.tls_fingerprint
        context = client_context(pinned=bool(pin), ca_file=self._address.ca_file)
        secured = context.wrap_socket(plain, server_hostname=host)
        if pin and not same_certificate(secured.getpeercert(binary_form=True) or b"", pin):
            secured.close()
            raise PeerUnreachable(
                f"{self._address.url} shows another TLS certificate than the one that is pinned."
            )
        return secured

    def _head(self, source: socket.socket) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with lower-case names, and the bytes of the body that came with them."""
        data = b""
        began = time.monotonic()
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > _MAX_HEAD:
                raise foreign(self._address.url)
            if time.monotonic() - began > self._limits.head_s:
                raise PeerUnreachable(f"{self._address.url} takes too long to answer.")
            part = source.recv(65_536)
            if not part:
                raise ConnectionResetError("it closed the connection")
            data += part
        lines = data[:end].decode("latin-1").split("\r\n")
        words = lines[0].split(" ", 2)
        if len(words) < 2 or not words[0].startswith("HTTP/1.") or not _STATUS.fullmatch(words[1]):
            raise foreign(self._address.url)
        headers: dict[str, str] = {}
        for line in lines[1:]:
            name, colon, value = line.partition(":")
            if not colon or name.lower() in headers:
                raise foreign(self._address.url)
            headers[name.lower()] = value.strip()
        return int(words[1]), headers, data[end + 4 :]

    def _problem(self, headers: dict[str, str], rest: bytes) -> bytes:
        assert self._socket is not None
        length = headers.get("content-length", "")
        wanted = min(int(length), _MAX_PROBLEM) if _LENGTH.fullmatch(length) else 0
        began = time.monotonic()
        while len(rest) < wanted and time.monotonic() - began < self._limits.silence_s:
            part = self._socket.recv(wanted - len(rest))
            if not part:
                break
            rest += part
        return rest

    def _receive(self, manifest: Manifest, run: range, rest: bytes, on_chunk: OnChunk) -> None:
        assert self._socket is not None
        receive = self._socket.recv_into
        buffer = self._buffer
        pace = Pace(self._address.url, self._limits)
        for index in run:
            size = manifest.chunk_size(index)
            have = min(len(rest), size)
            if have:
                buffer[:have] = rest[:have]
                rest = rest[have:]
            with self._translated():
                while have < size:
                    count = receive(buffer[have:size])
                    if not count:
                        raise PeerUnreachable(f"{self._address.url} cut the connection.")
                    have += count
                    pace.received(count)
            began = time.monotonic()
            self._buffer = buffer = on_chunk(index, buffer[:size]) or buffer
            pace.excuse(time.monotonic() - began)
        if rest:
            raise PeerMisbehaved("It sent more than was asked for.")
        self._used = True


class ContentPool:
    """Keep-alive connections to peers, shared by all transfers."""

    def __init__(self, identity: Identity, now: Callable[[], int], limits: Limits = USUAL) -> None:
        self._identity = identity
        self._now = now
        self._limits = limits
        self._idle: list[tuple[PeerAddress, Connection]] = []
        self._lock = threading.Lock()

    @contextmanager
    def connection(self, address: PeerAddress) -> Iterator[Connection]:
        """A connection to a peer. Whatever leaves the block by an exception closes it: bytes may be on the way."""
        connection = self._take(address)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        self._give(address, connection)

    def close(self) -> None:
        """Close all idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, connection in idle:
            connection.close()

    def _take(self, address: PeerAddress) -> Connection:
        with self._lock:
            for position in range(len(self._idle) - 1, -1, -1):
                if self._idle[position][0] == address:
                    return self._idle.pop(position)[1]
        return Connection(self._identity, address, self._now, self._limits)

    def _give(self, address: PeerAddress, connection: Connection) -> None:
        now = time.monotonic()
        connection.idle_since = now
        with self._lock:
            self._idle.append((address, connection))
            fresh = [item for item in self._idle if now - item[1].idle_since < IDLE_S][-IDLE_MAX:]
            stale = [item for item in self._idle if item not in fresh]
            self._idle = fresh
        for _, old in stale:
            old.close()
