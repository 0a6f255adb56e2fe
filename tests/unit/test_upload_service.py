"""Uploads between crashes: no acknowledged byte is lost, none is used twice."""

import asyncio
import contextlib
import hashlib
import random
import unicodedata
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from appliance.domain.errors import (
    Conflict,
    DigestMismatch,
    EmptyFile,
    InvalidInput,
    NotSettled,
    OffsetMismatch,
    PackageExists,
    StorageFull,
    StoreUnavailable,
    TooLarge,
    UploadUnknown,
)
from appliance.domain.manifest import Manifest
from appliance.domain.names import package_id
from appliance.domain.package import Effect, Presence
from appliance.domain.precondition import Precondition
from appliance.service import upload as values
from appliance.service.receiving import Receiver
from appliance.service.uploads import REMEMBERED_MS, Upload, UploadService
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import portable
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import MIB, manifest_of

DATA = random.Random(8).randbytes(2 * MIB + 9)
LIFE_MS = 1000
#: between blob and record an upload is kept as a second name of its blob
needs_links = pytest.mark.skipif(portable(), reason="a disk without hard links cannot keep both")


class FakePackages:
    """Publishing that can fail before or after it is done."""

    def __init__(self) -> None:
        self.published: dict[str, Manifest] = {}
        self.presence = Presence.HELD  #: what publishing makes of the package
        self.settles = 0
        self.fail_before: Exception | None = None
        self.fail_after: Exception | None = None

    def check_publishable(self, filename: str, *, replace: bool, **_: Any) -> str:
        name = unicodedata.normalize("NFC", filename)
        self._refuse(name, replace)
        return name

    def _refuse(self, name: str, replace: bool) -> None:
        if name in self.published and not replace:
            raise PackageExists(id=package_id(name), sha256=self.published[name].sha256)

    async def check_precondition(self, _filename: str, _condition: Precondition) -> None:
        pass

    def replaced_by(self, _filename: str) -> None:
        return None

    async def publish(self, *, manifest: Manifest, filename: str, replace: bool, **_: Any) -> Any:
        error, self.fail_before = self.fail_before, None
        if error is not None:
            raise error
        self._refuse(filename, replace)
        self.published[filename] = manifest
        error, self.fail_after = self.fail_after, None
        if error is not None:
            raise error
        body = SimpleNamespace(filename=filename, sha256=manifest.sha256)
        return SimpleNamespace(id=package_id(filename), body=body, presence=self.presence), Effect.CREATED

    async def settled(self, id: str, _actor: str) -> Any:
        self.settles += 1
        return SimpleNamespace(id=id, body=SimpleNamespace(filename="a.pkg"), presence=Presence.HELD)


class World:
    """One node's disk and database over several lives of the service."""

    def __init__(self, root: Path, store: Store) -> None:
        self.layout = Layout(root)
        self.store = store
        self.packages = FakePackages()
        self.clock = 1_000_000
        self.free = 10**9
        self.uploads = self.start()

    def start(self) -> UploadService:
        """The service as a new process has it; the one before is forgotten, as by a kill."""
        self.blobs = BlobStore(self.layout, floor_bytes=0, free=lambda _: self.free)
        self.uploads = UploadService(
            store=self.store,
            blobs=self.blobs,
            layout=self.layout,
            packages=self.packages,  # type: ignore[arg-type]
            stages=("dev", "prod"),
            default_stage="prod",
            max_size=100 * MIB,
            life_ms=LIFE_MS,
            now=lambda: self.clock,
        )
        return self.uploads

    async def create(self, filename: str = "a.pkg", data: bytes = DATA, **fields: Any) -> Upload:
        size = fields.pop("size", len(data))
        return await self.uploads.create(filename=filename, size=size, actor="me", **fields)

    async def send(self, upload: Upload, data: bytes, offset: int = 0) -> None:
        """One request that does not complete the upload."""
        async with self.uploads.receiving(upload, offset) as receiver:
            await receiver.write(data)
            await self.uploads.rest(upload, receiver)

    async def complete(self, upload: Upload, data: bytes = DATA, *, remember: bool = True) -> None:
        """One request with all bytes."""
        async with self.uploads.receiving(upload, 0) as receiver:
            await receiver.write(data)
            await self.uploads.complete(upload, receiver, remember=remember)

    async def break_off(self, upload: Upload, data: bytes) -> None:
        """One request that ends in the middle."""
        async with self.uploads.receiving(upload, 0) as receiver:
            await receiver.write(data)
            await receiver.flush()
            raise ConnectionError

    async def part(self, data: bytes) -> str:
        upload = await self.create("", data, part=True)
        await self.send(upload, data)
        return upload.id

    def files(self, directory: Path) -> list[str]:
        return sorted(path.name for path in directory.rglob("*") if path.is_file())


