"""Odd records meet the services of a node: over the real stores, without its doors."""

import asyncio
import base64
import itertools
import json
import random
import shutil
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.domain.holding import SetAside
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import PackageBody, Presence, ReplicaBody
from appliance.domain.record import AHEAD_MS, MAX_NUMBER, Record, RecordKind, replica_id
from appliance.domain.trash import Keeping
from appliance.jobs.supervisor import Supervisor
from appliance.peering.identity import Identity
from appliance.peering.records import package_body, record_json, sign_record, verify_record
from appliance.service.catalogue import Catalogue
from appliance.service.coverage import Coverage
from appliance.service.fsck import Fsck
from appliance.service.holdings import Holdings
from appliance.service.intake import Intake
from appliance.service.packages import Packages
from appliance.service.record_repair import RecordRepair
from appliance.service.records import Records, record_doc
from appliance.service.trash import Trash
from appliance.store.archive import export_archive, import_archive
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Replace, Store
from tests.builders import manifest_of
from tests.conftest import DATABASES

NOW = 1_800_000_000_000
STAGES = ("dev", "test", "prod")
NUMBERS = itertools.count()
PEER = Identity.generate()
OTHER = Identity.generate()


class Everyone:
    """Sources: every node is a registered peer."""

    def usable_sources(self, ids: Any, package: str) -> list[str]:
        return list(ids)

    def set_aside(self, ids: Any, package: str) -> list[SetAside]:
        return []


class Services:
    """What deals with records in a node."""

    def __init__(self, store: Store, root: Path, files: ThreadPoolExecutor, identity: Identity) -> None:
        self.store, self.files, self.identity, self.time = store, files, identity, NOW
        self.trusted = False
        self.strikes: list[str] = []
        self.refused: dict[str, int] = {}
        self.layout = Layout(root)
        self.blobs = BlobStore(self.layout, floor_bytes=0)
        self.catalogue = Catalogue(store)
        self.records = Records(store, identity, self.now)
        self.records.clock_trusted = lambda: self.trusted
        self.supervisor = Supervisor(now=self.now)
        self.own = NodeBody(name="n", url="https://n.example.com", stage="prod", version="1")
        node_id = identity.node_id
        trash = Trash(
            store=store,
            catalogue=self.catalogue,
            blobs=self.blobs,
            keeping=Keeping(days=7, versions=2),
            now=self.now,
            monotonic=self.now,
        )
        self.holdings = Holdings(
            store=store, records=self.records, catalogue=self.catalogue, blobs=self.blobs, sources=Everyone(),
            trash=trash, stages=STAGES, max_size=2**30, node_id=node_id, own=self.own, now=self.now, files=files,
            supervisor=self.supervisor,
        )  # fmt: skip
        self.packages = Packages(
            store=store, records=self.records, catalogue=self.catalogue, holdings=self.holdings, stages=STAGES,
            node_id=node_id, now=self.now, trash=trash,
        )  # fmt: skip
        self.intake = Intake(
            store=store, records=self.records, holdings=self.holdings, trash=trash, node_id=node_id,
            strike=self._strike, refused=self._count, now=self.now,
        )  # fmt: skip
        self.coverage = Coverage(
            store=store, records=self.records, stages=STAGES, node_id=node_id, now=self.now
        )
        self.repair = RecordRepair(store=store, records=self.records, holdings=self.holdings, node_id=node_id)

    def now(self) -> int:
        return self.time

    async def _strike(self, _peer: str, reason: str) -> None:
        self.strikes.append(reason)

    def _count(self, code: str, count: int) -> None:
        self.refused[code] = self.refused.get(code, 0) + count

    async def start(self) -> None:
        """Do what a start does with records."""
        await self.catalogue.load()
        await self.holdings.refresh_nodes()
        ids = [
            doc.get("record_id")
            for doc in await self.store.find("records", {"kind": "package"}, limit=10_000)
        ]
        await self.holdings.settle_many([id for id in ids if isinstance(id, str)], again=True)
        await self.coverage.look()

    async def publish(self, name: str, data: bytes, **more: Any) -> None:
        """Put a file in."""
        self.layout.partial("x").parent.mkdir(parents=True, exist_ok=True)
        self.layout.partial("x").write_bytes(data)
        manifest = manifest_of(data)
        self.blobs.commit(self.layout.partial("x"), manifest.sha256)
        fields = {"stage": "prod", "tags": (), "notes": "", "metadata": {}, "actor": "me", "replace": False}
        await self.packages.publish(manifest=manifest, filename=name, **{**fields, **more})

    async def feed(self) -> list[Record]:
        """All that this node passes on."""
        return (await self.records.changes(since=0, feed="", limit=10_000, wait_s=0)).records

    def again(self) -> "Services":
        """The same node after a restart."""
        made = Services(self.store, self.layout.root, self.files, self.identity)
        made.time = self.time
        return made


