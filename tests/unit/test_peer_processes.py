"""A registration that several processes of a node know: each comes to what is stored, and to nothing older."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from appliance.domain.errors import PeerRefused, PeerUnreachable
from appliance.domain.states import PeerState
from appliance.peering.identity import Identity
from appliance.service.peers import DOWN_AFTER, Health, Peer, Peers
from appliance.store.opening import open_store

NORTH = Peer(id="north", key=b"k", url="http://n", name="north", joined_at=1000, state=PeerState.ACTIVE)


def run(tmp_path: Path, test: Callable[[Peers, Peers, list[int]], Awaitable[None]]) -> None:
    """Run a test with the registrations of the process that serves, those of a worker, and the time."""

    async def inner() -> None:
        store = await open_store("", tmp_path)
        now = [1_700_000_000_000]
        serving, worker = (
            Peers(
                store=store, identity=Identity.generate(), ca_file="", now=lambda: now[0], jitter=lambda: 0.5
            )
            for _ in range(2)
        )
        try:
            await test(serving, worker, now)
        finally:
            await store.close()

    asyncio.run(inner())


def test_a_peer_that_was_removed_and_joined_again_at_once_is_a_source_in_every_process(
    tmp_path: Path,
) -> None:
    async def test(serving: Peers, worker: Peers, _now: list[int]) -> None:
        await serving.put(replace(NORTH), [])
        for _ in range(3):
            await serving.strike("north", "It lied.")
        await serving.put(replace(serving.get("north"), state=PeerState.LEAVING), [])
        await worker.load()
        assert not worker.is_active("north")
        await serving.drop("north", [])
        await serving.put(replace(NORTH, state=PeerState.PENDING, joined_at=0), [])
        await serving.put(replace(NORTH, joined_at=2000), [])
        await worker.load()
        assert worker.is_active("north"), "its writes count from 1 again"
        assert worker.usable_sources(["north"], "a") == ["north"]
        assert worker.get("north").strikes == 0

    run(tmp_path, test)


def test_how_a_peer_did_before_it_was_joined_again_is_not_written_over_how_it_does(tmp_path: Path) -> None:
    async def test(serving: Peers, worker: Peers, _now: list[int]) -> None:
        await serving.put(replace(NORTH), [])
        await worker.load()
        await serving.drop("north", [])
        await serving.put(replace(NORTH, joined_at=2000), [])
        refused = PeerRefused("It refused.", status=401, code="peer_unknown")
        await worker.record_failure("north", refused)
        await serving.load()
        for peers in (serving, worker):
            assert peers.usable_sources(["north"], "a") == ["north"]
            assert not peers.backing_off("north")

    run(tmp_path, test)


def test_a_peer_that_knows_this_node_again_is_a_source_in_every_process(tmp_path: Path) -> None:
    async def test(serving: Peers, worker: Peers, _now: list[int]) -> None:
        await serving.put(replace(NORTH, disowned=True, saved_at=1_700_000_000_000), [])
        await worker.load()
        assert worker.usable_sources(["north"], "a") == []
        await serving.seen("north")
        await worker.load()
        assert worker.usable_sources(["north"], "a") == ["north"]

    run(tmp_path, test)


def test_a_row_that_lacks_what_a_later_version_writes_keeps_no_other_from_being_read(tmp_path: Path) -> None:
    async def test(serving: Peers, worker: Peers, _now: list[int]) -> None:
        for id in ("north", "south"):
            await serving.put(replace(NORTH, id=id), [])
        await worker.load()
        for id in ("north", "south"):
            doc = await serving._store.get("peers", id)
            assert doc is not None
            del doc["strikes"], doc["_rev"]
            await serving._store.replace("peers", {**doc, "name": f"new {id}"})
        await worker.load()
        assert [peer.name for peer in worker.all()] == ["new north", "new south"]

    run(tmp_path, test)


def test_a_row_that_cannot_be_read_keeps_no_request_of_the_peer_from_an_answer(tmp_path: Path) -> None:
    """A newer version wrote it, say, or a hand."""

    async def test(serving: Peers, _worker: Peers, now: list[int]) -> None:
        await serving.put(replace(NORTH), [])
        doc = await serving._store.get("peers", "north")
        assert doc is not None
        await serving._store.replace("peers", {**doc, "state": "a later word"})
        await serving.load()
        now[0] += 120_000
        await serving.seen("north")
        assert serving.is_active("north")

    run(tmp_path, test)


def test_calls_that_fail_at_the_same_time_are_one_failure(tmp_path: Path) -> None:
    """Its feed is read, it is told of changes and compared with, all at once: that it is down is not known by that."""

    async def test(peers: Peers, _worker: Peers, now: list[int]) -> None:
        await peers.put(replace(NORTH), [])
        began = now[0]
        for _ in range(DOWN_AFTER):
            await peers.record_failure("north", PeerUnreachable("gone"))
        assert peers.get("north").health == Health(word="does not answer", since=began)
        now[0] += 3000
        assert not peers.backing_off("north")
        await peers.record_failure("north", PeerUnreachable("gone"))
        now[0] += 5000
        await peers.record_failure("north", PeerUnreachable("gone"))
        assert peers.get("north").health == Health(word="down", since=began)

    run(tmp_path, test)
