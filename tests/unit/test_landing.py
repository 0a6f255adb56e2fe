"""Chunks are written behind the thread that brings them, all of them or with an error that it is told."""

import hashlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.domain.errors import StorageError, StorageFull
from appliance.domain.manifest import CHUNK_SIZE
from appliance.service.frontier import FrontierHash
from appliance.service.landing import Landing
from appliance.service.recent import Buffers
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from tests.builders import MIB, manifest_of

DATA = random.Random(8).randbytes(20 * MIB + 77)


@pytest.fixture
def partial(tmp_path: Path) -> Iterator[PartialFile]:
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    partial = PartialFile.open(layout, "t", manifest_of(DATA))
    yield partial
    partial.close()


@pytest.fixture
def whole(partial: PartialFile) -> Iterator[FrontierHash]:
    with ThreadPoolExecutor(1) as hashing:
        whole = FrontierHash(partial, len(DATA), hashing, Buffers(6))
        yield whole
        whole.close()


def bring(landing: Landing, index: int, landed: list[int]) -> None:
    """Bring a chunk as a connection does: its buffer is used again unless it was kept."""
    chunk = memoryview(bytearray(DATA[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]))
    if landing.take(index, chunk, lambda: landed.append(index)) is None:
        chunk[:] = bytes(len(chunk))


@pytest.mark.parametrize("seed", [None, 1, 2])
def test_all_of_it_is_written_once_and_hashed(
    partial: PartialFile, whole: FrontierHash, seed: int | None
) -> None:
    order = list(range(partial.chunks.count))
    if seed is not None:
        random.Random(seed).shuffle(order)
    landed: list[int] = []
    with Landing(partial, whole, len(DATA)) as landing:
        for index in order:
            bring(landing, index, landed)
        landing.finish()
        assert sorted(landed) == sorted(order)
        assert partial.chunks.complete
    assert whole.digests() == (hashlib.sha1(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest())
    assert partial.finish().read_bytes() == DATA


def test_what_was_taken_is_written_when_the_fetch_fails(partial: PartialFile, whole: FrontierHash) -> None:
    landed: list[int] = []

    def fails() -> None:
        with Landing(partial, whole, len(DATA)) as landing:
            for index in range(4):
                bring(landing, index, landed)
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fails()
    assert landed == [0, 1, 2, 3]
    assert partial.chunks.frontier() == 4


def test_a_full_disk_is_told_and_leaves_the_rest_unmarked(
    partial: PartialFile, whole: FrontierHash, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failed = partial.write_chunk, threading.Event()

    def full_after_two(index: int, data: memoryview) -> int:
        if index >= 2:
            failed.set()
            raise StorageFull("The disk is full.")
        return write(index, data)

    monkeypatch.setattr(partial, "write_chunk", full_after_two)
    landed: list[int] = []
    with Landing(partial, whole, len(DATA)) as landing:
        for index in range(3):
            bring(landing, index, landed)
        assert failed.wait(10)
        with pytest.raises(StorageError, match="full"):
            landing.finish()
    assert landed == [0, 1]
    assert partial.chunks.frontier() == 2
