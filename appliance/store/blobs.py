"""The bytes of packages: immutable files named by their SHA-256, and the public names that link to them.

Data before name: a blob is on the disk before its name is, and its name before anything refers to it. A crash leaves
the old state or the new one; what is neither, `adopt_or_clean` removes at the next start. Blobs are not removed then:
the database may be an older copy than the disk.
"""

import contextlib
import logging
import math
import os
import re
import secrets
import stat
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from appliance.domain.errors import BlobMissing, StorageError, StorageFull, SyncFailed
from appliance.domain.sizes import human_size

from .filesystem import (
    check_regular,
    free_bytes,
    holding,
    link,
    link_or_copy,
    links_work,
    make_readable,
    move,
    open_regular,
    remove,
    remove_whatever,
    storage_error,
    sync_directory,
    sync_file,
)
from .layout import Layout

log = logging.getLogger(__name__)

_LINKING = ".linking-"
_SHA256 = re.compile("[0-9a-f]{64}")
_LEAVING = ".leaving-"
_LINKS_LIFE_S = 60.0  #: whether a disk has hard links is asked again after that


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Files that nobody touched for a while."""

    blobs: dict[str, float]  #: by SHA-256: when they were last touched, in seconds since 1970
    names: list[str]  #: in the public folder
    partials: list[Path]
    uploads: list[Path]


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells a file from another one, or from itself before a change, without reading it."""

    size: int  #: bytes
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, info: os.stat_result) -> "Stamp":
        """That of a file that was looked at."""
        return cls(info.st_size, info.st_mtime_ns, info.st_ino)

    def unchanged(self, other: "Stamp") -> bool:
        """Whether nobody wrote in between, as far as size and time tell. A copy that kept both counts as unchanged."""
        return (self.size, self.mtime_ns) == (other.size, other.mtime_ns)


class Committed(NamedTuple):
    """A file that became a blob."""

    stamp: Stamp
    replaced: bool  #: another file was there under the same hash; public names may still show that one


