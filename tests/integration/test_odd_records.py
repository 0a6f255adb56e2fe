"""Records that break rules, and some that only seem to: a real node on each database, and peers of the test's own."""

import asyncio
import base64
import json
import random
import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
import rfc8785

from appliance.domain.errors import PeerError, PeerRefused
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import PackageBody
from appliance.domain.record import RecordKind
from appliance.peering.identity import Identity
from appliance.peering.records import record_json, sign_record
from appliance.service.records import record_doc
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import MIB, manifest_of
from tests.conftest import DATABASES
from tests.fakes.peer import FakePeer, now_ms
from tests.harness import Network, NodeProcess, eventually, workers
from tests.harness.command import ods
from tests.harness.node import ApiError

LAST = 2**53 - 1
HOUR_MS = 3_600_000


@pytest.fixture(scope="module", params=DATABASES)
def node(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    server = request.getfixturevalue("mongod") if request.param == "mongo" else None
    with Network(tmp_path_factory.mktemp("odd"), server, {"REPLICATION_RECONCILE_S": "1"}) as network:
        yield network.node("solo")


@pytest.fixture
def peer(node: NodeProcess) -> Iterator[FakePeer]:
    """A peer that is not registered yet; it is removed afterwards if it was."""
    with FakePeer("one") as made:
        yield made
        if made.id in peers(node):
            node.api("DELETE", f"/peers/{made.id}")


def peers(node: NodeProcess) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in node.api("GET", "/peers")["items"]}


def problems(node: NodeProcess, *arguments: str) -> list[dict[str, Any]]:
    """What fsck finds."""
    done = ods(node, "fsck", "--json", *arguments)
    assert "Traceback" not in done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["problems"]
    return found


def reconciled(node: NodeProcess) -> int:
    """How many times the node read its peers' feeds and looked for what is missing since it started."""
    page = node.request("GET", "/metrics").body.decode()
    found = re.search(r'ods_jobs_total\{name="replication.reconcile",outcome="done"\} (\d+)', page)
    return int(found[1]) if found else 0


def read_feed(node: NodeProcess, peer: FakePeer) -> None:
    """Have the node read the peer's feed to its end."""
    peer.client(node.url, node.id).announce([])
    mark = f"{uuid.uuid4().hex}.pkg"
    peer.hold(mark, b"mark")
    peer.client(node.url, node.id).announce([])
    eventually(lambda: node.package(mark), 20, "the feed is not read to its end")


def named(tmp: str) -> str:
    return f"{tmp}-{uuid.uuid4().hex[:8]}.pkg"


def body_of(name: str, data: bytes = b"bytes", **more: Any) -> dict[str, Any]:
    """The body of a package record, as it should be."""
    manifest = manifest_of(data)
    chunks = base64.b64encode(manifest.chunks).decode()
    body = PackageBody(
        filename=name, size=manifest.size, sha1=manifest.sha1, sha256=manifest.sha256, manifest=manifest.digest,
        stage="prod", chunks=chunks,
    )  # fmt: skip
    return {**asdict(body), "tags": [], "replaces": [], **more}


def forged(identity: Identity, **fields: Any) -> dict[str, Any]:
    """The JSON of a record with a good signature, whatever it says."""
    whole = {
        "kind": "package", "revision": 1, "author": identity.node_id, "key": identity.public_key_b64, "at": now_ms(),
        "deleted": False, **fields,
    }  # fmt: skip
    signature = base64.b64encode(identity.sign(rfc8785.dumps(whole))).decode()
    return {**whole, "signature": signature}


def tampered(node: NodeProcess, work: Callable[[Store], Awaitable[None]]) -> None:
    """Stop the node, let something change its database, and start it."""
    assert node.id  # asked for while it runs
    node.stop()

    async def run() -> None:
        store = await open_store(node.settings["DATABASE_URL"], node.data)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(run())
    node.start()


# Ahead of the clock


