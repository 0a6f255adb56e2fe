"""Uploads: bytes that arrive from outside, in one request or in many, until they are a package.

What was received lies in a file of the upload's id. After a crash of the process the file's length counts; after
a crash of the machine only what was made durable at the end of a request. Hashes go on in memory between requests
and are made again from the file after a restart.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance.domain.errors import (
    ApplianceError,
    Conflict,
    DigestMismatch,
    InvalidInput,
    OffsetMismatch,
    TooLarge,
    UploadUnknown,
)
from appliance.domain.manifest import Manifest, check_digest
from appliance.domain.node import check_stage
from appliance.domain.package import Package, check_tags
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import boot_id, remove
from appliance.store.layout import Layout
from appliance.store.ports import Doc, Store

from .packages import Packages
from .receiving import Receiver

log = logging.getLogger(__name__)

IDLE_RECEIVERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload that is not a package yet."""

    id: str
    filename: str  #: "" for a part of a concatenation
    size: int | None  #: bytes promised; None if only the end of the body tells
    stage: str
    tags: tuple[str, ...] = ()
    notes: str = ""
    replace: bool = False
    sha1: str = ""  #: expected, hex
    sha256: str = ""  #: expected, hex
    part: bool = False  #: a part of a concatenation
    actor: str = ""
    created_at: int = 0
    expires_at: int = 0  #: UTC milliseconds
    synced: int = 0  #: bytes that survive a power cut
    boot: str = ""  #: the boot of the machine that received the rest
    metadata: dict[str, Any] = field(default_factory=dict)
    offset: int = 0  #: bytes received


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """An upload that became a package."""

    package: Package
    created: bool  #: the name is new; else a file was replaced


