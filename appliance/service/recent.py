"""Chunks that just came, kept in memory until the hashes of the whole file have read them."""

import threading

from appliance.domain.manifest import CHUNK_SIZE
from appliance.store.filesystem import aligned_buffer

AHEAD = 32  #: chunks that may be kept before the one that is hashed next
_FEW = 4  #: chunks after which who brings more waits for the hashes: so many stay in a processor's cache
_PATIENCE_S = 0.1  #: how long who brings a chunk waits for the hashes


class Buffers:
    """Room for chunks in memory, shared by all transfers. What finds none is read from the file."""

    def __init__(self, most: int = AHEAD) -> None:
        self._left = most
        self._spare: list[memoryview] = []
        self._lock = threading.Lock()

    def take(self) -> memoryview | None:
        """A buffer, if there is one."""
        with self._lock:
            if self._spare:
                return self._spare.pop()
            if not self._left:
                return None
            self._left -= 1
        return aligned_buffer(CHUNK_SIZE)

    def give(self, buffer: memoryview) -> None:
        """Give a buffer back, or another one of its size in its place."""
        with self._lock:
            self._spare.append(buffer)


class Recent:
    """The newest chunks of one file, from the one on that is hashed next."""

    def __init__(self, buffers: Buffers) -> None:
        self._buffers = buffers
        self._kept: dict[int, memoryview] = {}
        self._next = 0
        self._moved = threading.Condition()
        self._hashing = False

    def keep(self, index: int, chunk: memoryview) -> memoryview | None:
        """Keep a chunk before it is written to the file, if there is room.

        Waits a moment if the hashes are busy with what came before: bytes that left the cache cost more to hash, and
        what is not kept must be read from the file.

        Returns:
            Another buffer of the size of a chunk in place of the kept one, or None.
        """
        if len(chunk) < CHUNK_SIZE:
            return None
        with self._moved:
            self._moved.wait_for(lambda: len(self._kept) < _FEW or not self._hashing, _PATIENCE_S)
            other = self._buffers.take() if index < self._next + AHEAD else None
            if other is not None:
                self._kept[index] = chunk
        return other

    def note(self, *, hashing: bool) -> None:
        """Note that the hashes are being made, or wait for a chunk."""
        with self._moved:
            self._hashing = hashing
            self._moved.notify_all()

    def get(self, index: int) -> memoryview | None:
        """A kept chunk; nobody writes to it before it is dropped."""
        return self._kept.get(index)

    def drop(self, index: int) -> None:
        """Let go of a chunk that has been hashed, kept or not."""
        with self._moved:
            self._next = index + 1
            chunk = self._kept.pop(index, None)
            self._moved.notify_all()
        if chunk is not None:
            self._buffers.give(chunk)

    def clear(self) -> None:
        """Let go of all chunks."""
        with self._moved:
            kept, self._kept = self._kept, {}
        for chunk in kept.values():
            self._buffers.give(chunk)