@pytest.mark.parametrize("ahead", [{"revision": LAST}, {"revision": 2}, {"at": 2}, {"at": LAST}], ids=str)
def test_a_record_that_is_far_ahead_freezes_no_name(
    node: NodeProcess, peer: FakePeer, tmp_path: Any, ahead: dict[str, int]
) -> None:
    name, good = named("Frozen"), named("Good")
    fields = {key: value if value == LAST else now_ms() + value * HOUR_MS for key, value in ahead.items()}
    peer.feed.append(record_json(peer.sign(RecordKind.PACKAGE, package_id(name), body_of(name), **fields)))
    data = random.Random(name).randbytes(1000)
    peer.hold(good, data)
    refused = node.metric("ods_peer_refusals_total", reason="record_ahead")
    peer.join(node.invite())
    node.wait_holds(good, manifest_of(data).sha256)
    assert node.package(name) is None
    assert "ahead of this node's clock" in peers(node)[peer.id]["last_strike"]
    assert [event["subject"] for event in node.events("peer.struck")[:1]] == [peer.id]
    assert node.metric("ods_peer_refusals_total", reason="record_ahead") > refused
    file = tmp_path / name
    file.write_bytes(b"ours")
    node.publish(file)
    node.api("PATCH", f"/packages/{name}", {"notes": "ours"})
    feed = peer.client(node.url, node.id).changes(0, "")
    assert all(record["revision"] < now_ms() + HOUR_MS for record in feed.records)
    if ahead == {"revision": LAST}:
        node.restart()
    assert node.presence(name) == "held"
    node.api("DELETE", f"/packages/{name}")


def test_a_tombstone_of_the_node_itself_does_not_end_it(node: NodeProcess, peer: FakePeer) -> None:
    body = asdict(NodeBody(name="solo", url=node.url, stage="prod", version="1"))
    peer.feed.append(record_json(peer.sign(RecordKind.NODE, node.id, body, LAST, deleted=True)))
    peer.join(node.invite())
    read_feed(node, peer)
    node.restart()
    assert node.id in {one["id"] for one in node.api("GET", "/nodes")["items"]}
    assert "is ahead" in peers(node)[peer.id]["last_strike"] or peers(node)[peer.id]["strikes"]


