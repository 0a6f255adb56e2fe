"""What is told in time and once: disk space, the node's certificate, packages that reached every node, lockouts."""

import asyncio
import datetime
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from argon2 import PasswordHasher

from appliance.domain.errors import NotAuthenticated, TooManyAttempts
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import PackageBody, Presence, ReplicaBody
from appliance.domain.record import RecordKind, replica_id
from appliance.peering.tls import LIFE_DAYS
from appliance.service.accounts import Accounts, Role
from appliance.service.coverage import Coverage
from appliance.service.records import Known, Records, record_doc
from appliance.service.throttle import FREE
from appliance.service.trash import Usage
from appliance.service.vigil import CERTIFICATE, Vigil
from appliance.store.opening import open_store
from appliance.store.ports import Doc, Replace, Store
from tests.builders import package_body
from tests.keys import identity_at, make_certificate

GIB = 1024**3
DAY_MS = 86_400_000
NOW = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
NOW_MS = round(NOW.timestamp() * 1000)
P = package_id("P.pkg")
PASSWORD = "a password of some length"


def with_store(tmp_path: Path, test: Callable[[Store], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        try:
            await test(store)
        finally:
            await store.close()

    asyncio.run(go())


async def events(store: Store, type: str) -> list[Doc]:
    return await store.find("events", {"type": type}, order="seq", limit=500)


# Disk and certificate


def vigil(store: Store, directory: Path, **options: Any) -> Vigil:
    async def trash() -> Usage:
        return Usage(versions=2, bytes=GIB)

    given: dict[str, Any] = {"disk_low": 10 * GIB, "certificate": None, "now": lambda: NOW_MS, "trash": trash}
    return Vigil(store=store, data_dir=directory, node_id="me", **{**given, **options})


def test_low_space_is_told_when_the_limit_is_crossed(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        story: list[tuple[int, int, int]] = []
        for free in (50, 10, 9, 8, 10, 10.9, 11, 12, 9):
            # Made anew each time: what was told survives a restart.
            made = vigil(store, tmp_path, free=lambda path, free=free: round(free * GIB))
            await made.look_at_disk()
            story.append(
                (
                    round(free),
                    len(await events(store, "disk.low")),
                    len(await events(store, "disk.recovered")),
                )
            )
        assert [entry[1:] for entry in story] == [
            (0, 0), (0, 0), (1, 0), (1, 0), (1, 0), (1, 0), (1, 1), (1, 1), (2, 1),
        ]  # fmt: skip
        assert (await events(store, "disk.low"))[0]["data"] == {
            "free": 9 * GIB, "limit": 10 * GIB, "trash": GIB,
        }  # fmt: skip
        await vigil(store, tmp_path, disk_low=0, free=lambda path: 0).look_at_disk()
        assert len(await events(store, "disk.low")) == 2

    with_store(tmp_path, test)


def test_a_certificate_that_ends_is_told_three_times_and_when_it_has_ended(tmp_path: Path) -> None:
    files = tmp_path / "tls.crt", tmp_path / "tls.key"
    make_certificate(*files, "localhost", now=NOW)
    ends = NOW_MS + LIFE_DAYS * DAY_MS

    async def test(store: Store) -> None:
        async def look(left_days: float) -> None:
            at = ends - round(left_days * DAY_MS)
            await vigil(store, tmp_path, certificate=files[0], now=lambda: at).look_at_certificate()

        for left in (3000, 31, 30.01, 30, 29, 8, 7, 6.5, 2, 1, 0.5, 0.1, -0.01, -5):
            await look(left)
        told = await events(store, "certificate.expiring")
        assert [doc["data"]["days"] for doc in told] == [30, 7, 1, 0]
        notice = await store.get("notices", CERTIFICATE)
        assert notice is not None
        assert notice["ends_at"] // 1000 == ends // 1000, "the overview shows it"
        make_certificate(*files, "localhost", now=NOW + datetime.timedelta(days=LIFE_DAYS))
        await look(0)
        assert len(await events(store, "certificate.expiring")) == 4, "the new one is fine"
        assert await store.get("notices", CERTIFICATE) is None
        files[0].write_text("half a file")
        await look(0)
        files[0].unlink()
        await look(0)

    with_store(tmp_path, test)


# Packages that reached every node


class Network:
    """Nodes that write records into one store, as if each had passed its own on."""

    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.nodes = {name: identity_at(directory / f"{name}.key") for name in "abc"}
        self.coverage = Coverage(
            store=store,
            records=self.records("a"),
            stages=("dev", "test", "prod"),
            node_id=self.nodes["a"].node_id,
            now=lambda: NOW_MS,
        )

    def records(self, name: str) -> Records:
        return Records(self.store, self.nodes[name], lambda: NOW_MS)

    async def write(self, name: str, kind: RecordKind, id: str, body: Any, *, deleted: bool = False) -> None:
        records = self.records(name)
        known: Known = await records.known(kind, id)
        record, _ = records.write(kind, id, body, known, deleted=deleted)
        await self.store.batch([Replace("records", record_doc(record), known.rev)])

    async def node(self, name: str, *, stage: str = "prod", deleted: bool = False) -> None:
        body = NodeBody(name=name, url=f"http://{name}.example.com", stage=stage, version="1")
        await self.write(name, RecordKind.NODE, self.nodes[name].node_id, body, deleted=deleted)

    async def package(self, data: bytes = b"x", origin: str = "a", **fields: Any) -> PackageBody:
        body = package_body(
            "P.pkg", data, origin=self.nodes[origin].node_id, uploaded_at=NOW_MS - 5000, **fields
        )
        await self.write("a", RecordKind.PACKAGE, P, body)
        return body

    async def holds(self, name: str, body: PackageBody, presence: Presence = Presence.HELD) -> None:
        node = self.nodes[name].node_id
        replica = ReplicaBody(package=P, node=node, sha256=body.sha256, presence=str(presence))
        await self.write(name, RecordKind.REPLICA, replica_id(P, node), replica)

    async def told(self) -> int:
        while await self.coverage.look():
            pass
        return len(await events(self.store, "package.replicated"))


@pytest.fixture
def in_network(tmp_path: Path) -> Callable[..., None]:
    def run(test: Callable[[Network], Awaitable[None]]) -> None:
        async def go(store: Store) -> None:
            network = Network(store, tmp_path)
            await network.told()
            await test(network)

        with_store(tmp_path, go)

    return run


def test_it_is_told_once_when_the_last_node_that_admits_it_has_it(in_network: Any) -> None:
    async def test(network: Network) -> None:
        for name, stage in (("a", "prod"), ("b", "dev"), ("c", "prod")):
            await network.node(name, stage=stage)
        body = await network.package()
        await network.holds("a", body)
        await network.holds("b", body)
        assert await network.told() == 0
        await network.holds("c", body, Presence.WAITING)
        assert await network.told() == 0
        await network.holds("c", body)
        assert await network.told() == 1
        await network.holds("c", body, Presence.DAMAGED)
        await network.holds("c", body)
        assert await network.told() == 1
        (event,) = await events(network.store, "package.replicated")
        assert event["data"]["nodes"] == 3
        assert event["data"]["seconds"] == 5
        new = await network.package(b"y")
        assert await network.told() == 1
        for name in "abc":
            await network.holds(name, new)
        assert await network.told() == 2

    in_network(test)


def test_only_nodes_that_admit_it_count(in_network: Any) -> None:
    async def test(network: Network) -> None:
        for name, stage in (("a", "dev"), ("b", "dev"), ("c", "prod")):
            await network.node(name, stage=stage)
        body = await network.package(stage="dev")
        await network.holds("a", body)
        assert await network.told() == 0
        await network.holds("b", body)
        assert await network.told() == 1

    in_network(test)


def test_a_node_that_does_not_take_it_for_a_reason_of_its_own_is_not_waited_for(in_network: Any) -> None:
    async def test(network: Network) -> None:
        for name in "abc":
            await network.node(name)
        body = await network.package()
        await network.holds("a", body)
        await network.holds("b", body)
        assert await network.told() == 0
        await network.holds("c", body, Presence.NOT_ADMITTED)  # it takes no file that large
        assert await network.told() == 1

    in_network(test)


def test_a_node_that_leaves_was_the_last_that_was_missing(in_network: Any) -> None:
    async def test(network: Network) -> None:
        for name in "abc":
            await network.node(name)
        body = await network.package()
        await network.holds("a", body)
        await network.holds("b", body)
        assert await network.told() == 0
        await network.node("c", deleted=True)
        assert await network.told() == 1

    in_network(test)


def test_other_nodes_uploads_and_a_node_alone_are_no_news(in_network: Any) -> None:
    async def test(network: Network) -> None:
        await network.node("a")
        await network.holds("a", await network.package())
        assert await network.told() == 0
        await network.node("b")
        body = await network.package(b"z", origin="b")
        await network.holds("a", body)
        await network.holds("b", body)
        assert await network.told() == 0

    in_network(test)


# Lockouts


def test_a_lockout_is_told_once_and_only_of_accounts_that_exist(tmp_path: Path) -> None:
    async def test(store: Store) -> None:
        clock = NOW_MS
        hasher = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
        accounts = Accounts(store, lambda: clock, hasher=hasher)
        await accounts.create_user("anna", PASSWORD, Role.VIEWER, actor="admin")
        for name in ("anna", "nobody"):
            for _ in range(FREE + 3):
                with pytest.raises((NotAuthenticated, TooManyAttempts)):
                    await accounts.sign_in(name, "wrong", address="192.0.2.1")
        told = await events(store, "sign_in.locked")
        assert [(doc["subject"], doc["data"]["address"]) for doc in told] == [("anna", "192.0.2.1")]
        clock += 3_600_000
        await accounts.sign_in("anna", PASSWORD, address="192.0.2.1")
        for _ in range(FREE):
            with pytest.raises(NotAuthenticated):
                await accounts.sign_in("anna", "wrong", address="192.0.2.1")
        assert len(await events(store, "sign_in.locked")) == 2

    with_store(tmp_path, test)
