"""Hashes a file while it fills: SHA-1 and SHA-256 of the whole follow the chunks that are in without a gap.

A chunk that comes in order is hashed from the memory that it came in; any other is read from the file again. A small
file is hashed by the thread that fetches it, while the chunk is still in that processor's cache. A large one is hashed
by one task at a time on the `hash` executor, beside the fetch; it hashes what is there and ends, so that a slow
transfer occupies no thread. Both hashes are made block by block by the same thread, since bringing the bytes from
another processor's cache costs a good part of a hash.
"""

import threading
from concurrent.futures import Executor, Future

from appliance.domain.manifest import CHUNK_SIZE, sha1
from appliance.store.partial import PartialFile

from .hashing import BLOCK, sha256
from .recent import Buffers, Recent

_STEP = 2 * CHUNK_SIZE
_SMALL = 8 * CHUNK_SIZE  #: a file of at most so many bytes is hashed by who fetches it, or who asks


class FrontierHash:
    """SHA-1 and SHA-256 of a partial file as a whole."""

    def __init__(self, partial: PartialFile, size: int, executor: Executor, buffers: Buffers) -> None:
        self._partial = partial
        self._size = size
        self._executor = executor
        self._recent = Recent(buffers)
        self._sha1 = sha1()
        self._sha256 = sha256()
        self._lock = threading.Lock()
        self._done = 0
        self._goal = 0
        self._running = False
        self._task: Future[None] | None = None

    def take(self, index: int, chunk: memoryview) -> memoryview | None:
        """Take a verified chunk that is about to be written.

        Returns:
            Another buffer, if `chunk` was kept and may not be written to any more.
        """
        if self._size > _SMALL:
            return self._recent.keep(index, chunk)
        with self._lock:
            if self._done == index * CHUNK_SIZE:
                self._update(chunk)
        return None

    def advance(self, goal: int) -> None:
        """Say that the first `goal` bytes are in the file; starts a task when enough are waiting."""
        with self._lock:
            self._goal = max(self._goal, goal)
            waiting = self._goal - self._done
            if self._running or not waiting or (waiting < _STEP and self._goal < self._size):
                return
            if self._size <= _SMALL:
                return
            self._running = True
        self._task = self._executor.submit(self._run)

    def _run(self) -> None:
        self._recent.note(hashing=True)
        try:
            self._follow()
        finally:
            self._recent.note(hashing=False)

    def _follow(self) -> None:
        buffer = memoryview(bytearray(BLOCK))
        while True:
            with self._lock:
                goal = self._goal
                if self._done >= goal:
                    self._running = False
                    return
            while self._done < goal:
                if not self._chunk(buffer):
                    with self._lock:
                        self._running = False
                    return

    def _chunk(self, buffer: memoryview) -> bool:
        """Hash the next chunk; False if the file ends before it does."""
        index = self._done // CHUNK_SIZE
        kept = self._recent.get(index)
        if kept is not None:
            self._update(kept)
        end = min((index + 1) * CHUNK_SIZE, self._size)
        while self._done < end:
            count = self._partial.read_into(self._done, buffer[: end - self._done])
            if not count:
                return False
            self._update(buffer[:count])
        self._recent.drop(index)
        return True

    def _update(self, data: memoryview) -> None:
        for start in range(0, len(data), BLOCK):
            part = data[start : start + BLOCK]
            self._sha256.update(part)
            self._sha1.update(part)
        self._done += len(data)

    def digests(self) -> tuple[str, str]:
        """Wait until the whole file is hashed and return SHA-1 and SHA-256; every chunk must be in.

        Raises:
            OSError: The file is shorter than it should be.
        """
        if self._size <= _SMALL:
            self._goal, self._running = self._size, True
            self._run()
        while self._done < self._size:
            before = self._done
            self.advance(self._size)
            if self._task is not None:
                self._task.result()
            if self._done == before and not self._running:
                raise OSError(f"the partial file ends at byte {before} of {self._size}")
        return self._sha1.hexdigest(), self._sha256.hexdigest()

    def close(self) -> None:
        """Let go of chunks in memory; nobody may bring more."""
        self._recent.clear()