def test_a_database_that_has_such_records_starts_and_recovers(
    node: NodeProcess, peer: FakePeer, tmp_path: Any
) -> None:
    frozen, other = named("Frozen"), named("Other")
    for name in (frozen, other):
        (tmp_path / name).write_bytes(name.encode())
        node.publish(tmp_path / name)
    stranger = Identity.generate()
    broken = {
        "unreadable": forged(stranger, id=package_id("u.pkg"), body={"filename": "u.pkg"}),
        "size": forged(stranger, id=package_id("s.pkg"), body=body_of("s.pkg", size=1.5)),
        "name": forged(stranger, id=package_id("n.pkg"), body=body_of("../n.pkg")),
    }

    async def work(store: Store) -> None:
        own = await store.get("records", f"node:{node.id}")
        assert own is not None
        gone = sign_record(
            stranger, kind=RecordKind.NODE, id=node.id, revision=LAST, at=now_ms(), deleted=True,
            body=own["record"]["body"],
        )  # fmt: skip
        await store.replace("records", record_doc(gone))
        known = await store.get("records", f"package:{package_id(frozen)}")
        assert known is not None
        ahead = sign_record(
            stranger, kind=RecordKind.PACKAGE, id=package_id(frozen), revision=LAST, at=now_ms(), deleted=False,
            body=known["record"]["body"],
        )  # fmt: skip
        await store.replace("records", record_doc(ahead))
        for record in broken.values():
            doc = {
                "_id": f"package:{record['id']}",
                "kind": "package",
                "record_id": record["id"],
                "deleted": False,
            }
            await store.replace(
                "records", {**doc, "package": record["id"], "node": "", "at": 1, "record": record}
            )
        odd = {
            "_id": f"replica:{package_id(other)}.{'a' * 52}",
            "kind": "replica",
            "package": package_id(other),
        }
        await store.replace("records", {**odd, "node": "a" * 52, "record": "what is this?"})
        view = await store.get("packages", package_id(other))
        assert view is not None
        await store.replace("packages", {**view, "body": {"filename": 5}, "changed_at": now_ms()})
        await store.replace("packages", {"_id": "junk", "changed_at": now_ms()})
        await store.replace("peers", {"_id": "b" * 52, "state": "never heard of"})
        await store.replace(
            "transfers", {"_id": "odd", "package": "junk", "state": "stalled", "updated_at": 5}
        )
        await store.replace(
            "jobs", {"_id": "odd", "queue": "default", "state": "todo", "run_at": 1, "name": "x"}
        )

    tampered(node, work)
    assert node.id in {one["id"] for one in node.api("GET", "/nodes")["items"]}
    for name in (frozen, other):
        assert node.sha1(name)
    assert node.metric("ods_records_skipped") >= 4
    assert len(list(node.lines("record_skipped"))) >= 4
    overview = node.request("GET", "/ui/", headers={"Accept": "text/html"})
    assert overview.status == 200
    node.api("PATCH", f"/packages/{other}", {"notes": "still works"})
    node.api("PATCH", f"/packages/{frozen}", {"notes": "not frozen"})
    shown = node.package(frozen)
    assert shown is not None
    assert shown["revision"] < now_ms() + HOUR_MS
    failed = eventually(
        lambda: [one for one in node.api("GET", "/jobs?state=failed")["items"] if one["id"] == "odd"], 20
    )
    assert "does not know the job x" in failed[0]["error"]
    peer.join(node.invite())
    records = peer.client(node.url, node.id).changes(0, "").records
    assert all(record["revision"] < now_ms() + HOUR_MS for record in records)
    assert not {package_id(name) for name in ("u.pkg", "s.pkg", "n.pkg")} & {
        record["id"] for record in records
    }

    kinds = [problem["kind"] for problem in problems(node)]
    assert kinds.count("record_invalid") >= 4
    node.stop()
    repaired = problems(node, "--repair")
    assert all(problem["repaired"] for problem in repaired), repaired
    assert problems(node) == []
    node.start()
    for name in (frozen, other):
        assert node.sha1(name)
    assert node.metric("ods_records_skipped") == 0


# Bodies


@pytest.mark.parametrize(
    "body",
    [
        {"size": 10**22},
        {"size": "99999999999999999999999"},
        {"size": True},
        {"tags": "abc"},
        {"tags": [str(number) for number in range(2000)]},
        {"metadata": {"a\0b": 1}},
        {"metadata": {"deep": [{"$ref": "packages", "$id": "x"}]}},
        {"uploaded_at": "yesterday"},
        {"replaces": ["0" * 64] * 900},
        {"stage": ""},
        {"hashes": {"md5": 5}},
    ],
    ids=lambda body: next(iter(body)) + str(next(iter(body.values())))[:12],
)
def test_a_body_that_breaks_a_rule_costs_its_relay_a_strike_and_nothing_else(
    node: NodeProcess, peer: FakePeer, body: dict[str, Any]
) -> None:
    name = named("Odd")
    try:
        record = forged(peer.identity, id=package_id(name), body=body_of(name, chunks="", **body))
    except rfc8785.IntegerDomainError:
        record = {
            **forged(peer.identity, id=package_id(name), body=body_of(name)),
            "body": body_of(name, **body),
        }
    peer.feed.append(record)
    peer.join(node.invite())
    read_feed(node, peer)
    assert node.package(name) is None
    assert peers(node)[peer.id]["strikes"] == 1


# Stages


