"""The trash of this node: bytes that are no longer served, kept for a while so that a person can restore them.

A version in the trash is a row; its bytes stay a blob without a public name, and its manifest stays as long. A row is
written in the same store operation as the change that ends the version, and deleted before its blob is: after a crash
the disk may have a blob too many, never one too few. Rows go when they expire, when a package has too many, and, the
oldest first, when the disk needs room.

A file that nothing names is kept the same way, as a version without a package: the database may be an older copy, and
the record that names the file come back from a peer.

Which files are deleted is answered here, and nowhere else. Bytes are `named` if the database knows them by any name,
`unfollowed` if a record names them that this node could not carry out yet, `mentioned` if they are named or unclaimed.

- One that is found on the disk: not if it is mentioned. The start, the sweep and fsck ask this.
- One of a version whose time is over: not while it is unfollowed, since it may be the only copy. An unclaimed one not
  if it is named, and none at all while the database names nothing: it is not believed (`Trash._goes`).
- One that a decision about its package let go: not if something else here needs it (`Trash.needs`). A record may well
  name it; the decision made sure that other nodes have it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from dataclasses import asdict, dataclass, replace

from appliance.domain.errors import OUTAGES, StaleRevision, StorageError, StorageFull, WireInvalid
from appliance.domain.package import WANTED, Package, Presence
from appliance.domain.record import Record, RecordKind
from appliance.domain.trash import (
    Keeping,
    Version,
    Why,
    is_back,
    leaving,
    restore_key,
    unclaimed,
    version_id,
)
from appliance.peering.record_bodies import parse_package_body
from appliance.peering.records import package_body
from appliance.store.blobs import BlobStore
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Remove, Replace, Store
from appliance.store.schema import TRASH

from .blob_check import look
from .catalogue import Catalogue
from .trash_clock import TrashClock, monotonic_ms

log = logging.getLogger(__name__)

_COLLECTION = TRASH.name
_PAGE = 500
_ROOM_S = 60.0  #: how long a thread waits until room was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What the trash holds."""

    versions: int = 0
    bytes: int = 0  #: that emptying it would free


def needed_by(package: Package) -> set[str]:
    """The SHA-256 of all bytes that a package is served from or waits for here; one that is not admitted has none."""
    found = {package.held_sha256} if package.held_sha256 else set()
    if package.presence in WANTED | {Presence.HELD}:
        found.add(package.body.sha256)
    return found


async def named(store: Store, packages: Iterable[Package]) -> set[str]:
    """Every SHA-256 that the database knows by a name: of packages, admitted or not, of records, and of versions.

    Records count beside the views of packages: one may not be settled yet, or its view be unreadable.
    """
    found = {version.sha256 for version in await read_versions(store) if not version.unclaimed}
    for package in packages:
        found |= needed_by(package)
    where = {"kind": str(RecordKind.PACKAGE), "deleted": False}
    async for doc in every(store, "records", where):
        with contextlib.suppress(KeyError, TypeError):  # an odd record names nothing
            found.add(doc["record"]["body"]["sha256"])
    return found


async def unfollowed(store: Store, catalogue: Catalogue) -> set[str]:
    """The SHA-256s that records name which this node could not follow yet: it may be the only one that has them."""
    where = {"kind": str(RecordKind.PACKAGE), "deleted": False}
    found = set()
    async for doc in every(store, "records", where):
        if not catalogue.shows(doc):
            with contextlib.suppress(KeyError, TypeError):
                found.add(doc["record"]["body"]["sha256"])
    return found


async def mentioned(store: Store, packages: Iterable[Package]) -> set[str]:
    """Every SHA-256 whose file stays where it is found: named ones, and unclaimed ones in their time."""
    return await named(store, packages) | {version.sha256 for version in await read_versions(store)}


async def keep_unclaimed(store: Store, found: Mapping[str, int], now: int) -> None:
    """Let files that nothing names stay for a while; `found` has their sizes by SHA-256."""
    rows: list[Operation] = [
        Replace(_COLLECTION, _doc(unclaimed(sha256, size, at=now))) for sha256, size in found.items()
    ]
    for start in range(0, len(rows), _PAGE):
        await store.batch(rows[start : start + _PAGE])
    if rows:
        log.warning(
            "files of packages lie here that nothing in the database names; they are kept for a while",
            extra={"action": "files_unclaimed", "count": len(rows), "bytes": sum(found.values())},
        )


async def read_versions(store: Store) -> list[Version]:
    """Every version in the trash."""
    return [_version(doc) async for doc in every(store, _COLLECTION)]


async def forget_versions(store: Store, sha256: str) -> None:
    """Delete the versions that have certain bytes, which are lost."""
    await store.delete(_COLLECTION, {"sha256": sha256})


