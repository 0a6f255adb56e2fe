"""What could not be carried out is tried again and told, and no bytes that a record names are lost."""

import errno
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.errors import NotSettled, StorageError
from appliance.domain.names import package_id
from appliance.domain.package import Presence
from appliance.domain.record import Record, RecordKind, replica_id
from appliance.peering.records import record_json, sign_record
from appliance.service.records import record_doc
from appliance.service.replication import RECONCILER, Replication
from appliance.service.watchdog import Watchdog
from appliance.store.ports import Insert

from .test_processes import DATA, HOUR_MS, SHA256, maintenance, put, uploads
from .test_record_rules import NOW, PEER, Services, Stage, package_record, stage

__all__ = ["stage"]  # the fixture


def replication(node: Services) -> Replication:
    """What follows feeds and the own records of a node."""
    parts: dict[str, Any] = dict.fromkeys(("identity", "own", "calls"))
    return Replication(
        store=node.store, records=node.records, catalogue=node.catalogue, holdings=node.holdings, intake=node.intake,
        supervisor=node.supervisor, twins=cast(Any, SimpleNamespace()), now=node.now,
        peers=cast(Any, SimpleNamespace(active_ids=list)), **parts,
    )  # fmt: skip


def watchdog(node: Services) -> Watchdog:
    return Watchdog(store=node.store, catalogue=node.catalogue, after_s=600, node_id="n", now=node.now)


class BrokenDisk:
    """The public folder of a node cannot be written, until it is mended."""

    def __init__(self, node: Services, monkeypatch: pytest.MonkeyPatch) -> None:
        self.broken = True
        whole = node.blobs.publish

        def publish(sha256: str, filename: str) -> Any:
            if self.broken:
                raise StorageError("The disk fails: Read-only file system.", errno=errno.EROFS)
            return whole(sha256, filename)

        monkeypatch.setattr(node.blobs, "publish", publish)


# What could not be settled


