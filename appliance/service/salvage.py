"""Takes what is still right of a damaged file, so that only the rest of it has to be fetched again."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

from appliance.domain.errors import ChunkInvalid
from appliance.domain.manifest import CHUNK_SIZE, Manifest
from appliance.store.filesystem import aligned_buffer, open_regular, read_at
from appliance.store.partial import PartialFile

log = logging.getLogger(__name__)


def salvage(
    damaged: Path,
    manifest: Manifest,
    partial: PartialFile,
    check: Callable[[], None],
    taken: Callable[[int], None],
) -> None:
    """Copy the chunks that match the manifest from a file that was set aside, if there is one; the file stays.

    Args:
        damaged: The file; it may be of any length, and unreadable in places.
        manifest: What its bytes should be.
        partial: Gets the chunks that it lacks.
        check: Called before each chunk; what it raises ends it.
        taken: Called with the bytes of each chunk that was taken.

    Raises:
        StorageError: A chunk cannot be written.
    """
    try:
        descriptor = open_regular(damaged)
    except OSError:
        return
    count = 0
    try:
        buffer = aligned_buffer(CHUNK_SIZE)
        for index in range(manifest.count):
            if index in partial.chunks:
                continue
            check()
            chunk = buffer[: manifest.chunk_size(index)]
            if _is_right(descriptor, manifest, index, chunk):
                partial.write_chunk(index, chunk)
                taken(len(chunk))
                count += 1
    finally:
        os.close(descriptor)
    log.info(
        "chunks of a damaged file that are still right were taken from it",
        extra={"action": "chunks_salvaged", "sha256": manifest.sha256, "chunks": count, "of": manifest.count},
    )


def _is_right(descriptor: int, manifest: Manifest, index: int, chunk: memoryview) -> bool:
    try:
        done = 0
        while done < len(chunk) and (got := read_at(descriptor, chunk[done:], index * CHUNK_SIZE + done)):
            done += got
        manifest.verify_chunk(index, chunk[:done])
    except (ChunkInvalid, OSError):  # a bad sector is a chunk like any other wrong one
        return False
    return True
