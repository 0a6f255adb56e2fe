"""Compares what the database says with what is on the disk, and repairs what can be repaired.

Finding nothing is the rule: files are made durable before the database mentions them, and the start of a node cleans
up after a crash. This is for disks that lied, for people who touched the files, and for restored copies.

While the node runs, files are on the move: what is younger than `grace_ms` is not called an orphan, and what is missing
is looked up a second time. Repairing needs the node to be stopped.
"""

import asyncio
import contextlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from appliance.domain.errors import (
    BlobMissing,
    InvalidInput,
    RecordAhead,
    SignatureRefused,
    StorageError,
    WireInvalid,
)
from appliance.domain.package import WANTED, Package, Presence
from appliance.domain.record import Record, RecordKind
from appliance.domain.states import TransferState
from appliance.peering.identity import Identity
from appliance.peering.records import check_time, replica_body, verify_record
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import remove
from appliance.store.layout import Layout
from appliance.store.paging import every
from appliance.store.ports import Doc, Store
from appliance.store.schema import TRASH

from .blob_check import Finding, look, verify
from .catalogue import Catalogue, package_from
from .fetch_jobs import fetch_key
from .hashing import hash_file
from .holdings import inline_manifest, manifest_doc, stored_manifest
from .records import Known, Records, stored_record
from .trash import forget_versions, keep_unclaimed, mentioned, named, read_versions
from .verified_blobs import damage

ONLINE_GRACE_MS = 60_000
_PAGE = 500


class Kind(StrEnum):
    """What can be wrong."""

    BLOB_MISSING = "blob_missing"  #: the file of a held package is gone
    BLOB_DAMAGED = "blob_damaged"  #: it has the wrong size or, when bytes are read, the wrong hash
    SET_ASIDE = "set_aside"  #: it was found damaged before, and is not whole again
    LINK_MISSING = "link_missing"  #: a held package has no public name
    LINK_WRONG = "link_wrong"  #: a public name shows other bytes
    LINK_COPY = "link_copy"  #: a public name shows the right bytes, as a copy that nobody looks at again
    LINK_ORPHAN = "link_orphan"  #: a public name of no package
    BLOB_ORPHAN = "blob_orphan"  #: bytes that nothing mentions
    PARTIAL_ORPHAN = "partial_orphan"  #: of a transfer that is over
    UPLOAD_ORPHAN = "upload_orphan"  #: of an upload that is over
    VERSION_LOST = "version_lost"  #: the file of a version in the trash is gone or damaged
    MANIFEST_MISSING = "manifest_missing"  #: a held package cannot be given to peers
    RECORD_INVALID = "record_invalid"  #: a record breaks a rule, so it is skipped
    VIEW_INVALID = "view_invalid"  #: what this node keeps of a package cannot be read, so it is skipped
    DATABASE_EMPTY = "database_empty"  #: files of packages lie here and the database knows none
    IDENTITY_LOST = "identity_lost"  #: the node does not start with these keys
    IDENTITY_OPEN = "identity_open"  #: others on this machine can read a key


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing that is wrong."""

    kind: Kind
    subject: str  #: a file name, package id or path below the data directory
    detail: str  #: a sentence
    repaired: str = ""  #: what was done about it, if anything


@dataclass(slots=True, kw_only=True)
class Report:
    """What a check found."""

    packages: int = 0
    blobs: int = 0
    bytes_read: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong any more."""
        return all(problem.repaired for problem in self.problems)


