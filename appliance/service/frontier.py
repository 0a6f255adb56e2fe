"""Hashes a file while it fills: SHA-1 and SHA-256 of the whole follow the chunks that are in without a gap.

Each hash is one task at a time on the `hash` executor. A task reads what is there and ends, so that a slow
transfer occupies no thread.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future

from appliance.domain.manifest import CHUNK_SIZE, Hash
from appliance.store.partial import PartialFile

_BLOCK = 262_144
_STEP = 16 * CHUNK_SIZE
_SMALL = 16 * CHUNK_SIZE  #: a file of at most so many bytes is hashed at the end, by who asks


class FrontierHash:
    """One whole-file hash over a partial file."""

    def __init__(self, partial: PartialFile, size: int, new: Callable[[], Hash], executor: Executor) -> None:
        self._partial = partial
        self._size = size
        self._hash = new()
        self._executor = executor
        self._lock = threading.Lock()
        self._done = 0
        self._goal = 0
        self._running = False
        self._task: Future[None] | None = None

    def advance(self, goal: int) -> None:
        """Say that the first `goal` bytes are in; starts a task when enough are waiting."""
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
        buffer = memoryview(bytearray(_BLOCK))
        while True:
            with self._lock:
                goal = self._goal
                if self._done >= goal or (goal - self._done < CHUNK_SIZE and goal < self._size):
                    self._running = False
                    return
            while self._done < goal:
                count = self._partial.read_into(self._done, buffer[: min(_BLOCK, goal - self._done)])
                if not count:
                    with self._lock:
                        self._running = False
                    return
                self._hash.update(buffer[:count])
                self._done += count

    def hexdigest(self) -> str:
        """Wait until the whole file is hashed and return the digest; every chunk must be in."""
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
        return self._hash.hexdigest()
