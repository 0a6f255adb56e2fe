"""The directories of the data directory, looked after while the node runs.

What holds nothing of its own is made again at once: `partial`, `uploads`, `quarantine`, and `public`, whose links are
restored. `blobs` and `identity` are not: whoever took them away has what was in them, and an empty directory in their
place would hide that. Then readiness is red, with the name and what to do.

What arrives in `partial` and `uploads` becomes a blob by a rename, and one that is damaged goes to `quarantine`: all
must be on one file system. `public` may be on another one; its files are copies then.
"""

import asyncio
import logging
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

from appliance.domain.errors import ApplianceError, StorageError
from appliance.jobs.supervisor import Supervisor
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import on_one_disk
from appliance.store.layout import Layout

from .catalogue import Catalogue
from .public_names import show_changed

log = logging.getLogger(__name__)

LOOK_S = 2.0
_MOVED = ("partial", "uploads", "quarantine")  #: files are moved between these and `blobs`
_MISSING = {
    "blobs": "Mount its disk or put it back; if its files are lost, make an empty one, and packages are fetched again.",
    "identity": "Restore it from a backup before the next start: without its key the node does not start.",
}


class Folders:
    """Looks at the directories every few seconds."""

    def __init__(
        self,
        *,
        layout: Layout,
        blobs: BlobStore,
        catalogue: Catalogue,
        on_returned: Callable[[], Awaitable[object]],
        supervisor: Supervisor,
    ) -> None:
        """Make one.

        Args:
            layout: Where they are.
            blobs: Makes directories and links.
            catalogue: Which packages are held.
            on_returned: Called when `blobs` is another directory than before, or can be used again.
            supervisor: Watches the one who looks.
        """
        self._layout = layout
        self._blobs = blobs
        self._catalogue = catalogue
        self._on_returned = on_returned
        self._supervisor = supervisor
        self._devices: dict[str, int] = {}  #: by name, at the start
        self._seen: dict[str, tuple[int, int]] = {}  #: device and inode
        self._faults: dict[str, str] = {}
        self._away: set[str] = (
            set()
        )  #: what holds the blobs, and could not be used since they were last looked at
        self._task: asyncio.Task[None] | None = None

    def faults(self) -> list[str]:
        """A sentence for each directory that cannot be used."""
        return list(self._faults.values())

    async def start(self) -> None:
        """Begin to look."""
        await self.look()
        self._task = self._supervisor.start("folders", self._follow)

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def look(self) -> None:
        """Look at every directory once, and make again what can be."""
        before = dict(self._seen)
        try:
            faults = await asyncio.to_thread(self._look)
        except OSError as exc:
            faults = {"data": f"The data directory cannot be read: {exc.strerror}."}
        for name in faults.keys() - self._faults.keys():
            log.error(faults[name], extra={"action": "folder_fault", "folder": name})
        for name in self._faults.keys() - faults.keys():
            log.info("a folder can be used again", extra={"action": "folder_back", "folder": name})
        self._faults = faults
        self._away |= {"data", "blobs"} & faults.keys()
        changed = {name for name, seen in self._seen.items() if before and before.get(name) != seen}
        try:
            if changed & {"public", "public/Packages"} and "public" not in faults:
                names = self._catalogue.held_names()
                await asyncio.to_thread(self._blobs.restore_links, names)
                await show_changed(self._catalogue, self._blobs, names)
                log.info(
                    "public links were restored", extra={"action": "links_restored", "count": len(names)}
                )
            if "blobs" in changed or (self._away and not self._away & faults.keys()):
                await self._on_returned()
                self._away.clear()
        except ApplianceError as exc:
            log.warning(exc.message, extra={"action": "folder_unrepaired"})
            self._seen = before  # and so it is tried again

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            await self.look()

    def _look(self) -> dict[str, str]:
        faults: dict[str, str] = {}
        device = self._layout.root.stat().st_dev
        if self._devices.setdefault("", device) != device:  # nothing is made in what lies below a lost disk
            return {"data": "The data directory is on another disk than at the start. Mount its disk again."}
        for path in (self._layout.public, *self._layout.directories()):
            name = path.relative_to(self._layout.root).as_posix()
            fault = self._fault(name, path)
            if fault:
                faults[name] = f"The folder {name} {fault}"
        moved = [name for name in _MOVED if not {name, "blobs"} & faults.keys()]
        apart = [name for name in moved if not on_one_disk(self._layout.root / name, self._layout.blobs)]
        if apart:
            faults["apart"] = (
                f"Nothing can be moved to or from blobs: {', '.join(apart)} must be on the same file system. Stop the "
                "node, and mount or link the data directory as a whole."
            )
        return faults

    def _fault(self, name: str, path: Path) -> str:
        try:
            info = path.stat()
        except FileNotFoundError:
            if name in _MISSING:
                self._seen.pop(name, None)
                return f"is missing. {_MISSING[name]}"
            try:
                self._blobs.make_directory(path)
                info = path.stat()
            except (StorageError, OSError) as exc:
                return f"is missing and cannot be made again: {getattr(exc, 'message', exc)}"
            log.warning(
                "a folder was missing and was made again", extra={"action": "folder_made", "folder": name}
            )
        except OSError as exc:
            return f"cannot be read: {exc.strerror}."
        if not stat.S_ISDIR(info.st_mode):
            return "is a file where a directory should be. Move it away."
        if self._devices.setdefault(name, info.st_dev) != info.st_dev:
            return "is on another disk than at the start. Mount its disk again; or restart the node if that is meant."
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            return "cannot be written to. Give it to the account that runs the node, or mount its disk for writing."
        self._seen[name] = (info.st_dev, info.st_ino)
        return ""
