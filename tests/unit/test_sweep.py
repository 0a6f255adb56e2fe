"""Files that nothing mentions go while the node runs; those that somebody is about to mention stay."""

import asyncio
import hashlib
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from appliance.domain.package import Package, Presence
from appliance.service.catalogue import Catalogue, package_doc
from appliance.service.maintenance import Maintenance
from appliance.store import blobs as module
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import package_body
from tests.harness import eventually


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
        await world.maintenance.sweep(60)  # as at the start: what comes now was not here before
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


@pytest.mark.parametrize("first", ["sweep", "commit"])
def test_what_is_committed_again_stays_whoever_is_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    """Who comes second begins while the first one is in the middle, and waits for it."""
    blobs = BlobStore(Layout(tmp_path), floor_bytes=0)
    data = b"twice"
    sha256 = hashlib.sha256(data).hexdigest()
    blobs.commit(_write(tmp_path / "uploads" / "old", data), sha256)
    old = blobs.path(sha256).stat().st_ino
    again = _write(
        tmp_path / "uploads" / "again", data
    )  # made while the old one is there: it is another file
    at_the_lock: list[str] = []
    swept: list[bool] = []
    acts = {
        "sweep": lambda: swept.append(blobs.sweep(sha256, 3600)),
        "commit": lambda: blobs.commit(again, sha256),
    }
    second = threading.Thread(target=acts["commit" if first == "sweep" else "sweep"], name="second")
    holding, changed_at, move = module.holding, module._changed_at, module.move

    def seen_holding(directory: Path) -> AbstractContextManager[None]:
        at_the_lock.append(threading.current_thread().name)
        return holding(directory)

    def in_the_middle(of: str) -> None:
        if of == first and second.ident is None:
            second.start()
            eventually(lambda: "second" in at_the_lock, 20, "the second one asks for no lock")
            second.join(0.05)
            assert second.is_alive(), "it does not wait"

    def aged(path: Path) -> float:
        changed = 0.0 if path.stat().st_ino == old else changed_at(path)
        in_the_middle("sweep")
        return changed

    def moved(path: Path, target: Path) -> None:
        in_the_middle("commit")
        move(path, target)

    monkeypatch.setattr(module, "holding", seen_holding)
    monkeypatch.setattr(module, "_changed_at", aged)
    monkeypatch.setattr(module, "move", moved)
    acts[first]()
    second.join(20)
    assert swept == [first == "sweep"], "only what is old is swept"
    assert blobs.exists(sha256, len(data)), "it was committed, and is about to be mentioned"
    assert blobs.path(sha256).stat().st_ino != old


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_on_a_full_disk_what_serves_nothing_goes_without_a_write(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.hold(b"held")
        world.blob(b"held")
        await world.store.insert("uploads", {"_id": "a" * 32, "expires_at": 2_000_000})
        await world.store.insert("uploads", {"_id": "b" * 32, "expires_at": 1_000_000})
        for name in ("a" * 32, "b" * 32, "c" * 32):
            (tmp_path / "uploads" / name).write_bytes(b"x")
        for name in ("t", "t.map"):
            (tmp_path / "partial" / name).write_bytes(b"x")
        await world.maintenance.drop_leftovers()
        assert world.files("uploads") == {"a" * 32}
        assert world.files("partial") == set()
        assert len(world.files("blobs")) == 1
        assert await world.store.count("uploads") == 2

    in_world(tmp_path, test)
