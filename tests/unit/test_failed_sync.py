"""After a sync that failed, nothing that it should have kept is believed, though the next sync succeeds."""

import asyncio
import contextlib
import os
from pathlib import Path

import pytest

from appliance.domain.errors import StoreUnavailable, SyncFailed, UploadUnknown
from appliance.service import upload as values
from appliance.service import uploads as uploads_module
from appliance.service.receiving import Receiver
from appliance.service.secrets import SecretBox
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from tests.builders import MIB, manifest_of

from .sync_faults import FailingSyncs, syncs
from .test_upload_service import DATA, World, in_world

__all__ = ["syncs"]

MANIFEST = manifest_of(DATA)
HALF = MIB + 100


@pytest.fixture(params=["0", "1"], ids=["fast", "portable"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_PORTABLE", request.param)


def test_a_partial_file_and_its_map_are_discarded(tmp_path: Path, syncs: FailingSyncs) -> None:
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    partial = PartialFile.open(layout, "t", MANIFEST)
    for index in range(MANIFEST.count):
        partial.write_chunk(index, memoryview(DATA)[index * MIB : (index + 1) * MIB])
    syncs.arm(file=1)
    with pytest.raises(SyncFailed, match="Check the disk"):
        partial.finish()
    partial.close()
    assert list(layout.partials.iterdir()) == []
    again = PartialFile.open(layout, "t", MANIFEST)
    assert len(again.chunks) == 0
    again.close()


def test_a_map_that_cannot_be_deleted_is_not_believed_either(
    tmp_path: Path, syncs: FailingSyncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    partial = PartialFile.open(layout, "t", MANIFEST)
    for index in range(MANIFEST.count):
        partial.write_chunk(index, memoryview(DATA)[index * MIB : (index + 1) * MIB])
    syncs.arm(file=1)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(SyncFailed):
            partial.finish()
    again = PartialFile.open(layout, "t", MANIFEST)
    assert len(again.chunks) == 0
    again.close()


def refuse(*_: object, **__: object) -> None:
    raise OSError(5, "Input/output error")


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("fail", [{"file": 1}, {"directory": 1}, {"directory": 2}])
def test_a_commit_that_fails_leaves_no_blob(
    tmp_path: Path, syncs: FailingSyncs, fail: dict[str, int], keep: bool
) -> None:
    layout = Layout(tmp_path)
    blobs = BlobStore(layout, floor_bytes=0)
    path = layout.upload("u")
    path.write_bytes(DATA)
    syncs.arm(**fail)
    with pytest.raises(SyncFailed):
        blobs.commit(path, MANIFEST.sha256, keep=keep)
    assert not blobs.exists(MANIFEST.sha256, len(DATA))
    assert [each for each in layout.blobs.rglob("*") if each.is_file()] == []
    syncs.arm()
    path.write_bytes(DATA)
    blobs.commit(path, MANIFEST.sha256, keep=keep)
    assert blobs.path(MANIFEST.sha256).read_bytes() == DATA
    assert syncs.directories, "a directory that was not kept the first time is synced again"


def test_a_good_blob_is_not_lost_by_a_commit_that_fails(tmp_path: Path, syncs: FailingSyncs) -> None:
    layout = Layout(tmp_path)
    blobs = BlobStore(layout, floor_bytes=0)
    for fail in ({}, {"file": 1}, {"directory": 1}):
        path = layout.upload("u")
        path.write_bytes(DATA)
        syncs.arm(**fail)
        with contextlib.suppress(SyncFailed):
            blobs.commit(path, MANIFEST.sha256)
        assert blobs.path(MANIFEST.sha256).read_bytes() == DATA


def test_a_receiver_takes_no_more(tmp_path: Path, syncs: FailingSyncs) -> None:
    async def go() -> None:
        receiver = await Receiver.open(tmp_path / "f", 0)
        await receiver.write(b"x" * 100)
        syncs.arm(file=1)
        with pytest.raises(SyncFailed):
            await receiver.sync()
        assert not receiver.sound
        receiver.close()

    asyncio.run(go())


def test_an_upload_continues_where_it_was_last_safe(tmp_path: Path, syncs: FailingSyncs) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA[:MIB])
        syncs.arm(file=1)
        with pytest.raises(SyncFailed):
            await world.send(upload, DATA[MIB:HALF], MIB)
        assert (await world.uploads.get(upload.id)).offset == MIB
        assert world.layout.upload(upload.id).stat().st_size == MIB
        async with world.uploads.receiving(upload, MIB) as receiver:
            await receiver.write(DATA[MIB:])
            await world.uploads.complete(upload, receiver, remember=True)
        assert world.packages.published["a.pkg"] == MANIFEST

    in_world(tmp_path, test)


def test_it_does_so_in_the_next_life_too(
    tmp_path: Path, syncs: FailingSyncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the file could not be cut: it is as after a crash of the machine."""

    async def test(world: World) -> None:
        upload = await world.create()
        await world.send(upload, DATA[:MIB])
        syncs.arm(file=1)
        with monkeypatch.context() as patch:
            patch.setattr(uploads_module.os, "truncate", refuse)
            with pytest.raises(SyncFailed):
                await world.send(upload, DATA[MIB:HALF], MIB)
        assert (await world.start().get(upload.id)).offset == MIB

    in_world(tmp_path, test)


@pytest.mark.parametrize("fail", [{"file": 1}, {"directory": 2}])
def test_a_complete_upload_that_was_not_kept_is_sent_again(
    tmp_path: Path, syncs: FailingSyncs, fail: dict[str, int]
) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        syncs.arm(**fail)
        with pytest.raises(SyncFailed):
            await world.complete(upload)
        assert world.packages.published == {}
        assert world.files(world.layout.blobs) == []
        again = await world.uploads.finish(upload.id)  # as HEAD asks: nothing of it may be published now
        assert again.offset == 0
        assert world.packages.published == {}
        await world.complete(again)
        assert world.packages.published["a.pkg"] == MANIFEST

    in_world(tmp_path, test)


@pytest.mark.parametrize("way", ["0"], ids=["fast"], indirect=True)
def test_a_blob_is_not_cut_with_the_upload_that_it_came_from(
    tmp_path: Path, syncs: FailingSyncs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between blob and answer the upload's file is a second name of the blob, where there are hard links."""

    async def test(world: World) -> None:
        upload = await world.create()
        world.packages.fail_after = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await world.complete(upload)
        blob = world.blobs.path(MANIFEST.sha256)
        syncs.arm(file=1)
        with pytest.raises(SyncFailed):
            await world.uploads.finish(upload.id)
        assert blob.read_bytes() == DATA

        second = await world.create("b.pkg")
        world.packages.fail_after = StoreUnavailable()
        with pytest.raises(StoreUnavailable):
            await world.complete(second)
        monkeypatch.setattr(values, "boot_id", lambda: "after a power cut")
        assert (await world.start().finish(second.id)).package
        assert blob.read_bytes() == DATA

    in_world(tmp_path, test)


def test_a_put_that_was_not_kept_leaves_nothing(tmp_path: Path, syncs: FailingSyncs) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        syncs.arm(file=1)
        with pytest.raises(SyncFailed):
            await world.complete(upload, remember=False)
        with pytest.raises(UploadUnknown):
            await world.uploads.get(upload.id)
        assert world.files(world.layout.uploads) == world.files(world.layout.blobs) == []

    in_world(tmp_path, test)


def test_parts_are_kept_until_they_are_joined_for_certain(tmp_path: Path, syncs: FailingSyncs) -> None:
    async def test(world: World) -> None:
        parts = [await world.part(DATA[:MIB]), await world.part(DATA[MIB:])]
        syncs.arm(file=2)
        fields = {"filename": "a.pkg", "actor": "me"}
        with pytest.raises(SyncFailed):
            await world.uploads.concatenate(parts, **fields)
        assert world.packages.published == {}
        joined = await world.uploads.concatenate(parts, **fields)
        assert joined.package
        assert world.packages.published["a.pkg"] == MANIFEST

    in_world(tmp_path, test)


@pytest.mark.parametrize("remember", [False, True])
def test_a_file_that_cannot_be_deleted_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remember: bool
) -> None:
    async def test(world: World) -> None:
        upload = await world.create()
        real = uploads_module.remove

        def stuck(path: Path) -> None:
            if path == world.layout.upload(upload.id):
                raise OSError(5, "Input/output error")
            real(path)

        with monkeypatch.context() as patch:
            patch.setattr(uploads_module, "remove", stuck)
            await world.complete(upload, remember=remember)
            assert world.packages.published["a.pkg"] == MANIFEST
            world.clock += 10**9
            await world.uploads.expire()
        await world.uploads.expire()
        assert world.files(world.layout.uploads) == []
        assert await world.store.count("uploads") == 0

    in_world(tmp_path, test)


def test_a_key_that_was_not_kept_is_not_found_later(tmp_path: Path, syncs: FailingSyncs) -> None:
    syncs.arm(file=1)
    with pytest.raises(OSError, match="Input/output"):
        SecretBox(tmp_path / "secrets.key")
    assert os.listdir(tmp_path) == []