def test_a_peer_of_an_unknown_stage(node: NodeProcess, tmp_path: Any) -> None:
    name = named("Staged")
    (tmp_path / name).write_bytes(b"staged")
    node.publish(tmp_path / name)
    with FakePeer("qa-node", stage="qa") as peer:
        peer.hold(name, b"staged", package=None)
        peer.join(node.invite(), stages=["dev", "test", "qa", "prod"])
        read_feed(node, peer)
        assert "qa only at the peer" in peers(node)[peer.id]["notice"]
        node.api("PATCH", f"/packages/{name}", {"notes": "changed"})
        node.api("PATCH", f"/packages/{name}", {"stage": "dev"})
        node.restart()
        assert node.package(name)
        page = node.request("GET", "/health/ready", anonymous=True)
        assert page.status == 200
        node.api("DELETE", f"/peers/{peer.id}")


def test_a_package_of_an_unknown_stage_is_not_admitted(node: NodeProcess, peer: FakePeer) -> None:
    name = named("Unstaged")
    peer.hold(name, b"unstaged", stage="qa")
    peer.join(node.invite())
    shown = eventually(lambda: node.package(name), 20)
    assert (shown["presence"], shown["stage"]) == ("not_admitted", "qa")
    assert 'knows no stage "qa"' in shown["reason"]
    assert node.api("PATCH", f"/packages/{name}", {"notes": "why not"})["presence"] == "not_admitted"
    node.restart()
    assert node.presence(name) == "not_admitted"
    assert peers(node)[peer.id]["strikes"] == 0


# Sizes


def test_a_size_beyond_all_measure_is_not_admitted_and_holds_up_nobody(
    node: NodeProcess, peer: FakePeer
) -> None:
    name, id = named("Huge"), ""
    before = node.rss_peak()
    peer.hold(name, b"huge", size=2**50)
    peer.join(node.invite())
    shown = eventually(lambda: node.package(name), 20)
    id = shown["id"]
    assert shown["presence"] == "not_admitted"
    assert "uploads.max_size" in shown["reason"]
    client = peer.client(node.url, node.id)
    began = time.monotonic()
    for path in (f"/packages/{id}/chunks", f"/packages/{id}/manifest", f"/packages/{id}/content"):
        with pytest.raises(PeerError):
            client._exchange("GET", f"/peer/v1{path}")
    for page in (
        f"/packages/{id}",
        f"/packages/{id}/manifest",
        "/packages?sort=-size",
        "/transfers",
        "/system",
    ):
        node.request("GET", f"/api/v1{page}")
    for page in ("/ui/", f"/ui/packages/{id}", "/ui/replication"):
        node.request("GET", page)
    assert time.monotonic() - began < 20
    assert node.metric("ods_event_loop_lag_seconds") < 3
    assert node.rss_peak() - before < 100 * MIB
    assert peers(node)[peer.id]["strikes"] == 0


# A record that cannot be right


