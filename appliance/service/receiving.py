"""Receives bytes into a file and hashes them on the way, in two threads beside the one that receives.

One thread writes and hashes chunks, the other hashes the whole. At most a few blocks wait, so a fast sender is held
back by the slower of disk and hash, and memory does not grow.
"""

import asyncio
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from appliance.domain.errors import StorageError, SyncFailed
from appliance.domain.manifest import Hash, Manifest
from appliance.store.filesystem import start_writeback, storage_error, sync_file, write_at

from .hashing import ManifestBuilder, feed_file

BLOCK = 1024 * 1024  #: bytes handed over at once
WAITING = 8  #: blocks
CHECK = 4 * 1024 * 1024  #: bytes after which the disk's free space is looked at
WRITEBACK = 32 * 1024 * 1024  #: bytes after which the disk is told to begin


class Receiver:
    """A file that grows at its end. Made and used on the event loop; one writer at a time."""

    def __init__(self, descriptor: int, check: Callable[[], None]) -> None:
        self.offset = 0  #: bytes taken; those before `flush` may still be on their way to the file
        self._descriptor = descriptor
        self._check = check
        self._builder = ManifestBuilder()
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="receive-disk")
        self._whole = ThreadPoolExecutor(1, thread_name_prefix="receive-whole")
        self._waiting: deque[tuple[Future[None], Future[None]]] = deque()
        self._gathered: list[memoryview] = []
        self._gathered_bytes = 0
        self._written_back = 0
        self._checked = 0
        self._failure: StorageError | None = None
        self.checksum: Hash | None = None  #: fed with what is written from now on; read it after `flush`

    @classmethod
    async def open(cls, path: Path, length: int, *, check: Callable[[], None] = lambda: None) -> "Receiver":
        """Open a file of which the first `length` bytes count; what is behind them is cut off, they are hashed.

        Args:
            path: The file.
            length: How many bytes count.
            check: Called in a thread now and then while bytes are written; a StorageError of it ends the writing.

        Raises:
            StorageError: The disk fails.
        """
        return await asyncio.to_thread(cls._open, path, length, check)

    @classmethod
    def _open(cls, path: Path, length: int, check: Callable[[], None]) -> "Receiver":
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o640)
        except OSError as exc:
            raise storage_error(exc) from exc
        receiver = cls(descriptor, check)
        try:
            os.ftruncate(descriptor, length)
            receiver.offset = feed_file(receiver._builder, descriptor, length, receiver._whole)
        except OSError as exc:
            receiver.close()
            raise storage_error(exc) from exc
        return receiver

    @property
    def closed(self) -> bool:
        """Whether it let go of its file."""
        return self._descriptor < 0

    @property
    def sound(self) -> bool:
        """Whether it can take more bytes."""
        return not self.closed and self._failure is None

    async def write(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            StorageError: The disk is full or fails; found out up to a few blocks late.
        """
        self._gathered.append(memoryview(data))
        self.offset += len(data)
        self._gathered_bytes += len(data)
        if self._gathered_bytes >= BLOCK:
            self._hand_over()
            while len(self._waiting) > WAITING:
                await self._oldest()

    def _hand_over(self) -> None:
        """Give what was gathered to both threads: handing over costs more than a network read brings."""
        block, self._gathered = self._gathered, []
        offset = self.offset - self._gathered_bytes
        self._gathered_bytes = 0
        self._waiting.append(
            (self._disk.submit(self._to_disk, block, offset), self._whole.submit(self._hash, block))
        )

    def _to_disk(self, block: list[memoryview], offset: int) -> None:
        if (
            self._failure is not None
        ):  # nothing behind a block that is missing: the file's length must be true
            raise self._failure
        try:
            if offset - self._checked >= CHECK:
                self._checked = offset
                self._check()
            for data in block:
                write_at(self._descriptor, data, offset)
                self._builder.chunks(data)
                offset += len(data)
            if offset - self._written_back >= WRITEBACK:
                start_writeback(self._descriptor, self._written_back, offset - self._written_back)
                self._written_back = offset
        except StorageError as exc:
            self._failure = exc
            raise

    def _hash(self, block: list[memoryview]) -> None:
        for data in block:
            self._builder.whole(data)
            if self.checksum is not None:
                self.checksum.update(data)

    async def _oldest(self) -> None:
        for future in self._waiting.popleft():
            await asyncio.wrap_future(future)

    async def flush(self) -> None:
        """Wait until all bytes taken are in the file.

        Raises:
            StorageError: They cannot be.
        """
        if self._gathered:
            self._hand_over()
        while self._waiting:
            await self._oldest()

    async def sync(self) -> None:
        """Make all bytes taken durable.

        Raises:
            SyncFailed: The disk did not keep them; nothing since the last good sync may be believed, or added to.
        """
        await self.flush()
        try:
            await asyncio.to_thread(sync_file, self._descriptor)
        except SyncFailed as exc:
            self._failure = exc
            raise

    async def rewind(self, offset: int) -> None:
        """Cut the file off at `offset` and let go of it: the hashes are made anew by whoever opens it next."""
        await self.flush()
        await asyncio.to_thread(os.ftruncate, self._descriptor, offset)
        self.offset = offset
        await asyncio.to_thread(self.close)

    async def manifest(self) -> Manifest:
        """The manifest of the complete file; nothing may be written after it."""
        await self.flush()
        return self._builder.manifest()

    def close(self) -> None:
        """Let go of file and threads. Twice is once."""
        self._disk.shutdown(wait=True, cancel_futures=True)
        self._whole.shutdown(wait=True, cancel_futures=True)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
