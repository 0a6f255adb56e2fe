"""What we ask of a file system. The one place that chooses between fast ways and portable ones.

Linux has them all; elsewhere, and with `ODS_PORTABLE=1`, the portable way is taken. Tests run both.
"""

import contextlib
import ctypes
import errno
import mmap
import os
import platform
import secrets
import shutil
import stat
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from appliance.domain.errors import InvalidSettings, StorageError, StorageFull, SyncFailed

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_FULL = {errno.ENOSPC, errno.EDQUOT} if hasattr(errno, "EDQUOT") else {errno.ENOSPC}
_UNREADABLE = {
    code
    for name in ("EIO", "EUCLEAN", "EBADMSG", "EILSEQ", "ENODATA", "ESTALE")
    if (code := getattr(errno, name, None)) is not None
}  #: how disks, file systems and their checksums say that bytes are lost
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS}
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_COPY_BLOCK = 1024 * 1024
_OPEN_REGULAR = os.O_RDONLY
for _flag in (
    "O_BINARY",
    "O_CLOEXEC",
    "O_NOFOLLOW",
    "O_NONBLOCK",
):  # to open a pipe would wait for its writer
    _OPEN_REGULAR |= getattr(os, _flag, 0)
_seek_lock = threading.Lock()
_flusher = ThreadPoolExecutor(1, thread_name_prefix="writeback")
_WRITE = 2  #: SYNC_FILE_RANGE_WRITE, linux/fs.h
_sync_file_range = getattr(ctypes.CDLL(None), "sync_file_range", None) if sys.platform == "linux" else None
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30}  #: the number of the system call, which libc does not wrap
_IOPRIO_WHO_PROCESS, _IOPRIO_CLASS_IDLE = 1, 3  #: linux/ioprio.h; a process is a thread there
_locks: list[int] = []


def portable() -> bool:
    """Whether to leave the fast ways unused."""
    return os.environ.get("ODS_PORTABLE", "") not in {"", "0"}


def is_full(exc: OSError) -> bool:
    """Whether the operating system says that the disk is full."""
    return exc.errno in _FULL


def storage_error(exc: OSError) -> StorageError:
    """Our error for the operating system's."""
    if is_full(exc):
        return StorageFull("The disk is full. Free space, or move the data directory to a larger disk.")
    if exc.errno in {errno.ENOENT, errno.ENOTDIR} and exc.filename:
        name = os.path.basename(os.fsdecode(exc.filename))
        return StorageError(f"{name} is missing in the data directory; /health/ready says more.")
    return StorageError(f"The disk does not work: {exc.strerror or exc}.")


def sync_error(exc: OSError) -> SyncFailed:
    """Our error for a sync that failed. The system reports it once: whatever was not on the disk before is lost."""
    return SyncFailed(
        f"The disk did not keep what was written: {exc.strerror or exc}. Check the disk, then send it again."
    )


def unreadable(exc: OSError) -> bool:
    """Whether an error of reading says that the bytes are damaged, and not that the system is short of something."""
    return exc.errno in _UNREADABLE


def preallocate(descriptor: int, size: int) -> None:
    """Reserve `size` bytes for a new file, or at least give it that length.

    Raises:
        StorageFull: There is no room.
    """
    try:
        if size and hasattr(os, "posix_fallocate") and not portable():
            try:
                os.posix_fallocate(descriptor, 0, size)
            except OSError as exc:
                if exc.errno not in {errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS}:
                    raise
            else:
                return
        os.ftruncate(descriptor, size)
    except OSError as exc:
        raise storage_error(exc) from exc


def write_at(descriptor: int, data: bytes | bytearray | memoryview, offset: int) -> None:
    """Write all of `data` at `offset`; safe from several threads.

    Raises:
        StorageError: The disk is full or fails.
    """
    view = memoryview(data)
    try:
        while view:
            if hasattr(os, "pwrite") and not portable():
                count = os.pwrite(descriptor, view, offset)
            else:
                with _seek_lock:
                    os.lseek(descriptor, offset, os.SEEK_SET)
                    count = os.write(descriptor, view)
            view = view[count:]
            offset += count
    except OSError as exc:
        raise storage_error(exc) from exc


def aligned_buffer(size: int) -> memoryview:
    """A buffer from which `write_past_cache` can write: it begins at a page of memory."""
    return memoryview(mmap.mmap(-1, size))