@pytest.mark.parametrize("held", [True, False], ids=["an earlier version is held", "nothing is known of it"])
def test_a_package_that_fails_twice_is_not_forgotten(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    async def script(node: Services) -> None:
        follower = replication(node)
        await node.publish("Thing.pkg", DATA)
        await follower.settle_missed()
        name = "THING.pkg" if held else "Other.pkg"
        id = package_id(name)
        disk = BrokenDisk(node, monkeypatch)
        record = package_record(name, data=DATA, revision=NOW + 5, at=NOW + 5)
        assert await node.intake.take(PEER.node_id, [record_json(record)])
        for _ in range(3):
            await follower.settle_missed()
        cursor = await node.store.get("followers", RECONCILER)
        assert cursor is not None
        assert cursor["seq"] == await node.store.last_sequence("records"), "one package holds no other up"
        view = node.catalogue.by_id(id)
        assert view is None or view.revision != record.revision

        assert await watchdog(node).look() == []
        node.time += HOUR_MS
        (stuck,) = await watchdog(node).look()
        assert (stuck.package, stuck.filename, stuck.since) == (id, name, NOW)
        assert "Read-only file system" in stuck.reason

        disk.broken = False
        await follower.settle_missed()
        view = node.catalogue.by_id(id)
        assert view is not None
        assert (view.revision, view.presence, view.held_filename) == (record.revision, Presence.HELD, name)
        assert await watchdog(node).look() == []
        assert await node.store.count("notices", {"_id": {"prefix": "unsettled:"}}) == 0

    stage.run(script)


def test_what_fails_at_the_start_is_not_forgotten(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(node: Services) -> None:
        await node.publish("Thing.pkg", DATA)
        await replication(node).settle_missed()
        await node.store.replace(
            "records", record_doc(package_record("THING.pkg", data=DATA, revision=NOW + 5))
        )
        await node.store.replace("followers", {"_id": RECONCILER, "seq": 10**9})  # it was read before
        again = node.again()
        disk = BrokenDisk(again, monkeypatch)
        await again.start()
        disk.broken = False
        await replication(again).settle_missed()
        found = again.catalogue.by_id(package_id("THING.pkg"))
        assert found is not None
        assert found.held_filename == "THING.pkg"

    stage.run(script)


@pytest.mark.parametrize("replaces", [True, False])
def test_an_upload_that_is_recorded_keeps_its_bytes(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, replaces: bool
) -> None:
    async def script(node: Services) -> None:
        follower = replication(node)
        await node.publish("Kept.pkg", b"kept")
        if replaces:
            await put(node, "Thing.pkg", b"first")
        await follower.settle_missed()
        disk = BrokenDisk(node, monkeypatch)
        with pytest.raises(NotSettled, match=r"is recorded.*Read-only file system"):
            await put(node, "Thing.pkg", replace=True)
        id = package_id("Thing.pkg")
        assert SHA256 in [record.body.get("sha256") for record in await node.feed()]
        assert await node.store.count("uploads") == 1, "it can be finished"
        node.time += 2 * HOUR_MS
        await uploads(node).expire()
        await maintenance(node).sweep(-1)
        await maintenance(node).clean_files()
        assert node.blobs.exists(SHA256, len(DATA)), "this node is the only one that has them"
        await follower.settle_missed()
        node.time += HOUR_MS
        assert [one.package for one in await watchdog(node).look()] == [id]
        disk.broken = False
        await follower.settle_missed()
        found = node.catalogue.by_id(id)
        assert found is not None
        assert (found.presence, found.held_sha256) == (Presence.HELD, SHA256)

    stage.run(script)


def test_a_change_that_cannot_be_carried_out_says_that_it_is_recorded(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(node: Services) -> None:
        package = (await put(node, "Thing.pkg")).package

        def fail(*_: Any) -> None:
            raise StorageError("The disk fails.")

        monkeypatch.setattr(node.blobs, "unpublish", fail)
        with pytest.raises(NotSettled, match="is recorded"):
            await node.packages.withdraw(package.id, actor="me")
        known = await node.records.known(RecordKind.PACKAGE, package.id)
        assert known.record is not None
        assert known.record.deleted

    stage.run(script)


def test_a_record_with_an_odd_revision_stops_no_feed(stage: Stage) -> None:
    async def script(node: Services) -> None:
        page = [{"kind": "package", "id": "x", "revision": []}, record_json(package_record("Good.pkg"))]
        winners = await replication(node)._take(PEER.node_id, page, [])
        assert [record.body["filename"] for record in winners] == ["Good.pkg"]
        assert len(node.strikes) == 1

    stage.run(script)


def test_an_own_record_that_was_replaced_while_the_clock_was_behind_is_no_rollback(stage: Stage) -> None:
    async def script(node: Services) -> None:
        told: list[str] = []

        async def no_twin(_record: Record) -> bool:
            return False

        async def note_once(_id: str, event: Insert) -> bool:
            told.append(event.doc["type"])
            return True

        follower = replication(node)
        follower._identity, follower._own = node.identity, node.own
        follower._twins = cast(Any, SimpleNamespace(proven_by=no_twin, note_once=note_once))
        node.intake.on_own_record = follower._overtake
        key = replica_id(package_id("Thing.pkg"), node.identity.node_id)

        async def said() -> Record:
            record = (await node.records.known(RecordKind.REPLICA, key)).record
            assert record is not None
            return record

        await put(node, "Thing.pkg")
        before = await said()
        feed = (await node.store.feed()).id
        node.time -= 3 * HOUR_MS
        await node.publish("Thing.pkg", b"second", replace=True)
        assert (await said()).revision < before.revision
        node.time += 3 * HOUR_MS
        await node.intake.take(PEER.node_id, [record_json(before)])
        assert (await said()).revision > before.revision, "what is true is said above it"
        assert (await said()).body["sha256"] != SHA256
        assert (told, (await node.store.feed()).id) == ([], feed)
        lost = sign_record(
            node.identity, kind=RecordKind.REPLICA, id=key, revision=(await said()).revision + 9, at=node.time,
            deleted=False, body=before.body,
        )  # fmt: skip
        await node.intake.take(PEER.node_id, [record_json(lost)])
        assert told == ["node.rolled_back"]

    stage.run(script)