class Trash:
    """Versions that can be restored on this node."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        blobs: BlobStore,
        keeping: Keeping,
        now: Callable[[], int],
        monotonic: Callable[[], int] = monotonic_ms,
    ) -> None:
        """Open it.

        Args:
            store: Where the rows are.
            catalogue: The packages of this node.
            blobs: The bytes.
            keeping: How long versions are kept, and how many.
            now: UTC milliseconds.
            monotonic: Milliseconds of a clock that nobody sets, by which days are counted.
        """
        self._store = store
        self._catalogue = catalogue
        self._blobs = blobs
        self.keeping = keeping
        self._now = now
        self._clock = TrashClock(store, monotonic)
        self._purging = asyncio.Lock()
        self._usage = Usage()
        self._seen = -1

    # What goes in and comes back

    async def step(self, old: Package | None, view: Package) -> list[Operation]:
        """What is written with the step of a package from `old` to `view`."""
        found: list[Operation] = []
        for version in (await self._unserved(old, view), leaving(old, view, at=self._now())):
            found += await self._kept(version)
        if is_back(old, view):
            found.append(Remove(_COLLECTION, version_id(view.id, view.held_sha256)))
        return found

    async def passed_over(self, before: Record | None, record: Record) -> list[Operation]:
        """What is written with a record of a package that takes the place of another one.

        `step` sees only what this node carried out; the bytes of a record that it has not come to may be here as well:
        it just started with a restored database, or the disk was full.
        """
        if before is None or before.deleted or before.kind is not RecordKind.PACKAGE:
            return []
        view, old = self._catalogue.by_id(before.id), _awaited(before)
        if view is not None and not view.withdrawn and view.body.sha256 == old.body.sha256:
            return []
        return await self._kept(leaving(old, _awaited(record), at=self._now()))

    async def _kept(self, version: Version | None) -> list[Operation]:
        """The row of a version, if it is to be kept."""
        if version is None or self.keeping.off or not await asyncio.to_thread(self._is_here, version):
            return []
        return [Replace(_COLLECTION, {**_doc(version), "clock": await self._clock.read()})]

    def _is_here(self, version: Version) -> bool:
        """Whether its file is there: what nobody can restore is not promised. Blocks."""
        try:
            return not look(self._blobs, version.sha256, version.size).fault
        except StorageError:
            return True  # the disk does not say

    async def _unserved(self, old: Package | None, view: Package) -> Version | None:
        """A version whose successor was known already, and that is no longer served from now on: its time begins."""
        if (
            old is None
            or old.held_sha256 in {"", old.body.sha256, view.held_sha256, view.body.sha256}
            or self.keeping.off
        ):
            return None
        doc = await self._store.get(_COLLECTION, version_id(old.id, old.held_sha256))
        if doc is not None:
            return _version({**doc, "at": self._now()})
        return Version(
            package=old.id,
            sha256=old.held_sha256,
            filename=old.held_filename,
            size=None,
            revision=0,
            author=old.author,
            why=Why.REPLACED,
            at=self._now(),
            body=replace(old.body, sha256=old.held_sha256, filename=old.held_filename, chunks="", hashes={}),
        )

    async def versions(self, package: str) -> list[Version]:
        """The versions of a package in the trash, the one that left last first."""
        return await self._of(package, self._now())

    async def _of(self, package: str, now: int) -> list[Version]:
        docs = await self._store.find(
            _COLLECTION, {"package": package}, order="at", descending=True, limit=_PAGE
        )
        return await self._counted(docs, now)

    async def _all(self, now: int) -> list[Version]:
        return await self._counted([doc async for doc in every(self._store, _COLLECTION)], now)

    async def _counted(self, docs: Iterable[Doc], now: int) -> list[Version]:
        """The versions of rows, with the time since when their days count. A row without one has not begun.

        Args:
            docs: The rows.
            now: UTC milliseconds. Who asks what has expired asks by the same: the clock may be set meanwhile.
        """
        clock = await self._clock.read()
        found = []
        for doc in docs:
            noted = doc.get("clock")
            found.append(replace(_version(doc), counted=now if noted is None else now - clock + noted))
        return found

    async def files(self) -> dict[str, int | None]:
        """The size of each blob that a version in the trash needs, by SHA-256; None if it was not noted.

        Unclaimed files are left out: nothing is promised of them, and they are verified when a record names them.
        """
        versions = await read_versions(self._store)
        return {version.sha256: version.size for version in versions if not version.unclaimed}

    async def lost(self, sha256: str, reason: str) -> list[str]:
        """Forget the versions whose bytes are lost; those that a package waits for come back with it.

        Returns:
            The ids of their packages.
        """
        if any(sha256 in needed_by(package) for package in self._catalogue.all()):
            return []
        docs = await self._store.find(_COLLECTION, {"sha256": sha256}, limit=_PAGE)
        versions = [version for version in map(_version, docs) if not version.unclaimed]
        for version in versions:
            log.error(
                "an earlier version is damaged and can no longer be restored here",
                extra={
                    "action": "version_lost",
                    "package": version.package,
                    "package_name": version.filename,
                    "sha256": sha256,
                    "reason": reason,
                },
            )
        await forget_versions(self._store, sha256)
        return [version.package for version in versions if version.package]

    async def renew(self, package: str, sha256: str) -> Version | None:
        """A version that somebody wants back, so that it stays for now: its time begins again. None if it is gone."""
        while (doc := await self._store.get(_COLLECTION, version_id(package, sha256))) is not None:
            with contextlib.suppress(StaleRevision):  # it changed in between, or was deleted
                begun = {"at": self._now(), "clock": await self._clock.read()}
                await self._store.replace(_COLLECTION, {**doc, **begun}, expect=doc["_rev"])
                return _version(doc)
        return None

    # What goes

    async def trim(self, package: str) -> None:
        """Delete what is too much of one package."""
        now = self._now()
        await self._delete(await self._of(package, now), now)

    async def purge(self) -> None:
        """Delete what has expired, and what the disk has no room for."""
        await self._clock.advance()
        names = await named(self._store, self._catalogue.all())
        await self._begin(believed=bool(names))
        now = self._now()
        versions = await self._all(now)
        claimed = names - await unfollowed(self._store, self._catalogue)
        for version in versions:
            if version.unclaimed and version.sha256 in claimed:  # it has a name again, which decides about it
                await self._remove(version)
        await self._delete(versions, now)
        await self.make_room(0)

    async def _begin(self, *, believed: bool) -> None:
        """Let the days of rows begin that have none yet, in the order of their times.

        Something else wrote them, or an older program, or they are unclaimed. The days of these begin only when the
        database is believed, for it may be the wrong one until then.
        """
        clock = await self._clock.read()
        docs = [
            doc
            async for doc in every(self._store, _COLLECTION)
            if ((noted := doc.get("clock")) is None or noted > clock) and (believed or doc.get("package"))
        ]
        for number, doc in enumerate(sorted(docs, key=lambda doc: doc.get("at", 0))):
            with contextlib.suppress(StaleRevision, StorageFull):
                row = {**doc, "clock": clock + number}
                await self._store.replace(_COLLECTION, row, expect=doc["_rev"])

    async def _goes(self, versions: list[Version]) -> list[Version]:
        """Those of versions whose time is over that may go; see the head of this module."""
        if not versions:
            return []
        names = await named(self._store, self._catalogue.all())
        to_follow = await unfollowed(self._store, self._catalogue)

        def goes(version: Version) -> bool:
            if version.unclaimed:
                return bool(names) and version.sha256 not in names
            return version.sha256 not in to_follow

        return [version for version in versions if goes(version)]

    async def _delete(self, versions: list[Version], now: int) -> None:
        if not versions:
            return
        served = {
            version_id(package.id, package.held_sha256)
            for package in self._catalogue.all()
            if package.held_sha256 != package.body.sha256
        }
        for version in await self._goes(self.keeping.surplus(versions, served=served, now=now)):
            await self._drop(version, "expired")

    async def _remove(self, version: Version) -> bool:
        """Delete a row; says whether it was as it had been read. Who renews a version, or restores it, keeps it."""
        doc = await self._store.get(_COLLECTION, version.id)
        if doc is None or _version(doc) != version:
            return False
        if await self._store.find_jobs({"active_key": restore_key(version.package, version.sha256)}, limit=1):
            return False
        try:
            await self._store.batch([Remove(_COLLECTION, version.id, doc["_rev"])])
        except StaleRevision:
            return False
        return True

    async def _drop(self, version: Version, reason: str) -> bool:
        if not await self._remove(version):
            return False
        freed = await self.free(version.sha256)
        log.info(
            "a version was deleted from the trash",
            extra={
                "action": "version_deleted",
                "package": version.package,
                "package_name": version.filename,
                "sha256": version.sha256,
                "reason": reason,
            },
        )
        return freed

    async def make_room(self, needed: int) -> None:
        """Delete the oldest versions until `needed` bytes fit above the floor of free space.

        Nothing is deleted for bytes that would not fit even then.
        """
        async with self._purging:
            missing = await self._missing(needed)
            if missing <= 0:
                return
            now = self._now()
            spare = [each for each in await self._all(now) if self.keeping.spare(each, now)]
            versions = sorted(await self._goes(spare), key=lambda version: version.begin)
            sizes = await asyncio.to_thread(self._sizes, versions)
            if needed and sum(sizes.values()) < missing:
                return
            for version in versions:
                # Another process may make room as well; a file system that frees later says too much.
                missing = min(missing, await self._missing(needed))
                if missing <= 0:
                    return
                if version.sha256 in sizes and await self._drop(version, "the disk needs room"):
                    missing -= sizes[version.sha256]

    async def _missing(self, needed: int) -> int:
        """How many bytes are to be freed for `needed` more."""
        return self._blobs.floor + needed - await asyncio.to_thread(self._blobs.free)

    def ask_for_room(self, loop: asyncio.AbstractEventLoop) -> Callable[[int], None]:
        """`make_room` for threads, as `BlobStore.make_room`: it returns when room was made, or could not be."""

        def ask(needed: int) -> None:
            if loop.is_closed() or _on(loop):
                return
            # Without more room the caller finds the disk as full as before, and says so.
            with contextlib.suppress(TimeoutError, CancelledError, StorageError):
                asyncio.run_coroutine_threadsafe(self.make_room(needed), loop).result(_ROOM_S)

        return ask

    def _sizes(self, versions: list[Version]) -> dict[str, int]:
        """How many bytes each blob frees that only the trash needs. Blocks."""
        needed: set[str] = set()
        for package in self._catalogue.all():
            needed |= needed_by(package)
        found: dict[str, int] = {}
        for version in versions:
            if version.sha256 not in needed:
                with contextlib.suppress(OSError):
                    found[version.sha256] = self._blobs.path(version.sha256).stat().st_size
        return found

    async def usage(self) -> Usage:
        """What it holds; read again only if it changed."""
        seen = await self._store.changed(_COLLECTION, -1, timeout=0)
        if seen != self._seen:
            versions = await read_versions(self._store)
            sizes = await asyncio.to_thread(self._sizes, versions)
            self._usage = Usage(versions=len(versions), bytes=sum(sizes.values()))
            self._seen = seen
        return self._usage

    @property
    def last_usage(self) -> Usage:
        """What it held when `usage` was asked last."""
        return self._usage

    # Blobs

    async def elapsed(self) -> int:
        """How far the clock is by which days are counted here, milliseconds: nobody sets it."""
        return await self._clock.read()

    async def needs(self, sha256: str) -> bool:
        """Whether bytes that a decision let go are needed all the same, by a version or by a package here.

        By the store, so that other processes' work counts. Records do not count: other nodes have what was let go.
        """
        if await self._store.count(_COLLECTION, {"sha256": sha256}):
            return True
        if any(sha256 in needed_by(package) for package in self._catalogue.all()):
            return True
        return await self._store.count("packages", {"held_sha256": sha256}) > 0

    async def free(self, sha256: str) -> bool:
        """Delete a blob that nothing needs; says whether it did. One that cannot be touched is left to the sweep."""
        try:
            return await self._free(sha256)
        except OUTAGES:
            raise
        except StorageError as exc:
            log.error(
                "a file cannot be deleted; it was left",
                extra={"action": "file_stuck", "sha256": sha256, "reason": exc.message},
            )
            return False

    async def _free(self, sha256: str) -> bool:
        if await self.needs(sha256):
            return False
        away = await asyncio.to_thread(self._blobs.begin_delete, sha256)
        if away is None:
            return False
        try:
            needed = await self.needs(sha256)
        except OUTAGES:
            await asyncio.to_thread(self._blobs.cancel_delete, away)
            raise
        await asyncio.to_thread(self._blobs.cancel_delete if needed else self._blobs.finish_delete, away)
        return not needed


def _on(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether this is the thread of the loop, which must not wait for itself."""
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _awaited(record: Record) -> Package:
    """The view of a package whose record was not carried out here."""
    return Package(
        id=record.id,
        revision=record.revision,
        author=record.author,
        at=record.at,
        withdrawn=record.deleted,
        body=package_body(record),
        presence=Presence.WAITING,
    )


def _doc(version: Version) -> Doc:
    doc = asdict(version)
    del doc["counted"]
    if version.body is not None:
        doc["body"] = {
            **doc["body"],
            "tags": list(version.body.tags),
            "replaces": list(version.body.replaces),
        }
    return {**doc, "_id": version.id, "why": str(version.why)}


def _version(doc: Doc) -> Version:
    """The version of a row; those of an older program have neither size, reason nor body, and odd ones even less."""
    try:
        body = parse_package_body(doc["body"]) if doc.get("body") is not None else None
        why = Why(doc.get("why", Why.SUPERSEDED))
    except (
        WireInvalid,
        ValueError,
    ):  # something else wrote it: its bytes are kept for their time all the same
        body, why = None, Why.SUPERSEDED
    return Version(
        package=doc.get("package", ""),
        sha256=doc.get("sha256", ""),
        filename=doc.get("filename", ""),
        size=doc.get("size"),
        revision=doc.get("revision", 0),
        author=doc.get("author", ""),
        why=why,
        at=doc.get("at", 0),
        body=body,
    )