class BlobStore:
    """The blobs of one node. Every method blocks."""

    def __init__(self, layout: Layout, *, floor_bytes: int, free: Callable[[Path], int] = free_bytes) -> None:
        self._layout = layout
        self._floor = floor_bytes
        self._free = free
        self._links: tuple[float, bool] | None = None
        self._stuck: dict[Path, int] = {}  #: inode of each file that could not be deleted or moved
        self.make_room: Callable[[int], None] = lambda _: (
            None
        )  #: called in a thread when so many bytes do not fit
        layout.root.mkdir(parents=True, exist_ok=True)
        for directory in (layout.public, *layout.directories()):
            # One that is there has the mode that its administrator wants.
            if directory != layout.identity and not directory.exists():
                self._make(directory)

    def make_directory(self, path: Path) -> None:
        """Make a directory of the layout again that was deleted.

        Raises:
            StorageError: It cannot be made.
        """
        try:
            self._make(path)
        except OSError as exc:
            raise storage_error(exc) from exc

    def _make(self, path: Path) -> None:
        if path in (self._layout.public, self._layout.packages):
            self._layout.public.mkdir(exist_ok=True)
            make_readable(self._layout.public)
            path.mkdir(exist_ok=True)
            make_readable(path)
        else:
            path.mkdir(exist_ok=True, mode=0o750)

    @property
    def floor(self) -> int:
        """Bytes that stay free whatever comes."""
        return self._floor

    def free(self) -> int:
        """Bytes free on the disk of the blobs.

        Raises:
            StorageError: The data directory cannot be read.
        """
        try:
            return self._free(self._layout.root)
        except OSError as exc:
            raise storage_error(exc) from exc

    def fits(self, needed: int) -> bool:
        """Whether `needed` more bytes fit above the floor as the disk is now."""
        return self.free() - needed >= self._floor

    def check_space(self, needed: int) -> None:
        """Say whether `needed` more bytes fit above the floor, if need be after making room for them.

        Raises:
            StorageFull: They do not; the message has the figures.
        """
        free = self.free()
        if free - needed < self._floor:
            self.make_room(needed)
            free = self.free()
        if free - needed < self._floor:
            room = f"There is no room for another {human_size(needed)}" if needed else "There is no more room"
            raise StorageFull(
                f"{room}: {human_size(free)} of disk space are free, and {human_size(self._floor)} have to stay free "
                "(transfers.min_free). Free space, or move the data directory to a larger disk.",
                needed=needed,
                free=free,
                floor=self._floor,
            )

    def stuck(self) -> int:
        """How many files could not be deleted or moved, and are still there; the log says which."""
        for path, inode in list(self._stuck.items()):
            if _inode(path) != inode:
                self._stuck.pop(path, None)
        return len(self._stuck)

    @contextlib.contextmanager
    def _touching(self, path: Path) -> Iterator[None]:
        """Delete or move a file: raises our errors for the system's, and notes one that cannot be touched."""
        try:
            yield
        except (OSError, StorageError) as exc:
            error = storage_error(exc) if isinstance(exc, OSError) else exc
            inode = _inode(path)
            if inode is not None and not isinstance(error, StorageFull):
                self._stuck[path] = inode
            raise error from exc
        self._stuck.pop(path, None)

    def path(self, sha256: str) -> Path:
        """Where the blob is, if it is."""
        return self._layout.blob(sha256)

    def check_missing(self, sha256: str) -> None:
        """Return if only the file is missing: without the folder of all blobs that says nothing of it.

        Raises:
            StorageError: The folder is away, or was until now.
        """
        if not self._layout.blobs.is_dir() or os.path.lexists(self.path(sha256)):
            raise StorageError("The folder blobs is missing in the data directory; /health/ready says more.")

    def exists(self, sha256: str, size: int) -> bool:
        """Whether there is a regular file of this size under the hash. What its bytes are, this does not say."""
        try:
            stamp = self.stamp(sha256)
        except OSError:
            return False
        return stamp is not None and stamp.size == size

    def stamp(self, sha256: str) -> Stamp | None:
        """That of the file under the hash, or None if there is nothing.

        Raises:
            OSError: It cannot be looked at, or is no regular file.
        """
        try:
            info = self.path(sha256).lstat()
        except FileNotFoundError:
            return None
        check_regular(info)
        return Stamp.of(info)

    def open(self, sha256: str) -> int:
        """Open a blob for reading; a descriptor. The mode is mended if that is all that is wrong.

        Raises:
            OSError: There is none, it cannot be read, or it is no regular file.
        """
        path = self.path(sha256)
        try:
            return open_regular(path)
        except PermissionError:
            check_regular(path.lstat())
            make_readable(path)
            return open_regular(path)

    def mend_mode(self, sha256: str) -> None:
        """Let a blob be read again that nobody may read, not even its owner.

        Raises:
            OSError: It is not ours, or the disk fails.
        """
        path = self.path(sha256)
        info = path.lstat()
        check_regular(info)
        if not info.st_mode & stat.S_IRUSR:
            make_readable(path)

    def commit(self, path: Path, sha256: str, *, synced: bool = False, keep: bool = False) -> Committed:
        """Take a complete, verified file over as a blob, in the place of whatever has this hash already.

        What lies there may have been damaged since it was verified; this file was read a moment ago. Public names that
        link to the other file still do: see `publish`.

        Args:
            path: The file, in the data directory.
            sha256: What it is.
            synced: Its bytes are on the disk already.
            keep: Leave `path` as a second name of the blob, where the disk has hard links. It must not be written
                to any more.

        Raises:
            SyncFailed: The disk did not keep it. There is no new blob, and `path` must not be believed.
            StorageError: The disk fails.
        """
        target = self.path(sha256)
        try:
            make_readable(path)
            if not synced:
                _sync(path)
            self._make_directory(target.parent)
            with holding(target.parent):  # `sweep` must not take what comes now for what was there before
                return self._take(path, target, keep=keep)
        except OSError as exc:
            raise storage_error(exc) from exc

    @staticmethod
    def _take(path: Path, target: Path, *, keep: bool) -> Committed:
        before = os.path.lexists(target)
        if before and not stat.S_ISREG(target.lstat().st_mode):
            remove_whatever(target)
        elif before and os.path.samefile(path, target):  # who made it may have been killed before
            sync_directory(target.parent)
            if not keep:
                remove(path)
            return Committed(Stamp.of(target.lstat()), replaced=False)
        temporary = target.with_name(f"{_LINKING}{secrets.token_hex(8)}")
        linked = keep and link(path, temporary)
        try:
            move(temporary if linked else path, target)
        except SyncFailed:
            if not before:
                remove(target)
            raise
        except StorageError:
            if linked:
                remove(temporary)
            raise
        return Committed(Stamp.of(target.lstat()), replaced=before)

    @staticmethod
    def _make_directory(path: Path) -> None:
        if path.exists():
            return
        path.mkdir(exist_ok=True, mode=0o750)
        try:
            sync_directory(path.parent)
        except SyncFailed:
            with contextlib.suppress(OSError):
                path.rmdir()
            raise

    def publish(self, sha256: str, filename: str) -> None:
        """Let `filename` be the public name of a blob, in one step and whatever had the name before.

        Raises:
            BlobMissing: There is no such blob.
            StorageError: The disk is full or fails.
        """
        blob, target = self.path(sha256), self._layout.packages / filename
        temporary = self._layout.packages / f"{_LINKING}{secrets.token_hex(8)}"
        if not blob.exists():
            raise BlobMissing(f'The file of "{filename}" is not on the disk.')
        if not self._layout.packages.exists():
            self.make_directory(self._layout.packages)
        with holding(
            self._layout.packages
        ):  # `sweep_name` must not take what comes now for what is left over
            if _same_file(blob, target):
                with contextlib.suppress(OSError):  # one that is not ours
                    make_readable(target)  # touched
                return  # renaming one link onto another of the same file would leave both
        try:
            link_or_copy(blob, temporary)
        except StorageError:
            if blob.exists():
                raise
            raise BlobMissing(f'The file of "{filename}" was deleted at this moment.') from None
        try:
            with holding(self._layout.packages):
                if target.is_dir() and not target.is_symlink():
                    remove_whatever(target)
                move(temporary, target)
        except OSError as exc:
            raise storage_error(exc) from exc

    def shows(self, sha256: str, filename: str) -> bool:
        """Whether a public name stands for a blob: a link to it, or a copy of its size where links cannot be made."""
        try:
            return self._shows(self._layout.packages / filename, self.path(sha256))
        except OSError:
            return False

    def _shows(self, name: Path, blob: Path) -> bool:
        if not name.exists():
            return False
        if os.path.samefile(name, blob):
            return True
        shown = name.stat()
        return shown.st_size == blob.stat().st_size and shown.st_nlink == 1 and not self.links()

    def links(self) -> bool:
        """Whether public files can be hard links of blobs. Who copied the directory may have made copies of them."""
        now = time.monotonic()
        if self._links is None or now - self._links[0] > _LINKS_LIFE_S:
            self._links = (now, links_work(self._layout.blobs, self._layout.packages))
        return self._links[1]

    def unpublish(self, filename: str) -> None:
        """Take a public name away.

        Raises:
            StorageError: The disk fails, or the file cannot be touched.
        """
        path = self._layout.packages / filename
        with self._touching(path):
            remove(path)
            if self._layout.packages.exists():
                sync_directory(self._layout.packages)

    def begin_delete(self, sha256: str) -> Path | None:
        """Begin to delete a blob: nobody finds it from now on. `cancel_delete` or `finish_delete` follows.

        Ask in between whether anything mentions the blob. Then nothing is deleted that another process begins to use
        meanwhile: either it finds no blob, or it is found. After a crash in between, the next start decides.

        Returns:
            Where it is until then, or None if there is no such blob.

        Raises:
            StorageError: The disk fails.
        """
        blob = self.path(sha256)
        away = blob.with_name(f"{_LEAVING}{sha256}")
        with self._touching(blob):
            try:
                with holding(blob.parent):  # `commit` must find what it has just put there
                    os.replace(blob, away)
            except FileNotFoundError:
                return None
        return away

    def cancel_delete(self, away: Path) -> None:
        """Do not delete a blob after all.

        Raises:
            StorageError: The disk fails; the next start tries it again.
        """
        with self._touching(away):
            move(away, away.with_name(away.name.removeprefix(_LEAVING)))

    def finish_delete(self, away: Path) -> None:
        """Delete a blob for good.

        Raises:
            StorageError: The disk fails; the next start tries it again.
        """
        with self._touching(away):
            remove(away)

    def ensure(self, sha256: str, filename: str) -> None:
        """Give a blob back that was deleted while it was published; its public name has the bytes still.

        Raises:
            StorageError: The disk is full or fails.
        """
        blob, public = self.path(sha256), self._layout.packages / filename
        if not blob.exists() and public.exists():
            temporary = blob.with_name(f"{_LINKING}{secrets.token_hex(8)}")
            link_or_copy(public, temporary)
            move(temporary, blob)

    def quarantine(self, sha256: str) -> None:
        """Set a damaged blob aside, in the place of an earlier one of this hash.

        Raises:
            StorageError: The disk fails; it is where it was.
        """
        source, target = self.path(sha256), self._layout.damaged(sha256)
        with self._touching(source):
            if os.path.lexists(source):
                target.parent.mkdir(exist_ok=True, mode=0o750)
                if os.path.lexists(target):
                    remove_whatever(target)
                move(source, target)

    def quarantine_found(self, sha256: str, seen: Stamp | None) -> bool:
        """As `quarantine`, unless another file has taken the place of the one that was found damaged.

        Args:
            sha256: Its hash.
            seen: The file that was found damaged; None if there was no regular file.

        Returns:
            Whether what was found was still so.

        Raises:
            StorageError: The disk fails; it is where it was.
        """
        with contextlib.suppress(OSError):  # if it is no regular file, no good one took its place
            if self.stamp(sha256) != seen:
                return False
        self.quarantine(sha256)
        return True

    def quarantined(self) -> list[tuple[str, float]]:
        """The hashes of what is set aside, and since when, in seconds since 1970; not what somebody else put there."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(self._layout.quarantine.iterdir()):
                if not _SHA256.fullmatch(path.name):
                    continue
                with contextlib.suppress(OSError):
                    found.append((path.name, path.lstat().st_ctime))
        return found

    def drop_quarantined(self, sha256: str) -> None:
        """Delete what was set aside of a hash, if anything.

        Raises:
            StorageError: The disk fails.
        """
        path = self._layout.damaged(sha256)
        with self._touching(path):
            remove_whatever(path)

    def adopt_or_clean(
        self,
        *,
        believed: bool,
        names: Mapping[str, str],
        blobs: set[str],
        partials: set[str],
        uploads: set[str],
        since: float = math.inf,
    ) -> None:
        """Make the disk agree with the store: restore missing links, remove what nothing mentions but blobs.

        A file that cannot be touched is noted and left.

        Args:
            believed: Whether the store names any bytes. One that names none while blobs lie here is far more likely to
                be the wrong database, or an empty one in place of a lost one, than right: nothing is touched then.
            names: Public file names and the SHA-256 that each must show.
            blobs: Every SHA-256 whose deletion is cancelled, if a crash left it begun.
            partials: Ids of transfers that may go on.
            uploads: Ids of uploads that may go on.
            since: When this process began, in seconds since 1970. What was touched after that belongs to another
                process of the node that is at work: what the caller read of the store may be older, so it stays.
        """
        if not believed and any(_files(self._layout.blobs)):
            log.warning(
                "files of packages lie here and the database knows none of them; they were left alone. If the "
                "database is the wrong one, stop the node and correct database.url; if it was lost, import a backup",
                extra={"action": "files_unknown"},
            )
            return
        kept = self._decide_deletions(blobs)
        for path in _files(self._layout.packages):
            # Some file systems (HFS+) give names back in another Unicode form than they were given.
            if unicodedata.normalize("NFC", path.name) not in names:
                self._clean_name(path, since)
        self.restore_links(names, missing_only=False)
        for path in _files(self._layout.blobs):
            if path.name.startswith((_LINKING, _LEAVING)) and path not in kept and _changed_at(path) < since:
                self._clean(path, "blob")
        for path in _files(self._layout.partials):
            if path.name.removesuffix(".map") not in partials and _changed_at(path) < since:
                self._clean(path, "partial file")
        for path in _files(self._layout.uploads):
            if path.name.split(".")[0] not in uploads and _changed_at(path) < since:
                self._clean(path, "upload")

    def sizes(self) -> dict[str, int]:
        """The size of every blob, by SHA-256."""
        found = {}
        for path in _files(self._layout.blobs):
            with contextlib.suppress(OSError):
                if path == self.path(path.name):
                    found[path.name] = path.stat().st_size
        return found

    def unused(self, age_s: float) -> Leftovers:
        """What nobody touched for so many seconds; most of it is in use all the same."""
        before = time.time() - age_s

        def old(directory: Path) -> list[Path]:
            return [path for path in _files(directory) if _changed_at(path) < before]

        return Leftovers(
            blobs={
                path.name: _changed_at(path)
                for path in old(self._layout.blobs)
                if path == self.path(path.name)
            },
            names=[path.name for path in old(self._layout.packages)],
            partials=old(self._layout.partials),
            uploads=old(self._layout.uploads),
        )

    def sweep(self, sha256: str, age_s: float) -> bool:
        """Delete a blob that nothing mentions, unless somebody has touched it within so many seconds.

        Whoever means to mention a blob commits it before: that touches it, under the same lock.

        Returns:
            Whether it is gone.
        """
        path = self.path(sha256)
        with holding(path.parent):
            if _changed_at(path) >= time.time() - age_s:
                return False
            return self._clean(path, "blob")

    def sweep_name(self, filename: str, age_s: float) -> None:
        """Delete a public name that no package has, unless somebody has touched it within so many seconds.

        Whoever means to have a name publishes it before: that touches it, under the same lock.
        """
        self._clean_name(self._layout.packages / filename, time.time() - age_s)

    def _clean_name(self, path: Path, since: float) -> None:
        with holding(self._layout.packages):
            if _changed_at(path) < since:
                self._clean(path, "public name")

    def drop(self, path: Path) -> None:
        """Delete a partial file or an upload that nothing mentions."""
        self._clean(path, "partial file" if path.parent == self._layout.partials else "upload")

    def restore_links(self, names: Mapping[str, str], *, missing_only: bool = True) -> None:
        """Give blobs their public names again; one that cannot be given is logged.

        Args:
            names: Public file names and the SHA-256 that each must show.
            missing_only: Leave a name alone that shows something: while the node runs, that may be newer.

        Raises:
            StorageFull: The disk is full.
        """
        for filename, sha256 in names.items():
            name, blob = self._layout.packages / filename, self.path(sha256)
            try:
                if blob.exists() and not (name.exists() if missing_only else self._shows(name, blob)):
                    self.publish(sha256, filename)
            except StorageFull:
                raise
            except (OSError, StorageError, BlobMissing) as exc:
                log.error(
                    "a public name cannot be made",
                    extra={"action": "name_not_made", "file": filename, "reason": str(exc)},
                )

    def _decide_deletions(self, blobs: set[str]) -> set[Path]:
        """Cancel deletions that a crash left begun, where the blob is to be kept; the rest was decided.

        Returns:
            Files that are to be kept, and could not get their names back.
        """
        kept = set()
        for path in _files(self._layout.blobs):
            sha256 = path.name.removeprefix(_LEAVING)
            if sha256 != path.name and sha256 in blobs and not self.path(sha256).exists():
                try:
                    self.cancel_delete(path)
                except StorageError as exc:
                    kept.add(path)
                    _tell_left(path, "blob", exc)
        return kept

    def _clean(self, path: Path, what: str) -> bool:
        try:
            with self._touching(path):
                remove(path)
        except StorageError as exc:
            _tell_left(path, what, exc)
            return False
        log.info(
            "a file without use was removed",
            extra={"action": "file_removed", "what": what, "file": path.name},
        )
        return True


def _tell_left(path: Path, what: str, error: StorageError) -> None:
    log.error(
        "a file cannot be deleted or moved; it was left",
        extra={"action": "file_stuck", "what": what, "file": str(path), "reason": error.message},
    )


def _same_file(one: Path, other: Path) -> bool:
    """Whether both are there, and one file; either may be taken away at any time."""
    try:
        return os.path.samefile(one, other)
    except FileNotFoundError:
        return False


def _inode(path: Path) -> int | None:
    try:
        return path.lstat().st_ino
    except OSError:
        return None


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def _changed_at(path: Path) -> float:
    """When a file was made, written, linked or committed again; in the far future if nobody can tell."""
    try:
        return path.stat().st_ctime
    except OSError:
        return math.inf


def _files(directory: Path) -> Iterator[Path]:
    for entry in sorted(directory.rglob("*")):
        try:
            regular = entry.is_file()
        except OSError:  # nobody can look at it
            continue
        if regular:
            yield entry
