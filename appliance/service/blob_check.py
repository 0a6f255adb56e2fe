"""Whether a blob is what its name says: by a look at the file, or by reading it.

The one place that decides what counts as damage. What only says that the system is short of something (open files,
memory) is no damage, and raises instead.
"""

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from appliance.domain.errors import StorageError
from appliance.domain.manifest import CHUNK_SIZE
from appliance.store.blobs import BlobStore, Stamp
from appliance.store.filesystem import (
    aligned_buffer,
    drop_from_cache,
    in_memory,
    keep_out_of_cache,
    read_at,
    unreadable,
)

_MISSING = "the file is missing"
_GONE = {errno.ENOENT, errno.ENOTDIR}
_OTHER_THING = {errno.EISDIR, errno.ELOOP, errno.EINVAL}
_NOT_OURS = {errno.EACCES, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of a blob."""

    fault: str  #: a clause that says what is wrong with the file, "" if nothing is
    stamp: Stamp | None  #: the regular file that this is said of, if there is one
    read: int = 0  #: bytes that were read

    @property
    def right(self) -> bool:
        """Whether nothing is wrong."""
        return not self.fault

    @property
    def missing(self) -> bool:
        """Whether there is nothing."""
        return self.fault == _MISSING


@dataclass(frozen=True, slots=True)
class Gentle:
    """Reading that disturbs nobody: from the disk and not from memory, and no faster than it is let."""

    pause: Callable[
        [int], None
    ]  #: called with the bytes that were read, after each block; sleeps as long as it must


def fault_of(exc: OSError) -> str:
    """What an error of opening or reading a blob says of it.

    Raises:
        StorageError: It says nothing of the blob.
    """
    if exc.errno in _GONE:
        return _MISSING
    if exc.errno in _OTHER_THING:
        return f"there is no file in its place: {exc.strerror}"
    if exc.errno in _NOT_OURS or unreadable(exc):
        return f"the file cannot be read: {exc.strerror}"
    raise StorageError(f"A file cannot be read now: {exc.strerror or exc}.") from exc


def look(blobs: BlobStore, sha256: str, size: int | None, *, mend: bool = True) -> Finding:
    """Look at a blob without reading it.

    Args:
        blobs: Where it is.
        sha256: Its hash.
        size: Its size in bytes, if that is known.
        mend: Whether to let it be read again if only its mode forbids that.

    Raises:
        StorageError: The system is short of something, or the folder of all blobs is away.
    """
    try:
        stamp = blobs.stamp(sha256)
        if stamp is not None and mend:
            blobs.mend_mode(sha256)
    except OSError as exc:
        return _unopened(blobs, sha256, exc)
    if stamp is None:
        blobs.check_missing(sha256)
        return Finding(_MISSING, None)
    if size is not None and stamp.size != size:
        return Finding(f"the file has {stamp.size} bytes, not {size}", stamp)
    return Finding("", stamp)


def _unopened(blobs: BlobStore, sha256: str, exc: OSError) -> Finding:
    fault = fault_of(exc)
    if fault == _MISSING:
        blobs.check_missing(sha256)
    return Finding(fault, _stamp(blobs, sha256))


def _stamp(blobs: BlobStore, sha256: str) -> Stamp | None:
    """That of a file that cannot be opened, if it is one."""
    try:
        return blobs.stamp(sha256)
    except OSError:
        return None


def verify(
    blobs: BlobStore,
    sha256: str,
    *,
    check: Callable[[], None] = lambda: None,
    gentle: Gentle | None = None,
) -> Finding:
    """Read a whole blob and compare its SHA-256.

    Args:
        blobs: Where it is.
        sha256: Its hash.
        check: Called before each block of 1 MiB; what it raises ends the reading.
        gentle: How to stay out of the way of others; without it the file is read as fast as it can be.

    Raises:
        StorageError: The system is short of something, somebody writes to the file, or the folder of all blobs is away.
    """
    try:
        descriptor = blobs.open(sha256)
    except OSError as exc:
        return _unopened(blobs, sha256, exc)
    try:
        before = Stamp.of(os.fstat(descriptor))
        digest = hashlib.sha256()
        read = 0
        try:
            for block in _blocks(descriptor, gentle, check):
                digest.update(block)
                read += len(block)
                if gentle is not None:
                    gentle.pause(len(block))
        except OSError as exc:
            return Finding(fault_of(exc), before, read)
        if not before.unchanged(Stamp.of(os.fstat(descriptor))):
            raise StorageError("A file changed while it was read; it is verified again.")
        found = digest.hexdigest()
        fault = "" if found == sha256 else f"the file's SHA-256 is {found}, not {sha256}"
        return Finding(fault, before, read)
    finally:
        os.close(descriptor)


def _blocks(descriptor: int, gentle: Gentle | None, check: Callable[[], None]) -> Iterator[memoryview]:
    """The bytes of a file, 1 MiB at a time, all in one buffer."""
    buffer = aligned_buffer(CHUNK_SIZE)
    direct = gentle is not None and keep_out_of_cache(descriptor)
    offset = 0
    while True:
        check()
        cached = gentle is None or direct or in_memory(descriptor, offset, CHUNK_SIZE)
        try:
            count = read_at(descriptor, buffer, offset)
        except OSError as exc:
            if not direct or exc.errno != errno.EINVAL:
                raise
            direct = keep_out_of_cache(
                descriptor, wanted=False
            )  # this file system cannot, or not at this place
            continue
        if not count:
            return
        yield buffer[:count]
        if not cached:
            drop_from_cache(descriptor, offset, count)
        offset += count