class Stage:
    """An event loop with a store, for as many examples as hypothesis wants."""

    def __init__(
        self, store: Store, root: Path, files: ThreadPoolExecutor, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.store, self.root, self.files, self.loop = store, root, files, loop

    def run(self, script: Callable[[Services], Awaitable[None]]) -> None:
        """Run a script with the services of a node that is new."""
        shutil.rmtree(self.root / "data", ignore_errors=True)
        services = Services(self.store, self.root / "data", self.files, Identity.generate())

        async def run() -> None:
            for name in ("records", "packages", "transfers", "jobs", "notices", "followers", "superseded"):
                await self.store.delete(name, {})
            await script(services)

        self.loop.run_until_complete(run())


@contextmanager
def made(url: str, root: Path) -> Iterator[Stage]:
    root.mkdir()
    loop = asyncio.new_event_loop()
    store = loop.run_until_complete(open_store(url, root))
    files = ThreadPoolExecutor(2)
    try:
        yield Stage(store, root, files, loop)
    finally:
        loop.run_until_complete(store.close())
        files.shutdown()
        loop.close()


@pytest.fixture(params=DATABASES)
def stage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Stage]:
    url = (
        request.getfixturevalue("mongod").url(f"odd{random.getrandbits(48)}")
        if request.param == "mongo"
        else ""
    )
    with made(url, tmp_path / "store") as stage:
        yield stage


def package_record(name: str, *, by: Identity = PEER, data: bytes = b"x", **fields: Any) -> Record:
    manifest = manifest_of(data)
    body = PackageBody(
        filename=name, size=manifest.size, sha1=manifest.sha1, sha256=manifest.sha256, manifest=manifest.digest,
        stage="prod", chunks=base64.b64encode(manifest.chunks).decode(), **fields.pop("body", {}),
    )  # fmt: skip
    whole = {"revision": NOW, "at": NOW, "deleted": False, **fields}
    return sign_record(by, kind=RecordKind.PACKAGE, id=package_id(name), body=asdict(body), **whole)


# Anything that can be signed

