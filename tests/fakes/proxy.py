"""A proxy between nodes: it counts, slows down, cuts off, and lies.

A node whose URL is a proxy's is, for its peers, a node that does what the proxy does to its answers. Requests pass
unchanged, so their signatures hold. It speaks as much of HTTP/1.1 as nodes do with each other: bodies with a
Content-Length.
"""

import contextlib
import itertools
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

CHUNK = 1024 * 1024
_BLOCK = 64 * 1024


@dataclass(slots=True)
class Request:
    """A request that came through."""

    method: str
    path: str  #: with the query
    headers: dict[str, str]  #: names in lower case
    at: float  #: monotonic seconds
    raw: bytes = b""  #: head and body as they came
    status: int = 0  #: of the answer, once it is there

    @property
    def is_content(self) -> bool:
        """Whether it asks for a package's bytes."""
        return self.path.startswith("/peer/v1/packages/") and "/content" in self.path

    @property
    def span(self) -> tuple[int, int]:
        """First and last byte of its Range."""
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        assert match, f"no simple range: {self.headers}"
        return int(match[1]), int(match[2])

    @property
    def chunks(self) -> range:
        """The chunks that its Range covers."""
        first, last = self.span
        return range(first // CHUNK, last // CHUNK + 1)


@dataclass(slots=True)
class Reply:
    """A node's answer on its way; a meddler may change all of it."""

    status: int
    headers: dict[str, str]
    body: Iterable[bytes]
    cut: bool = False  #: whether to cut the connection behind the body

    def text(self) -> bytes:
        """The whole body."""
        return b"".join(self.body)

    def put(self, body: bytes) -> None:
        """Another body, with its length."""
        self.body = [body]
        self.headers["content-length"] = str(len(body))


Meddler = Callable[[Request, Reply], None]


@dataclass(slots=True)
class _Meter:
    """Lets so many bytes a second through, over all connections."""

    rate: float = 0.0  #: bytes a second; 0 for no limit
    next: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wait(self, count: int) -> None:
        if not self.rate:
            return
        with self.lock:
            now = time.monotonic()
            self.next = max(now, self.next) + count / self.rate
            pause = self.next - now
        time.sleep(pause)


class Proxy:
    """Listens on loopback and passes requests to a port."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.meddle: Meddler = lambda _request, _reply: None
        self.requests: list[Request] = []
        self.sent = 0  #: bytes of contents passed on
        self._meter = _Meter()
        self._up = True
        self._closing = False
        self._connections: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self) -> "Proxy":
        """Begin to listen."""
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop, and cut all connections."""
        self._closing = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def limit(self, rate: float) -> None:
        """Let `rate` bytes of contents a second through; 0 for as many as come."""
        self._meter.rate = rate

    def down(self) -> None:
        """Be unreachable: cut all connections and refuse new ones."""
        self._up = False
        self.cut()

    def up(self) -> None:
        """Be reachable again."""
        self._up = True

    def be_honest(self) -> None:
        """Be reachable, and pass everything as it is."""
        self.meddle = lambda _request, _reply: None
        self.limit(0)
        self.up()

    def cut(self) -> None:
        """Cut all connections that there are."""
        with self._lock:
            connections, self._connections = self._connections, set()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def contents(self) -> list[Request]:
        """The requests for packages' bytes so far."""
        return [request for request in list(self.requests) if request.is_content]

    # The work

    def _accept(self) -> None:
        while not self._closing:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self._up:
                threading.Thread(target=self._serve, args=(connection,), name="proxy", daemon=True).start()
            else:
                connection.close()

    def _serve(self, near: socket.socket) -> None:
        far = socket.socket()
        with self._lock:
            self._connections |= {near, far}
        # Whatever breaks on one side ends both: that is what a network does.
        with near, far, contextlib.suppress(OSError, _Ended):
            far.connect(("127.0.0.1", self.target))
            near_in, far_in = _Reader(near, far), _Reader(far, near)
            while self._pass_one(near, far, near_in, far_in):
                pass
        with self._lock:
            self._connections -= {near, far}

    def _pass_one(
        self, near: socket.socket, far: socket.socket, near_in: "_Reader", far_in: "_Reader"
    ) -> bool:
        line, headers, head = near_in.head()
        method, path, _ = line.split(" ", 2)
        request = Request(method, path, headers, time.monotonic(), head)
        far.sendall(head)
        for block in near_in.body(headers):
            request.raw += block
            far.sendall(block)
        self.requests.append(request)
        line, headers, _ = far_in.head()
        _, status, reason = (line + " ").split(" ", 2)
        length = {} if method == "HEAD" or status in {"204", "304"} else headers
        answer = far_in.body(length)
        reply = Reply(int(status), dict(headers), answer)
        request.status = reply.status
        self.meddle(request, reply)
        lines = [f"HTTP/1.1 {reply.status} {reason.strip()}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        near.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))
        for block in reply.body:
            if request.is_content:
                self._meter.wait(len(block))
                self.sent += len(block)
            near.sendall(block)
        if reply.cut:
            return False
        far_in.skip(answer)  # a meddler may have sent another body: the next answer is behind this one
        return True


class _Ended(Exception):
    """A side closed its connection."""


class _Reader:
    """Reads HTTP from one side; gives up when the other side closes first."""

    def __init__(self, source: socket.socket, other: socket.socket) -> None:
        self._source = source
        self._others = [other]
        self._rest = b""

    def _more(self) -> bytes:
        # The other side has nothing to say while this one is read: if it can be read, it closed.
        ready, _, _ = select.select([self._source, *self._others], [], [], 60)
        data = self._source.recv(_BLOCK) if self._source in ready else b""
        if not data:
            raise _Ended
        return data

    def head(self) -> tuple[str, dict[str, str], bytes]:
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            self._rest += self._more()
        head, self._rest = self._rest[: end + 4], self._rest[end + 4 :]
        first, *lines = head[:-4].decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines)
        return first, {name.strip().lower(): value.strip() for name, _, value in pairs}, head

    def body(self, headers: dict[str, str]) -> Iterator[bytes]:
        left = int(headers.get("content-length", 0))
        while left:
            if not self._rest:
                self._rest = self._more()
            block, self._rest = self._rest[:left], self._rest[left:]
            left -= len(block)
            yield block

    def skip(self, body: Iterator[bytes]) -> None:
        """Read the rest of a body; the other side has its answer already, and may speak meanwhile."""
        others, self._others = self._others, []
        for _ in body:
            pass
        self._others = others


# Lies


def flip_bit(chunk: int | None = None, *, times: int = 1) -> Meddler:
    """Flip one bit in a chunk, or in the first chunk that is asked for, so many times."""
    left = itertools.count(times, -1)

    def meddle(request: Request, reply: Reply) -> None:
        if not request.is_content or reply.status != 206:
            return
        if (chunk is None or chunk in request.chunks) and next(left) > 0:
            target = request.chunks[0] if chunk is None else chunk
            reply.body = _flipped(reply.body, max(0, target * CHUNK - request.span[0]))

    return meddle


def _flipped(body: Iterable[bytes], position: int) -> Iterator[bytes]:
    for block in body:
        if 0 <= position < len(block):
            changed = bytearray(block)
            changed[position] ^= 0x10
            yield bytes(changed)
        else:
            yield block
        position -= len(block)


def cut_after(count: int, *, times: int = 1) -> Meddler:
    """Cut the connection behind so many bytes of a content."""
    left = itertools.count(times, -1)

    def some(body: Iterable[bytes]) -> Iterator[bytes]:
        sent = 0
        for block in body:
            yield block[: count - sent]
            sent += len(block)
            if sent >= count:
                return

    def meddle(request: Request, reply: Reply) -> None:
        if request.is_content and reply.status == 206 and next(left) > 0:
            reply.body, reply.cut = some(reply.body), True

    return meddle


def endless() -> Meddler:
    """Answer contents with a length that never ends."""

    def meddle(request: Request, reply: Reply) -> None:
        if request.is_content and reply.status == 206:
            reply.headers["content-length"] = str(1 << 50)
            reply.body = itertools.chain(reply.body, itertools.repeat(b"\0" * _BLOCK))
            reply.cut = True

    return meddle


def other_size() -> Meddler:
    """Answer contents with one byte less than was asked for, and say so."""

    def meddle(request: Request, reply: Reply) -> None:
        if request.is_content and reply.status == 206:
            reply.put(reply.text()[:-1])

    return meddle


def page() -> Meddler:
    """Answer everything with a page for people and 200, as a captive portal or a load balancer without a node does."""

    def meddle(_request: Request, reply: Reply) -> None:
        reply.text()
        reply.status = 200
        for name in ("content-range", "etag", "repr-digest"):
            reply.headers.pop(name, None)
        reply.headers["content-type"] = "text/html"
        reply.put(b"<!DOCTYPE html><title>Welcome</title><p>Please sign in to use this network.</p>")

    return meddle


def doubled() -> Meddler:
    """Send the first bytes of a content twice and leave as many off at its end."""

    def meddle(request: Request, reply: Reply) -> None:
        if request.is_content and reply.status == 206:
            body = reply.text()
            reply.put((body[:1000] + body)[: len(body)])

    return meddle


def slow(seconds: float) -> Meddler:
    """Answer everything later."""

    def meddle(_request: Request, _reply: Reply) -> None:
        time.sleep(seconds)

    return meddle
