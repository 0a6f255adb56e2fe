"""A registration that ends here, while the peer that is told of it does not answer."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.node import NodeBody
from appliance.domain.record import Record, RecordKind
from appliance.domain.states import PeerState
from appliance.peering.identity import Identity
from appliance.peering.records import sign_record
from appliance.service.peers import Peers
from appliance.service.registration import Registrations
from appliance.store.opening import open_store

NOW = 1_700_000_000_000


@dataclass
class Node:
    """A node that has a peer."""

    peers: Peers
    registrations: Registrations
    record: Record  #: the peer's
    now: list[int]
    told: threading.Event  #: the call that tells the peer of the end has ended

    async def joins(self) -> None:
        """The peer joins, by an invite."""
        await self.registrations._complete(self.record, "", "jo", notice="")

    async def events(self) -> list[str]:
        return [doc["type"] for doc in await self.peers._store.find("events", order="seq")]


Test = Callable[[Node], Awaitable[None]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Test], None]:
    async def inner(test: Test) -> None:
        store = await open_store("", tmp_path)
        now, own, peer, told = [NOW], Identity.generate(), Identity.generate(), threading.Event()
        peers = Peers(store=store, identity=own, ca_file="", now=lambda: now[0], jitter=lambda: 0.5)
        body = NodeBody(name="b", url="https://b.example.com", stage="prod", version="1")
        record = sign_record(
            peer, kind=RecordKind.NODE, id=peer.node_id, revision=1, at=NOW, deleted=False, body=asdict(body)
        )
        rest: dict[str, Any] = dict.fromkeys(("box", "own_record", "on_joined"))
        with ThreadPoolExecutor(1) as calls:
            registrations = Registrations(
                store=store, identity=own, peers=peers, url="https://a.example.com", tls_fingerprint="", ca_file="",
                calls=calls, stages=("prod",), now=lambda: now[0], **rest,
            )  # fmt: skip
            client = SimpleNamespace(leave=lambda: told.wait(20), close=lambda: None)
            monkeypatch.setattr(peers, "client", lambda _id: cast(Any, client))
            try:
                node = Node(peers, registrations, record, now, told)
                await node.joins()
                await test(node)
            finally:
                told.set()
                await store.close()

    return lambda test: asyncio.run(inner(test))


def test_a_peer_that_joins_again_meanwhile_is_registered(run: Callable[[Test], None]) -> None:
    async def test(node: Node) -> None:
        id = node.record.id
        await node.peers.strike(id, "It lied.")
        removing = asyncio.create_task(node.registrations.remove(id, actor="jo"))
        async with asyncio.timeout(10):
            while node.peers.get(id).state is not PeerState.LEAVING:
                await asyncio.sleep(0.01)
        node.now[0] += 5000
        await node.joins()
        node.told.set()
        await removing
        peer = node.peers.get(id)
        assert (peer.state, peer.joined_at, peer.strikes) == (PeerState.ACTIVE, NOW + 5000, 0)
        assert await node.peers._store.get("peers", id) is not None
        assert await node.events() == ["peer.joined", "peer.struck", "peer.left", "peer.joined"]

    run(test)


def test_an_end_is_told_once(run: Callable[[Test], None]) -> None:
    """Also where the peer ends it at the same time."""

    async def test(node: Node) -> None:
        removing = asyncio.create_task(node.registrations.remove(node.record.id, actor="jo"))
        async with asyncio.timeout(10):
            while node.peers.get(node.record.id).state is not PeerState.LEAVING:
                await asyncio.sleep(0.01)
        await node.registrations.left(node.record.id)
        node.told.set()
        await removing
        assert await node.events() == ["peer.joined", "peer.left"]
        assert node.peers.find(node.record.id) is None

    run(test)


def test_an_end_that_a_crash_cut_off_is_finished_at_the_start(run: Callable[[Test], None]) -> None:
    async def test(node: Node) -> None:
        id = node.record.id
        await node.peers.put(replace(node.peers.get(id), state=PeerState.LEAVING), [])
        await node.registrations.finish()
        assert node.peers.find(id) is None
        assert await node.peers._store.get("peers", id) is None

    run(test)
