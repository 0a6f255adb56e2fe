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
from appliance.service.frontier import FrontierHash
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


@pytest.mark.parametrize("seed", range(4))
def test_chunks_in_any_order_from_several_threads(layout: Layout, pool: Pool, seed: int) -> None:
    partial = opened(layout, DATA)
    hashes = [FrontierHash(partial, len(DATA), new, pool) for new in (hashlib.sha1, hashlib.sha256)]
    order = list(range(partial.chunks.count))
    random.Random(seed).shuffle(order)

    def bring(index: int) -> None:
        goal = put(partial, DATA, index)
        for item in hashes:
            item.advance(goal)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(bring, order))
    digests = [item.hexdigest() for item in hashes]
    assert digests == [hashlib.sha1(DATA).hexdigest(), hashlib.sha256(DATA).hexdigest()]
    assert pool.most <= 2, "one task at a time for each hash"
    assert pool.running == 0
    partial.close()


@pytest.mark.parametrize(
    "size", [0, 1, MIB - 1, MIB, MIB + 1, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 17 * MIB]
)
def test_sizes(layout: Layout, pool: Pool, size: int) -> None:
    data = DATA[:size]
    partial = opened(layout, data)
    follower = FrontierHash(partial, size, hashlib.sha256, pool)
    for index in range(partial.chunks.count):
        follower.advance(put(partial, data, index))
    assert follower.hexdigest() == hashlib.sha256(data).hexdigest()
    assert size > module._SMALL or not pool.tasks, "small files cost no task"
    partial.close()


def test_nobody_advanced_it(layout: Layout, pool: Pool) -> None:
    partial = opened(layout, DATA)
    for index in range(partial.chunks.count):
        put(partial, DATA, index)
    assert FrontierHash(partial, len(DATA), hashlib.sha1, pool).hexdigest() == hashlib.sha1(DATA).hexdigest()
    partial.close()


def test_an_older_goal_takes_nothing_back(layout: Layout, pool: Pool) -> None:
    partial = opened(layout, DATA)
    for index in range(partial.chunks.count):
        put(partial, DATA, index)
    follower = FrontierHash(partial, len(DATA), hashlib.sha1, pool)
    for goal in (30 * MIB, 3 * MIB, len(DATA), 0):
        follower.advance(goal)
    assert follower.hexdigest() == hashlib.sha1(DATA).hexdigest()
    partial.close()


def test_a_slow_transfer_keeps_no_thread(layout: Layout, pool: Pool) -> None:
    partial = opened(layout, DATA)
    follower = FrontierHash(partial, len(DATA), hashlib.sha1, pool)
    for index in range(20):
        follower.advance(put(partial, DATA, index))
    assert follower._task is not None
    follower._task.result(10)
    assert pool.running == 0
    assert pool.tasks <= 2, "tasks begin when enough is waiting"
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
            FrontierHash(partial, len(data), hashlib.sha1, pool).hexdigest()
        partial.discard()
