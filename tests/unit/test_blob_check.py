"""What counts as damage, and what only says that the system is short of something."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.domain.errors import StorageError
from appliance.service import blob_check as module
from appliance.service.blob_check import Gentle, look, verify
from appliance.store.blobs import BlobStore, Stamp
from appliance.store.layout import Layout
from tests.builders import MIB, manifest_of

DATA = os.urandom(2 * MIB + 77)
SHA256 = manifest_of(DATA).sha256


@pytest.fixture(params=["0", "1"], ids=["fast", "portable"])
def blobs(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> BlobStore:
    monkeypatch.setenv("ODS_PORTABLE", request.param)
    store = BlobStore(Layout(tmp_path), floor_bytes=0)
    upload = Layout(tmp_path).upload("u")
    upload.write_bytes(DATA)
    store.commit(upload, SHA256)
    return store


def test_a_right_file(blobs: BlobStore) -> None:
    seen: list[int] = []
    for gentle in (None, Gentle(seen.append)):
        finding = verify(blobs, SHA256, gentle=gentle)
        assert finding.right
        assert finding.read == len(DATA)
        assert finding.stamp == Stamp.of(blobs.path(SHA256).stat())
    assert sum(seen) == len(DATA)
    assert look(blobs, SHA256, len(DATA)).right
    assert look(blobs, SHA256, None).right


def gone(path: Path) -> None:
    path.unlink()


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [(gone, "missing"), (directory, "directory"), (link, "link"), (pipe, "no regular file")],
)
def test_something_else_in_its_place(blobs: BlobStore, damage: Callable[[Path], None], words: str) -> None:
    damage(blobs.path(SHA256))
    for finding in (look(blobs, SHA256, len(DATA)), verify(blobs, SHA256)):
        assert words in finding.fault
        assert finding.stamp is None
    assert blobs.quarantine_found(SHA256, None)
    assert not os.path.lexists(blobs.path(SHA256))
    blobs.drop_quarantined(SHA256)
    assert blobs.quarantined() == []


def test_wrong_bytes_and_wrong_sizes(blobs: BlobStore) -> None:
    with blobs.path(SHA256).open("r+b") as file:
        file.seek(MIB)
        file.write(b"rot")
    assert look(blobs, SHA256, len(DATA)).right, "a look cannot see that"
    finding = verify(blobs, SHA256, gentle=Gentle(lambda _: None))
    assert "SHA-256 is" in finding.fault
    os.truncate(blobs.path(SHA256), 5)
    assert "5 bytes, not" in look(blobs, SHA256, len(DATA)).fault


@pytest.mark.parametrize(("number", "damage"), [("EIO", True), ("EMFILE", False), ("ENOMEM", False)])
@pytest.mark.parametrize("gentle", [None, Gentle(lambda _: None)])
def test_an_error_of_reading(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch, number: str, damage: bool, gentle: Gentle | None
) -> None:
    real = module.read_at

    def failing(descriptor: int, buffer: memoryview, offset: int) -> int:
        if offset == MIB:
            raise OSError(getattr(errno, number), os.strerror(getattr(errno, number)))
        return real(descriptor, buffer, offset)

    monkeypatch.setattr(module, "read_at", failing)
    if damage:
        finding = verify(blobs, SHA256, gentle=gentle)
        assert finding.fault == "the file cannot be read: Input/output error"
        assert (finding.read, finding.stamp) == (MIB, Stamp.of(blobs.path(SHA256).stat()))
    else:
        with pytest.raises(StorageError):
            verify(blobs, SHA256, gentle=gentle)


def test_a_file_system_that_reads_through_memory_only(
    blobs: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = module.read_at
    direct = [True]

    def refusing(descriptor: int, buffer: memoryview, offset: int) -> int:
        if direct[0]:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, buffer, offset)

    def keep_out(_descriptor: int, *, wanted: bool = True) -> bool:
        direct[0] = wanted
        return wanted

    monkeypatch.setattr(module, "read_at", refusing)
    monkeypatch.setattr(module, "keep_out_of_cache", keep_out)
    assert verify(blobs, SHA256, gentle=Gentle(lambda _: None)).right


def test_a_file_that_somebody_writes_to_is_no_verdict(blobs: BlobStore) -> None:
    def write(_: int) -> None:
        os.utime(blobs.path(SHA256), ns=(1, 1))

    with pytest.raises(StorageError, match="changed while it was read"):
        verify(blobs, SHA256, gentle=Gentle(write))


def test_a_file_that_took_the_place_of_a_damaged_one_is_left(blobs: BlobStore, tmp_path: Path) -> None:
    with blobs.path(SHA256).open("r+b") as file:
        file.write(b"rot")
    finding = verify(blobs, SHA256)
    assert finding.fault
    upload = Layout(tmp_path).upload("u")
    upload.write_bytes(DATA)
    assert blobs.commit(upload, SHA256).replaced
    assert not blobs.quarantine_found(SHA256, finding.stamp)
    assert not blobs.quarantine_found(SHA256, None), "it is not missing any more"
    assert verify(blobs, SHA256).right


def test_a_commit_takes_the_place_of_whatever_is_there(blobs: BlobStore, tmp_path: Path) -> None:
    for damage in (gone, directory, link, pipe, lambda path: path.write_bytes(b"x" * len(DATA))):
        damage(blobs.path(SHA256))
        upload = Layout(tmp_path).upload("u")
        upload.write_bytes(DATA)
        blobs.commit(upload, SHA256)
        assert verify(blobs, SHA256).right


def test_a_directory_in_the_place_of_a_public_name(blobs: BlobStore, tmp_path: Path) -> None:
    name = Layout(tmp_path).packages / "a.pkg"
    name.mkdir()
    (name / "inside").write_bytes(b"")
    assert not blobs.shows(SHA256, "a.pkg")
    blobs.publish(SHA256, "a.pkg")
    assert name.read_bytes() == DATA
    assert blobs.shows(SHA256, "a.pkg")
