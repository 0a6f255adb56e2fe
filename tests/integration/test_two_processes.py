"""What two processes of a node, or two tasks of one, do at the same moment: the later of them knows of the earlier."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.domain.errors import StoreUnavailable
from appliance.domain.node import NodeBody
from appliance.domain.package import Package, Presence
from appliance.domain.record import Record, RecordKind
from appliance.domain.states import PeerState, TransferState
from appliance.domain.trash import Keeping
from appliance.peering.identity import Identity
from appliance.peering.records import node_body, record_json, sign_record
from appliance.service.fetch_jobs import transfer_id
from appliance.service.fetcher import Progress
from appliance.service.peers import Peer, Peers
from appliance.service.replication import Replication
from appliance.service.transfers import Live, Transfers
from appliance.service.unsettled import read_unsettled
from appliance.service.verified_blobs import VerifiedBlobs
from appliance.service.verifying import Verifying
from appliance.store.ports import Doc
from tests.builders import manifest_of

from .test_other_holders import DATA, World

DAY_MS = 86_400_000
OTHER = b"other bytes" * 100_000
Test = Callable[[World, World], Awaitable[None]]


@pytest.fixture
def run(with_store: Any, tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test with two processes of a node, on SQLite and on MongoDB."""

    async def both(store: Any, test: Test) -> None:
        one = World(store, tmp_path)
        await test(one, World(store, tmp_path, one.identity))

    return lambda test: with_store(lambda store: both(store, test))


async def catch_up(node: World) -> None:
    """Read what the other process wrote."""
    await node.catalogue.load()
    await node.holdings.refresh_nodes()


def verifying(node: World) -> Verifying:
    verified = VerifiedBlobs(store=node.store, blobs=node.blobs, catalogue=node.catalogue, now=node.clock)
    node.holdings._verified = verified
    return Verifying(
        store=node.store, catalogue=node.catalogue, blobs=node.blobs, holdings=node.holdings, verified=verified,
        trash=node.trash, now=node.clock, keep_damaged_ms=DAY_MS,
    )  # fmt: skip


async def arriving(node: World) -> tuple[Package, Doc]:
    """A package whose file is missing here, and its transfer from another node."""
    package = await node.publish(data=DATA)
    await node.other_holder(package, registered=True)
    node.blobs.path(package.body.sha256).unlink()
    await node.holdings.lost_blob(package.body.sha256, "the file is missing")
    doc = await node.store.get("transfers", transfer_id(package.id, package.body.sha256))
    assert doc is not None
    return package, doc


def damage(node: World, sha256: str) -> None:
    """Break a file."""
    path = node.blobs.path(sha256)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.write(b"X")


# Views and records


@pytest.mark.parametrize("days", [7, 0], ids=["versions are kept", "none is kept"])
def test_a_record_that_was_read_before_a_newer_one_was_carried_out_undoes_nothing(
    run: Callable[[Test], None], days: int
) -> None:
    async def test(worker: World, serving: World) -> None:
        package = await worker.publish(data=DATA)
        await worker.publish("B.pkg", DATA)  # so that the earlier bytes stay
        worker.trash.keeping = serving.trash.keeping = Keeping(days=days, versions=2)
        await catch_up(serving)
        about = serving.records.about

        async def overtaken(id: str) -> Any:
            found = await about(id)
            serving.records.about = about  # type: ignore[method-assign]
            await worker.publish(data=OTHER, replace=True)
            await serving.catalogue.load()
            return found

        serving.records.about = overtaken  # type: ignore[method-assign]
        await serving.holdings.settle(package.id)
        assert serving.package().held_sha256 == manifest_of(OTHER).sha256
        assert serving.blobs.path(manifest_of(OTHER).sha256).exists()

    run(test)


# Nodes


def test_nodes_that_were_read_earlier_do_not_take_the_place_of_newer_ones(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World, _other: World) -> None:
        package = await node.publish(data=DATA)
        nodes, late = node.records.nodes, asyncio.Event()

        async def slow() -> list[Record]:
            node.records.nodes = nodes  # type: ignore[method-assign]
            found = await nodes()
            await late.wait()
            return found

        node.records.nodes = slow  # type: ignore[method-assign]
        early = asyncio.create_task(node.holdings.refresh_nodes())
        await asyncio.sleep(0.05)
        joined = asyncio.create_task(node.other_holder(package, registered=True))
        await asyncio.sleep(0.3)
        late.set()
        await early
        id = await joined
        assert id in node.holdings.nodes

    run(test)


