"""The watchdog: what is wanted and does not move is told once, with its reason."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from appliance.domain.package import Package, Presence
from appliance.domain.states import TransferState
from appliance.service.catalogue import Catalogue, package_doc
from appliance.service.fetch_jobs import RESTART_MS, new_transfer_doc, restarted_doc
from appliance.service.watchdog import NOTICE, Watchdog
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import package_body

AFTER_MS = 600_000


class World:
    """A node's packages and transfers, without the node."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = 1_700_000_000_000
        self.catalogue = Catalogue(store)
        self.watchdog = Watchdog(
            store=store, catalogue=self.catalogue, after_s=AFTER_MS / 1000, node_id="n", now=lambda: self.now
        )

    async def package(self, name: str, presence: Presence, **transfer: Any) -> None:
        """Put a package, and with a `state` its transfer."""
        body = package_body(f"{name}.pkg", name.encode())
        view = Package(
            id=name, revision=1, author="n", at=self.now, withdrawn=False, body=body, presence=presence,
            reason="no node is known to hold it", wanted_since=self.now,
        )  # fmt: skip
        self.catalogue.take(await self.store.replace("packages", package_doc(view, self.now)))
        if transfer:
            await self.store.replace("transfers", {**new_transfer_doc(view, self.now), **transfer})

    async def move(self, name: str) -> None:
        """Let bytes of a package come."""
        [doc] = await self.store.find("transfers", {"package": name})
        await self.store.replace("transfers", {**doc, "moved_at": self.now, "updated_at": self.now})

    async def look(self) -> list[str]:
        """The stuck ones."""
        return [one.package for one in await self.watchdog.look()]

    async def events(self) -> list[tuple[str, int]]:
        """What was told so far."""
        docs = await self.store.find("events", order="seq")
        return [(doc["type"], doc["data"]["count"]) for doc in docs]


def run(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def inner() -> None:
        store = await open_store("", tmp_path)
        try:
            await test(World(store))
        finally:
            await store.close()

    asyncio.run(inner())


def test_what_waits_too_long_is_told_once_and_again_when_it_is_over(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.package("a", Presence.WAITING)
        await world.package("b", Presence.HELD)
        assert await world.look() == []
        world.now += AFTER_MS + 1
        assert await world.look() == ["a"]
        assert await world.look() == ["a"]
        notice = await world.watchdog.notice()
        assert notice is not None
        assert (notice["count"], notice["first"][0]["reason"]) == (1, "no node is known to hold it")
        await world.package("c", Presence.DAMAGED)
        world.now += AFTER_MS + 1
        assert await world.look() == ["a", "c"]
        await world.package("a", Presence.HELD)
        assert await world.look() == ["c"]
        await world.package("c", Presence.HELD)
        assert await world.look() == []
        assert await world.store.get("notices", NOTICE) is None
        assert await world.events() == [
            ("replication.stuck", 1), ("replication.stuck", 2), ("replication.recovered", 0)
        ]  # fmt: skip

    run(tmp_path, test)


def test_many_are_told_once(tmp_path: Path) -> None:
    """However many there are: a node whose only source is down may lack them all."""

    async def test(world: World) -> None:
        for number in range(2_100):
            await world.package(f"p{number}", Presence.WAITING)
        world.now += AFTER_MS + 1
        for _ in range(2):
            assert len(await world.look()) == 2_100
        assert await world.events() == [("replication.stuck", 2_100)]

    run(tmp_path, test)


def test_a_slow_package_that_moves_is_not_stuck(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.package("a", Presence.ARRIVING, state=str(TransferState.FETCHING))
        for _ in range(3):
            world.now += AFTER_MS - 1
            await world.move("a")
            assert await world.look() == []
        world.now += AFTER_MS + 1
        assert await world.look() == ["a"]

    run(tmp_path, test)


def test_one_whose_turn_has_not_come_moves_with_the_queue(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.package("a", Presence.ARRIVING, state=str(TransferState.FETCHING))
        await world.package("b", Presence.ARRIVING)
        await world.package("c", Presence.ARRIVING, state=str(TransferState.PENDING))
        for _ in range(3):
            world.now += AFTER_MS - 1
            await world.move("a")
        assert await world.look() == ["b"], "one without a transfer is no part of the queue"
        world.now += AFTER_MS + 1
        assert sorted(await world.look()) == ["a", "b", "c"]

    run(tmp_path, test)


def test_new_packages_are_no_sign_of_life(tmp_path: Path) -> None:
    """A queue that does not move is stuck, however many are put in behind."""

    async def test(world: World) -> None:
        await world.package("a", Presence.ARRIVING, state=str(TransferState.PENDING))
        for number in range(4):
            world.now += AFTER_MS // 2
            await world.package(f"n{number}", Presence.ARRIVING, state=str(TransferState.PENDING))
        assert (await world.look())[0] == "a"

    run(tmp_path, test)


def test_a_queue_of_many_moves_while_bytes_of_one_come(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.package("a", Presence.ARRIVING, state=str(TransferState.FETCHING))
        await world.package("b", Presence.ARRIVING, state=str(TransferState.PENDING))
        world.now += AFTER_MS + 1
        await world.move("a")
        for number in range(30):
            await world.package(f"n{number}", Presence.ARRIVING, state=str(TransferState.PENDING))
        assert await world.look() == []

    run(tmp_path, test)


def test_one_that_fails_every_hour_is_told_once(tmp_path: Path) -> None:
    """It begins again, waits for its turn behind others that move, runs, and fails: no byte of it comes."""

    async def test(world: World) -> None:
        await world.package("a", Presence.ARRIVING, state=str(TransferState.FAILED))
        await world.package("b", Presence.ARRIVING, state=str(TransferState.FETCHING))
        world.now += AFTER_MS + 1
        await world.move("b")
        assert await world.look() == ["a"]
        view = world.catalogue.by_id("a")
        assert view is not None
        for _ in range(3):
            world.now += RESTART_MS
            [doc] = await world.store.find("transfers", {"package": "a"})
            again = restarted_doc(doc, view, world.now)
            for state in (TransferState.PENDING, TransferState.FETCHING, TransferState.FAILED):
                world.now += 1000
                changed = {**again, "state": str(state), "updated_at": world.now}
                await world.store.replace("transfers", changed)
                await world.move("b")
                assert await world.look() == ["a"]
        assert await world.events() == [("replication.stuck", 1)]
        await world.move("a")
        assert await world.look() == []

    run(tmp_path, test)


def test_what_a_person_stopped_is_not_stuck(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        cancelled = {"state": str(TransferState.CANCELLED), "cancelled_by": "jo"}
        await world.package("a", Presence.WAITING, **cancelled)
        world.now += AFTER_MS + 1
        assert await world.look() == []

    run(tmp_path, test)