names = st.sampled_from(
    ["", "a", "size", "$ref", "$id", "$where", "a\0b", "a.b", "$", "_id", "__proto__", "Ä"]
)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-MAX_NUMBER, MAX_NUMBER)
    | st.sampled_from([0, 1, -1, MAX_NUMBER, 2**50, 2**31])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=20)
    | st.sampled_from(["prod", "held", "0" * 64, "../x", "x" * 3000, "9" * 30, "http://x", "CON"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
GOOD: dict[str, dict[str, Any]] = {
    "package": json.loads(json.dumps(asdict(package_body(package_record("Fuzz.pkg"))))),
    "node": json.loads(json.dumps(asdict(NodeBody(name="p", url="http://p", stage="prod", version="1")))),
    "replica": asdict(
        ReplicaBody(package=package_id("Fuzz.pkg"), node=PEER.node_id, sha256="0" * 64, presence="held")
    ),
}
IDS = {
    "package": package_id("Fuzz.pkg"),
    "node": PEER.node_id,
    "replica": replica_id(package_id("Fuzz.pkg"), PEER.node_id),
}


@st.composite
def odd_records(draw: st.DrawFn) -> Any:
    """The JSON of a record, signed if it has a canonical form, that is odd in one way or several."""
    kind = draw(st.sampled_from(sorted(GOOD)))
    body = dict(GOOD[kind])
    for name in draw(st.lists(st.sampled_from(sorted(body)), max_size=3)):
        body[name] = draw(values)
    body |= draw(st.dictionaries(names, values, max_size=2))
    for name in draw(st.lists(st.sampled_from(sorted(body)), max_size=1)):
        del body[name]
    numbers = st.sampled_from([1, 2, NOW, NOW + AHEAD_MS, NOW + AHEAD_MS + 1, MAX_NUMBER])
    record: dict[str, Any] = {
        "kind": kind,
        "id": draw(st.just(IDS[kind]) | st.sampled_from(["", "x" * 200, OTHER.node_id, package_id("q")])),
        "revision": draw(numbers),
        "author": PEER.node_id,
        "key": PEER.public_key_b64,
        "at": draw(numbers),
        "deleted": draw(st.booleans()),
        "body": body,
    }
    try:
        signature = PEER.sign(rfc8785.dumps(record))
    except rfc8785.CanonicalizationError:
        signature = b"none"
    record["signature"] = base64.b64encode(signature).decode()
    return draw(st.just(record) | st.just(record) | st.just(record) | values)


@given(pages=st.lists(st.lists(odd_records(), min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_a_peer_signs_the_others_are_taken_and_a_restart_works(
    stage: Stage, pages: list[list[Any]]
) -> None:
    async def script(node: Services) -> None:
        await node.coverage.look()
        good = []
        for number, page in enumerate(pages):
            name = f"Good-{next(NUMBERS)}-{number}.pkg"
            good.append(package_id(name))
            await node.intake.take(PEER.node_id, [*page, record_json(package_record(name))])
        for services in (node, node.again()):
            await services.start()
            assert services.supervisor.failing() == []
            assert {services.catalogue.by_id(id) is not None for id in good} == {True}
            feed = await services.feed()
            json.dumps([record_json(record) for record in feed], allow_nan=False)
            for record in feed:
                verify_record(record)
                assert record.revision <= NOW + AHEAD_MS
            assert services.records.broken == {}, "what is taken in is readable"
        await node.publish(f"Own-{next(NUMBERS)}.pkg", b"own")

    stage.run(script)


FIELDS = ("kind", "record_id", "deleted", "author", "at", "package", "node", "record")
missing = st.sets(st.sampled_from(FIELDS), max_size=3) | st.just(set())


@given(odd=st.lists(st.tuples(odd_records(), values, missing), min_size=1, max_size=4))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_whatever_is_in_the_database_the_others_are_there(
    stage: Stage, odd: Sequence[tuple[Any, Any, set[str]]]
) -> None:
    async def script(node: Services) -> None:
        name = f"Good-{next(NUMBERS)}.pkg"
        await node.publish(name, name.encode())
        for number, (record, junk, without) in enumerate(odd):
            kind = record.get("kind", "package") if isinstance(record, dict) else "package"
            kind = kind if isinstance(kind, str) else "package"
            id = f"{package_id(f'odd{number}')}.{PEER.node_id}" if kind == "replica" else IDS.get(kind, "x")
            doc = {
                "_id": f"{kind}:{id}",
                "kind": kind,
                "record_id": id,
                "deleted": False,
                "author": "",
                "at": 1,
            }
            doc |= {"package": id.split(".")[0], "node": PEER.node_id, "record": record}
            doc = {name: value for name, value in doc.items() if name not in without}
            view = {"_id": f"view{number}", "changed_at": NOW, "body": junk, "presence": "held"}
            try:
                await node.store.replace("records", doc)
                await node.store.replace("packages", view)
            except ValueError:
                continue  # no database takes it
        again = node.again()
        await again.start()
        assert again.supervisor.failing() == []
        found = again.catalogue.by_id(package_id(name))
        assert found is not None
        assert found.presence is Presence.HELD
        json.dumps([record_json(record) for record in await again.feed()], allow_nan=False)
        await again.packages.change(found.id, notes="changed", actor="me")
        fsck = Fsck(
            store=again.store, layout=again.layout, blobs=again.blobs, now=again.now, identity=again.identity
        )
        report = await fsck.run(repair=True)
        assert all(problem.repaired for problem in report.problems), report.problems
        fresh = again.again()
        await fresh.start()
        assert fresh.records.broken == {}
        assert fresh.catalogue.by_id(found.id) is not None

    stage.run(script)


def test_an_archive_with_such_records_is_put_back_and_started(tmp_path: Path) -> None:
    async def fill(node: Services) -> None:
        await node.publish("Kept.pkg", b"kept")
        doc = record_doc(package_record("Odd.pkg"))
        await node.store.replace("records", {**doc, "record": {**doc["record"], "body": {"filename": 5}}})
        await node.store.replace("records", record_doc(package_record("Far.pkg", revision=MAX_NUMBER)))
        await export_archive(node.store, tmp_path / "site.tar")

    async def look(node: Services) -> None:
        await import_archive(node.store, tmp_path / "site.tar")
        await node.start()
        assert node.supervisor.failing() == []
        assert {package.body.filename for package in node.catalogue.all()} == {"Kept.pkg", "Far.pkg"}
        assert len(node.records.broken) == 1
        await node.publish("Far.pkg", b"mine", replace=True)
        assert max(record.revision for record in await node.feed()) <= NOW + 1

    with made("", tmp_path / "one") as first:
        first.run(fill)
    with made("", tmp_path / "two") as second:
        second.run(look)


# Clocks


def test_own_records_go_on_while_the_clock_is_behind(stage: Stage) -> None:
    async def script(node: Services) -> None:
        await node.publish("Mine.pkg", b"mine")
        id = package_id("Mine.pkg")
        before = (await node.records.known(RecordKind.PACKAGE, id)).record
        assert before is not None
        node.time -= 40 * 365 * 24 * 3_600_000  # a machine that woke up in 1987
        await node.packages.change(id, notes="edited", actor="me")
        after = (await node.records.known(RecordKind.PACKAGE, id)).record
        assert after is not None
        assert after.revision == before.revision + 1
        assert node.records.ahead.get(f"package:{id}") is True, "it is ahead of the clock, and our own"
        node.trusted = False
        assert await node.repair.look() == 0, "it may be the clock that is wrong"
        node.time += 40 * 365 * 24 * 3_600_000
        assert after.revision in {record.revision for record in await node.feed()}
        assert not node.records.ahead

    stage.run(script)


def test_records_of_a_time_when_the_clock_was_ahead_are_signed_again(stage: Stage) -> None:
    async def script(node: Services) -> None:
        node.time += 10 * AHEAD_MS
        await node.publish("Ahead.pkg", b"ahead")
        node.time = NOW
        id = package_id("Ahead.pkg")
        again = node.again()
        await again.start()
        assert again.records.ahead.keys() >= {
            f"package:{id}",
            f"replica:{replica_id(id, node.identity.node_id)}",
        }
        assert id not in {record.id for record in await again.feed()}, "others would refuse it, and strike us"
        assert await again.repair.look() == 0, "no peer has said that our clock is right"
        again.trusted = True
        assert await again.repair.look() == 2
        assert not again.records.ahead
        passed_on = {record.key_in_store: record for record in await again.feed()}
        assert passed_on[f"package:{id}"].revision == NOW
        assert passed_on[f"package:{id}"].at == NOW
        found = again.catalogue.by_id(id)
        assert found is not None
        assert (found.presence, found.revision) == (Presence.HELD, NOW)
        assert await again.repair.look() == 0

    stage.run(script)


def test_what_was_acknowledged_while_the_clock_was_ahead_is_not_undone_by_peers(stage: Stage) -> None:
    async def script(node: Services) -> None:
        returned: list[Record] = []

        async def own_came_back(record: Record) -> None:
            returned.append(record)

        node.intake.on_own_record = own_came_back
        ids = {
            name: package_id(f"{name}.pkg")
            for name in ("Put", "Gone", "Tagged", "Twice", "Foreign", "Changed")
        }
        for name in ids.keys() - {"Foreign"}:
            await node.publish(f"{name}.pkg", b"old " + name.encode())
        await node.intake.take(PEER.node_id, [record_json(package_record("Foreign.pkg", data=b"old"))])
        echo = [record_json(record) for record in await node.feed()]
        node.time += 10 * AHEAD_MS
        for name in ("Put", "Twice", "Foreign", "Changed"):
            await node.publish(f"{name}.pkg", b"new " + name.encode(), replace=True)
        await node.publish("Twice.pkg", b"newer", replace=True)
        await node.packages.withdraw(ids["Gone"], actor="me")
        await node.packages.change(ids["Tagged"], tags=("kept",), actor="me")
        node.time = NOW + 60_000
        changed = package_record("Changed.pkg", data=b"later", revision=NOW + 30_000, at=NOW + 30_000)
        for services in (node, node.again()):
            await services.start()
            services.intake.on_own_record = own_came_back
            taken = await services.intake.take(PEER.node_id, [*echo, record_json(changed)])
            assert [record.id for record in taken] == ([changed.id] if services is node else [])
        assert returned == [], "nothing of this node came back that its database lacked"
        services.trusted = True
        await services.repair.look()
        assert not services.records.ahead
        assert await services.intake.take(PEER.node_id, [*echo, record_json(changed)]) == []
        passed_on = {
            record.id: record for record in await services.feed() if record.kind is RecordKind.PACKAGE
        }
        shas = {id: package_body(record).sha256 for id, record in passed_on.items()}
        expected = {"Put": b"new Put", "Twice": b"newer", "Foreign": b"new Foreign", "Changed": b"later"}
        assert {name: shas[ids[name]] for name in expected} == {
            name: manifest_of(data).sha256 for name, data in expected.items()
        }
        assert passed_on[ids["Gone"]].deleted
        assert package_body(passed_on[ids["Tagged"]]).tags == ("kept",)

    stage.run(script)


def test_a_record_that_was_frozen_before_gives_way_to_any_other(stage: Stage) -> None:
    async def script(node: Services) -> None:
        frozen = package_record("Frozen.pkg", by=OTHER, revision=NOW + 5 * AHEAD_MS, at=NOW)
        await node.store.replace("records", record_doc(frozen))
        await node.start()
        usual = package_record("Frozen.pkg", data=b"usual", revision=7, at=NOW)
        taken = await node.intake.take(PEER.node_id, [record_json(usual)])
        assert [record.revision for record in taken] == [7]
        assert node.strikes == []
        await node.intake.take(PEER.node_id, [record_json(frozen)])
        assert node.refused == {"record_ahead": 1}
        kept = (await node.records.known(RecordKind.PACKAGE, frozen.id)).record
        assert kept is not None
        assert kept.signature == usual.signature

    stage.run(script)


def test_a_reason_that_a_peer_can_write_is_short(stage: Stage) -> None:
    async def script(node: Services) -> None:
        for body in (
            {"metadata": {"a\0" + "x" * 30_000: 1}},
            {"hashes": {"y" * 30_000: 5}},
            {"z" * 100: [{"$ref": 1}]},
        ):
            record = record_json(package_record("Long.pkg"))
            record["body"] = {**record["body"], **body}
            del record["signature"]
            record["signature"] = base64.b64encode(PEER.sign(rfc8785.dumps(record))).decode()
            await node.intake.take(PEER.node_id, [record])
        assert len(node.strikes) == 3
        assert max(map(len, node.strikes)) < 700

    stage.run(script)


# Manifests


def test_two_records_of_one_sha256_keep_their_own_chunk_lists(stage: Stage) -> None:
    async def script(node: Services) -> None:
        right = manifest_of(random.Random(5).randbytes(70 * 1024 * 1024))
        wrong = manifest_of(bytes(66 * 1024 * 1024))
        wrong = type(wrong)(size=wrong.size, sha1=wrong.sha1, sha256=right.sha256, chunks=wrong.chunks)
        bodies = [
            PackageBody(
                filename=f"{number}.pkg", size=one.size, sha1=one.sha1, sha256=one.sha256, manifest=one.digest,
                stage="prod",
            )
            for number, one in enumerate((wrong, right))
        ]  # fmt: skip
        for manifest in (wrong, right, wrong, right):
            await node.holdings.keep_manifest(manifest)
        assert await node.holdings.manifest(bodies[0]) == wrong
        assert await node.holdings.manifest(bodies[1]) == right

    stage.run(script)


# Odd rows


@pytest.mark.parametrize(
    "odd", [{"kind": "node"}, {"record_id": "other"}, {"kind": None, "record_id": None}, {"package": "p"}]
)
def test_a_row_with_wrong_fields_stops_no_feed(stage: Stage, odd: dict[str, Any]) -> None:
    async def script(node: Services) -> None:
        doc = record_doc(package_record("Odd.pkg"))
        await node.store.replace("records", {**doc, **odd})
        page = [record_json(package_record(name, revision=NOW + 1)) for name in ("Odd.pkg", "Good.pkg")]
        cursor = Replace("cursors", {"_id": "peer", "feed": "f", "since": 7})
        winners = await node.intake.take(PEER.node_id, page, [cursor])
        assert {record.revision for record in winners} == {NOW + 1}
        assert len(winners) == 2
        moved = await node.store.get("cursors", "peer")
        assert moved is not None
        assert moved["since"] == 7
        repaired = await node.store.get("records", doc["_id"])
        assert repaired is not None
        assert {name: repaired[name] for name in odd} == {name: doc[name] for name in odd}
        assert node.catalogue.by_id(package_id("Odd.pkg")) is not None
        assert node.strikes == []

    stage.run(script)


@pytest.mark.parametrize("odd", [{"kind": "node"}, {"package": "p"}, {"node": "n"}, {"package": None}])
def test_an_own_replica_row_with_wrong_fields_stops_no_package(stage: Stage, odd: dict[str, Any]) -> None:
    async def script(node: Services) -> None:
        await node.publish("Thing.pkg", b"first")
        key = f"replica:{replica_id(package_id('Thing.pkg'), node.identity.node_id)}"
        doc = await node.store.get("records", key)
        assert doc is not None
        await node.store.replace("records", {**doc, **odd})
        await node.publish("Thing.pkg", b"bytes", replace=True)
        repaired = await node.store.get("records", key)
        assert repaired is not None
        assert {name: repaired[name] for name in odd} == {name: doc[name] for name in odd}
        assert repaired["record"]["body"]["sha256"] == manifest_of(b"bytes").sha256

    stage.run(script)


def test_a_record_that_the_database_does_not_take_stops_no_feed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(node: Services) -> None:
        whole, bad = node.store.batch, package_record("Bad.pkg")

        async def batch(operations: Any) -> Any:
            if any(isinstance(one, Replace) and one.doc["_id"] == bad.key_in_store for one in operations):
                raise ValueError("This document cannot be stored.")
            return await whole(operations)

        monkeypatch.setattr(node.store, "batch", batch)
        page = [record_json(package_record("A.pkg")), record_json(bad), record_json(package_record("B.pkg"))]
        cursor = Replace("cursors", {"_id": "peer", "feed": "f", "since": 9})
        winners = await node.intake.take(PEER.node_id, page, [cursor])
        assert [record.body["filename"] for record in winners] == ["A.pkg", "B.pkg"]
        moved = await node.store.get("cursors", "peer")
        assert moved is not None
        assert moved["since"] == 9
        assert node.refused == {"record_not_kept": 1}
        assert len(node.strikes) == 1
        monkeypatch.undo()

    stage.run(script)


def test_only_a_tombstone_says_that_a_node_left(stage: Stage) -> None:
    def node_record(**more: Any) -> Record:
        body = asdict(NodeBody(name="p", url="https://p.example.com", stage="prod", version="1"))
        return sign_record(PEER, kind=RecordKind.NODE, id=PEER.node_id, at=NOW, body=body, **more)

    async def script(node: Services) -> None:
        known = record_doc(node_record(revision=1, deleted=False))
        await node.store.replace("records", known)
        await node.start()
        assert PEER.node_id in node.holdings.nodes
        broken = [{**known, "record": {}}, {**known, "record": {}, "deleted": True}]
        for doc in (*broken, None):
            if doc is None:
                await node.store.delete("records", {"_id": known["_id"]})
            else:
                await node.store.replace("records", doc)
            await node.holdings.refresh_nodes()
            assert PEER.node_id not in node.holdings.nodes
            assert await node.holdings.left([PEER.node_id, "x"]) == set()
        await node.store.replace("records", record_doc(node_record(revision=2, deleted=True)))
        assert await node.holdings.left([PEER.node_id, "x"]) == {PEER.node_id}

    stage.run(script)