def open_past_cache(path: Path) -> int:
    """Open a file for `write_past_cache`, or return -1 where the system or the disk cannot do that."""
    if not hasattr(os, "O_DIRECT") or portable():
        return -1
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return -1


def write_past_cache(descriptor: int, data: memoryview, offset: int) -> bool:
    """Write straight from `data` to the disk, without a copy in the page cache; safe from several threads.

    Returns:
        Whether all was written; if not, write it with `write_at`, which also tells what is wrong.
    """
    try:
        return os.pwrite(descriptor, data, offset) == len(data)
    except OSError:
        return False


def read_at(descriptor: int, buffer: memoryview, offset: int) -> int:
    """Read into `buffer` from `offset`; safe from several threads. Returns how many bytes, 0 at the end."""
    if hasattr(os, "preadv") and not portable():
        return os.preadv(descriptor, [buffer], offset)
    with _seek_lock:
        os.lseek(descriptor, offset, os.SEEK_SET)
        data = os.read(descriptor, len(buffer))
    buffer[: len(data)] = data
    return len(data)


def in_memory(descriptor: int, offset: int, length: int) -> bool:
    """Whether a stretch of a file can probably be read without waiting for the disk: both its ends are cached.

    Where the system does not tell, the answer is True.
    """
    if not hasattr(os, "RWF_NOWAIT") or length <= 0:
        return True
    probe = bytearray(1)
    try:
        return all(
            os.preadv(descriptor, [probe], place, os.RWF_NOWAIT) for place in (offset, offset + length - 1)
        )
    except BlockingIOError:
        return False
    except OSError:
        return True


def read_ahead(descriptor: int, offset: int, length: int) -> None:
    """Bring a stretch of a file into memory. Blocks until it is there; what goes wrong shows at the real read."""
    buffer = bytearray(min(length, _COPY_BLOCK))
    end = offset + length
    with contextlib.suppress(OSError):
        while offset < end and (count := os.preadv(descriptor, [buffer], offset)):
            offset += count


