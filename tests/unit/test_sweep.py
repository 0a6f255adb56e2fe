"""Files that nothing mentions go while the node runs; those that somebody is about to mention stay."""

import asyncio
import hashlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

from appliance.domain.package import Package, Presence
from appliance.service.catalogue import Catalogue, package_doc
from appliance.service.maintenance import Maintenance
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import package_body


class World:
    """A database and a disk."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root = root
        self.store = store
        self.blobs = BlobStore(Layout(root), floor_bytes=0)
        self.settled: list[str] = []
        self.maintenance = Maintenance(
            store=store,
            records=None,  # type: ignore[arg-type]
            catalogue=Catalogue(store),
            holdings=self,  # type: ignore[arg-type]
            trash=None,  # type: ignore[arg-type]
            uploads=None,  # type: ignore[arg-type]
            blobs=self.blobs,
            now=lambda: 1_000_000,
        )

    async def settle_many(self, ids: Iterable[str]) -> None:
        """As `Holdings.settle_many`."""
        self.settled += ids

    def blob(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        path = self.root / "uploads" / "new"
        path.write_bytes(data)
        self.blobs.commit(path, sha256)
        return sha256

    def files(self, directory: str) -> set[str]:
        return {path.name for path in (self.root / directory).rglob("*") if path.is_file()}

    async def hold(self, data: bytes, *, held: bool = True) -> str:
        body = package_body(data=data)
        package = Package(
            id=body.sha256[:32],
            revision=1,
            author="a",
            at=1,
            withdrawn=False,
            body=body,
            presence=Presence.HELD if held else Presence.ARRIVING,
            reason="",
            held_sha256=body.sha256 if held else "",
            held_filename=body.filename if held else "",
        )
        await self.store.insert("packages", package_doc(package, 1))
        return body.sha256


def in_world(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store(None, tmp_path)
        try:
            await test(World(tmp_path, store))
        finally:
            await store.close()

    asyncio.run(go())


def test_only_what_nothing_mentions_is_swept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        held, wanted, lost = (
            await world.hold(b"held"),
            await world.hold(b"wanted", held=False),
            world.blob(b"lost"),
        )
        aside = world.blob(b"aside")
        for data in (b"held", b"wanted"):
            world.blob(data)
        await world.store.insert("superseded", {"_id": "s", "sha256": aside, "package": "p", "at": 1})
        transfer = {"_id": "going", "package": wanted[:32], "sha256": wanted, "state": "stalled"}
        await world.store.insert("transfers", transfer)
        await world.store.insert("transfers", {**transfer, "_id": "over", "state": "done"})
        await world.store.insert("uploads", {"_id": "open", "filename": "x", "expires_at": 1})
        for name in (
            "partial/going",
            "partial/going.map",
            "partial/over",
            "partial/over.map",
            "uploads/open",
            "uploads/closed",
        ):
            (tmp_path / name).write_bytes(b"x")
        before = world.files("blobs")
        await world.maintenance.sweep(60)
        assert world.files("blobs") == before == {held, wanted, lost, aside}, "it is too young"
        await world.maintenance.sweep(-1)
        assert world.files("blobs") == {held, wanted, aside}
        assert world.settled == [wanted[:32]], "its bytes lie here, and nobody has looked at them"
        assert world.files("partial") == {"going", "going.map"}
        assert world.files("uploads") == {"open"}

    in_world(tmp_path, test)


def test_an_empty_database_is_not_believed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        sha256 = world.blob(b"x")
        await world.maintenance.sweep(-1)
        assert world.files("blobs") == {sha256}

    in_world(tmp_path, test)


def test_what_is_committed_again_stays_whoever_is_first(tmp_path: Path) -> None:
    blobs = BlobStore(Layout(tmp_path), floor_bytes=0)
    data = b"twice"
    sha256 = hashlib.sha256(data).hexdigest()
    swept = 0
    for turn in range(20):
        path = tmp_path / "uploads" / str(turn)
        path.write_bytes(data)
        time.sleep(0.06)  # what lies here is old enough now
        ends: list[bool] = []
        sweeper = threading.Thread(target=lambda ends=ends: ends.append(blobs.sweep(sha256, 0.05)))  # type: ignore[misc]
        if turn % 2:
            time.sleep(0.0002 * (turn % 5))
        sweeper.start()
        blobs.commit(path, sha256)
        sweeper.join()
        swept += ends[0]
        assert blobs.exists(sha256, len(data)), "it was committed, and is about to be mentioned"
        blobs.commit(_write(tmp_path / "uploads" / "again", data), sha256)


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
