"""Which packages of an MDM are taken in."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.domain.mdm_errors import MdmBusy, MdmError, MdmNeedsAttention, MdmRefused, MdmUnreachable
from appliance.domain.names import package_id
from appliance.domain.package import Package, PackageBody, Presence
from appliance.store.opening import open_store
from appliance.store.ports import Store
from jamf_bridge.driver import CloudState, RemotePackage
from jamf_bridge.intake.comparing import Intake, IntakeSummary
from jamf_bridge.intake.remote import rows_of
from jamf_bridge.servers.config import ServerConfig
from jamf_bridge.servers.rows import rows_of_package
from jamf_bridge.servers.server import Server

OLD, NEW, OTHER = ("a" * 128, "b" * 128, "c" * 128)


def remote(
    name: str, digest: str, *, id: str = "1", size: int = 5, state: CloudState = CloudState.READY
) -> RemotePackage:
    hashes = {"sha3_512": digest} if digest else {}
    return RemotePackage(id=id, file_name=name, state=state, size=size, hashes=hashes)


class World:
    def __init__(self, store: Store) -> None:
        self.store = store
        self.ms = 1_000_000
        self.health: dict[str, Any] = {}
        self.there: dict[str, RemotePackage] = {}  #: by id: what the MDM answers who asks for an id
        self.says: dict[str, RemotePackage] = {}  #: what it answers instead, whatever lists show
        self.odd: dict[str, MdmError] = {}  #: by id: it fails instead
        self.asked_by_id: list[str] = []
        self.packages: dict[str, Package] = {}
        self.asked: list[str] = []
        self.config = ServerConfig(name="Jamf", kind="jamf")
        self.listed = False
        catalogue: Any = SimpleNamespace(
            by_id=self.packages.get, all=lambda: list(self.packages.values()), load=self._load
        )
        self.intake = Intake(
            store=store, catalogue=catalogue, ensure_hashes=self._ensure, now=lambda: self.ms
        )

    async def _load(self) -> None:
        """As `Catalogue.load`."""

    async def _find(self, id: str) -> RemotePackage | None:
        self.asked_by_id.append(id)
        if id in self.odd:
            raise self.odd[id]
        return self.says.get(id) or self.there.get(id)

    async def _ensure(self, package: Package) -> bool:
        self.asked.append(package.body.filename)
        return False

    def holds(self, name: str, digest: str, *, size: int = 5, withdrawn: bool = False) -> None:
        sha256 = hashlib.sha256(digest.encode() + name.encode()).hexdigest()
        hashes = {"sha3_512": digest} if digest else {}
        body = PackageBody(
            filename=name,
            size=size,
            sha1="0" * 40,
            sha256=sha256,
            manifest="0" * 64,
            stage="prod",
            hashes=hashes,
        )
        self.packages[package_id(name)] = Package(
            id=package_id(name), revision=1, author="n", at=0, withdrawn=withdrawn, body=body, presence=Presence.HELD,
            held_sha256=sha256, held_filename=name,
        )  # fmt: skip

    async def look(self, *found: RemotePackage, can_open: bool = True, after_s: float = 60) -> IntakeSummary:
        """One look, `after_s` seconds after the one before, at these records."""
        self.ms += round(after_s * 1000)
        began = self.ms
        server = Server(id="s", config=self.config, health={"listed": self.listed, **self.health})
        self.there |= {package.id: package for package in found}
        summary = await self.intake.run(server, found, find=self._find, can_open=can_open)
        ids = [int(package.id) for package in found]
        self.health |= {"looked_at": began, "last_id": max([self.health.get("last_id", 0), *ids])}
        self.listed = True
        return summary

    async def states(self) -> dict[str, str]:
        return {row["file_name"]: row["state"] for row in (await rows_of(self.store, "s")).values()}

    async def pulls(self) -> int:
        return len(await self.store.find_jobs({"name": "mdm.pull"}, limit=100))


def in_world(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        try:
            await test(World(store))
        finally:
            await store.close()

    asyncio.run(go())


def test_names_in_parts_are_those_in_one(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.config = ServerConfig.model_validate(
            {"name": "Jamf", "kind": "jamf", "intake": {"names": "^Gr\u00f6"}}
        )
        world.holds("Gr\u00f6\u00dfe.pkg", OLD)
        assert (await world.look(remote("Gro\u0308\u00dfe.pkg", OLD))).wanted == 0
        assert await world.states() == {"Gro\u0308\u00dfe.pkg": "taken"}
        (shown,) = await rows_of_package(world.store, "s", "p", "Gr\u00f6\u00dfe.pkg")
        assert (shown["direction"], shown["state"]) == ("in", "pulled")

    in_world(tmp_path, test)


def test_what_is_new_is_wanted_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert (await world.look(remote("a.pkg", NEW))).wanted == 1
        assert (await world.look(remote("a.pkg", NEW))).wanted == 0
        assert await world.pulls() == 1

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("state", "digest", "expected"),
    [
        (CloudState.NONE, "", "no_bytes"),
        (CloudState.PENDING, NEW, "pending"),
        (CloudState.READY, "", "pending"),
        (CloudState.ERROR, NEW, "failed"),
        (CloudState.READY, NEW, "wanted"),
    ],
)
def test_states_of_the_mdm(tmp_path: Path, state: CloudState, digest: str, expected: str) -> None:
    async def test(world: World) -> None:
        await world.look(remote("a.pkg", digest, state=state))
        assert await world.states() == {"a.pkg": expected}

    in_world(tmp_path, test)


def test_the_same_bytes_are_not_fetched(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds("a.pkg", NEW)
        await world.look(remote("a.pkg", NEW.upper()))
        assert await world.states() == {"a.pkg": "taken"}
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_bytes_of_unknown_digest_are_hashed_before_they_are_compared(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds("a.pkg", "")
        assert (await world.look(remote("a.pkg", NEW))).pending == 1
        assert world.asked == ["a.pkg"]
        world.holds("a.pkg", NEW)
        await world.look(remote("a.pkg", NEW))
        assert await world.states() == {"a.pkg": "taken"}
        world.holds("b.pkg", "", size=6)
        await world.look(remote("a.pkg", NEW), remote("b.pkg", NEW, id="2", size=5))
        assert world.asked == ["a.pkg"], "another size is other bytes"

    in_world(tmp_path, test)


def test_two_files_from_before_are_a_conflict_until_somebody_uploads(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds("a.pkg", OLD)
        assert (await world.look(remote("a.pkg", OTHER))).conflicts == 1
        assert (await world.look(remote("a.pkg", OTHER))).conflicts == 1
        assert await world.pulls() == 0
        assert (await world.look(remote("a.pkg", NEW))).wanted == 1, "uploaded in the MDM since"

    in_world(tmp_path, test)


def test_what_is_uploaded_while_connected_replaces(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.look()
        world.holds("a.pkg", OLD)
        assert (await world.look(remote("a.pkg", NEW))).wanted == 1

    in_world(tmp_path, test)


def test_a_withdrawn_package_comes_back_only_with_a_new_upload(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.holds("a.pkg", OLD, withdrawn=True)
        await world.look(remote("a.pkg", OLD))
        assert await world.states() == {"a.pkg": "skipped"}
        assert (await world.look(remote("a.pkg", NEW))).wanted == 1

    in_world(tmp_path, test)


def test_what_failed_waits_for_a_change(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.look(remote("a.pkg", OLD))
        (row,) = (await rows_of(world.store, "s")).values()
        await world.store.replace(
            "mdm_remote", {**row, "state": "quarantined", "error": "wrong", "tried": row["mark"]}
        )
        assert (await world.look(remote("a.pkg", OLD))).failed == 1
        assert (await world.look(remote("a.pkg", NEW))).wanted == 1

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("name", "intake", "can_open"),
    [
        ("a.pkg", {"enabled": False}, True),
        ("a.pkg", {"names": r"^Fire"}, True),
        ("a.pkg", {}, False),
        ("CON.pkg", {}, True),
        (".hidden.pkg", {}, True),
    ],
)
def test_what_is_left_out_says_why(tmp_path: Path, name: str, intake: dict[str, Any], can_open: bool) -> None:
    async def test(world: World) -> None:
        world.config = ServerConfig(name="Jamf", kind="jamf", intake=intake)  # type: ignore[arg-type]
        await world.look(remote(name, NEW), can_open=can_open)
        (row,) = (await rows_of(world.store, "s")).values()
        assert row["state"] == "skipped"
        assert row["error"]
        assert await world.pulls() == 0

    in_world(tmp_path, test)


def test_what_is_gone_in_the_mdm_is_forgotten(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.look(remote("a.pkg", OLD), remote("b.pkg", NEW, id="2"))
        del world.there["1"]
        assert (await world.look(remote("b.pkg", NEW, id="2"))).missing == 1
        assert await world.states() == {"a.pkg": "wanted", "b.pkg": "wanted"}
        assert world.asked_by_id == []
        assert (await world.look(remote("b.pkg", NEW, id="2"))).missing == 0
        assert world.asked_by_id == ["1"]
        assert await world.states() == {"b.pkg": "wanted"}

    in_world(tmp_path, test)


@pytest.mark.parametrize("error", [MdmRefused("400"), MdmError("another record than was asked for")])
def test_a_record_that_cannot_be_shown_by_its_id_stops_nothing_else(tmp_path: Path, error: MdmError) -> None:
    async def test(world: World) -> None:
        world.holds("a.pkg", OLD)
        world.holds("c.pkg", OTHER)
        first = [remote("a.pkg", OLD), remote("b.pkg", OLD, id="2"), remote("c.pkg", OTHER, id="3")]
        await world.look(*first)
        world.odd = {"1": error, "2": error}
        world.holds("a.pkg", NEW)
        listed = [remote("a.pkg", NEW), remote("c.pkg", OTHER, id="3")]
        for number in range(3):  # 1 has other bytes of ours, 2 is missing, 3 is well, the others are new
            listed.append(remote(f"d{number}.pkg", NEW, id=str(4 + number)))
            found = await world.look(*listed)
            assert (found.wanted, found.pending, found.missing) == (1, 1, 1)
        assert {"1", "2"} <= set(world.asked_by_id)
        rows = await rows_of(world.store, "s")
        assert rows["1"]["mark"] == first[0].mark, "not believed yet"
        assert "2" in rows, "not forgotten"
        world.odd = {}
        del world.there["2"]
        found = await world.look(*listed)
        assert (found.pending, found.missing) == (0, 0)
        assert "2" not in await rows_of(world.store, "s")

    in_world(tmp_path, test)


def test_earlier_bytes_are_not_taken_while_their_record_cannot_be_shown(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for digest in (OLD, NEW):
            world.holds("a.pkg", digest)
            await world.look(remote("a.pkg", digest))
            await world.look(remote("a.pkg", digest))
        world.odd = {"1": MdmRefused("400")}
        for _ in range(6):
            await world.look(remote("a.pkg", OLD))
            assert await world.states() == {"a.pkg": "pending"}
        world.odd = {}
        await world.look(remote("a.pkg", OLD))
        assert await world.states() == {"a.pkg": "wanted"}

    in_world(tmp_path, test)


@pytest.mark.parametrize("error", [MdmBusy, MdmNeedsAttention, MdmUnreachable])
def test_a_server_that_cannot_be_called_ends_the_look(tmp_path: Path, error: type[MdmError]) -> None:
    async def test(world: World) -> None:
        await world.look(remote("a.pkg", OLD))
        world.odd = {"1": error("not now")}
        await world.look()
        with pytest.raises(error):
            await world.look()

    in_world(tmp_path, test)