def check_regular(info: os.stat_result) -> None:
    """Let a regular file pass.

    Raises:
        IsADirectoryError: It is a directory.
        OSError: It is a link, a pipe or a device.
    """
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory")
    if stat.S_ISLNK(info.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link")
    if not stat.S_ISREG(info.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")


def open_regular(path: Path) -> int:
    """Open a regular file for reading; what has taken its place is not followed, and holds nobody up.

    Raises:
        OSError: There is none, or it cannot be opened.
    """
    descriptor = os.open(path, _OPEN_REGULAR)
    try:
        check_regular(os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def keep_out_of_cache(descriptor: int, *, wanted: bool = True) -> bool:
    """Let reads of an open file bypass the page cache, or no longer.

    So the disk is read, and not what memory has of it, and nothing is pushed out of memory.

    Returns:
        Whether it is so now. Reads then need an aligned buffer, length and offset.
    """
    if not hasattr(os, "O_DIRECT") or fcntl is None or portable():
        return False
    try:
        flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT if wanted else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return wanted


def drop_from_cache(descriptor: int, offset: int, length: int) -> None:
    """Let the system forget a stretch of a file that it read for us only. A hint."""
    if hasattr(os, "posix_fadvise") and not portable():
        with contextlib.suppress(OSError):
            os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


def lower_priority() -> None:
    """Let the calling thread use the disk and the processor only when nobody else does, where the system can."""
    if sys.platform != "linux" or portable():
        return
    number = _IOPRIO_SET.get(platform.machine())
    if number is not None:
        ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_CLASS_IDLE << 13)
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Let the system begin to write a stretch to the disk, so that `sync_file` has less to wait for. A hint."""
    if _sync_file_range is not None and not portable():
        _flusher.submit(_sync_file_range, descriptor, ctypes.c_int64(offset), ctypes.c_int64(length), _WRITE)


def sync_file(descriptor: int) -> None:
    """Put a file's bytes on the disk.

    Raises:
        SyncFailed: They cannot be. What was written since the last good sync must count as lost: the system says so
            once, and lets the next sync succeed.
    """
    try:
        if hasattr(os, "fdatasync") and not portable():
            os.fdatasync(descriptor)
        else:
            os.fsync(descriptor)
    except OSError as exc:
        raise sync_error(exc) from exc


def sync_directory(path: Path) -> None:
    """Put a directory's names on the disk, where the system can.

    Raises:
        SyncFailed: They cannot be; a name that was made in it must count as lost.
        OSError: There is no such directory.
    """
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as exc:
        raise sync_error(exc) from exc
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Rename within the data directory and make the new name durable.

    Raises:
        SyncFailed: The new name is there, and may not be after a power cut.
        StorageError: The disk is full or fails; nothing was renamed.
    """
    try:
        os.replace(source, target)
        sync_directory(target.parent)
    except OSError as exc:
        raise storage_error(exc) from exc


def link(source: Path, target: Path) -> bool:
    """Give `source` a second name, where the disk has hard links.

    Returns:
        Whether it has them; if not, nothing was done.

    Raises:
        StorageError: The disk is full or fails.
    """
    if portable():
        return False
    try:
        os.link(source, target)
    except OSError as exc:
        if exc.errno in _NO_LINKS:
            return False
        raise storage_error(exc) from exc
    return True


def links_work(source: Path, folder: Path) -> bool:
    """Whether files of one directory can have hard links in another one: one is tried."""
    name = f".probe-{secrets.token_hex(8)}"
    probe, second = source / name, folder / name
    try:
        probe.touch(mode=0o600)
        return link(probe, second)
    except (OSError, StorageError):
        return False
    finally:
        with contextlib.suppress(OSError):
            remove(second)
        with contextlib.suppress(OSError):
            remove(probe)


def on_one_disk(folder: Path, other: Path) -> bool:
    """Whether files can be moved from one directory to another, as far as can be told without moving one."""
    try:
        if folder.stat().st_dev != other.stat().st_dev:
            return False
        name = f".none-{secrets.token_hex(8)}"  # Linux tells of two mounts before it looks whether there is such a file
        os.rename(folder / name, other / name)
    except OSError as exc:
        return exc.errno != errno.EXDEV
    return True


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source` a second name: a hard link, or a copy where there are none.

    Raises:
        StorageError: The disk is full or fails; there is no `target` then.
    """
    if link(source, target):
        return
    try:
        with source.open("rb") as reader, target.open("wb") as writer:
            shutil.copyfileobj(reader, writer, _COPY_BLOCK)
            writer.flush()
            os.fsync(writer.fileno())
        make_readable(target)
    except OSError as exc:
        remove(target)
        raise storage_error(exc) from exc


@contextlib.contextmanager
def holding(directory: Path) -> Iterator[None]:
    """Keep other threads and processes that do the same away from a directory; where there are no locks, do nothing."""
    descriptor = -1
    if fcntl is not None:
        with contextlib.suppress(OSError):  # some network file systems have none
            descriptor = os.open(directory, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def make_readable(path: Path) -> None:
    """Let every account of the machine read a file or list a directory: a web server has its own account.

    Raises:
        OSError: The disk fails.
    """
    path.chmod(0o755 if path.is_dir() else 0o644)


def open_in_place(path: Path, flags: int, mode: int) -> int:
    """Open a file for writing; its directory is made again if somebody deleted it.

    Raises:
        OSError: As `os.open`.
    """
    try:
        return os.open(path, flags, mode)
    except FileNotFoundError:
        path.parent.mkdir(exist_ok=True, mode=0o750)
        return os.open(path, flags, mode)


def remove_whatever(path: Path) -> None:
    """Delete what has this name: a file, a link, or a directory with all that is in it.

    Raises:
        OSError: The disk fails.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        remove(path)


def remove(path: Path) -> None:
    """Delete a file if it is there."""
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the disk of `path`."""
    return shutil.disk_usage(path).free


def boot_id() -> str:
    """A word that changes with each start of the machine, or "" where there is none."""
    if portable():
        return ""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def lock_directory(path: Path) -> None:
    """Keep other serving processes away from a data directory for as long as this process lives.

    Raises:
        InvalidSettings: Another process has it.
    """
    if fcntl is None:
        return
    descriptor = os.open(path / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(descriptor)
        raise InvalidSettings(
            f"Another node is running on the data directory {path}; stop it, or choose another (data_dir)."
        ) from exc
    _locks.append(descriptor)