def test_an_outage_while_the_nodes_are_read_only_puts_it_off(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World, other: World) -> None:
        package = await node.publish(data=DATA)
        await node.holdings.refresh_nodes()
        id = await other.other_holder(package, registered=True)

        async def away() -> list[Record]:
            raise StoreUnavailable("The database does not answer.")

        with monkeypatch.context() as patch:
            patch.setattr(node.records, "nodes", away)
            with pytest.raises(StoreUnavailable):
                await node.holdings.follow_nodes()
        await node.holdings.follow_nodes()
        assert id in node.holdings.nodes

    run(test)


@pytest.mark.parametrize("later", [True, False], ids=["a record since it joined", "one from before"])
def test_where_a_peer_is_now_is_not_lost_by_an_outage_after_its_record_was_kept(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, *, later: bool
) -> None:
    """A copy that was put back may have joined: then what its former life said later does not count."""

    async def test(node: World, _other: World) -> None:
        peer = Identity.generate()
        peers = Peers(
            store=node.store, identity=node.identity, ca_file="", now=node.clock, jitter=lambda: 0.5
        )
        await peers.put(
            Peer(
                id=peer.node_id, key=b"k", url="https://old.example.com", name="n", state=PeerState.ACTIVE,
                joined_at=node.clock() + (0 if later else DAY_MS),
            ),
            [],
        )  # fmt: skip
        rest: dict[str, Any] = {name: SimpleNamespace() for name in ("own", "calls", "supervisor", "twins")}
        replication = Replication(
            store=node.store, records=node.records, catalogue=node.catalogue, holdings=node.holdings,
            intake=node.intake, peers=peers, identity=node.identity, now=node.clock, **rest,
        )  # fmt: skip

        monkeypatch.setattr(node.holdings, "on_written", lambda: None)  # nobody is there to be told

        async def describe(record: Record) -> None:
            body = node_body(record)
            await peers.describe(
                record.id, name=body.name, url=body.url, tls_fingerprint=body.tls_fingerprint
            )

        async def away() -> None:
            raise StoreUnavailable("The database does not answer.")

        node.intake.on_node = replication.on_node = describe
        moved = NodeBody(name="n", url="https://new.example.com", stage="prod", version="1")
        record = sign_record(
            peer, kind=RecordKind.NODE, id=peer.node_id, revision=2, at=node.clock(), deleted=False, body=asdict(moved)
        )  # fmt: skip
        with monkeypatch.context() as patch:
            patch.setattr(node.holdings, "refresh_nodes", away)
            with pytest.raises(StoreUnavailable):
                await node.intake.take(peer.node_id, [record_json(record)])
        assert peers.get(peer.node_id).url == "https://old.example.com"
        await replication.follow_peers()
        assert peers.get(peer.node_id).url == f"https://{'new' if later else 'old'}.example.com"

    run(test)


# Transfers


