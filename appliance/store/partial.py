"""A file being fetched: preallocated, with a map beside it of the chunks that are verified and written.

The map file is one header line of JSON (what the bytes must be, and which boot of the machine wrote the map) and
one byte a chunk. A chunk's byte is set after its data was written. Both live in the page cache, so they outlive
the process, but not a power cut: if the boot id differs, every marked chunk is verified before it counts.

Where the disk is fast, chunks go to it past the page cache: a copy in memory costs more than the write, and would push
out of memory what devices are downloading. A slow disk gets the cache, which gathers writes for it.
"""

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from appliance.domain.chunkmap import ChunkMap
from appliance.domain.errors import ChunkInvalid, SyncFailed
from appliance.domain.manifest import CHUNK_SIZE, Manifest

from .filesystem import (
    boot_id,
    open_in_place,
    open_past_cache,
    preallocate,
    read_at,
    remove,
    start_writeback,
    storage_error,
    sync_file,
    write_at,
    write_past_cache,
)
from .layout import Layout

_HEADER = 512
_WRITEBACK_CHUNKS = 32
_SLOW_S = 0.02  #: a chunk that takes longer past the cache is one for a slow disk
_SLOW_CHUNKS = 16  #: so many more slow ones than quick ones, and the cache is used
_OPEN = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


class PartialFile:
    """One file being fetched. `write_chunk` and `read_into` may be called from several threads."""

    def __init__(self, path: Path, map_path: Path, manifest: Manifest, data: int, marks: int) -> None:
        self.path = path
        self.chunks = ChunkMap(manifest.count)
        self.lock = threading.Lock()  #: guards `chunks`
        self._map_path = map_path
        self._manifest = manifest
        self._data = data
        self._marks = marks
        self._direct = open_past_cache(path)
        self._slow = 0
        self._unsynced = 0

    @classmethod
    def open(
        cls,
        layout: Layout,
        transfer: str,
        manifest: Manifest,
        *,
        check_space: Callable[[int], None] = lambda _: None,
    ) -> "PartialFile":
        """Open or begin the partial file of a transfer.

        Args:
            layout: Where files are.
            transfer: Transfer id.
            manifest: What the file must become; a partial file of something else is begun anew.
            check_space: Called with the bytes that a new file needs, before it is made.

        Raises:
            StorageFull: There is no room.
        """
        path, map_path = layout.partial(transfer), layout.chunk_map(transfer)
        header = {"sha256": manifest.sha256, "size": manifest.size, "chunks": manifest.digest}
        old = _read_header(map_path)
        resumed = {name: old.get(name) for name in header} == header and _size(path) == manifest.size
        if not resumed:
            remove(map_path)
            remove(path)
            check_space(manifest.size)
        try:
            data = open_in_place(path, _OPEN, 0o640)
            marks = open_in_place(map_path, _OPEN, 0o640)
        except OSError as exc:
            raise storage_error(exc) from exc
        partial = cls(path, map_path, manifest, data, marks)
        try:
            if not resumed:
                preallocate(data, manifest.size)
                preallocate(marks, _HEADER + manifest.count)
            else:
                partial._believe(verify=not old.get("boot") or old["boot"] != boot_id())
            line = json.dumps({**header, "boot": boot_id()}).encode().ljust(_HEADER - 1) + b"\n"
            write_at(marks, line, 0)
        except BaseException:
            partial.close()
            if not resumed:
                partial.discard()
            raise
        return partial

    def _believe(self, *, verify: bool) -> None:
        marks = memoryview(bytearray(self._manifest.count))
        read = 0
        while read < len(marks) and (count := read_at(self._marks, marks[read:], _HEADER + read)):
            read += count
        buffer = memoryview(bytearray(CHUNK_SIZE))
        for index, mark in enumerate(marks):
            if mark != 1:
                continue
            if not verify or self._holds(index, buffer):
                self.chunks.add(index)
            else:  # the map gets this boot's id next, and is believed from then on
                write_at(self._marks, b"\x00", _HEADER + index)

    def _holds(self, index: int, buffer: memoryview) -> bool:
        size, done = self._manifest.chunk_size(index), 0
        while done < size and (count := read_at(self._data, buffer[done:size], index * CHUNK_SIZE + done)):
            done += count
        try:
            self._manifest.verify_chunk(index, buffer[:done])
        except ChunkInvalid:
            return False
        return True

    def write_chunk(self, index: int, data: memoryview) -> int:
        """Write a chunk whose hash was checked, then mark it.

        Returns:
            How many chunks from the start are in without a gap.

        Raises:
            StorageError: The disk is full or fails; the chunk stays unmarked.
        """
        if not self._past_cache(index, data):
            write_at(self._data, data, index * CHUNK_SIZE)
        write_at(self._marks, b"\x01", _HEADER + index)
        with self.lock:
            self.chunks.add(index)
            frontier = self.chunks.frontier()
            self._unsynced += 1
            due = self._unsynced >= _WRITEBACK_CHUNKS
            if due:
                self._unsynced = 0
        if due:
            start_writeback(self._data, 0, 0)
        return frontier

    def _past_cache(self, index: int, data: memoryview) -> bool:
        if self._direct < 0 or self._slow >= _SLOW_CHUNKS or len(data) < CHUNK_SIZE:
            return False
        began = time.monotonic()
        written = write_past_cache(self._direct, data, index * CHUNK_SIZE)
        slow = not written or time.monotonic() - began > _SLOW_S
        self._slow = max(0, self._slow + (1 if slow else -1))
        return written

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Read written bytes; returns how many."""
        return read_at(self._data, buffer, offset)

    def finish(self) -> Path:
        """Make a complete file durable and forget its map; the caller commits it as a blob.

        Raises:
            SyncFailed: The disk did not keep it. The file and its map are discarded: what the page cache still has of
                it may not be what is on the disk, and the next sync would succeed.
        """
        try:
            sync_file(self._data)
        except SyncFailed:
            self._disbelieve()
            raise
        self.close()
        remove(self._map_path)
        return self.path

    def close(self) -> None:
        """Let go of the files; they stay. Twice is once."""
        for name in ("_data", "_marks", "_direct"):
            descriptor = getattr(self, name)
            if descriptor >= 0:
                setattr(self, name, -1)
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    def _disbelieve(self) -> None:
        """Let nothing of it be believed again, even if the disk deletes no files now."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._marks, 0)
        with contextlib.suppress(OSError):
            os.ftruncate(self._data, 0)
        with contextlib.suppress(OSError):
            self.discard()

    def discard(self) -> None:
        """Delete the files."""
        self.close()
        remove(self._map_path)
        remove(self.path)


def _read_header(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            loaded = json.loads(file.read(_HEADER))
    except (OSError, ValueError):
        return {}
    return loaded if isinstance(loaded, dict) else {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
