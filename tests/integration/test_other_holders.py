"""What a node believes of the copies of others before it releases its own, and what it says of its own."""

from collections.abc import Awaitable, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.holding import Proof, SetAside
from appliance.domain.node import NodeBody
from appliance.domain.package import Package, Presence, ReplicaBody
from appliance.domain.record import RecordKind, replica_id
from appliance.peering.identity import Identity
from appliance.peering.records import record_json, sign_record
from appliance.service.holdings import RELEASE_CHECK_JOB
from appliance.store.ports import Store

from .test_digests import Clock, Node

DATA = b"0123456789" * 100_000


class Registered:
    """Sources: some of the nodes are direct peers, and up."""

    def __init__(self) -> None:
        self.ids: set[str] = set()

    def usable_sources(self, ids: Any, package: str) -> list[str]:
        return [id for id in ids if id in self.ids]

    def set_aside(self, ids: Any, package: str) -> list[SetAside]:
        return []


class World(Node):
    """A node in a network of others, of which there are only their records."""

    def __init__(self, store: Store, root: Path, identity: Identity | None = None) -> None:
        super().__init__(store, root, Clock(), identity)
        self.near = Registered()
        self.holdings._sources = self.near

    async def other_holder(self, package: Package, *, registered: bool) -> str:
        """A node of the stage dev that says that it holds a package."""
        identity = Identity.generate()
        id = identity.node_id
        bodies = {
            (RecordKind.NODE, id): NodeBody(name=id, url="http://x", stage="dev", version="1"),
            (RecordKind.REPLICA, replica_id(package.id, id)): ReplicaBody(
                package=package.id, node=id, sha256=package.body.sha256, presence="held"
            ),
        }
        records = [
            record_json(
                sign_record(
                    identity, kind=kind, id=key, revision=1, at=self.clock(), deleted=False, body=asdict(body)
                )
            )
            for (kind, key), body in bodies.items()
        ]
        if registered:
            self.near.ids.add(id)
        await self.intake.take(id, records)
        await self.holdings.refresh_nodes()
        return id

    async def asks(self) -> bool:
        """Whether a proof is asked for."""
        return bool(await self.store.find_jobs({"name": RELEASE_CHECK_JOB}))

    async def said(self, package: Package) -> str:
        """What this node's replica record says."""
        doc = await self.store.get("records", f"replica:{replica_id(package.id, self.identity.node_id)}")
        return str(doc["record"]["body"]["presence"]) if doc else ""


Test = Callable[[World], Awaitable[None]]


@pytest.fixture
def run(with_store: Any, tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test with a node, on SQLite and on MongoDB."""
    return lambda test: with_store(lambda store: test(World(store, tmp_path)))


@pytest.mark.parametrize(("near", "far"), [(0, 2), (1, 1), (2, 0), (3, 0)])
def test_however_many_say_that_they_hold_it_one_has_to_prove_it(
    run: Callable[[Test], None], near: int, far: int
) -> None:
    """Their records stand whether the nodes and their files are there or not."""

    async def test(world: World) -> None:
        package = await world.publish(data=DATA)
        others = [await world.other_holder(package, registered=number < near) for number in range(near + far)]
        await world.packages.change(package.id, stage="dev", actor="jo")
        assert world.package().presence is Presence.HELD
        assert await world.asks()
        proof = Proof(node=others[-1], sha256=package.body.sha256)
        await world.holdings.settle(package.id, proof=proof)
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)


def test_a_node_that_lost_a_small_package_does_not_say_that_it_holds_it(run: Callable[[Test], None]) -> None:
    """While it arrives again: others may release theirs because of it."""

    async def test(world: World) -> None:
        package = await world.publish(data=DATA)
        await world.other_holder(package, registered=True)
        assert await world.said(package) == "held"
        world.blobs.path(package.body.sha256).unlink()
        await world.holdings.lost_blob(package.body.sha256, "the file is missing")
        assert world.package().presence is Presence.ARRIVING
        assert await world.said(package) == "arriving"

    run(test)


async def let_go(worker: World, tmp_path: Path) -> tuple[World, Callable[[], Awaitable[None]]]:
    """A process that knows a package as held, and what lets another process of the node let it go."""
    package = await worker.publish(data=DATA)
    other = await worker.other_holder(package, registered=True)
    await worker.packages.change(package.id, stage="dev", actor="jo")
    serving = World(worker.store, tmp_path, worker.identity)
    await serving.catalogue.load()
    await serving.holdings.refresh_nodes()
    assert serving.package().presence is Presence.HELD

    async def go() -> None:
        await worker.holdings.settle(package.id, proof=Proof(node=other, sha256=package.body.sha256))
        assert worker.package().presence is Presence.NOT_ADMITTED

    return serving, go


async def is_gone(node: World) -> None:
    """What this process says of the package is what another one did."""
    package = node.package()
    assert (package.presence, package.held_sha256) == (Presence.NOT_ADMITTED, "")
    assert await node.said(package) == "not_admitted"


def test_what_one_process_let_go_is_not_called_held_by_another(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    """By a view of the package that is older than its newest replica record: the network would count on the copy."""

    async def test(worker: World) -> None:
        serving, go = await let_go(worker, tmp_path)
        await go()
        await serving.holdings.settle(serving.package().id)
        await is_gone(serving)

    run(test)


def test_what_one_process_lets_go_while_another_settles_it_is_gone(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one reads the new view while it still decides by the old one."""

    async def test(worker: World) -> None:
        serving, go = await let_go(worker, tmp_path)
        package, read = serving.package(), serving.store.get
        body = replace(package.body, notes="other notes")
        known = await serving.records.known(RecordKind.PACKAGE, package.id)
        _, changed = serving.records.write(RecordKind.PACKAGE, package.id, body, known)
        await serving.store.batch([changed])

        async def outrun(collection: str, id: str) -> Any:
            if collection == "transfers":
                monkeypatch.setattr(serving.store, "get", read)
                await go()
                await serving.catalogue.load()
            return await read(collection, id)

        monkeypatch.setattr(serving.store, "get", outrun)
        await serving.holdings.settle(package.id)
        assert serving.package().body.notes == "other notes"
        await is_gone(serving)

    run(test)
