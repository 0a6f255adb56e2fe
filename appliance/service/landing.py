"""Where a verified chunk goes: to the hashes of the whole file, and to the disk.

A chunk that is kept in memory for the hashes is written by a thread of its own, while the next one arrives. Any other
is written by who brings it, before its buffer is used again.
"""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Self

from appliance.domain.manifest import CHUNK_SIZE
from appliance.store.partial import PartialFile

from .frontier import FrontierHash


class Landing:
    """Takes the chunks of one file, from any thread; what it took is written when its context ends."""

    def __init__(self, partial: PartialFile, whole: FrontierHash, size: int) -> None:
        self._partial = partial
        self._whole = whole
        self._size = size
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="chunk-writer")
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        whole.advance(min(partial.chunks.frontier() * CHUNK_SIZE, size))

    def take(self, index: int, chunk: memoryview, landed: Callable[[], None]) -> memoryview | None:
        """Write a chunk whose hash was checked, now or soon.

        Args:
            index: Which one.
            chunk: Its bytes.
            landed: Called once it is written and marked.

        Returns:
            Another buffer, if `chunk` was kept and may not be written to any more.

        Raises:
            StorageError: This one or one before it could not be written.
        """
        self._check()
        other = self._whole.take(index, chunk)
        if other is None:
            self._write(index, chunk, landed)
        else:
            self._writer.submit(self._write_behind, index, chunk, landed)
        return other

    def finish(self) -> None:
        """Wait until all is written; nobody may bring more.

        Raises:
            StorageError: Something could not be.
        """
        self._writer.shutdown()
        self._check()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.shutdown()

    def _check(self) -> None:
        with self._lock:
            if self._error is not None:
                raise self._error

    def _write_behind(self, index: int, chunk: memoryview, landed: Callable[[], None]) -> None:
        try:
            self._check()
            self._write(index, chunk, landed)
        except BaseException as exc:
            with self._lock:
                self._error = self._error or exc

    def _write(self, index: int, chunk: memoryview, landed: Callable[[], None]) -> None:
        frontier = self._partial.write_chunk(index, chunk)
        self._whole.advance(min(frontier * CHUNK_SIZE, self._size))
        landed()
