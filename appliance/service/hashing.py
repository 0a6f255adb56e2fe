"""Hashing: one pass over bytes makes the manifest, in two threads.

SHA-1 of a chunk and of the whole, and SHA-256 of the whole cost about 1.5 CPU-seconds a GiB. hashlib releases the
interpreter above 2 KiB, so two threads halve the time; more are no better on two cores (measured).
"""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path

from appliance.domain.manifest import CHUNK_SIZE, Hash, Manifest, sha1
from appliance.store.filesystem import open_regular, read_at

BLOCK = 262_144
_READ = 4 * CHUNK_SIZE


def sha256() -> Hash:
    """A SHA-256."""
    return hashlib.sha256()


class ChunkHashes:
    """The SHA-1 of every chunk of a stream of bytes, in blocks of any size."""

    def __init__(self) -> None:
        self._packed = bytearray()
        self._chunk = hashlib.sha1(usedforsecurity=False)
        self._filled = 0

    def update(self, data: memoryview) -> None:
        """Feed the next bytes."""
        while len(data):
            part = data[: CHUNK_SIZE - self._filled]
            self._chunk.update(part)
            self._filled += len(part)
            data = data[len(part) :]
            if self._filled == CHUNK_SIZE:
                self._next()

    def _next(self) -> None:
        self._packed += self._chunk.digest()
        self._chunk = hashlib.sha1(usedforsecurity=False)
        self._filled = 0

    def packed(self) -> bytes:
        """The packed list; nothing may be fed after it."""
        if self._filled:
            self._next()
        return bytes(self._packed)


class ManifestBuilder:
    """Makes a manifest from blocks. `chunks` and `whole` are two halves that two threads may feed."""

    def __init__(self) -> None:
        self.size = 0
        self._chunks = ChunkHashes()
        self._sha1 = sha1()
        self._sha256 = hashlib.sha256()

    def chunks(self, data: memoryview) -> None:
        """Feed the half that hashes chunks and counts bytes."""
        self._chunks.update(data)
        self.size += len(data)

    def whole(self, data: memoryview) -> None:
        """Feed the half that hashes the whole."""
        for start in range(0, len(data), BLOCK):
            part = data[start : start + BLOCK]
            self._sha256.update(part)
            self._sha1.update(part)

    def manifest(self) -> Manifest:
        """The manifest of all that was fed to both halves."""
        return Manifest(
            size=self.size,
            sha1=self._sha1.hexdigest(),
            sha256=self._sha256.hexdigest(),
            chunks=self._chunks.packed(),
        )


def feed_file(
    builder: ManifestBuilder,
    descriptor: int,
    length: int,
    helper: Executor,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Feed the first `length` bytes of a file to a builder, in this thread and one of `helper`.

    Args:
        builder: A fresh builder.
        descriptor: The open file.
        length: How many bytes.
        helper: Runs one half.
        check: Called every few MiB; what it raises ends it.

    Returns:
        How many bytes there were.
    """
    buffers = [memoryview(bytearray(_READ)), memoryview(bytearray(_READ))]
    other: Future[None] | None = None
    done = 0
    turn = 0
    while done < length:
        check()
        buffer = buffers[turn]
        count = read_at(descriptor, buffer[: min(_READ, length - done)], done)
        if not count:
            break
        if other is not None:
            other.result()
        other = helper.submit(builder.whole, buffer[:count])
        builder.chunks(buffer[:count])
        done += count
        turn ^= 1
    if other is not None:
        other.result()
    return done


def hash_file(path: Path, check: Callable[[], None] = lambda: None) -> Manifest:
    """The manifest of a file on disk, in two threads.

    Args:
        path: The file.
        check: Called every few MiB; what it raises ends it.

    Raises:
        OSError: There is no such file, it cannot be read, or it is no regular file.
    """
    builder = ManifestBuilder()
    descriptor = open_regular(path)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="whole") as helper:
            feed_file(builder, descriptor, os.fstat(descriptor).st_size, helper, check)
    finally:
        os.close(descriptor)
    return builder.manifest()