def in_world(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store(None, tmp_path)
        world = World(tmp_path, store)
        try:
            await test(world)
        finally:
            world.uploads.close()
            await store.close()

    asyncio.run(go())


def test_hashes_go_on_between_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA[:MIB])
        monkeypatch.setattr(Receiver, "open", None)  # nothing is read again
        async with world.uploads.receiving(upload, MIB) as receiver:
            await receiver.write(DATA[MIB:])
            outcome = await world.uploads.complete(upload, receiver, remember=False)
        assert outcome.created
        assert world.packages.published["a.pkg"] == manifest_of(DATA)
        assert world.files(world.layout.uploads) == []
        assert world.files(world.layout.blobs) == [manifest_of(DATA).sha256]

    in_world(tmp_path, test)


def test_a_kill_loses_nothing_that_is_in_the_file(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA[:MIB])
        with world.layout.upload(upload.id).open("ab") as file:
            file.write(DATA[MIB : MIB + 500])  # of a request that was never answered
        world.start()
        assert (await world.uploads.get(upload.id)).offset == MIB + 500
        await world.send(upload, DATA[MIB + 500 : -1], MIB + 500)
        world.start()
        async with world.uploads.receiving(upload, len(DATA) - 1) as receiver:
            await receiver.write(DATA[-1:])
            await world.uploads.complete(upload, receiver, remember=False)
        assert world.packages.published["a.pkg"] == manifest_of(DATA)

    in_world(tmp_path, test)


def test_after_a_power_cut_only_what_was_synced_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA[:1000])
        with world.layout.upload(upload.id).open("ab") as file:
            file.write(b"may be zeros after a power cut")
        monkeypatch.setattr(values, "boot_id", lambda: "another boot")
        world.start()
        assert (await world.uploads.get(upload.id)).offset == 1000
        with pytest.raises(OffsetMismatch):
            await world.send(upload, b"x", 1030)
        async with world.uploads.receiving(upload, 1000) as receiver:
            await receiver.write(DATA[1000:2000])
            await receiver.flush()
            # Killed now, in the same boot: what this boot wrote counts.
            assert world.uploads._offset(await world.uploads.get(upload.id)) == 2000

    in_world(tmp_path, test)


def test_where_boots_have_no_name_a_lost_connection_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(values, "boot_id", lambda: "")

    async def test(world: World) -> None:
        upload = await world.create()
        with pytest.raises(ConnectionError):
            await world.break_off(upload, DATA[:MIB])
        assert (await world.uploads.get(upload.id)).offset == MIB

    in_world(tmp_path, test)


@needs_links
@pytest.mark.parametrize("remember", [True, False], ids=["tus", "put"])
def test_the_database_is_away_when_the_last_byte_is_here(tmp_path: Path, remember: bool) -> None:
    async def test(world: World) -> None:
        upload = await world.create(size=len(DATA) if remember else None)
        world.packages.fail_before = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await world.complete(upload, remember=remember)
        kept = await world.uploads.get(upload.id)
        assert (kept.offset, kept.size, kept.all_here) == (len(DATA), len(DATA), True)
        done = await world.uploads.finish(upload.id)
        assert (done.package, done.offset) == (package_id("a.pkg"), len(DATA))
        assert world.packages.published["a.pkg"] == manifest_of(DATA)
        assert world.files(world.layout.uploads) == []

    in_world(tmp_path, test)


