"""A peer that lies on demand: a real HTTP server on loopback with a key pair of its own.

It registers with a node, or makes invites that a node joins with; it serves signed records and bytes, and does one
kind of wrong for as long as it is told to. It remembers what it was asked, and whether each request was signed by
the node that it is registered with.
"""

import base64
import contextlib
import gzip
import http.server
import json
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from appliance.domain.errors import SignatureRefused
from appliance.domain.manifest import CHUNK_SIZE, Manifest
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import PackageBody, ReplicaBody
from appliance.domain.record import Record, RecordKind, replica_id
from appliance.peering.address import PeerAddress, authority
from appliance.peering.client import PeerClient
from appliance.peering.identity import Identity
from appliance.peering.invite import Invite, answer_mac, new_secret, parse_invite, registration_mac
from appliance.peering.records import record_json, sign_record
from appliance.peering.signing import Message, verify_request
from appliance.peering.wire import Registered, manifest_json
from tests.builders import manifest_of


class Lie(StrEnum):
    """What it does wrong."""

    FLIPPED_BIT = "flipped bit"  #: in the first chunk of each answer
    SHORT = "short"  #: one byte less than was asked for, and says so
    ENDLESS = "endless"  #: bytes without end
    OTHER_RANGE = "other range"  #: another Content-Range than was asked for
    WHOLE_FILE = "whole file"  #: 200 with everything
    CUT = "cut"  #: closes the connection in the middle
    TRICKLE = "trickle"  #: a byte now and then
    BUSY = "busy"  #: 503 with Retry-After
    WRONG_MANIFEST = "wrong manifest"  #: of other bytes
    HUGE_ANSWER = "huge answer"  #: a feed without end
    BOMB = "bomb"  #: a small compressed feed that unpacks to a huge one
    NEW_FEEDS = "new feeds"  #: another feed id on every page, and always more behind it
    NO_END = "no end"  #: a feed that advances and has the same record on every page
    NOTHING_BEHIND = "nothing behind"  #: a feed that goes on with empty pages
    REDIRECT = "redirect"  #: everything is elsewhere
    NOT_JSON = "not JSON"  #: a page for people
    WRONG_PROOF = "wrong proof"  #: the inviter does not know the invite's secret
    OTHER_RECORD = "other record"  #: the inviter answers with another node's record


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request that came in."""

    method: str
    path: str  #: without the query
    query: str
    range: str
    fault: str  #: why its signature does not hold; "" if it does


def now_ms() -> int:
    """The time, UTC milliseconds."""
    return time.time_ns() // 1_000_000


class FakePeer:
    """A peer, honest until told otherwise.

    Args:
        name: The node's name.
        retry_after: Seconds that it asks for when it is busy.
        stage: Its stage.
    """

    def __init__(self, name: str = "fake", *, retry_after: int = 1, stage: str = "prod") -> None:
        self.identity = Identity.generate()
        self.name = name
        self.stage = stage
        self.retry_after = retry_after
        self.clock_s = 0  #: how far the clock is ahead that its answers tell of
        self.lie: Lie | None = None
        self.asked: list[Asked] = []
        self.feed: list[Any] = []  #: record JSON in the order of its change feed
        self.left: list[str] = []  #: nodes that ended their registration
        self._keys: dict[str, bytes] = {}
        self._files: dict[str, tuple[Manifest, bytes]] = {}
        self._packages: dict[str, Record] = {}
        self._invites: dict[str, Invite] = {}
        self._closing = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.peer = self
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.feed.append(record_json(self.record()))

    # Being a node

    @property
    def id(self) -> str:
        """Its node id."""
        return self.identity.node_id

    def record(self, **changes: Any) -> Record:
        """Its node record."""
        fields = {"name": self.name, "url": self.url, "stage": self.stage, "version": "1", **changes}
        return self.sign(RecordKind.NODE, self.id, asdict(NodeBody(**fields)))

    def sign(self, kind: RecordKind, id: str, body: dict[str, Any], revision: int = 1, **more: Any) -> Record:
        """A record that it signs, whatever it says; `more` is `at` or `deleted`, if other than usual."""
        fields = {"at": now_ms(), "deleted": False, **more}
        return sign_record(self.identity, kind=kind, id=id, revision=revision, body=body, **fields)

    def hold(
        self,
        filename: str,
        data: bytes,
        *,
        package: Record | None = None,
        sha256: str = "",
        **more: Any,
    ) -> Record:
        """Hold a package: with a record of its own, or that of another node.

        The record lists no chunks, so the manifest is asked for.

        Args:
            filename: Its name.
            data: Its bytes.
            package: Another node's record.
            sha256: What the record and the manifest say, if that is wrong.
            more: Further fields of the record's body.
        """
        manifest = manifest_of(data)
        manifest = replace(manifest, sha256=sha256 or manifest.sha256)
        id = package_id(filename)
        body = PackageBody(
            filename=filename,
            size=manifest.size,
            sha1=manifest.sha1,
            sha256=manifest.sha256,
            manifest=manifest.digest,
            stage="prod",
            uploaded_at=now_ms(),
            origin=self.id,
        )
        body = replace(body, **more)
        record = package or self.sign(RecordKind.PACKAGE, id, asdict(body))
        held = ReplicaBody(package=id, node=self.id, sha256=body.sha256, presence="held")
        self._packages[id] = record
        self._files[id] = (manifest, data)
        replica = self.sign(RecordKind.REPLICA, replica_id(id, self.id), asdict(held))
        self.feed += [record_json(record), record_json(replica)]
        return record

    def client(self, url: str, node: str) -> PeerClient:
        """Calls a node."""
        return PeerClient(self.identity, PeerAddress(node=node, url=url), now=now_ms)

    def join(self, text: str, **changes: Any) -> Registered:
        """Register with the node that made an invite."""
        invite, record, nonce = parse_invite(text), record_json(self.record()), secrets.token_hex(16)
        mac = registration_mac(invite.secret, invite.id, record, nonce)
        self._keys[invite.node] = invite.key
        message = {"invite": invite.id, "record": record, "nonce": nonce, "mac": mac, **changes}
        return self.client(invite.url, invite.node).register(message)

    def invite(self) -> str:
        """An invite that a node can join with."""
        made = Invite(
            id=secrets.token_hex(8),
            url=self.url,
            key=self.identity.public_key,
            tls_fingerprint="",
            secret=new_secret(),
            expires_at=now_ms() + 3_600_000,
        )
        self._invites[made.id] = made
        return made.text()

    def faults(self) -> list[str]:
        """What was wrong with the signatures of what was asked."""
        return [asked.fault for asked in list(self.asked) if asked.fault]

    def contents(self) -> list[Asked]:
        """The requests for bytes so far."""
        return [asked for asked in list(self.asked) if asked.path.endswith("/content")]

    def close(self) -> None:
        """Stop answering, also on connections that are kept open."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in list(self._server.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "FakePeer":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Answering

    def answer(self, handler: "_Handler") -> None:
        """Answer a request."""
        parts = urlsplit(handler.path)
        body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
        fault = "" if parts.path == "/peer/v1/registrations" else self._fault(handler, body)
        self.asked.append(
            Asked(
                method=handler.command,
                path=parts.path,
                query=parts.query,
                range=handler.headers.get("Range", ""),
                fault=fault,
            )
        )
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        words = parts.path.removeprefix("/peer/v1/").split("/")
        if self.lie is Lie.REDIRECT:
            handler.say(b"", 307, Location="http://127.0.0.1:1/")
            return
        match [handler.command, *words]:
            case ["GET", "node"]:
                handler.say_json(
                    {
                        "id": self.id,
                        "version": "1",
                        "time": now_ms(),
                        "record": record_json(self.record()),
                    }
                )
            case ["GET", "changes"]:
                self._changes(handler, int(query["since"]))
            case ["POST", "registrations"]:
                self._register(handler, json.loads(body))
            case ["POST", "announcements"]:
                handler.say(b"", 202)
            case ["DELETE", "registrations", node]:
                self.left.append(node)
                handler.say(b"", 204)
            case ["GET", "packages", id, *rest] if id in self._files:
                self._package(handler, id, rest)
            case _:
                handler.say_json({"code": "package_unknown"}, 404)

    def _fault(self, handler: "_Handler", body: bytes) -> str:
        message = Message(handler.command, handler.path, dict(handler.headers.items()))
        try:
            verify_request(message, body, authority=authority(self.url), key_for=self._keys.get, now=now_ms)
        except SignatureRefused as exc:
            return exc.message
        return ""

    def _changes(self, handler: "_Handler", since: int) -> None:
        since = since if since <= len(self.feed) or self.lie is not None else 0  # as a node does
        page = self.feed[since : since + 500]
        data = {"feed": "fake", "next": since + len(page), "more": False, "records": page}
        match self.lie:
            case Lie.HUGE_ANSWER:
                handler.pour(b'{"feed":"fake","next":1,"more":false,"records":["', b"x" * 65_536)
            case Lie.BOMB:
                packed = gzip.compress(json.dumps({**data, "pad": "x" * 60_000_000}).encode(), 1)
                handler.say(packed, **{"Content-Encoding": "gzip"})
            case Lie.NEW_FEEDS:
                handler.say_json({**data, "feed": secrets.token_hex(8), "more": True, "records": self.feed})
            case Lie.NO_END:
                one = self.feed[:1]
                handler.say_json({**data, "next": since + 1, "more": True, "records": one})
            case Lie.NOTHING_BEHIND:
                handler.say_json({**data, "next": since + 1, "more": True, "records": []})
            case Lie.NOT_JSON:
                handler.say(b"<html>Welcome</html>")
            case _:
                handler.say_json(data)

    def _register(self, handler: "_Handler", message: dict[str, Any]) -> None:
        invite = self._invites[message["invite"]]
        record = message["record"]
        self._keys[record["author"]] = base64.b64decode(record["key"])
        own = record_json(self.record())
        if self.lie is Lie.OTHER_RECORD:
            other = Identity.generate()
            body = asdict(NodeBody(name="other", url=self.url, stage="prod", version="1"))
            own = record_json(
                sign_record(
                    other, kind=RecordKind.NODE, id=other.node_id, revision=1, at=1, deleted=False, body=body
                )
            )
        secret = new_secret() if self.lie is Lie.WRONG_PROOF else invite.secret
        mac = answer_mac(secret, invite.id, own, message["nonce"])
        handler.say_json({"record": own, "mac": mac}, 201)

    def _package(self, handler: "_Handler", id: str, rest: list[str]) -> None:
        manifest, data = self._files[id]
        match rest:
            case []:
                handler.say_json(record_json(self._packages[id]))
            case ["manifest"]:
                shown = manifest
                if self.lie is Lie.WRONG_MANIFEST:
                    shown = Manifest(
                        size=manifest.size,
                        sha1=manifest.sha1,
                        sha256=manifest.sha256,
                        chunks=bytes(len(manifest.chunks)),
                    )
                handler.say_json(manifest_json(shown))
            case ["content"]:
                self._content(handler, data)
            case ["proof"]:
                first = int(parse_qs(urlsplit(handler.path).query)["chunk"][0]) * CHUNK_SIZE
                chunk = bytearray(data[first : first + CHUNK_SIZE])
                if self.lie is Lie.FLIPPED_BIT:
                    chunk[len(chunk) // 2] ^= 1
                handler.say(bytes(chunk))
            case _:
                handler.say_json({"code": "package_unknown"}, 404)

    def _content(self, handler: "_Handler", data: bytes) -> None:
        first, last = (int(part) for part in handler.headers["Range"].removeprefix("bytes=").split("-"))
        part = bytearray(data[first : last + 1])
        said = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
        match self.lie:
            case Lie.FLIPPED_BIT:
                part[min(len(part), CHUNK_SIZE) // 2] ^= 1
            case Lie.SHORT:
                del part[-1]
                said["Content-Range"] = f"bytes {first}-{last - 1}/{len(data)}"
            case Lie.OTHER_RANGE:
                said["Content-Range"] = f"bytes {first + 1}-{last + 1}/{len(data)}"
            case Lie.WHOLE_FILE:
                handler.say(data)
                return
            case Lie.BUSY:
                handler.say_json({"code": "busy"}, 503, **{"Retry-After": str(self.retry_after)})
                return
            case Lie.ENDLESS:
                handler.start(206, said)
                handler.pour(b"", bytes(part[:65_536]))
                return
            case Lie.CUT:
                handler.start(206, {**said, "Content-Length": str(len(part))})
                handler.wfile.write(part[: len(part) // 2])
                handler.close_connection = True
                return
            case Lie.TRICKLE:
                handler.start(206, {**said, "Content-Length": str(len(part))})
                handler.drip(part)
                return
        handler.say(bytes(part), 206, **said)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    peer: FakePeer

    def __init__(self, *arguments: Any) -> None:
        self.connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Remember connections: they are ended with the server."""
        self.connections.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self.connections.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: callers that hang up are what is tested."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 30

    def _answer(self) -> None:
        with contextlib.suppress(ConnectionError, TimeoutError):
            cast(_Server, self.server).peer.answer(self)

    do_GET = do_POST = do_DELETE = _answer

    def start(self, status: int, headers: dict[str, str]) -> None:
        """Send status and headers."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def say(self, body: bytes, status: int = 200, **headers: str) -> None:
        """Send a whole answer."""
        length = {} if status == 204 else {"Content-Length": str(len(body))}
        self.start(status, {**headers, **length})
        self.wfile.write(body)

    def say_json(self, data: Any, status: int = 200, **headers: str) -> None:
        """Send JSON."""
        self.say(json.dumps(data).encode(), status, **headers)

    def pour(self, beginning: bytes, block: bytes) -> None:
        """Send without end."""
        if beginning:
            self.start(200, {"Connection": "close"})
        self.close_connection = True
        self.wfile.write(beginning)
        while self._open():
            self.wfile.write(block)

    def drip(self, data: bytes | bytearray) -> None:
        """Send a byte now and then."""
        self.close_connection = True
        for position in range(len(data)):
            if not self._open():
                return
            self.wfile.write(data[position : position + 1])
            time.sleep(0.05)

    def _open(self) -> bool:
        return not cast(_Server, self.server).peer._closing.is_set()

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The time of the Date header, by the peer's clock."""
        now = time.time() if timestamp is None else timestamp
        return super().date_time_string(now + cast(_Server, self.server).peer.clock_s)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextlib.contextmanager
def fake_peers(*names: str) -> Iterator[list[FakePeer]]:
    """Several of them."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(FakePeer(name)) for name in names]
