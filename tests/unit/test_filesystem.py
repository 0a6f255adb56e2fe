"""The file system, by the fast ways and by the portable ones."""

import errno
import os
import threading
from pathlib import Path

import pytest

from appliance.domain.errors import InvalidSettings, StorageError, StorageFull
from appliance.store import filesystem as fs

BOTH = pytest.mark.parametrize("portable", [False, True], ids=["fast", "portable"])


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    portable = (
        request.node.callspec.params.get("portable", False) if hasattr(request.node, "callspec") else False
    )
    monkeypatch.setenv("ODS_PORTABLE", "1" if portable else "0")


def test_the_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    for value, expected in (("", False), ("0", False), ("1", True)):
        monkeypatch.setenv("ODS_PORTABLE", value)
        assert fs.portable() is expected


@BOTH
def test_blocks_written_by_many_threads_all_arrive(tmp_path: Path, portable: bool) -> None:
    descriptor = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    try:
        fs.preallocate(descriptor, 64_000)
        assert os.fstat(descriptor).st_size == 64_000
        threads = [
            threading.Thread(target=fs.write_at, args=(descriptor, bytes([number]) * 1000, number * 1000))
            for number in range(64)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fs.start_writeback(descriptor, 0, 64_000)
        fs.sync_file(descriptor)
        buffer = memoryview(bytearray(1000))
        for number in range(64):
            assert fs.read_at(descriptor, buffer, number * 1000) == 1000
            assert bytes(buffer) == bytes([number]) * 1000
        assert fs.read_at(descriptor, buffer, 64_000) == 0
    finally:
        os.close(descriptor)


@BOTH
def test_a_second_name(tmp_path: Path, portable: bool) -> None:
    (tmp_path / "a").write_bytes(b"bytes")
    assert fs.link(tmp_path / "a", tmp_path / "linked") is not portable
    assert (tmp_path / "linked").exists() is not portable
    fs.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"bytes"
    assert os.path.samefile(tmp_path / "a", tmp_path / "b") is not portable


@BOTH
def test_a_move_replaces(tmp_path: Path, portable: bool) -> None:
    (tmp_path / "a").write_bytes(b"new")
    (tmp_path / "b").write_bytes(b"old")
    fs.move(tmp_path / "a", tmp_path / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (tmp_path / "b").read_bytes() == b"new"


def test_a_copy_that_finds_no_room_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setenv("ODS_PORTABLE", "1")
    monkeypatch.setattr(fs.os, "fsync", full)
    (tmp_path / "a").write_bytes(b"bytes")
    with pytest.raises(StorageFull):
        fs.link_or_copy(tmp_path / "a", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_errors_are_told_apart() -> None:
    assert type(fs.storage_error(OSError(errno.ENOSPC, "x"))) is StorageFull
    assert type(fs.storage_error(OSError(errno.EDQUOT, "x"))) is StorageFull
    assert type(fs.storage_error(OSError(errno.EIO, "x"))) is StorageError


def test_boot_id_needs_a_system_that_has_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ODS_PORTABLE", "1")
    assert fs.boot_id() == ""


def test_what_the_disk_must_be_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_bytes(os.urandom(3_000_000))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if not hasattr(os, "RWF_NOWAIT"):
            assert fs.in_memory(descriptor, 0, 3_000_000)
            return
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        if fs.in_memory(descriptor, 0, 3_000_000):
            pytest.skip("this file system does not tell, or lives in memory")
        fs.read_ahead(descriptor, 0, 3_000_000)
        assert fs.in_memory(descriptor, 0, 3_000_000)
        assert fs.in_memory(descriptor, 0, 0)
    finally:
        os.close(descriptor)


def test_one_server_for_a_directory(tmp_path: Path) -> None:
    fs.lock_directory(tmp_path)
    try:
        with pytest.raises(InvalidSettings):
            fs.lock_directory(tmp_path)
    finally:
        os.close(fs._locks.pop())
