"""Hashing a file while its chunks arrive in any order."""

import hashlib
import random
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from appliance.domain.manifest import CHUNK_SIZE
from appliance.service import frontier as module
from appliance.service import recent
from appliance.service.frontier import FrontierHash
from appliance.service.recent import AHEAD, Buffers, Recent
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from tests.builders import manifest_of

MIB = 1024 * 1024
DATA = random.Random(5).randbytes(40 * MIB + 777)


class Pool(ThreadPoolExecutor):
    """Counts tasks, and how many ran at once."""

    def __init__(self) -> None:
        super().__init__(4)
        self.tasks = self.running = self.most = 0
        self._count = threading.Lock()

    def submit(self, fn, /, *args, **kwargs) -> Future:  # type: ignore[no-untyped-def, type-arg]
        def counted() -> object:
            with self._count:
                self.running += 1
                self.most = max(self.most, self.running)
            try:
                return fn(*args, **kwargs)
            finally:
                with self._count:
                    self.running -= 1

        self.tasks += 1
        return super().submit(counted)


@pytest.fixture
def pool() -> Iterator[Pool]:
    with Pool() as made:
        yield made


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    BlobStore(layout, floor_bytes=0)
    return layout


def opened(layout: Layout, data: bytes) -> PartialFile:
    return PartialFile.open(layout, "t", manifest_of(data))


def put(partial: PartialFile, data: bytes, index: int) -> int:
    """Write a chunk and say how many bytes are in without a gap."""
    partial.write_chunk(index, memoryview(data)[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE])
    with partial.lock:
        return min(partial.chunks.frontier() * CHUNK_SIZE, len(data))


def digests(data: bytes) -> tuple[str, str]:
    return hashlib.sha1(data).hexdigest(), hashlib.sha256(data).hexdigest()


def taken(buffers: Buffers) -> list[memoryview]:
    """All the buffers that can be had."""
    found = []
    while (buffer := buffers.take()) is not None:
        found.append(buffer)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_chunks_in_any_order_from_several_threads(layout: Layout, pool: Pool, seed: int) -> None:
    partial = opened(layout, DATA)
    buffers = Buffers()
    follower = FrontierHash(partial, len(DATA), pool, buffers)
    order = list(range(partial.chunks.count))
    random.Random(seed).shuffle(order)

    def bring(index: int) -> None:
        chunk = memoryview(bytearray(DATA[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]))
        other = follower.take(index, chunk)
        follower.advance(put(partial, DATA, index))
        if other is None:
            chunk[:] = bytes(len(chunk))  # the next chunk overwrites a buffer that was not kept

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(bring, order))
    assert follower.digests() == digests(DATA)
    assert pool.most == 1, "one task at a time"
    assert pool.running == 0
    follower.close()
    assert len(taken(buffers)) == AHEAD, "all of them come back"
    partial.close()


@pytest.mark.parametrize(
    "size", [0, 1, MIB - 1, MIB, MIB + 1, 8 * MIB - 1, 8 * MIB, 8 * MIB + 1, 9 * MIB, 17 * MIB]
)
def test_sizes(layout: Layout, pool: Pool, size: int) -> None:
    data = DATA[:size]
    partial = opened(layout, data)
    follower = FrontierHash(partial, size, pool, Buffers())
    for index in range(partial.chunks.count):
        follower.advance(put(partial, data, index))
    assert follower.digests() == digests(data)
    assert size > module._SMALL or not pool.tasks, "small files cost no task"
    partial.close()


def test_nobody_advanced_it(layout: Layout, pool: Pool) -> None:
    partial = opened(layout, DATA)
    for index in range(partial.chunks.count):
        put(partial, DATA, index)
    assert FrontierHash(partial, len(DATA), pool, Buffers()).digests() == digests(DATA)
    partial.close()


def test_an_older_goal_takes_nothing_back(layout: Layout, pool: Pool) -> None:
    partial = opened(layout, DATA)
    for index in range(partial.chunks.count):
        put(partial, DATA, index)
    follower = FrontierHash(partial, len(DATA), pool, Buffers())
    for goal in (30 * MIB, 3 * MIB, len(DATA), 0):
        follower.advance(goal)
    assert follower.digests() == digests(DATA)
    partial.close()


def test_a_slow_transfer_keeps_no_thread(layout: Layout, pool: Pool) -> None:
    partial = opened(layout, DATA)
    follower = FrontierHash(partial, len(DATA), pool, Buffers())
    for index in range(20):
        follower.advance(put(partial, DATA, index))
        if follower._task is not None:
            follower._task.result(10)
            assert pool.running == 0
    assert pool.tasks == 10, "a task begins when enough is waiting"
    partial.close()


def test_a_file_that_is_shorter_than_it_says_is_an_error_and_not_an_endless_loop(
    layout: Layout, pool: Pool
) -> None:
    for data in (DATA, DATA[: 2 * MIB]):
        partial = opened(layout, data)
        for index in range(partial.chunks.count):
            put(partial, data, index)
        with layout.partial("t").open("r+b") as file:
            file.truncate(len(data) // 2)
        with pytest.raises(OSError, match="ends at byte"):
            FrontierHash(partial, len(data), pool, Buffers()).digests()
        partial.discard()


@pytest.mark.parametrize("size", [7 * MIB + 5, 20 * MIB])
def test_what_comes_in_order_is_hashed_from_memory(layout: Layout, pool: Pool, size: int) -> None:
    data = DATA[:size]
    partial = opened(layout, data)
    follower = FrontierHash(partial, size, pool, Buffers())
    for index in range(partial.chunks.count):
        chunk = memoryview(bytearray(data[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]))
        follower.take(index, chunk)
        if len(chunk) == CHUNK_SIZE or size <= module._SMALL:  # what is in the file is not looked at
            partial.write_chunk(index, memoryview(bytes(len(chunk))))
        else:
            partial.write_chunk(index, chunk)
        follower.advance(min((index + 1) * CHUNK_SIZE, size))
    assert follower.digests() == digests(data)
    partial.close()


def test_room_in_memory_is_bounded_and_shared() -> None:
    buffers = Buffers(3)
    one, other = Recent(buffers), Recent(buffers)
    chunk = memoryview(bytearray(CHUNK_SIZE))
    assert one.keep(0, chunk) is not None
    assert one.keep(AHEAD, chunk) is None, "too far ahead"
    assert one.keep(1, chunk[:-1]) is None, "a short one would be a short buffer later"
    assert one.keep(1, chunk) is not None
    assert other.keep(0, chunk) is not None
    assert other.keep(1, chunk) is None
    one.drop(0)
    assert one.get(0) is None
    assert one.get(1) is chunk
    assert other.keep(1, chunk) is chunk
    one.clear()
    other.clear()
    assert len(taken(buffers)) == 3


def test_who_brings_chunks_waits_a_moment_for_busy_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, "_PATIENCE_S", 30.0)
    kept = Recent(Buffers())
    chunk = memoryview(bytearray(CHUNK_SIZE))
    for index in range(8):
        kept.keep(index, chunk)  # the hashes wait for something else: no reason to wait for them
    kept.note(hashing=True)
    waiting = threading.Thread(target=kept.keep, args=(8, chunk))
    waiting.start()
    for index in range(5):
        waiting.join(0.02)
        assert waiting.is_alive()
        kept.drop(index)
    waiting.join(10)
    assert not waiting.is_alive()
    kept.note(hashing=False)
    kept.keep(9, chunk)  # at once
