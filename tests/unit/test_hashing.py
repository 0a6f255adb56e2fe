"""Manifests made in two threads are those made the plain way."""

import io
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import Stopping
from appliance.domain.manifest import CHUNK_SIZE
from appliance.service.hashing import ChunkHashes, ManifestBuilder, feed_file, hash_file
from tests.builders import manifest_of

SIZES = [0, 1, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, 9 * CHUNK_SIZE + 12_345]


@pytest.mark.parametrize("size", SIZES)
def test_a_file(tmp_path: Path, size: int) -> None:
    data = random.Random(size).randbytes(size)
    (tmp_path / "f").write_bytes(data)
    assert hash_file(tmp_path / "f") == manifest_of(data)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 700_000), max_size=8), st.integers(0, 9))
def test_blocks_of_any_size(lengths: list[int], seed: int) -> None:
    data = random.Random(seed).randbytes(sum(lengths))
    stream, builder = io.BytesIO(data), ManifestBuilder()
    for length in lengths:
        block = memoryview(stream.read(length))
        builder.chunks(block)
        builder.whole(block)
    assert builder.manifest() == manifest_of(data)


def test_a_list_can_be_read_twice() -> None:
    hashes = ChunkHashes()
    hashes.update(memoryview(b"x" * 10))
    assert hashes.packed() == hashes.packed()


def test_only_the_first_bytes_count(tmp_path: Path) -> None:
    data = random.Random(3).randbytes(6 * CHUNK_SIZE)
    (tmp_path / "f").write_bytes(data)
    builder = ManifestBuilder()
    descriptor = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        with ThreadPoolExecutor(1) as helper:
            assert feed_file(builder, descriptor, 5 * CHUNK_SIZE + 1, helper) == 5 * CHUNK_SIZE + 1
    finally:
        os.close(descriptor)
    assert builder.manifest() == manifest_of(data[: 5 * CHUNK_SIZE + 1])


def test_it_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(10 * CHUNK_SIZE))
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise Stopping

    with pytest.raises(Stopping):
        hash_file(tmp_path / "f", check)
    assert calls == 2