@pytest.mark.parametrize("size", [MIB // 2, 9 * MIB], ids=["small", "large"])
def test_a_whole_file_hash_that_does_not_fit_is_fetched_once_an_hour(
    node: NodeProcess, peer: FakePeer, size: int
) -> None:
    name = named("Wrong")
    data = random.Random(size).randbytes(size)
    peer.hold(name, data, sha256="12" * 32)
    peer.join(node.invite())

    def stalled() -> Any:
        items = node.api("GET", "/transfers?limit=500")["items"]
        return next((one for one in items if one["filename"] == name and one["state"] == "stalled"), None)

    transfer = eventually(stalled, 30, "the transfer does not say that it stopped")
    assert "the record is wrong" in transfer["error"]
    assert transfer["retry_at"] is not None
    asked = len(peer.contents())
    assert peers(node)[peer.id]["strikes"] == 1
    assert name in peers(node)[peer.id]["last_strike"]
    for _ in range(3):
        read_feed(node, peer)
    node.restart()
    read_feed(node, peer)
    eventually(lambda: reconciled(node) >= 2, 30, "nothing is reconciled")
    wrong = [one for one in peer.contents() if package_id(name) in one.path]
    assert len(wrong) == asked
    assert peers(node)[peer.id]["strikes"] == 1
    assert "cannot become" not in node.log_text()
    shown = node.package(name)
    assert shown is not None
    assert "the record is wrong" in shown["reason"]
    node.api("POST", f"/transfers/{transfer['id']}/retry")
    eventually(
        lambda: len([one for one in peer.contents() if package_id(name) in one.path]) == 2 * asked,
        20,
        "a person cannot have it tried",
    )
    node.api("DELETE", f"/packages/{name}")


def test_workers_beside_the_node_do_not_fetch_it_again_either(any_network: Network) -> None:
    node = any_network.node("solo", WORKER_EMBEDDED="false", REPLICATION_RECONCILE_S="1")
    with FakePeer("one") as peer, workers(node, 2):
        peer.hold("Wrong.pkg", random.Random(9).randbytes(9 * MIB), sha256="12" * 32)
        peer.join(node.invite())

        def stalled() -> bool:
            found = [one for one in node.api("GET", "/transfers")["items"] if one["filename"] == "Wrong.pkg"]
            return bool(found) and found[0]["state"] == "stalled" and found[0]["retry_at"] is not None

        eventually(stalled, 30, lambda: node.tail(40))
        wrong = len([one for one in peer.contents() if package_id("Wrong.pkg") in one.path])
        eventually(lambda: peers(node)[peer.id]["strikes"] == 1, 10, "the worker's strike is not seen")
        for _ in range(3):
            read_feed(node, peer)
        assert len([one for one in peer.contents() if package_id("Wrong.pkg") in one.path]) == wrong


# Joining


@pytest.mark.parametrize(
    ("stages", "words"),
    [
        (["prod", "test", "dev"], "dev < test < prod"),
        (["alpha", "beta"], "contradict"),
        (["test", "dev"], "contradict"),
    ],
    ids=["other order", "nothing in common", "part in another order"],
)
def test_stages_that_contradict_each_other_are_no_network(
    node: NodeProcess, peer: FakePeer, stages: list[str], words: str
) -> None:
    with pytest.raises(PeerRefused, match=words):
        peer.join(node.invite(), stages=stages)
    assert peer.id not in peers(node)


def test_stages_that_are_alike_or_not_told_need_no_words(node: NodeProcess, peer: FakePeer) -> None:
    answer = peer.join(node.invite(), stages=["dev", "test", "prod"], time=now_ms())
    assert answer.stages == ["dev", "test", "prod"]
    assert abs((answer.time or 0) - now_ms()) < 10_000
    assert peers(node)[peer.id]["notice"] == ""


@pytest.mark.parametrize("apart", [-90, 61, 7200])
def test_clocks_that_are_apart(node: NodeProcess, peer: FakePeer, apart: int) -> None:
    with pytest.raises(PeerRefused, match=f"{abs(apart):,} s {'ahead' if apart > 0 else 'behind'}"):
        peer.join(node.invite(), time=now_ms() + 1000 * apart)
    assert peer.id not in peers(node)


def test_what_our_own_records_would_be_refused_for_is_refused_here(node: NodeProcess, tmp_path: Any) -> None:
    name = named("Ours")
    (tmp_path / name).write_bytes(b"ours")
    node.publish(tmp_path / name)
    for change in (
        {"metadata": {"$ref": "x"}},
        {"metadata": {"a\0": 1}},
        {"tags": [str(n) for n in range(501)]},
    ):
        with pytest.raises(ApiError) as caught:
            node.api("PATCH", f"/packages/{name}", change)
        assert caught.value.status == 400
    assert node.api("PATCH", f"/packages/{name}", {"metadata": {"$schema": "x"}})["metadata"] == {
        "$schema": "x"
    }


def test_nothing_went_wrong_inside(node: NodeProcess) -> None:
    failures = list(node.lines("request_failed"))
    assert failures == [], failures[0].get("exception", failures[0])
    assert list(node.lines("task_failed")) == []
    assert "Traceback" not in node.log_text()
