"""The bytes of packages: immutable files named by their SHA-256, and the public names that link to them.

Data before name: a blob is on the disk before its name is, and its name before anything refers to it. A crash leaves
the old state or the new one; what is neither, `adopt_or_clean` removes at the next start.
"""

import logging
import math
import os
import secrets
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from appliance.domain.errors import BlobMissing, StorageFull

from .filesystem import (
    free_bytes,
    holding,
    link,
    link_or_copy,
    make_readable,
    mark_used,
    move,
    remove,
    storage_error,
    sync_directory,
    sync_file,
)
from .layout import Layout

log = logging.getLogger(__name__)

_LINKING = ".linking-"
_LEAVING = ".leaving-"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """Files that nobody touched for a while."""

    blobs: list[str]  #: by SHA-256
    partials: list[Path]
    uploads: list[Path]


class BlobStore:
    """The blobs of one node. Every method blocks."""

    def __init__(self, layout: Layout, *, floor_bytes: int, free: Callable[[Path], int] = free_bytes) -> None:
        self._layout = layout
        self._floor = floor_bytes
        self._free = free
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
        """Bytes free on the disk of the blobs."""
        return self._free(self._layout.root)

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
            raise StorageFull(
                f"{needed} bytes are needed, {free} are free, and {self._floor} stay free (transfers.min_free). "
                "Free space, or move the data directory to a larger disk.",
                needed=needed,
                free=free,
                floor=self._floor,
            )

    def path(self, sha256: str) -> Path:
        """Where the blob is, if it is."""
        return self._layout.blob(sha256)

    def exists(self, sha256: str, size: int) -> bool:
        """Whether the blob is here with this size."""
        try:
            return self.path(sha256).stat().st_size == size
        except OSError:
            return False

    def commit(self, path: Path, sha256: str, *, synced: bool = False, keep: bool = False) -> None:
        """Take a complete, verified file over as a blob; a second copy of a blob is dropped.

        Args:
            path: The file, in the data directory.
            sha256: What it is.
            synced: Its bytes are on the disk already.
            keep: Leave `path` as a second name of the blob, where the disk has hard links. It must not be written
                to any more.

        Raises:
            StorageError: The disk fails.
        """
        target = self.path(sha256)
        try:
            if self._use(sha256, path.stat().st_size):
                sync_directory(target.parent)  # who made it may have been killed before
                if not keep:
                    remove(path)
                return
            make_readable(path)
            if not synced:
                _sync(path)
            if not target.parent.exists():
                target.parent.mkdir(exist_ok=True, mode=0o750)
                sync_directory(target.parent.parent)
            temporary = target.with_name(f"{_LINKING}{secrets.token_hex(8)}")
            move(temporary if keep and link(path, temporary) else path, target)
        except OSError as exc:
            raise storage_error(exc) from exc

    def _use(self, sha256: str, size: int) -> bool:
        """Whether the blob is here with this size; then `sweep` leaves it alone for a while."""
        if not self.exists(sha256, size):
            return False
        with holding(self.path(sha256).parent):
            if not self.exists(sha256, size):
                return False
            mark_used(self.path(sha256))
        return True

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
        if target.exists() and os.path.samefile(blob, target):
            return  # renaming one link onto another of the same file would leave both
        link_or_copy(blob, temporary)
        move(temporary, target)

    def unpublish(self, filename: str) -> None:
        """Take a public name away."""
        try:
            remove(self._layout.packages / filename)
            if self._layout.packages.exists():
                sync_directory(self._layout.packages)
        except OSError as exc:
            raise storage_error(exc) from exc

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
        try:
            os.replace(blob, away)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc) from exc
        return away

    def cancel_delete(self, away: Path) -> None:
        """Do not delete a blob after all."""
        move(away, away.with_name(away.name.removeprefix(_LEAVING)))

    def finish_delete(self, away: Path) -> None:
        """Delete a blob for good."""
        try:
            remove(away)
        except OSError as exc:
            raise storage_error(exc) from exc

    def ensure(self, sha256: str, filename: str) -> None:
        """Give a blob its name again if only its public name is left: it was deleted while it was published."""
        blob, public = self.path(sha256), self._layout.packages / filename
        if not blob.exists() and public.exists():
            temporary = blob.with_name(f"{_LINKING}{secrets.token_hex(8)}")
            link_or_copy(public, temporary)
            move(temporary, blob)

    def quarantine(self, sha256: str) -> None:
        """Set a damaged blob aside."""
        if self.path(sha256).exists():
            if not self._layout.quarantine.exists():
                self.make_directory(self._layout.quarantine)
            move(self.path(sha256), self._layout.damaged(sha256))

    def adopt_or_clean(
        self, *, names: Mapping[str, str], blobs: set[str], partials: set[str], uploads: set[str]
    ) -> None:
        """Make the disk agree with the store: restore missing links, remove what nothing mentions.

        A store that mentions no bytes at all while blobs lie here is not believed: it is far more likely to be the
        wrong database, or an empty one in place of a lost one, than right. Nothing is deleted then.

        Args:
            names: Public file names and the SHA-256 that each must show.
            blobs: Every SHA-256 that is to be kept.
            partials: Ids of transfers that may go on.
            uploads: Ids of uploads that may go on.
        """
        if not blobs and any(_files(self._layout.blobs)):
            log.warning(
                "files of packages lie here and the database knows none of them; they were left alone. If the "
                "database is the wrong one, stop the node and correct database.url; if it was lost, import a backup",
                extra={"action": "files_unknown"},
            )
            return
        self._decide_deletions(blobs)
        for path in _files(self._layout.packages):
            # Some file systems (HFS+) give names back in another Unicode form than they were given.
            if unicodedata.normalize("NFC", path.name) not in names:
                self._clean(path, "public name")
        self.restore_links(names, missing_only=False)
        for path in _files(self._layout.blobs):
            if path.name not in blobs:
                self._clean(path, "blob")
        for path in _files(self._layout.partials):
            if path.name.removesuffix(".map") not in partials:
                self._clean(path, "partial file")
        for path in _files(self._layout.uploads):
            if path.name.split(".")[0] not in uploads:
                self._clean(path, "upload")

    def unused(self, age_s: float) -> Leftovers:
        """What nobody touched for so many seconds; most of it is in use all the same."""
        before = time.time() - age_s

        def old(directory: Path) -> list[Path]:
            return [path for path in _files(directory) if _changed_at(path) < before]

        return Leftovers(
            blobs=[path.name for path in old(self._layout.blobs) if not path.name.startswith(".")],
            partials=old(self._layout.partials),
            uploads=old(self._layout.uploads),
        )

    def sweep(self, sha256: str, age_s: float) -> bool:
        """Delete a blob that nothing mentions, unless somebody has touched it within so many seconds.

        Whoever means to mention a blob commits it before: that touches it, under the same lock.
        """
        path = self.path(sha256)
        with holding(path.parent):
            if _changed_at(path) >= time.time() - age_s:
                return False
            self._clean(path, "blob")
        return True

    def drop(self, path: Path) -> None:
        """Delete a partial file or an upload that nothing mentions."""
        self._clean(path, "partial file" if path.parent == self._layout.partials else "upload")

    def restore_links(self, names: Mapping[str, str], *, missing_only: bool = True) -> None:
        """Give blobs their public names again.

        Args:
            names: Public file names and the SHA-256 that each must show.
            missing_only: Leave a name alone that shows something: while the node runs, that may be newer.

        Raises:
            StorageError: The disk is full or fails.
        """
        for filename, sha256 in names.items():
            name, blob = self._layout.packages / filename, self.path(sha256)
            if blob.exists() and not (name.exists() if missing_only else _shows(name, blob)):
                self.publish(sha256, filename)

    def _decide_deletions(self, blobs: set[str]) -> None:
        """Cancel deletions that a crash left begun, where the blob is to be kept; the rest is an orphan."""
        for path in _files(self._layout.blobs):
            sha256 = path.name.removeprefix(_LEAVING)
            if sha256 != path.name and sha256 in blobs and not self.path(sha256).exists():
                self.cancel_delete(path)

    @staticmethod
    def _clean(path: Path, what: str) -> None:
        log.info(
            "a file without use was removed",
            extra={"action": "file_removed", "what": what, "file": path.name},
        )
        remove(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        sync_file(descriptor)
    finally:
        os.close(descriptor)


def _shows(name: Path, blob: Path) -> bool:
    """Whether a public name stands for a blob: a link to it, or a copy of its size where links cannot be made."""
    if not name.exists():
        return False
    if os.path.samefile(name, blob):
        return True
    return name.stat().st_size == blob.stat().st_size and blob.stat().st_nlink == name.stat().st_nlink == 1


def _changed_at(path: Path) -> float:
    """When a file was made, written, linked or committed again; in the far future if it is gone."""
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return math.inf


def _files(directory: Path) -> Iterator[Path]:
    for entry in sorted(directory.rglob("*")):
        if entry.is_file():
            yield entry