def test_a_cancel_while_the_package_is_settled_stands(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A peer is back, say, and everything that stopped is tried again."""

    async def test(node: World, _other: World) -> None:
        package, doc = await arriving(node)
        id = doc["_id"]
        await node.store.replace("transfers", {**doc, "state": "stalled"})
        others: Any = node.near
        transfers = Transfers(
            store=node.store, records=node.records, catalogue=node.catalogue, holdings=node.holdings, peers=others,
            node_id=node.identity.node_id, now=node.clock,
        )  # fmt: skip
        follow, cancels = node.holdings._transfer_operations, []

        async def canceled(*args: Any, **more: Any) -> Any:
            found = await follow(*args, **more)
            if not cancels:
                cancels.append(asyncio.create_task(transfers.cancel(id, actor="jo")))
                await asyncio.sleep(0.2)
            return found

        monkeypatch.setattr(node.holdings, "_transfer_operations", canceled)
        await node.holdings.settle(package.id, again=True)
        assert (await cancels[0])["state"] == TransferState.CANCELLED
        doc = await node.store.get("transfers", id)
        assert doc is not None
        assert (doc["state"], doc["cancelled_by"]) == ("cancelled", "jo")
        assert node.package().presence is Presence.WAITING

    run(test)


def test_a_cancel_stands_when_the_node_stops_before_the_next_chunk(run: Callable[[Test], None]) -> None:
    """Who sees that a transfer hangs cancels it, and restarts the node."""

    async def test(node: World, _other: World) -> None:
        package, doc = await arriving(node)
        id = doc["_id"]
        others: Any = node.near
        transfers = Transfers(
            store=node.store, records=node.records, catalogue=node.catalogue, holdings=node.holdings, peers=others,
            node_id=node.identity.node_id, now=node.clock,
        )  # fmt: skip
        live = Live(
            doc=await node.store.replace("transfers", {**doc, "state": "fetching"}), package=package,
            state=TransferState.FETCHING, progress=Progress(sources=[]), unwanted=threading.Event(),
        )  # fmt: skip
        transfers._live[id] = live
        await transfers.cancel(id, actor="jo")
        await transfers.end(live, TransferState.PENDING)
        stored = await node.store.get("transfers", id)
        assert stored is not None
        assert (stored["state"], stored["cancelled_by"]) == ("cancelled", "jo")

    run(test)


# Files


@pytest.mark.parametrize("beside", [True, False], ids=["another process looks", "the same process looks"])
def test_a_damaged_last_copy_stays_set_aside(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, *, beside: bool
) -> None:
    """Who looks after what was set aside still takes the package for held."""

    async def test(worker: World, serving: World) -> None:
        sha256 = (await worker.publish(data=DATA)).body.sha256
        looks = verifying(serving if beside else worker)
        verifying(worker)
        await catch_up(serving)
        lost = worker.holdings._lost

        async def looked(*args: Any) -> bool:
            await looks.clean_quarantine()
            return await lost(*args)

        monkeypatch.setattr(worker.holdings, "_lost", looked)
        damage(worker, sha256)
        await worker.holdings.lost_blob(sha256, "its SHA-256 is another", worker.blobs.stamp(sha256))
        assert worker.package().presence is Presence.DAMAGED
        assert worker.layout.damaged(sha256).exists()

    run(test)


def test_damage_is_noted_for_what_another_process_began_to_serve(run: Callable[[Test], None]) -> None:
    async def test(worker: World, serving: World) -> None:
        await catch_up(worker)
        verifying(worker)
        package = await serving.publish(data=DATA)
        damage(worker, package.body.sha256)
        found = await worker.holdings.lost_blob(
            package.body.sha256, "its SHA-256 is another", worker.blobs.stamp(package.body.sha256)
        )
        assert found == [package.id]
        await serving.catalogue.load()
        assert serving.package().presence is Presence.DAMAGED
        assert await serving.said(package) == "damaged"

    run(test)


def test_two_that_make_room_do_not_both_delete_all_that_is_needed(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(one: World, other: World) -> None:
        size = 100_000
        for node in (one, other):
            node.trash.keeping = Keeping(days=30, versions=20)
        for number in range(9):
            await one.publish(data=bytes([number]) * size, replace=True)
        await catch_up(other)
        room = sum(one.blobs.sizes().values())
        for node in (one, other):
            monkeypatch.setattr(
                node.blobs, "_free", lambda _, blobs=node.blobs: room - sum(blobs.sizes().values())
            )
        one.clock.ms += DAY_MS
        before = len(await one.trash.versions(one.package().id))
        await asyncio.gather(one.trash.make_room(4 * size), other.trash.make_room(4 * size))
        deleted = before - len(await one.trash.versions(one.package().id))
        assert deleted in {4, 5}, "at the end each may be at one"

    run(test)


# Notes


def test_the_note_of_a_package_that_fails_again_stays(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For the same reason, while others that were noted are settled."""

    async def test(node: World, _other: World) -> None:
        package = await node.publish(data=DATA)
        await node.holdings.note_unsettled(package.id, "the disk fails")
        settle = node.holdings.settle_many

        async def fails_again(ids: Any, **more: Any) -> set[str]:
            failed = await settle(ids, **more)
            await node.holdings.note_unsettled(package.id, "the disk fails")
            return failed

        monkeypatch.setattr(node.holdings, "settle_many", fails_again)
        await node.holdings.settle_noted()
        assert [doc["package"] for doc in await read_unsettled(node.store)] == [package.id]

    run(test)
