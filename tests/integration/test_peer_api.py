"""The peer API of a real node, called by a node that the test plays."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from urllib.parse import urlsplit

import pytest

from appliance.domain.errors import PeerRefused
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import ReplicaBody
from appliance.domain.record import Record, RecordKind, replica_id
from appliance.peering.address import PeerAddress
from appliance.peering.client import PeerClient
from appliance.peering.content import ContentPool
from appliance.peering.identity import Identity
from appliance.peering.invite import answer_mac, parse_invite, registration_mac
from appliance.peering.records import package_body, parse_record, record_json, sign_record, verify_record
from appliance.peering.signing import sign_request
from tests.builders import MIB, File, make_file
from tests.harness.node import Answer, NodeProcess
from tests.harness.waiting import eventually

NONCE = "n" * 32


def now() -> int:
    return time.time_ns() // 1_000_000


class Actor:
    """A node played by the test: it answers `GET node`, and serves the feed that the test writes."""

    def __init__(self, name: str = "actor") -> None:
        self.identity = Identity.generate()
        self.name = name
        self.feed: list[dict[str, Any]] = []
        self.asked: list[str] = []
        actor = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                actor.asked.append(parts.path)
                if parts.path == "/peer/v1/node":
                    self._say({"id": actor.id, "version": "1", "time": now(), "record": actor.record_json()})
                elif parts.path == "/peer/v1/changes":
                    since = int(dict(pair.split("=") for pair in parts.query.split("&"))["since"])
                    records = actor.feed[since : since + 500]
                    if not records:
                        time.sleep(0.2)
                    self._say({"feed": "f", "next": since + len(records), "more": False, "records": records})
                else:
                    self._say({"code": "package_unknown"}, 404)

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._say({}, 202)

            do_DELETE = do_POST

            def _say(self, data: Any, status: int = 200) -> None:
                body = json.dumps(data).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    @property
    def id(self) -> str:
        return self.identity.node_id

    def record(self, **changes: Any) -> Record:
        body = NodeBody(name=self.name, url=self.url, stage="prod", version="1", **changes)
        return self.sign(RecordKind.NODE, self.id, asdict(body))

    def record_json(self) -> dict[str, Any]:
        return record_json(self.record())

    def sign(self, kind: RecordKind, id: str, body: Any, revision: int = 1) -> Record:
        return sign_record(
            self.identity, kind=kind, id=id, revision=revision, at=now(), deleted=False, body=body
        )

    def call(
        self,
        node: NodeProcess,
        method: str,
        path: str,
        data: Any = None,
        *,
        at: int | None = None,
        **more: str,
    ) -> Answer:
        """A signed request."""
        body = b"" if data is None else json.dumps(data).encode()
        headers = sign_request(
            self.identity, method, node.url + path, body, now=lambda: now() if at is None else at
        )
        return node.request(method, path, body or None, {**headers, **more}, anonymous=True)

    def registration(self, text: str, **changes: Any) -> dict[str, Any]:
        invite, record = parse_invite(text), self.record_json()
        mac = registration_mac(invite.secret, invite.id, record, NONCE)
        return {"invite": invite.id, "record": record, "nonce": NONCE, "mac": mac, **changes}

    def register(self, node: NodeProcess, message: Any) -> Answer:
        """Send a registration; after some that were refused, the node may want a pause before the next."""
        while True:
            answer = self.call(node, "POST", "/peer/v1/registrations", message)
            if answer.status != 429:
                return answer
            assert int(answer.headers["retry-after"]) <= 8
            time.sleep(int(answer.headers["retry-after"]))

    def join(self, node: NodeProcess, text: str = "") -> Answer:
        return self.register(node, self.registration(text or node.invite()))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def node(one_node: NodeProcess) -> NodeProcess:
    return one_node


@pytest.fixture
def stranger() -> Iterator[Actor]:
    made = Actor("stranger")
    yield made
    made.close()


@pytest.fixture(scope="module")
def peer(node: NodeProcess) -> Iterator[Actor]:
    """A node that is registered."""
    made = Actor("peer")
    answer = made.join(node)
    assert answer.status == 201, answer.body
    yield made
    made.close()


@pytest.fixture(scope="module")
def file(node: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> File:
    made = make_file(tmp_path_factory.mktemp("files") / "Shared.pkg", 3 * MIB + 17)
    node.publish(made.path)
    return made


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.json()["code"]) == (status, code), answer.body


# Who may ask


def test_signed_requests_are_answered_once(node: NodeProcess, peer: Actor) -> None:
    headers = sign_request(peer.identity, "GET", f"{node.url}/peer/v1/node", b"", now=now)
    answer = node.request("GET", "/peer/v1/node", None, headers, anonymous=True)
    assert answer.status == 200
    assert answer.json()["id"] == node.id
    record = parse_record(answer.json()["record"])
    verify_record(record)
    assert record.author == node.id
    again = node.request("GET", "/peer/v1/node", None, headers, anonymous=True)
    refused(again, 401, "request_replayed")


def test_a_replay_of_a_change_is_refused_after_a_restart_too(node: NodeProcess, peer: Actor) -> None:
    body = b'{"records":[]}'
    headers = sign_request(peer.identity, "POST", f"{node.url}/peer/v1/announcements", body, now=now)
    assert node.request("POST", "/peer/v1/announcements", body, headers, anonymous=True).status == 202
    node.restart()
    refused(
        node.request("POST", "/peer/v1/announcements", body, headers, anonymous=True), 401, "request_replayed"
    )


@pytest.mark.parametrize("seconds", [-100, -3600, 100, 3600])
def test_other_clocks(node: NodeProcess, peer: Actor, seconds: int) -> None:
    refused(peer.call(node, "GET", "/peer/v1/node", at=now() + seconds * 1000), 401, "clock_skew")


def test_the_difference_is_shown(node: NodeProcess, peer: Actor) -> None:
    def shown() -> bool:
        peer.call(node, "GET", "/peer/v1/node", at=now() - 100_000)
        found = node.api("GET", f"/peers/{peer.id}")
        assert -102 <= found["clock_offset_s"] <= -98
        return "NTP" in found["last_error"]

    eventually(shown, 30, "the next answer of the peer to a call of the node clears it, so it may take a few")


def test_strangers_and_requests_to_others(node: NodeProcess, peer: Actor, stranger: Actor) -> None:
    refused(stranger.call(node, "GET", "/peer/v1/node"), 401, "peer_unknown")
    headers = sign_request(peer.identity, "GET", "http://127.0.0.1:1/peer/v1/node", b"", now=now)
    for host in ("127.0.0.1:1", f"127.0.0.1:{node.port}"):
        answer = node.request("GET", "/peer/v1/node", None, {**headers, "Host": host}, anonymous=True)
        refused(answer, 401, "signature_invalid")
    headers = sign_request(peer.identity, "POST", f"{node.url}/peer/v1/announcements", b"{}", now=now)
    answer = node.request("POST", "/peer/v1/announcements", b'{"records":[]}', headers, anonymous=True)
    refused(answer, 401, "signature_invalid")


@pytest.mark.parametrize("name", ["Signature", "Signature-Input", "Content-Digest"])
@pytest.mark.parametrize("value", ["", "é", "x", "ods=:AAAA:", "ods=()", "ods", "a" * 20_000, '"', "ods=:é:"])
def test_broken_signatures_are_refused_and_no_fault(
    node: NodeProcess, peer: Actor, name: str, value: str
) -> None:
    answer = peer.call(node, "GET", "/peer/v1/node", **{name: value})
    assert answer.status == 401, answer.body


def test_refusals_are_counted(node: NodeProcess, stranger: Actor) -> None:
    stranger.call(node, "GET", "/peer/v1/node")
    page = node.request("GET", "/metrics").body.decode()
    lines = [line for line in page.splitlines() if "refus" in line and "peer_unknown" in line]
    assert lines
    assert float(lines[0].rsplit(" ", 1)[1]) >= 1


# What they get


def test_the_record_manifest_chunks_and_content(node: NodeProcess, peer: Actor, file: File) -> None:
    id = package_id("Shared.pkg")
    record = parse_record(peer.call(node, "GET", f"/peer/v1/packages/{id}").json())
    verify_record(record)
    body = package_body(record)
    assert (body.sha256, body.origin) == (file.sha256, node.id)
    address = PeerAddress(node=node.id, url=node.url)
    manifest = PeerClient(peer.identity, address, now=now).manifest(id, file.sha256, body.size)
    assert (manifest.sha1, manifest.digest) == (file.sha1, body.manifest)
    assert peer.call(node, "GET", f"/peer/v1/packages/{id}/chunks").body == b"\x0f"
    got: dict[int, bytes] = {}
    pool = ContentPool(peer.identity, now)
    with pool.connection(address) as connection:
        for run in (range(2, 4), range(2)):
            connection.fetch(id, manifest, run, lambda index, data: got.update({index: bytes(data)}))
    pool.close()
    assert b"".join(got[index] for index in range(4)) == file.path.read_bytes()


@pytest.mark.parametrize("way", ["manifest", "chunks", "content"])
def test_other_bytes_than_the_newest_are_not_given(
    node: NodeProcess, peer: Actor, file: File, way: str
) -> None:
    id = package_id("Shared.pkg")
    assert peer.call(node, "GET", f"/peer/v1/packages/{id}/{way}?sha256={'0' * 64}").status == 409
    refused(peer.call(node, "GET", f"/peer/v1/packages/{'a' * 32}/{way}"), 404, "package_unknown")


def test_ranges_of_content(node: NodeProcess, peer: Actor, file: File) -> None:
    path = f"/peer/v1/packages/{package_id('Shared.pkg')}/content"
    answer = peer.call(node, "GET", path, Range="bytes=5-9")
    assert (answer.status, answer.body) == (206, file.path.read_bytes()[5:10])
    assert peer.call(node, "GET", path, Range=f"bytes={file.size}-").status == 416


def test_the_feed_in_pages(node: NodeProcess, peer: Actor, file: File) -> None:
    seen, since, feed = [], 0, ""
    while True:
        page = peer.call(node, "GET", f"/peer/v1/changes?since={since}&feed={feed}&limit=2").json()
        seen += page["records"]
        since, feed = page["next"], page["feed"]
        if not page["more"]:
            break
    for item in seen:
        verify_record(parse_record(item))
    keys = [(item["kind"], item["id"]) for item in seen]
    assert len(keys) == len(set(keys)), "each record once"
    assert ("package", package_id("Shared.pkg")) in keys
    assert ("node", node.id) in keys
    began = time.monotonic()
    end = peer.call(node, "GET", f"/peer/v1/changes?since={since}&feed={feed}&wait=0.3").json()
    assert end["records"] == []
    assert time.monotonic() - began >= 0.25


@pytest.mark.parametrize(
    "query",
    [
        "since=-1",
        "since=x",
        "since=1e9",
        f"since={2**70}",
        f"since={'9' * 5000}",
        "wait=31",
        "wait=-1",
        "wait=nan",
        "wait=inf",
        "limit=0",
        "limit=501",
        "feed=%00",
    ],
)
def test_queries_that_make_no_sense(node: NodeProcess, peer: Actor, query: str) -> None:
    answer = peer.call(node, "GET", f"/peer/v1/changes?{query}")
    assert answer.status == 400 or query.startswith("feed"), answer.body


@pytest.mark.parametrize(
    "body", [None, [], {}, {"records": 5}, {"records": [{}]}, {"records": [{}] * 1001}, "x"]
)
def test_announcements_that_make_no_sense(node: NodeProcess, peer: Actor, body: Any) -> None:
    assert peer.call(node, "POST", "/peer/v1/announcements", body).status == 400


def test_a_greeting_moves_only_the_node_that_sends_it(node: NodeProcess, peer: Actor) -> None:
    def greet(record: dict[str, Any]) -> int:
        return peer.call(node, "POST", "/peer/v1/announcements", {"records": [], "node": record}).status

    def shown() -> dict[str, Any]:
        found: dict[str, Any] = node.api("GET", f"/peers/{peer.id}")
        return found

    before = shown()
    body = NodeBody(name="peer", url="http://127.0.0.1:1/moved", stage="prod", version="1")
    other = Identity.generate()
    others = record_json(
        sign_record(
            other, kind=RecordKind.NODE, id=other.node_id, revision=9, at=1, deleted=False, body=asdict(body)
        )
    )
    mine = record_json(peer.sign(RecordKind.NODE, peer.id, asdict(body), 9))
    assert greet(others) == 403
    assert greet({}) == 403
    assert greet({**mine, "body": {**mine["body"], "url": "http://127.0.0.1:1/forged"}}) == 202
    assert shown()["url"] == before["url"]
    assert shown()["strikes"] > before["strikes"]
    assert greet(mine) == 202
    assert shown()["url"] == "http://127.0.0.1:1/moved"
    back = {**asdict(body), "url": before["url"]}
    assert greet(record_json(peer.sign(RecordKind.NODE, peer.id, back, 8))) == 202
    assert shown()["url"] == "http://127.0.0.1:1/moved", "an old greeting came again"
    assert greet(record_json(peer.sign(RecordKind.NODE, peer.id, back, 10))) == 202
    assert shown()["url"] == before["url"]


# Joining


def test_the_answer_proves_who_gave_the_invite(node: NodeProcess, stranger: Actor) -> None:
    text = node.invite()
    answer = stranger.join(node, text)
    assert answer.status == 201
    invite, said = parse_invite(text), answer.json()
    assert said["mac"] == answer_mac(invite.secret, invite.id, said["record"], NONCE)
    assert said["record"]["author"] == invite.node == node.id
    assert "/peer/v1/node" in stranger.asked, "it was called back"
    assert stranger.call(node, "GET", "/peer/v1/node").status == 200
    assert stranger.join(node, text).status == 201, "the answer was lost: again, by the same node"
    late = Actor("late")
    try:
        refused(late.join(node, text), 409, "invite_refused")
    finally:
        late.close()
    assert stranger.call(node, "DELETE", f"/peer/v1/registrations/{stranger.id}").status == 204
    refused(stranger.call(node, "GET", "/peer/v1/node"), 401, "peer_unknown")


def test_a_wrong_secret_burns_the_invite_after_a_few_tries(node: NodeProcess, stranger: Actor) -> None:
    text = node.invite()
    wrong = stranger.registration(text, mac="0" * 64)
    for _ in range(5):
        refused(stranger.register(node, wrong), 409, "invite_refused")
    refused(stranger.join(node, text), 409, "invite_refused")
    assert stranger.id not in [item["id"] for item in node.api("GET", "/peers")["items"]]
    assert stranger.join(node).status == 201, "another invite works"


def test_registrations_that_are_none(node: NodeProcess, stranger: Actor, peer: Actor) -> None:
    text = node.invite()
    good = stranger.registration(text)
    assert stranger.register(node, {**good, "invite": "0" * 16}).status == 409
    stolen = {**good, "record": peer.record_json()}
    assert stranger.register(node, stolen).status == 401
    tampered = {**good, "record": {**good["record"], "revision": 2}}
    assert stranger.register(node, tampered).status == 401
    for body in ({}, [], {**good, "record": {}}, {**good, "nonce": "x"}, {**good, "mac": None}):
        assert stranger.register(node, body).status in {400, 401}
    assert node.request("POST", "/peer/v1/registrations", b"{", anonymous=True).status in {400, 401}


def test_a_node_that_cannot_be_called_is_not_registered(node: NodeProcess) -> None:
    away = Actor("away")
    away.close()
    answer = away.join(node)
    refused(answer, 409, "invite_refused")
    assert away.url in answer.json()["detail"]
    liar, other = Actor("liar"), Actor("other")
    try:
        liar.url, url = other.url, liar.url
        refused(liar.join(node), 409, "invite_refused")
        liar.url = url
    finally:
        liar.close()
        other.close()


def test_a_node_ends_only_its_own_registration(node: NodeProcess, peer: Actor) -> None:
    refused(peer.call(node, "DELETE", f"/peer/v1/registrations/{'a' * 52}"), 403, "permission_denied")


# What they pass on


def test_forged_and_broken_records_are_refused_and_the_rest_is_taken(
    node: NodeProcess, peer: Actor, file: File
) -> None:
    id = package_id("Shared.pkg")
    true = peer.call(node, "GET", f"/peer/v1/packages/{id}").json()
    foreign = asdict(NodeBody(name="m", url="http://m", stage="prod", version="1"))
    forged_replica = asdict(ReplicaBody(package=id, node=node.id, sha256=file.sha256, presence="withdrawn"))
    good = peer.sign(
        RecordKind.REPLICA,
        replica_id(id, peer.id),
        asdict(ReplicaBody(package=id, node=peer.id, sha256=file.sha256, presence="held")),
    )
    strikes = node.api("GET", f"/peers/{peer.id}")["strikes"]
    peer.feed = [
        None,  # type: ignore[list-item]
        {},
        {**true, "revision": true["revision"] + 1},
        {**true, "revision": 99, "author": peer.id, "key": peer.identity.public_key_b64},
        {**true, "key": "ä" * 44},
        {**true, "signature": "ä"},
        {**true, "body": {**true["body"], "metadata": json.loads("[" * 900 + "]" * 900)}},
        {**true, "body": {**true["body"], "notes": "\ud800"}},
        {**true, "deleted": True},
        record_json(peer.sign(RecordKind.REPLICA, replica_id(id, node.id), forged_replica, 99)),
        record_json(peer.sign(RecordKind.NODE, Identity.generate().node_id, foreign)),
        record_json(good),
    ]
    assert peer.call(node, "POST", "/peer/v1/announcements", {"records": []}).status == 202

    def known() -> bool:
        shown = node.api("GET", "/packages/Shared.pkg")
        return {item["name"]: item["presence"] for item in shown["replicas"]} == {
            "peer": "held",
            "solo": "held",
        }

    eventually(known, 20, lambda: f"the good record is not taken: {node.package('Shared.pkg')}")
    assert node.api("GET", f"/peers/{peer.id}")["strikes"] > strikes
    shown = node.api("GET", "/packages/Shared.pkg")
    assert (shown["withdrawn"], shown["revision"], shown["author"]) == (False, true["revision"], node.id)
    assert node.holds("Shared.pkg", file.sha256)


def test_a_newer_record_of_a_peer_wins(node: NodeProcess, peer: Actor, file: File) -> None:
    id = package_id("Shared.pkg")
    before = parse_record(peer.call(node, "GET", f"/peer/v1/packages/{id}").json())
    newer = peer.sign(RecordKind.PACKAGE, id, {**before.body, "notes": "by the peer"}, before.revision + 1)
    peer.feed = [*peer.feed, record_json(newer)]
    peer.call(node, "POST", "/peer/v1/announcements", {"records": []})
    eventually(lambda: node.api("GET", "/packages/Shared.pkg")["notes"] == "by the peer", 20)
    assert parse_record(peer.call(node, "GET", f"/peer/v1/packages/{id}").json()) == newer, (
        "passed on unchanged"
    )


def test_a_withdrawn_package_is_gone_for_peers(node: NodeProcess, peer: Actor, tmp_path_factory: Any) -> None:
    node.publish(make_file(tmp_path_factory.mktemp("x") / "Gone.pkg", 10).path)
    node.api("DELETE", "/packages/Gone.pkg")
    id = package_id("Gone.pkg")
    assert peer.call(node, "GET", f"/peer/v1/packages/{id}").json()["deleted"] is True
    refused(peer.call(node, "GET", f"/peer/v1/packages/{id}/content"), 410, "package_withdrawn")


def test_the_client_says_what_the_node_says(node: NodeProcess, stranger: Actor) -> None:
    with pytest.raises(PeerRefused, match="peer_unknown"):
        PeerClient(stranger.identity, PeerAddress(node=node.id, url=node.url), now=now).node()


def test_nothing_went_wrong_inside(node: NodeProcess) -> None:
    failures = list(node.lines("request_failed"))
    assert failures == [], failures[0].get("exception", failures[0])