class Fsck:
    """One check of one node."""

    def __init__(
        self,
        *,
        store: Store,
        layout: Layout,
        blobs: BlobStore,
        now: Callable[[], int],
        identity: Identity | None = None,
        key_faults: Sequence[tuple[Path, str]] = (),
        grace_ms: int = 0,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Prepare a check.

        Args:
            store: The metadata.
            layout: Where files are.
            blobs: The bytes.
            now: UTC milliseconds.
            identity: Signs records of this node again that are ahead of the time; without it they are removed.
            key_faults: What `node_keys.key_faults` found.
            grace_ms: Files that changed within so many milliseconds are no orphans; 0 if the node is stopped.
            progress: Told what is being read.
        """
        self._store = store
        self._layout = layout
        self._blobs = blobs
        self._now = now
        self._identity = identity
        self._key_faults = key_faults
        self._grace_ms = grace_ms
        self._progress = progress
        self._catalogue = Catalogue(store)
        self._links = False  #: whether public names can be hard links here; else they are copies
        self._report = Report()

    async def run(self, *, read_data: bool = False, repair: bool = False) -> Report:
        """Check everything.

        Args:
            read_data: Read every file and compare its SHA-256.
            repair: Repair what can be; only while the node is stopped.
        """
        await self._check_records(repair=repair)
        await self._check_views(repair=repair)
        await self._catalogue.load()
        held = [package for package in self._catalogue.all() if package.held_sha256]
        self._report.packages = len(held)
        await self._check_damaged()
        self._links = await asyncio.to_thread(self._blobs.links)
        for package in sorted(held, key=lambda package: package.held_filename):
            fault = await self._blob_fault(package, read_data=read_data)
            if fault is None:
                await self._check_link(package, read_data=read_data, repair=repair)
                await self._check_manifest(package, repair=repair)
            elif await self._still_held(package):
                kind, detail = fault
                left, done = await self._give_up(package, detail) if repair else ("", "")
                self._add(kind, package.held_filename, f"{detail}{left}", done)
        await self._check_trash(read_data=read_data, repair=repair)
        await self._check_orphans(repair=repair)
        await self._check_identity(repair=repair)
        return self._report

    def _add(self, kind: Kind, subject: str, detail: str, repaired: str = "") -> None:
        self._report.problems.append(Problem(kind=kind, subject=subject, detail=detail, repaired=repaired))

    async def _check_records(self, *, repair: bool) -> None:
        """Check every record as one of a peer is checked."""
        last = ""
        while page := await self._store.find("records", {"_id": {"gt": last}}, limit=_PAGE):
            for doc in page:
                record, fault = await asyncio.to_thread(self._record_fault, doc)
                if fault:
                    done = await self._repair_record(doc, record) if repair else ""
                    self._add(Kind.RECORD_INVALID, doc["_id"], fault, done)
            last = page[-1]["_id"]

    def _record_fault(self, doc: Doc) -> tuple[Record | None, str]:
        """The record, if only its time is wrong with it, and what is wrong."""
        try:
            record = stored_record(doc)
            verify_record(record)
        except (InvalidInput, SignatureRefused) as exc:
            return None, exc.message
        try:
            check_time(record, self._now())
        except RecordAhead as exc:
            return record, exc.message
        return record, ""

    async def _repair_record(self, doc: Doc, ahead: Record | None) -> str:
        identity = self._identity
        if ahead is not None and identity is not None and ahead.author == identity.node_id:
            known = Known(record=None, rev=doc["_rev"])
            records = Records(self._store, identity, self._now)
            _, operation = records.write(ahead.kind, ahead.id, ahead.body, known, deleted=ahead.deleted)
            await self._store.batch([operation])
            return "signed again with the time of this machine"
        await self._store.delete("records", {"_id": doc["_id"]})
        kind, _, package = doc["_id"].partition(":")
        if kind != RecordKind.PACKAGE:
            return "removed"
        for transfer in await self._store.find("transfers", {"package": package}, limit=_PAGE):
            await self._store.delete("transfers", {"_id": transfer["_id"]})
            for job in await self._store.find_jobs({"active_key": fetch_key(transfer["_id"])}):
                await self._store.cancel_job(job.id, now=self._now())
        return "removed" + await self._remove_view(package)

    async def _remove_view(self, id: str) -> str:
        """Remove what this node keeps of a package; its file is as good as before, and stays for a while."""
        await self._catalogue.load()
        package = self._catalogue.by_id(id)
        await self._store.delete("packages", {"_id": id})
        self._catalogue.forget(id)
        if package is None or not package.held_sha256:
            return ""
        left = await _left(self._blobs.unpublish, package.held_filename)
        if self._catalogue.holders(package.held_sha256):
            return left
        kept = await self._keep(self._blobs.path(package.held_sha256))
        return f"; the node keeps its file {_KEPT}{left}" if kept else left

    async def _check_views(self, *, repair: bool) -> None:
        async for doc in every(self._store, "packages"):
            try:
                package_from(doc)
            except WireInvalid as exc:
                if repair:
                    await self._store.delete("packages", {"_id": doc["_id"]})
                done = "removed; it is made again from the record when the node starts" if repair else ""
                self._add(Kind.VIEW_INVALID, doc["_id"], exc.message, done)

    async def _manifest_doc(self, sha256: str) -> Doc | None:
        return await self._store.get("manifests", sha256)

    async def _blob_fault(self, package: Package, *, read_data: bool) -> tuple[Kind, str] | None:
        size: int | None = package.body.size if package.held_sha256 == package.body.sha256 else None
        if size is None:
            doc = await self._manifest_doc(package.held_sha256)
            size = doc["size"] if doc else None
        finding = await self._finding(package.held_sha256, size, package.held_filename, read_data=read_data)
        if finding.missing:
            return Kind.BLOB_MISSING, self._words(package.held_sha256, finding)
        self._report.blobs += 1
        if finding.fault:
            return Kind.BLOB_DAMAGED, self._words(package.held_sha256, finding)
        return None

    async def _finding(self, sha256: str, size: int | None, name: str, *, read_data: bool) -> Finding:
        finding = await asyncio.to_thread(look, self._blobs, sha256, size, mend=False)
        if finding.right and read_data:
            self._progress(name)
            finding = await asyncio.to_thread(verify, self._blobs, sha256)
            self._report.bytes_read += finding.read
        return finding

    def _words(self, sha256: str, finding: Finding) -> str:
        path = self._name(self._blobs.path(sha256))
        return f"the file {path} is missing" if finding.missing else f"{path}: {finding.fault}"

    async def _still_held(self, package: Package) -> bool:
        """Whether the node has not let go of the file meanwhile."""
        doc = await self._store.get("packages", package.id)
        return doc is not None and doc["held_sha256"] == package.held_sha256

    async def _give_up(self, package: Package, reason: str) -> tuple[str, str]:
        """Set the file aside; returns what is left to do, and what was done if the node can fetch the package again."""
        unnamed = await _left(self._blobs.unpublish, package.held_filename)
        left = await _left(self._blobs.quarantine, package.held_sha256) or unnamed
        await self._store.batch(damage(package, self._catalogue.rev(package.id), reason, self._now()))
        if left:
            return left, ""
        if await self._is_elsewhere(package):
            return (
                "",
                "set aside; another node says that it holds it, and this one asks for it when it starts",
            )
        return f"; {_UPLOAD}", ""

    async def _check_damaged(self) -> None:
        """Tell of files that were lost before; those that another node says it holds are asked for by themselves."""
        lost = {doc["_id"]: doc async for doc in every(self._store, "damaged", {"repaired_at": 0})}
        for package in self._catalogue.all():
            missing = package.presence in WANTED and package.held_sha256 != package.body.sha256
            if missing and package.body.sha256 in lost:
                aside = await asyncio.to_thread(os.path.lexists, self._layout.damaged(package.body.sha256))
                found = lost[package.body.sha256].get("reason") or "no reason is known"
                words = _ASIDE if aside else f"its file is not here, nor is it set aside ({found})"
                done = _ASKED if await self._is_elsewhere(package) else ""
                kind = Kind.SET_ASIDE if aside else Kind.BLOB_MISSING
                self._add(kind, package.body.filename, words if done else f"{words}{_NOWHERE}", done)

    async def _is_elsewhere(self, package: Package) -> bool:
        """Whether another node of the network says that it holds the newest bytes of a package."""
        docs = await self._store.find(
            "records", {"kind": str(RecordKind.NODE), "deleted": False}, limit=10_000
        )
        nodes = {doc["node"] for doc in docs} - ({self._identity.node_id} if self._identity else set())
        async for doc in every(self._store, "records", {"package": package.id}):
            with contextlib.suppress(InvalidInput):
                if doc["kind"] == RecordKind.REPLICA and doc["node"] in nodes and not doc["deleted"]:
                    said = replica_body(stored_record(doc))
                    if said.presence == Presence.HELD and said.sha256 == package.body.sha256:
                        return True
        return False

    async def _check_link(self, package: Package, *, read_data: bool, repair: bool) -> None:
        fault = await asyncio.to_thread(self._link_fault, package, read_data)
        if fault is None or not await self._still_held(package):
            return
        left = done = ""
        if repair:
            left = await _left(self._blobs.publish, package.held_sha256, package.held_filename)
            done = "" if left else "linked to its file"
        self._add(fault, package.held_filename, f"{_LINK_FAULTS[fault]}{left}", done)

    def _link_fault(self, package: Package, read_data: bool) -> Kind | None:
        try:
            return self._link_differs(package, read_data)
        except FileNotFoundError:
            return Kind.LINK_MISSING
        except OSError:  # it cannot be looked at, or read
            return Kind.LINK_WRONG

    def _link_differs(self, package: Package, read_data: bool) -> Kind | None:
        blob, link = self._blobs.path(package.held_sha256), self._layout.packages / package.held_filename
        one, other = blob.stat(), link.stat()
        if os.path.samestat(one, other):
            return None
        if other.st_size != one.st_size:
            return Kind.LINK_WRONG
        if self._links:
            same = hash_file(link).sha256 == package.held_sha256
            return Kind.LINK_COPY if same else Kind.LINK_WRONG
        if read_data and hash_file(link).sha256 != package.held_sha256:
            return Kind.LINK_WRONG
        return None

    async def _check_manifest(self, package: Package, *, repair: bool) -> None:
        if package.held_sha256 != package.body.sha256 or inline_manifest(package.body) is not None:
            return  # an older file, kept until the newer one is here, is given to no peer
        known = await stored_manifest(self._store, package.body)
        if known is not None or not await self._still_held(package):
            return
        detail = "the hashes of its chunks are missing, so peers cannot fetch it"
        done = ""
        if repair:
            manifest = await asyncio.to_thread(hash_file, self._blobs.path(package.held_sha256))
            if manifest.sha256 != package.held_sha256:
                detail = f"{detail}, and the SHA-256 of its file is {manifest.sha256}"
                left, done = await self._give_up(package, detail)
                detail += left
            else:
                await self._store.replace("manifests", manifest_doc(manifest))
                done = "made anew from the file"
        self._add(Kind.MANIFEST_MISSING, package.held_filename, detail, done)

    async def _check_trash(self, *, read_data: bool, repair: bool) -> None:
        served = {package.held_sha256 for package in self._catalogue.all()}
        for version in await read_versions(self._store):
            if version.sha256 in served or version.unclaimed:
                continue
            finding = await self._finding(version.sha256, version.size, version.filename, read_data=read_data)
            if finding.right or await self._store.get(TRASH.name, version.id) is None:
                continue
            left = done = ""
            if repair:
                await forget_versions(self._store, version.sha256)
                left = await _left(self._blobs.quarantine, version.sha256)
                done = "" if left else "it can no longer be restored on this node"
            words = f"{self._words(version.sha256, finding)}{left}"
            self._add(Kind.VERSION_LOST, version.filename, f"an earlier version: {words}", done)

    async def _check_orphans(self, *, repair: bool) -> None:
        # First the disk, then the database: what was mentioned in between is no orphan.
        files = await asyncio.to_thread(lambda: list(self._files()))
        await self._catalogue.load()
        packages = self._catalogue.all()
        blobs = await mentioned(self._store, packages)
        believed = bool(await named(self._store, packages))
        if not believed and any(kind is Kind.BLOB_ORPHAN for kind, _, _ in files):
            self._add(Kind.DATABASE_EMPTY, "database", _NOT_BELIEVED)
        names = {package.held_filename for package in packages}
        over = {str(TransferState.DONE)}
        transfers = {doc["_id"] async for doc in every(self._store, "transfers") if doc["state"] not in over}
        uploads = {doc["_id"] async for doc in every(self._store, "uploads")}
        known = {
            Kind.LINK_ORPHAN: names,
            Kind.BLOB_ORPHAN: blobs,
            Kind.PARTIAL_ORPHAN: transfers,
            Kind.UPLOAD_ORPHAN: uploads,
        }
        for kind, key, path in files:
            if key in known[kind]:
                continue
            left, done = await self._repair_orphan(path) if repair and believed else ("", "")
            self._add(kind, self._name(path), f"nothing in the database mentions it{left}", done)

    async def _repair_orphan(self, path: Path) -> tuple[str, str]:
        """Remove a file that nothing mentions; a blob stays for a while, since its record may come from a peer.

        Returns:
            What is left to do, and what was done.
        """
        if path != self._blobs.path(path.name):
            left = await _left(remove, path)
            return left, "" if left else "removed"
        return "", f"the node keeps it {_KEPT}" if await self._keep(path) else "it is gone"

    async def _keep(self, path: Path) -> bool:
        """Let a blob that nothing names stay for a while; says whether it is there."""
        try:
            size = (await asyncio.to_thread(path.stat)).st_size
        except FileNotFoundError:
            return False
        await keep_unclaimed(self._store, {path.name: size}, self._now())
        return True

    def _files(self) -> Iterator[tuple[Kind, str, Path]]:
        """Files that are old enough to be judged, with the word by which the database would know them."""
        for kind, directory in (
            (Kind.LINK_ORPHAN, self._layout.packages),
            (Kind.BLOB_ORPHAN, self._layout.blobs),
            (Kind.PARTIAL_ORPHAN, self._layout.partials),
            (Kind.UPLOAD_ORPHAN, self._layout.uploads),
        ):
            for path in sorted(directory.rglob("*")):
                try:
                    status = path.stat()
                except OSError:
                    continue
                if (
                    not stat.S_ISREG(status.st_mode)
                    or (time.time() - status.st_ctime) * 1000 < self._grace_ms
                ):
                    continue
                key = path.name
                if kind is Kind.PARTIAL_ORPHAN:
                    key = key.removesuffix(".map")
                elif kind is Kind.UPLOAD_ORPHAN:
                    key = key.split(".")[0]
                yield kind, key, path

    async def _check_identity(self, *, repair: bool) -> None:
        for path, fault in self._key_faults:
            self._add(Kind.IDENTITY_LOST, self._name(path), fault)
        if os.name != "posix":
            return
        for path in sorted(self._layout.identity.glob("*.key")):
            if path.stat().st_mode & 0o077:
                left = await _left(path.chmod, 0o600) if repair else ""
                done = "only its owner can read it now" if repair and not left else ""
                self._add(
                    Kind.IDENTITY_OPEN,
                    self._name(path),
                    f"others on this machine can read this key{left}",
                    done,
                )

    def _name(self, path: Path) -> str:
        return path.relative_to(self._layout.root).as_posix()


async def _left(step: Callable[..., object], *arguments: object) -> str:
    """Do a step of a repair on the disk; a clause that says why it could not be done, or ""."""
    try:
        await asyncio.to_thread(step, *arguments)
    except (StorageError, BlobMissing) as exc:
        return f"; that could not be mended: {exc.message}"
    except OSError as exc:
        return f"; that could not be mended: {exc.strerror}"
    return ""


_ASIDE = "its file was damaged and set aside"
_NOWHERE = ", and no other node is known to hold it. Upload the same file again"
_UPLOAD = f"{_ASIDE}{_NOWHERE}"
_NOT_BELIEVED = (
    "it knows no package, and files of packages lie here, which are left alone. It was lost, or it is another node's: "
    "correct database.url, or run `ods import` with the newest export"
)
_KEPT = "for packages.keep_days, in case a peer has its record, and then deletes it"
_ASKED = "another node says that it holds it, and this one asks for it"
_LINK_FAULTS = {
    Kind.LINK_MISSING: "it is not among the public files",
    Kind.LINK_WRONG: "the public file has other bytes",
    Kind.LINK_COPY: "the public file is a copy, not a link",
}
