"""Verifies the files of this node: when a person asks, when one changed, when a download or a peer doubts one.

A file is looked at (is it there, has it the size and the time that it had when it was last verified?) at the start,
every hour and by each download. One that changed is read before anybody is served it. A damaged one is set aside, and
what is right of it is taken from there when the package is fetched again (`salvage`).
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Awaitable, Callable, Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from appliance.domain.errors import (
    OUTAGES,
    ApplianceError,
    BlobMissing,
    StaleRevision,
    StorageError,
    StorageFull,
)
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.moment import written_ahead
from appliance.domain.package import WANTED, Package
from appliance.jobs.context import JobContext
from appliance.store.blobs import BlobStore, Stamp
from appliance.store.filesystem import storage_error
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Remove, Replace, Store
from appliance.store.schema import NODE

from .blob_check import Finding, fault_of, look, verify
from .catalogue import Catalogue
from .hashing import hash_file
from .holdings import Holdings
from .journal import SYSTEM, entry
from .public_names import show
from .trash import Trash, named, unfollowed
from .verified_blobs import VerifiedBlobs
from .verify_jobs import verify_blob_job

log = logging.getLogger(__name__)

LOOK_S = 3600.0
WAIT_S = 10.0  #: how long a download waits for its file to be verified
START_S = 3.0  #: how long a start waits for files that changed meanwhile to be verified
START_SIZE = 256 * 1024 * 1024  #: bytes; a start waits for no larger one
PROOF_MS = 3_600_000  #: how long a file that was read counts as right, for who wants to release a copy
COMPLAINT_MS = 10 * 60_000  #: a package is verified for peers once in this time
COMPLAINTS = 32  #: packages that are verified for one peer in an hour
REPAIRED_MS = 90 * 86_400_000  #: how long it is known what was repaired
_HOUR_MS = 3_600_000
_SET_ASIDE = "set_aside"  #: the document that says since when files are in `quarantine`
_THREADS = 8
_AT_ONCE = 16  #: damaged blobs that are written down together
_MANY = 500
_JOBS = 1000  #: files that changed and are verified by jobs, after one look


@dataclass(slots=True)
class Looked:
    """What a look at every held file found."""

    files: int = 0
    lost: list[tuple[str, Finding]] = field(default_factory=list)  #: gone, of another size, or no file
    changed: list[str] = field(default_factory=list)  #: written to, or another file, since they were verified
    unknown: list[tuple[str, Stamp]] = field(default_factory=list)  #: nothing was noted of them
    names: list[tuple[str, str]] = field(
        default_factory=list
    )  #: SHA-256 and public name that does not show it


class Verifying:
    """Looks at files, reads them, and deals with what is damaged. Runs `package.verify` and `blob.verify`."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        blobs: BlobStore,
        holdings: Holdings,
        verified: VerifiedBlobs,
        trash: Trash,
        now: Callable[[], int],
        keep_damaged_ms: int,
    ) -> None:
        """Make one.

        Args:
            store: Where it is written what was found.
            catalogue: The packages.
            blobs: Their files.
            holdings: Told of damage.
            verified: How the files looked when they were verified.
            trash: Which earlier versions lie here too.
            now: UTC milliseconds.
            keep_damaged_ms: How long a damaged file stays that nobody wants any more.
        """
        self._store = store
        self._catalogue = catalogue
        self._blobs = blobs
        self._holdings = holdings
        self._verified = verified
        self._trash = trash
        self._now = now
        self._keep_damaged_ms = keep_damaged_ms
        self._running: dict[str, asyncio.Task[Finding]] = {}
        self._together = asyncio.Semaphore(2)
        self._open: dict[str, Doc] = {}  #: what is damaged and not repaired, as far as this process knows
        self._complaints: dict[str, int] = {}  #: when a package was last verified for a peer
        self._by_peer: dict[str, list[int]] = {}
        self._since = now()  #: what happened to the disk before, nobody saw

    async def load(self) -> None:
        """Read what is known: at the start."""
        await self._verified.load()
        await self._load_open()

    async def _load_open(self) -> None:
        self._open = {doc["_id"]: doc async for doc in every(self._store, "damaged", {"repaired_at": 0})}

    # Reading

    def run(self, job: Job, context: JobContext) -> None:
        """Read the whole file of a package. A bad one is set aside and fetched again.

        Raises:
            BlobMissing: The file is gone or its bytes are wrong; the message says what was found.
        """
        package = context.wait(self._catalogue.refresh(job.args["package"]))
        if package is None:
            return
        if not package.held_sha256:
            context.wait(self._holdings.check_damage(package))
            return
        finding = verify(self._blobs, package.held_sha256, check=context.check)
        context.wait(self.found(package.held_sha256, finding))
        if finding.fault:
            raise BlobMissing(f'"{package.body.filename}": {finding.fault}; it is fetched again.')
        log.info("a package was verified", extra={"action": "package_verified", "package": package.id})

    def run_blob(self, job: Job, context: JobContext) -> None:
        """Read a whole blob, and serve the packages that wait for it, or give up those that were served from it.

        A wrong one may be set aside already, by a try that was cut off: the packages are settled all the same.

        Raises:
            StorageError: It cannot be read now.
        """
        sha256 = job.args["sha256"]
        if self.verify_local(sha256, context) and context.wait(self._lacks_manifest(sha256)):
            try:
                manifest = hash_file(self._blobs.path(sha256), check=context.check)
            except OSError as exc:
                raise storage_error(exc) from exc
            if manifest.sha256 == sha256:
                context.wait(self._holdings.keep_manifest(manifest))
        context.wait(self._settle_wanting(sha256))

    async def _lacks_manifest(self, sha256: str) -> bool:
        """Whether a package wants a blob of which nobody knows the chunks: the database is older than the file."""
        if await self._store.get("manifests", sha256) is not None:
            return False
        bodies = [package.body for package in self._wanting(sha256)]
        return any([await self._holdings.manifest(body) is None for body in bodies])

    def verify_local(self, sha256: str, context: JobContext) -> bool:
        """Read a blob that may lie here; says whether it does, and is right."""
        finding = verify(self._blobs, sha256, check=context.check)
        context.wait(self.found(sha256, finding))
        return finding.right

    async def verified_at(self, sha256: str) -> int:
        """When a file was verified last, UTC milliseconds; 0 if it was not."""
        await self._verified.refresh()
        known = self._verified.get(sha256)
        return known.at if known is not None else 0

    async def read_lately(self, sha256: str) -> bool:
        """Whether a blob was verified within `PROOF_MS` and since this process began; if not, it is verified soon.

        A file can rot without a change of its size or times, so only reading it says that it is right.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        at, now = await self.verified_at(sha256), self._now()
        self._since = min(self._since, now)  # the clock was set back
        if at >= max(self._since, now - PROOF_MS) and not written_ahead(at, now):
            return True
        await self._store.enqueue(verify_blob_job(sha256, now))
        return False

    async def found(self, sha256: str, finding: Finding) -> None:
        """Take over what reading a blob showed.

        Raises:
            StoreUnavailable: It could not be written down; a damaged file was set aside all the same.
        """
        if finding.right and finding.stamp is not None:
            await self._store.batch([self._verified.remember(sha256, finding.stamp)])
        else:
            await self.lost(sha256, finding)

    async def lost(self, sha256: str, finding: Finding) -> list[str]:
        """Set a damaged blob aside; the ids of the packages that had it, now or earlier."""
        ids = await self._holdings.lost_blob(sha256, finding.fault, finding.stamp)
        doc = await self._store.get("damaged", sha256)
        if doc is not None and not doc["repaired_at"]:
            self._open[sha256] = doc
        return ids

    async def _settle_wanting(self, sha256: str) -> None:
        """Serve every package that wants this blob and does not have it."""
        await self._holdings.settle_many(package.id for package in self._wanting(sha256))

    def _wanting(self, sha256: str) -> list[Package]:
        return [
            package
            for package in self._catalogue.all()
            if package.body.sha256 == sha256 and package.held_sha256 != sha256 and not package.withdrawn
        ]

    # Downloads

    async def check(self, package: Package, stamp: Stamp) -> None:
        """Let the file of a held package be served, if it is the one that was verified or is right.

        One of which nothing is noted, as when an older program verified it, is served if its size is right: to read
        every file first would keep a node with large ones from its work. It counts as never verified, and the scrub
        reads it before all others.

        Raises:
            BlobMissing: It is damaged, or it changed and is not verified yet.
        """
        sha256 = package.held_sha256
        if await self._verified.trusted(sha256, stamp):
            return
        size = self._size(package)
        if self._verified.get(sha256) is None and (size is None or stamp.size == size):
            with contextlib.suppress(*OUTAGES):  # it is known in memory; downloads go on without a database
                await self._note_unknown([(sha256, stamp)])
            return
        await self.doubt(package)
        if not self._verified.fits(sha256, stamp):  # what was opened is not what lies there now
            raise BlobMissing(f'The file of "{package.body.filename}" was replaced; try again.')

    async def doubt(self, package: Package) -> None:
        """Verify the file of a held package now.

        Raises:
            BlobMissing: It is damaged, or that takes longer than a download waits.
        """
        name = package.body.filename
        try:
            finding = await asyncio.wait_for(asyncio.shield(self._verify_now(package)), WAIT_S)
        except TimeoutError:
            raise BlobMissing(
                f'The file of "{name}" changed on the disk and is verified before it is served.'
            ) from None
        except StorageError as exc:
            raise BlobMissing(f'The file of "{name}" cannot be verified now: {exc.message}') from exc
        if finding.fault:
            raise self._missing(package)

    async def unreadable(self, package: Package, exc: OSError) -> BlobMissing:
        """What to say of a file that cannot be opened; if that is damage, the package is fetched again.

        Raises:
            StorageError: It is not damaged; the system is short of something.
        """
        fault_of(exc)
        await self.doubt(package)
        return BlobMissing(f'The file of "{package.body.filename}" could not be read; try again.')

    def suspect(self, package: Package) -> None:
        """A file failed in the middle of a download: verify it soon, and let nobody wait for that."""
        self._verify_now(package)

    def _missing(self, package: Package) -> BlobMissing:
        now = self._catalogue.by_id(package.id) or package
        return BlobMissing(f'The file of "{package.body.filename}" is damaged here: {now.reason}.')

    def _verify_now(self, package: Package) -> "asyncio.Task[Finding]":
        """Verify a file in this process; once for all who wait."""
        sha256 = package.held_sha256
        task = self._running.get(sha256)
        if task is None:
            task = self._running[sha256] = asyncio.create_task(self._read(sha256, self._size(package)))
            task.add_done_callback(lambda ended: self._ended(sha256, ended))
        return task

    async def _read(self, sha256: str, size: int | None) -> Finding:
        finding = await asyncio.to_thread(look, self._blobs, sha256, size)
        if finding.right:
            async with self._together:
                finding = await asyncio.to_thread(verify, self._blobs, sha256)
        with contextlib.suppress(*OUTAGES):  # a wrong file was set aside, a right one is known here
            await self.found(sha256, finding)
        return finding

    def _ended(self, sha256: str, task: "asyncio.Task[Finding]") -> None:
        self._running.pop(sha256, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning(
                "a file could not be verified",
                extra={"action": "verify_failed", "sha256": sha256, "reason": str(error)},
            )

    def _size(self, package: Package) -> int | None:
        """The size of a held file, as far as it is known."""
        if package.held_sha256 == package.body.sha256:
            return package.body.size
        known = self._verified.get(package.held_sha256)
        return known.stamp.size if known else None

    # Looking

    async def look(self, *, names: bool = True, wait_s: float = 0.0) -> Looked:
        """Look at every file of a package or an earlier version, and at public names; deal with what is wrong.

        Args:
            names: Whether public names are looked at, and made again.
            wait_s: How long to wait for files that changed to be verified; the rest is left to jobs.
        """
        await self.load()
        held: dict[str, tuple[int | None, list[str]]] = {
            sha256: (size, []) for sha256, size in (await self._trash.files()).items()
        }
        for package in self._catalogue.all():
            if package.held_sha256:
                _, names_of = held.setdefault(package.held_sha256, (self._size(package), []))
                names_of.append(package.held_filename)
        looked = await asyncio.to_thread(self._look, held, names)
        await self._note_unknown(looked.unknown)
        await _several(looked.lost, lambda one: self._lost_in_look(*one))
        await self._verify_changed(looked.changed, wait_s)
        await self.notice_repairs()
        await self.clean_quarantine()
        await self._forget_old(held)
        for sha256 in dict.fromkeys(sha256 for sha256, _ in looked.names):
            for id in self._catalogue.holders(sha256):
                await show(self._catalogue, self._blobs, id)
        if looked.lost or looked.changed or looked.names:
            log.warning(
                "files of packages changed on the disk",
                extra={
                    "action": "files_changed",
                    "missing": len(looked.lost),
                    "changed": len(looked.changed),
                    "names": len(looked.names),
                },
            )
        return looked

    def _look(self, held: Mapping[str, tuple[int | None, list[str]]], names: bool) -> Looked:
        looked = Looked(files=len(held))

        def one(item: tuple[str, tuple[int | None, list[str]]]) -> None:
            sha256, (size, public) = item
            known = self._verified.get(sha256)
            try:
                finding = look(self._blobs, sha256, size if known is None else known.stamp.size)
            except StorageError as exc:
                log.warning(exc.message, extra={"action": "look_failed", "sha256": sha256})
                return
            if finding.fault or finding.stamp is None:
                looked.lost.append((sha256, finding))
                return
            if known is None:
                looked.unknown.append((sha256, finding.stamp))
            elif known.stamp != finding.stamp:
                looked.changed.append(sha256)
            if names:
                looked.names.extend((sha256, name) for name in public if not self._blobs.shows(sha256, name))

        with ThreadPoolExecutor(_THREADS, thread_name_prefix="look") as pool:
            list(pool.map(one, held.items(), chunksize=64))
        return looked

    async def _lost_in_look(self, sha256: str, finding: Finding) -> None:
        """As `lost`; one that cannot be dealt with now holds up no other, and no start."""
        try:
            await self.lost(sha256, finding)
        except OUTAGES:
            raise
        except ApplianceError as exc:
            log.warning(exc.message, extra={"action": "lost_later", "sha256": sha256})

    async def _note_unknown(self, found: Iterable[tuple[str, Stamp]]) -> None:
        """Know how files look that were here before anything was noted of them; they are verified first."""
        operations = [self._verified.remember(sha256, stamp, at=0) for sha256, stamp in found]
        for start in range(0, len(operations), _MANY):
            await self._store.batch(operations[start : start + _MANY])

    async def _verify_changed(self, changed: list[str], wait_s: float) -> None:
        deadline = time.monotonic() + wait_s
        left = []
        for size, sha256 in sorted((self._known_size(sha256), sha256) for sha256 in changed):
            if time.monotonic() >= deadline or size > START_SIZE:
                left.append(sha256)
                continue
            try:
                finding = await asyncio.to_thread(verify, self._blobs, sha256)
            except StorageError:
                left.append(sha256)
            else:
                await self.found(sha256, finding)
        now = self._now()
        await _several(left[:_JOBS], lambda sha256: self._store.enqueue(verify_blob_job(sha256, now)))

    def _known_size(self, sha256: str) -> int:
        known = self._verified.get(sha256)
        return known.stamp.size if known else 0

    # Damage that is repaired

    async def notice_repairs(self) -> None:
        """Say what was damaged and is whole again; called when packages changed."""
        if not self._open:
            return
        wanted = self._wanted()
        for sha256, doc in list(self._open.items()):
            if sha256 in wanted and not self._catalogue.holders(sha256):
                continue
            concerned = {*wanted.get(sha256, ()), *self._catalogue.holders(sha256)}
            for id in concerned:
                await self._catalogue.refresh(id)  # another process may have just found the damage
            if self._catalogue.holders(sha256):
                await self._settle_wanting(
                    sha256
                )  # one is served from it: so are the others, and all are told
            holders = self._catalogue.holders(sha256)
            if holders or not any(map(self._waits, concerned)):
                await self._close(sha256, doc, holders)

    def _waits(self, id: str) -> bool:
        package = self._catalogue.by_id(id)
        return package is not None and package.presence in WANTED

    def _wanted(self) -> dict[str, list[str]]:
        """The SHA-256 of every package that waits for its bytes here, and the ids of these packages."""
        found: dict[str, list[str]] = {}
        for package in self._catalogue.all():
            if package.presence in WANTED:
                found.setdefault(package.body.sha256, []).append(package.id)
        return found

    async def _close(self, sha256: str, doc: Doc, holders: list[str]) -> None:
        now = self._now()
        events: list[Operation] = [
            entry(
                EventType.PACKAGE_REPAIRED,
                at=now,
                actor=SYSTEM,
                subject=package.id,
                filename=package.body.filename,
                sha256=sha256,
            )
            for package in map(self._catalogue.by_id, holders)
            if package is not None
        ]
        done: list[Operation] = [Remove("damaged", sha256, doc["_rev"])]
        if holders:  # under a name of its own: the file may be damaged again
            repair = {**doc, "_id": f"{sha256}.{now}", "repaired_at": now}
            done.append(Replace("damaged", {name: repair[name] for name in repair if name != "_rev"}))
        self._open.pop(sha256, None)
        try:
            await self._store.batch([*done, *events])
        except StaleRevision:  # another process of this node said it, or it is damaged again
            now_stored = await self._store.get("damaged", sha256)
            if now_stored is not None and not now_stored["repaired_at"]:
                self._open[sha256] = now_stored
            return
        if holders:
            log.info("a damaged file is repaired", extra={"action": "package_repaired", "sha256": sha256})
            await self._drop(sha256)

    async def clean_quarantine(self) -> None:
        """Delete what was set aside and is whole again, or wanted by nobody for a while.

        Its days are counted as those of the trash, from when this database first saw it. Nothing is deleted while the
        database names nothing, and so is not believed.
        """
        packages = self._catalogue.all()
        found = dict(await asyncio.to_thread(self._blobs.quarantined))
        if found and not await named(self._store, packages):
            return
        clock = await self._trash.elapsed()
        seen = await self._set_aside(found, clock)
        held = {package.held_sha256 for package in packages}
        wanted = self._wanted().keys() | (await unfollowed(self._store, self._catalogue) if found else set())
        for sha256 in found:
            old = clock - seen[sha256] > self._keep_damaged_ms
            # Between setting aside and noting so the package is called held: then there is no file in its place.
            whole = sha256 in held and await asyncio.to_thread(os.path.lexists, self._blobs.path(sha256))
            if whole or (old and sha256 not in wanted):
                await self._drop(sha256)

    async def _set_aside(self, found: Mapping[str, float], clock: int) -> dict[str, int]:
        """What the clock of the trash was when each file that is set aside was first seen; kept in the database.

        Args:
            found: The files by SHA-256; the time of each tells it from another one of this hash.
            clock: What the clock of the trash is now.
        """
        doc = await self._store.get(NODE.name, _SET_ASIDE) or {"_id": _SET_ASIDE, "files": {}}
        files: dict[str, dict[str, Any]] = {}
        for sha256, changed in found.items():
            known = doc["files"].get(sha256)
            same = known is not None and known["changed"] == changed and known["clock"] <= clock
            files[sha256] = known if same else {"changed": changed, "clock": clock}
        if files != doc["files"]:
            with contextlib.suppress(StorageFull):  # what is not noted is kept longer
                await self._store.replace(NODE.name, {"_id": _SET_ASIDE, "files": files})
        return {sha256: note["clock"] for sha256, note in files.items()}

    async def _forget_old(self, held: Container[str]) -> None:
        """Delete what is noted of blobs that are gone, and of damage that was repaired long ago."""

        def gone() -> list[str]:
            return [
                sha256
                for sha256 in self._verified.all()
                if sha256 not in held and not os.path.lexists(self._blobs.path(sha256))
            ]

        before = self._now() - REPAIRED_MS
        await self._store.delete("damaged", {"repaired_at": {"gt": 0, "lt": before}})
        for sha256 in await asyncio.to_thread(gone):
            await self._store.batch([self._verified.forget(sha256)])

    async def _drop(self, sha256: str) -> None:
        try:
            await asyncio.to_thread(self._blobs.drop_quarantined, sha256)
        except StorageError as exc:
            log.warning(exc.message, extra={"action": "quarantine_left", "sha256": sha256})

    # Complaints of peers

    async def complained(self, peer: str, package: Package) -> bool:
        """A peer got wrong bytes of a package from here: verify its file, if that was not done a moment ago.

        A peer that lies costs one reading of a package in ten minutes, and a few packages an hour.

        Returns:
            Whether it is verified.
        """
        now = self._now()
        lately = [at for at in self._by_peer.get(peer, []) if at > now - _HOUR_MS]
        recent = now - self._complaints.get(package.id, -COMPLAINT_MS) < COMPLAINT_MS
        if recent or len(lately) >= COMPLAINTS or not package.held_sha256:
            return False
        self._complaints = {id: at for id, at in self._complaints.items() if now - at < COMPLAINT_MS}
        self._complaints[package.id] = now
        self._by_peer[peer] = [*lately, now]
        log.warning(
            "a peer got wrong bytes from here; the file is verified",
            extra={"action": "complaint", "peer": peer, "package": package.id},
        )
        return await self._store.enqueue(verify_blob_job(package.held_sha256, now))


async def _several(items: Iterable[object], step: Callable[..., Awaitable[object]]) -> None:
    """Do a step for each item, several at a time."""
    waiting = list(items)

    async def drain() -> None:
        while waiting:
            await step(waiting.pop())

    await asyncio.gather(*(drain() for _ in range(min(_AT_ONCE, len(waiting)))))