class UploadService:
    """The uploads of this node."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        layout: Layout,
        packages: Packages,
        stages: Sequence[str],
        default_stage: str,
        max_size: int,
        life_ms: int,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._layout = layout
        self._packages = packages
        self._stages = stages
        self._default_stage = default_stage
        self.max_size = max_size
        self._life_ms = life_ms
        self._now = now
        self._receivers: dict[str, Receiver] = {}
        self._busy: set[str] = set()

    async def create(
        self,
        *,
        filename: str,
        size: int | None,
        stage: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        replace: bool = False,
        sha1: str = "",
        sha256: str = "",
        part: bool = False,
        actor: str,
    ) -> Upload:
        """Open an upload; whatever can be refused is refused here, before the first byte.

        Stage, tags and notes that are not given stay as they are when a package is replaced.

        Raises:
            InvalidInput: Name, stage, tags or a checksum break a rule, or the size is above the limit.
            PackageExists: The name is taken and `replace` is not asked for.
            StorageFull: There is no room for it.
        """
        if size is not None and size > self.max_size:
            raise TooLarge(
                f"An upload has at most {self.max_size} bytes (uploads.max_size); this one has {size}."
            )
        name = "" if part else self._packages.check_publishable(filename, replace=replace)
        now = self._now()
        before = self._packages.replaced_by(name)
        upload = Upload(
            id=secrets.token_hex(16),
            filename=name,
            size=size,
            stage=check_stage(stage or (before.stage if before else self._default_stage), self._stages),
            tags=check_tags(tags if tags is not None else before.tags if before else ()),
            notes=notes if notes is not None else before.notes if before else "",
            metadata=before.metadata if before else {},
            replace=replace,
            sha1=check_digest("sha1", sha1) if sha1 else "",
            sha256=check_digest("sha256", sha256) if sha256 else "",
            part=part,
            actor=actor,
            created_at=now,
            expires_at=now + self._life_ms,
            boot=boot_id(),
        )
        await asyncio.to_thread(self._blobs.check_space, size or 0)
        await self._store.insert("uploads", _to_doc(upload))
        await asyncio.to_thread(self._path(upload.id).touch, 0o640)
        return upload

    async def get(self, id: str) -> Upload:
        """An upload, with how much of it is here.

        Raises:
            UploadUnknown: There is none, or it has expired.
        """
        doc = await self._store.get("uploads", id)
        if doc is None or doc["expires_at"] <= self._now():
            raise UploadUnknown("There is no such upload, or it has expired; begin again.")
        return await self._with_offset(_from_doc(doc))

    async def page(self, *, limit: int, after: tuple[Any, str] | None = None) -> list[Upload]:
        """Uploads that have not expired, in order of their expiry."""
        docs = await self._store.find(
            "uploads", {"expires_at": {"gt": self._now()}}, order="expires_at", limit=limit, after=after
        )
        return [await self._with_offset(_from_doc(doc)) for doc in docs]

    async def _with_offset(self, upload: Upload) -> Upload:
        receiver = self._receivers.get(upload.id)
        offset = receiver.offset if receiver else await asyncio.to_thread(self._offset, upload)
        return replace(upload, offset=offset)

    def _offset(self, upload: Upload) -> int:
        try:
            length = self._path(upload.id).stat().st_size
        except FileNotFoundError:
            return 0
        same_boot = upload.boot != "" and upload.boot == boot_id()
        return length if same_boot else min(length, upload.synced)

    @contextlib.asynccontextmanager
    async def receiving(self, upload: Upload, offset: int) -> AsyncIterator[Receiver]:
        """A receiver that continues at `offset`; one at a time for each upload.

        What was received stays when the block is left by an error of the connection or the disk.

        Raises:
            OffsetMismatch: The upload continues elsewhere; `offset` in the details says where.
            Conflict: Another request writes to this upload.
        """
        if upload.id in self._busy:
            raise Conflict("Another request is writing to this upload; wait for it to end.")
        self._busy.add(upload.id)
        receiver: Receiver | None = None
        try:
            current = await self.get(upload.id)
            if current.offset != offset:
                raise OffsetMismatch(
                    f"The upload continues at byte {current.offset}, not {offset}.", offset=current.offset
                )
            receiver = self._receivers.pop(upload.id, None)
            if receiver is None:
                receiver = await Receiver.open(self._path(upload.id), offset)
            yield receiver
            await receiver.flush()
            if not receiver.closed:
                self._keep(upload.id, receiver)
            receiver = None
        finally:
            self._busy.discard(upload.id)
            if receiver is not None:
                await asyncio.to_thread(receiver.close)

    def _keep(self, id: str, receiver: Receiver) -> None:
        """Keep the hashes for the next request; the oldest idle ones are made anew from their files if need be."""
        self._receivers[id] = receiver
        while len(self._receivers) > IDLE_RECEIVERS:
            oldest = next(iter(self._receivers))
            self._receivers.pop(oldest).close()

    async def rest(self, upload: Upload, receiver: Receiver) -> None:
        """A request ended and the upload is not complete: make durable what there is, and prolong its life."""
        await receiver.sync()
        doc = await self._store.get("uploads", upload.id)
        if doc is not None:
            doc.update(synced=receiver.offset, boot=boot_id(), expires_at=self._now() + self._life_ms)
            await self._store.replace("uploads", doc)

    async def complete(self, upload: Upload, receiver: Receiver) -> Outcome:
        """Check the bytes, commit them as a blob and publish the package.

        Raises:
            DigestMismatch: They do not have the expected checksum; nothing is kept.
            PackageExists: Somebody took the name meanwhile; nothing is kept.
        """
        ended = self._now()
        manifest = await receiver.manifest()
        await asyncio.to_thread(receiver.close)
        wrong = _mismatch(upload, manifest)
        if wrong:
            await self.terminate(upload.id)
            raise DigestMismatch(wrong, sha1=manifest.sha1, sha256=manifest.sha256)
        path = self._path(upload.id)
        await asyncio.to_thread(self._blobs.commit, path, manifest.sha256)
        try:
            package, created = await self._packages.publish(
                manifest=manifest,
                filename=upload.filename,
                stage=upload.stage,
                tags=upload.tags,
                notes=upload.notes,
                metadata=upload.metadata,
                actor=upload.actor,
                replace=upload.replace,
            )
        except ApplianceError:
            await self.terminate(upload.id)
            raise
        await self.terminate(upload.id)
        log.info(
            "an upload is complete",
            extra={
                "action": "upload_complete",
                "package": package.id,
                "package_name": package.body.filename,
                "size": manifest.size,
                "received_at": ended,
            },
        )
        return Outcome(package=package, created=created)

    async def concatenate(self, parts: Sequence[str], upload: Upload) -> Outcome:
        """Join complete parts, in order, into `upload`, and complete it. Each part is deleted when it is joined.

        Raises:
            InvalidInput: A part is unknown, not a part or not complete.
        """
        found = [await self.get(id) for id in parts]
        if not found or any(not part.part or part.offset != part.size for part in found):
            raise InvalidInput("Only complete partial uploads can be joined.")
        async with self.receiving(upload, 0) as receiver:
            for part in found:
                source = await asyncio.to_thread(self._path(part.id).open, "rb")
                try:
                    while data := await asyncio.to_thread(source.read, 1024 * 1024):
                        await receiver.write(data)
                finally:
                    source.close()
                await receiver.flush()
                await self.terminate(part.id)
            return await self.complete(upload, receiver)

    async def terminate(self, id: str) -> None:
        """Delete an upload and what was received."""
        await self._store.delete("uploads", {"_id": id})
        receiver = self._receivers.pop(id, None)
        if receiver is not None:
            await asyncio.to_thread(receiver.close)
        await asyncio.to_thread(remove, self._path(id))

    async def expire(self) -> None:
        """Delete uploads whose life has ended."""
        for doc in await self._store.find("uploads", {"expires_at": {"lte": self._now()}}, limit=1000):
            if doc["_id"] not in self._busy:
                log.info("an upload expired", extra={"action": "upload_expired", "upload": doc["_id"]})
                await self.terminate(doc["_id"])

    def close(self) -> None:
        """Let go of all files."""
        for receiver in self._receivers.values():
            receiver.close()
        self._receivers.clear()

    def _path(self, id: str) -> Path:
        return self._layout.upload(id)


def _mismatch(upload: Upload, manifest: Manifest) -> str:
    for kind, expected, found in (
        ("SHA-256", upload.sha256, manifest.sha256),
        ("SHA-1", upload.sha1, manifest.sha1),
    ):
        if expected and expected != found:
            return f"The {kind} of the bytes received is {found}, not {expected}; nothing was kept. Upload it again."
    return ""


def _to_doc(upload: Upload) -> Doc:
    doc = asdict(upload)
    doc["_id"] = doc.pop("id")
    doc["tags"] = list(upload.tags)
    del doc["offset"]
    return doc


def _from_doc(doc: Doc) -> Upload:
    fields = {name: value for name, value in doc.items() if not name.startswith("_")}
    return Upload(**{**fields, "tags": tuple(doc["tags"])}, id=doc["_id"])