@needs_links
def test_killed_between_the_blob_and_the_record(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA)
        sha256 = manifest_of(DATA).sha256
        world.blobs.commit(world.layout.upload(upload.id), sha256, keep=True)
        world.start()
        # At the start nobody mentions the blob.
        world.blobs.adopt_or_clean(believed=True, names={}, blobs=set(), partials=set(), uploads={upload.id})
        assert world.files(world.layout.blobs) == [sha256]
        world.blobs.path(sha256).unlink()  # as once it was kept for long enough
        assert (await world.uploads.get(upload.id)).offset == len(DATA)
        assert (await world.uploads.finish(upload.id)).package
        assert world.files(world.layout.blobs) == [sha256]

    in_world(tmp_path, test)


@needs_links
def test_killed_between_the_record_and_the_note_of_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        world.packages.fail_after = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await world.complete(upload)
        assert "a.pkg" in world.packages.published
        world.start()
        done = await world.uploads.finish(upload.id)
        assert done.package == package_id("a.pkg")
        assert world.files(world.layout.uploads) == []

    in_world(tmp_path, test)


def test_somebody_else_took_the_name_meanwhile(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        world.packages.published["a.pkg"] = manifest_of(b"other bytes")
        await world.send(upload, DATA)
        with pytest.raises(PackageExists):
            await world.uploads.finish(upload.id)
        assert world.packages.published["a.pkg"] == manifest_of(b"other bytes")
        with pytest.raises(UploadUnknown):
            await world.uploads.get(upload.id)
        assert world.files(world.layout.uploads) == []

    in_world(tmp_path, test)


def test_a_lost_answer_can_be_asked_for_again(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.complete(upload)
        for _ in range(2):
            again = await world.uploads.finish(upload.id)
            assert (again.package, again.offset, again.size) == (package_id("a.pkg"), len(DATA), len(DATA))
        assert await world.uploads.page(limit=10) == []
        with pytest.raises(Conflict):
            await world.send(again, b"more", len(DATA))
        world.clock += min(LIFE_MS, REMEMBERED_MS) + 1
        await world.uploads.expire()
        assert await world.store.find("uploads") == []

    in_world(tmp_path, test)


def test_a_blob_that_is_deleted_for_another_between_commit_and_record_is_committed_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        await world.complete(await world.create())
        blob = world.blobs.path(manifest_of(DATA).sha256)
        real = world.packages.publish

        async def publish(**fields: Any) -> Any:
            blob.unlink()  # of a version that expired at this moment: settling finds no bytes
            world.packages.presence = Presence.WAITING
            return await real(**fields)

        monkeypatch.setattr(world.packages, "publish", publish)
        await world.complete(await world.create("b.pkg"))
        assert blob.read_bytes() == DATA
        assert world.packages.settles == 1
        assert world.files(world.layout.uploads) == []

    in_world(tmp_path, test)


def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create(sha256="0" * 64)
        with pytest.raises(DigestMismatch):
            await world.complete(upload)
        assert world.files(world.layout.uploads) + world.files(world.layout.blobs) == []
        assert await world.store.find("uploads") == []

    in_world(tmp_path, test)


@pytest.mark.parametrize("door", ["at once", "of unknown length", "joined", "finished after a kill"])
def test_no_door_takes_a_file_without_bytes_unless_it_is_meant(tmp_path: Path, door: str) -> None:
    async def send(world: World, **meant: bool) -> None:
        if door == "joined":
            parts = [await world.part(b""), await world.part(b"")]
            await world.uploads.concatenate(parts, filename="a.pkg", actor="me", **meant)
        elif door == "finished after a kill":
            upload = await world.create(data=b"x", **meant)
            await world.uploads._note(upload.id, size=0)  # as an older version would have opened it
            await world.uploads.finish(upload.id)
        else:
            size = 0 if door == "at once" else None
            await world.complete(await world.create(size=size, **meant), b"", remember=False)

    async def test(world: World) -> None:
        with pytest.raises(EmptyFile, match=r"zip -ry a\.pkg\.zip a\.pkg"):
            await send(world)
        assert world.packages.published == {}
        assert world.files(world.layout.blobs) == []
        await send(world, allow_empty=True)
        assert world.packages.published["a.pkg"].size == 0

    in_world(tmp_path, test)


def test_a_condition_is_kept_with_the_upload(tmp_path: Path) -> None:
    condition = Precondition(match=("a", "b"), none_match=("*",), unmodified_since=7)

    async def test(world: World) -> None:
        for given in (condition, Precondition(match=()), None):
            upload = await world.create(condition=given)
            world.start()
            assert (await world.uploads.get(upload.id)).condition == given

    in_world(tmp_path, test)


def test_who_comes_back_takes_over(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        ended, inside = asyncio.Event(), asyncio.Event()

        async def hangs() -> None:
            async with world.uploads.receiving(upload, 0, ended.set) as receiver:
                await receiver.write(DATA[:700])
                inside.set()
                await ended.wait()  # the client is gone and says nothing

        first = asyncio.create_task(hangs())
        await inside.wait()
        assert (await world.uploads.finish(upload.id)).offset == 700
        assert first.done()
        await world.send(upload, DATA[700:800], 700)

    in_world(tmp_path, test)


def test_who_completes_is_not_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.service.writers.TAKE_OVER_S", 0.05)

    async def test(world: World) -> None:
        upload = await world.create()
        async with world.uploads.receiving(upload, 0):
            for call in (world.uploads.finish, world.uploads.terminate):
                with pytest.raises(Conflict):
                    await call(upload.id)

    in_world(tmp_path, test)


def test_room_is_kept_for_what_is_under_way(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.free = 10 * MIB
        first = await world.create(size=6 * MIB)
        async with world.uploads.receiving(first, 0) as receiver:
            with pytest.raises(StorageFull):
                await world.create("b.pkg", size=5 * MIB)
            await receiver.write(bytes(2 * MIB))
            await world.create("b.pkg", size=5 * MIB)
        world.free = MIB
        with pytest.raises(StorageFull):
            await world.send(first, b"x", 2 * MIB)
        assert (await world.uploads.get(first.id)).offset == 2 * MIB

    in_world(tmp_path, test)


def test_what_is_too_large_is_refused(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        with pytest.raises(TooLarge):
            await world.create(size=101 * MIB)

    in_world(tmp_path, test)


def test_uploads_expire(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        world.clock += LIFE_MS - 1
        await world.send(upload, b"x")  # which prolongs its life
        world.clock += LIFE_MS - 1
        await world.uploads.expire()
        assert (await world.uploads.get(upload.id)).offset == 1
        world.clock += 1
        with pytest.raises(UploadUnknown):
            await world.uploads.get(upload.id)
        await world.uploads.expire()
        assert world.files(world.layout.uploads) == []
        assert await world.store.find("uploads") == []

    in_world(tmp_path, test)


PARTS = [DATA[:MIB], b"", DATA[MIB : MIB + 5], DATA[MIB + 5 :]]


def test_parts_are_joined_in_order(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        ids = [await world.part(data) for data in PARTS]
        joined = await world.uploads.concatenate(ids, filename="a.pkg", actor="me")
        assert joined.package
        assert world.packages.published["a.pkg"] == manifest_of(DATA)
        assert world.files(world.layout.uploads) == []
        again = await world.uploads.concatenate(ids, filename="a.pkg", actor="me")  # the answer was lost
        assert (again.id, again.package) == (joined.id, joined.package)

    in_world(tmp_path, test)


def test_parts_that_cannot_be_joined(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        whole, half, other = (
            await world.part(b"1"),
            await world.create("", b"22", part=True),
            await world.create(),
        )
        for ids in ([], [half.id], [other.id], ["0" * 32], [whole, whole], [whole, "0" * 32]):
            with pytest.raises(InvalidInput):
                await world.uploads.concatenate(ids, filename="b.pkg", actor="me")
        assert (await world.uploads.get(whole)).offset == 1

    in_world(tmp_path, test)


class Killed(BaseException):
    """The process ends here."""


@contextlib.asynccontextmanager
async def killed_at(world: World, monkeypatch: pytest.MonkeyPatch, number: int) -> AsyncIterator[None]:
    """Everything stops at the n-th write of the database."""
    calls = 0

    def wrap(real: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise Killed
            return await real(*args, **kwargs)

        return counted

    with monkeypatch.context() as patch:
        for name in ("insert", "replace", "delete"):
            patch.setattr(world.store, name, wrap(getattr(world.store, name)))
        with contextlib.suppress(Killed):
            yield


@needs_links
@pytest.mark.parametrize("number", range(1, 16))
def test_a_join_survives_a_kill_at_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    async def test(world: World) -> None:
        ids = [await world.part(data) for data in PARTS]
        async with killed_at(world, monkeypatch, number):
            await world.uploads.concatenate(ids, filename="a.pkg", actor="me")
        world.start()
        joined = await world.uploads.concatenate(ids, filename="a.pkg", actor="me")
        assert joined.package == package_id("a.pkg")
        assert world.packages.published["a.pkg"] == manifest_of(DATA)
        world.clock += 10 * LIFE_MS
        await world.uploads.expire()
        assert world.files(world.layout.uploads) == []

    in_world(tmp_path, test)


def test_the_id_of_a_join_follows_from_its_parts(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        ids = [await world.part(b"1"), await world.part(b"2")]
        joined = await world.uploads.concatenate(ids, filename="a.pkg", actor="me")
        assert joined.id == hashlib.sha256("\0".join(ids).encode()).hexdigest()[:32]

    in_world(tmp_path, test)


def test_an_upload_that_is_published_and_not_served_yet_is_finished_later(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.packages.fail_after = NotSettled()
        upload = await world.create(data=b"x", replace=True)
        with pytest.raises(NotSettled):
            await world.complete(upload, b"x")
        assert world.packages.published["a.pkg"] == manifest_of(b"x")
        assert world.files(world.layout.blobs) == [manifest_of(b"x").sha256]
        finished = await world.start().finish(upload.id)
        assert finished.package == package_id("a.pkg")

    in_world(tmp_path, test)


def test_an_upload_whose_bytes_arrive_for_longer_than_its_life_does_not_expire(tmp_path: Path) -> None:
    """Another process of the node looks for expired uploads, and sees nobody who writes."""

    async def test(world: World) -> None:
        serving = world.uploads
        upload = await world.create()
        world.clock += LIFE_MS - 1
        async with serving.receiving(upload, 0) as receiver:
            worker = world.start()
            world.clock += LIFE_MS - 1
            await worker.expire()
            for number in range(3):
                await receiver.write(DATA[number : number + 1])
                await asyncio.sleep(LIFE_MS / 4000 + 0.1)
                world.clock += LIFE_MS - 1
                await worker.expire()
                assert world.layout.upload(upload.id).exists()
            await receiver.write(DATA[3:])
            await serving.complete(upload, receiver, remember=True)
        assert world.packages.published["a.pkg"] == manifest_of(DATA)
        assert (await serving.get(upload.id)).package

    in_world(tmp_path, test)


def test_an_upload_that_was_prolonged_meanwhile_does_not_expire(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        real = world.store.find

        async def find(*args: Any, **more: Any) -> Any:
            found = await real(*args, **more)
            await world.uploads._note(upload.id, expires_at=world.clock + LIFE_MS)
            return found

        world.clock += LIFE_MS
        world.store.find = find  # type: ignore[method-assign]
        await world.uploads.expire()
        assert (await world.uploads.get(upload.id)).offset == 0
        assert world.layout.upload(upload.id).exists()

    in_world(tmp_path, test)


def test_what_is_forgotten_gives_its_room_back_before_the_database_needs_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA[:MIB])

        async def full(*_: Any) -> int:
            raise StorageFull()

        with monkeypatch.context() as patched:
            patched.setattr(world.store, "delete", full)
            with pytest.raises(StorageFull):
                await world.uploads.forget(upload.id)
        assert world.files(world.layout.uploads) == []

    in_world(tmp_path, test)
