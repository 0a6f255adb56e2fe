"""Uploads: bytes that arrive from outside, in one request or in many, until they are a package.

What was received lies in a file of the upload's id. After a crash of the process the file's length counts; after
a crash of the machine only what was made durable at the end of a request. Hashes go on in memory between requests
and are made again from the file after a restart.

One request at a time writes to an upload. Who comes back after a lost connection is believed: the request that still
waits on the old one is ended. A complete upload keeps its bytes until the package is published, and is remembered a
while after that, so that a node killed at any point, or an answer that was lost, costs no byte a second time. On a
disk without hard links the bytes cannot be kept without a second copy: there, a kill or an outage of the database in
the moment between blob and record means that this one upload begins again.
"""

import asyncio
import contextlib
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.domain.errors import (
    OUTAGES,
    ApplianceError,
    Conflict,
    DigestMismatch,
    OffsetMismatch,
    PackageExists,
    TooLarge,
    UploadUnknown,
)
from appliance.domain.manifest import check_digest
from appliance.domain.node import check_stage, check_within
from appliance.domain.package import check_tags
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import open_in_place, remove, storage_error
from appliance.store.layout import Layout
from appliance.store.ports import Store

from .installer_facts import with_installer
from .joining import check_parts, join_parts, joined_id
from .packages import Packages
from .receiving import Receiver
from .upload import Outcome, Upload, from_doc, mismatch, this_boot, to_doc
from .writers import Interrupt, Writers

__all__ = ["Outcome", "Upload", "UploadService"]

log = logging.getLogger(__name__)

REMEMBERED_MS = 24 * 3600 * 1000  #: how long the id of a complete upload still answers


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
        self._writers = Writers()

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
        tus_metadata: str = "",
        actor: str,
        id: str = "",
        parts: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> Upload:
        """Open an upload; whatever can be refused is refused here, before the first byte.

        Stage, tags and notes that are not given stay as they are when a package is replaced. Who is limited to the
        stages `within` and names none for a new package puts it into the first of them, unless the default is one.

        Raises:
            InvalidInput: Name, stage, tags or a checksum break a rule.
            TooLarge: The size is above the limit.
            PackageExists: The name is taken and `replace` is not asked for.
            StorageFull: There is no room for it.
            PermissionDenied: The stage, or that of the package that is to be replaced, is not one of `within`.
        """
        if size is not None and size > self.max_size:
            raise TooLarge(
                f"An upload has at most {self.max_size} bytes (uploads.max_size); this one has {size}."
            )
        name = "" if part else self._packages.check_publishable(filename, replace=replace)
        before, now = self._packages.replaced_by(name), self._now()
        default = self._default_stage if not within or self._default_stage in within else within[0]
        stage = check_stage(stage or (before.stage if before else default), self._stages)
        for concerned in (stage, *([before.stage] if before else [])):
            check_within(concerned, within)
        upload = Upload(
            id=id or secrets.token_hex(16),
            filename=name,
            size=size,
            stage=stage,
            within=tuple(within),
            tags=check_tags(tags if tags is not None else before.tags if before else ()),
            notes=notes if notes is not None else before.notes if before else "",
            metadata=before.metadata if before else {},
            replace=replace,
            sha1=check_digest("sha1", sha1) if sha1 else "",
            sha256=check_digest("sha256", sha256) if sha256 else "",
            part=part,
            parts=tuple(parts),
            tus_metadata=tus_metadata,
            actor=actor,
            created_at=now,
            expires_at=now + self._life_ms,
            boot=this_boot(),
        )
        if not parts:
            await self._check_space(upload)
        await self._store.insert("uploads", to_doc(upload))
        await asyncio.to_thread(self._make_file, upload.id)
        return upload

    def _make_file(self, id: str) -> None:
        try:
            os.close(open_in_place(self.file(id), os.O_WRONLY | os.O_CREAT, 0o640))
        except OSError as exc:
            raise storage_error(exc) from exc

    async def _check_space(self, upload: Upload) -> None:
        """What is under way will need its room too."""
        needed = upload.left + self._writers.left(but=upload.id)
        await asyncio.to_thread(self._blobs.check_space, needed)

    async def get(self, id: str) -> Upload:
        """An upload, with how much of it is here.

        Raises:
            UploadUnknown: There is none, or it has expired.
        """
        doc = await self._store.get("uploads", id)
        if doc is None or doc["expires_at"] <= self._now():
            raise UploadUnknown("There is no such upload, or it has expired; begin again.")
        return await self._with_offset(from_doc(doc))

    async def page(self, *, limit: int, after: tuple[Any, str] | None = None) -> list[Upload]:
        """Uploads that are neither complete nor expired, in order of their expiry."""
        found: list[Upload] = []
        while len(found) < limit:
            docs = await self._store.find(
                "uploads", {"expires_at": {"gt": self._now()}}, order="expires_at", limit=limit, after=after
            )
            found += [await self._with_offset(from_doc(doc)) for doc in docs if not doc.get("package")]
            if len(docs) < limit:
                break
            after = (docs[-1]["expires_at"], docs[-1]["_id"])
        return found[:limit]

    async def _with_offset(self, upload: Upload) -> Upload:
        if upload.package:
            return replace(upload, offset=upload.size or 0)
        receiver = self._writers.idle(upload.id)
        offset = receiver.offset if receiver else await asyncio.to_thread(self._offset, upload)
        return replace(upload, offset=offset)

    def _offset(self, upload: Upload) -> int:
        try:
            length = self.file(upload.id).stat().st_size
        except FileNotFoundError:
            return 0
        # A part that was being joined is joined again from its beginning.
        trusted = upload.boot == this_boot() and not upload.parts
        return length if trusted else min(length, upload.synced)

    @contextlib.asynccontextmanager
    async def receiving(
        self, upload: Upload, offset: int, interrupt: Interrupt | None = None
    ) -> AsyncIterator[Receiver]:
        """A receiver that continues at `offset`; one at a time for each upload.

        What was received stays when the block is left by an error of the connection or the disk.

        Args:
            upload: The upload.
            offset: Where the caller means to go on.
            interrupt: Ends the block soon; called when somebody else comes to continue or end this upload.

        Raises:
            OffsetMismatch: The upload continues elsewhere; `offset` in the details says where.
            Conflict: Another request writes to this upload and cannot be ended, or it is complete.
            StorageFull: There is no room for the rest.
        """
        await self._writers.end(upload.id)
        with self._writers.writing(upload.id, interrupt) as writer:
            current = await self.get(upload.id)
            if current.offset != offset:
                raise OffsetMismatch(
                    f"The upload continues at byte {current.offset}, not {offset}.", offset=current.offset
                )
            if current.package:
                raise Conflict("The upload is complete already.")
            await self._check_space(current)
            if current.boot != this_boot():
                await self._note(current.id, synced=offset, boot=this_boot())
            receiver = self._writers.take(upload.id) or await Receiver.open(
                self.file(upload.id), offset, check=lambda: self._blobs.check_space(0)
            )
            receiver.checksum = None
            writer.upload, writer.receiver = current, receiver
            try:
                yield receiver
                await receiver.flush()
            except BaseException:
                await asyncio.to_thread(receiver.close)
                raise
            if receiver.sound:
                self._writers.keep(upload.id, receiver)
            else:
                await asyncio.to_thread(receiver.close)

    async def rest(self, upload: Upload, receiver: Receiver, **changes: Any) -> None:
        """A request ended and the upload is not complete: make durable what there is, and prolong its life."""
        await receiver.sync()
        expires = self._now() + self._life_ms
        await self._note(upload.id, synced=receiver.offset, boot=this_boot(), expires_at=expires, **changes)

    async def _note(self, id: str, **changes: Any) -> None:
        doc = await self._store.get("uploads", id)
        if doc is not None:
            await self._store.replace("uploads", {**doc, **changes})

    async def complete(
        self,
        upload: Upload,
        receiver: Receiver,
        *,
        remember: bool,
        resumed: bool = False,
        hashes: Mapping[str, str] | None = None,
    ) -> Outcome:
        """Check the bytes, commit them as a blob and publish the package; inside `receiving`.

        Args:
            upload: The upload.
            receiver: Has all its bytes.
            remember: Whether its id is to answer for a while.
            resumed: It was perhaps completed before, and only the note about it was lost.
            hashes: Further digests, if the caller knows them.

        Raises:
            DigestMismatch: They do not have the expected checksum; nothing is kept.
            PackageExists: Somebody took the name meanwhile; nothing is kept.
            StoreUnavailable: The database is away; the bytes are kept, `finish` goes on later.
        """
        ended = self._now()
        writer = self._writers.get(upload.id)
        if writer is not None:
            writer.interrupt = None
        manifest = await receiver.manifest()
        await asyncio.to_thread(receiver.close)
        wrong = mismatch(upload, manifest)
        if wrong:
            await self.forget(upload.id)
            raise DigestMismatch(wrong, sha1=manifest.sha1, sha256=manifest.sha256)
        if upload.size is None:  # the file is another name of the blob from here on, and must not grow
            await self._note(upload.id, size=manifest.size)
        await asyncio.to_thread(self._blobs.commit, self.file(upload.id), manifest.sha256, keep=True)
        blob = self._blobs.path(manifest.sha256)
        try:
            package, created = await self._packages.publish(
                manifest=manifest,
                filename=upload.filename,
                stage=upload.stage,
                tags=upload.tags,
                notes=upload.notes,
                metadata=await asyncio.to_thread(with_installer, upload.metadata, blob),
                hashes=hashes or {},
                actor=upload.actor,
                replace=upload.replace,
                within=upload.within,
            )
        except OUTAGES:
            raise
        except PackageExists as exc:
            if resumed and exc.details.get("sha256") == manifest.sha256:
                await self._end(upload, str(exc.details["id"]), manifest.size, remember=True)
            else:
                await self.forget(upload.id)
            raise
        except ApplianceError:
            await self.forget(upload.id)
            raise
        await self._end(upload, package.id, manifest.size, remember=remember)
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

    async def _end(self, upload: Upload, package: str, size: int, *, remember: bool) -> None:
        """The upload is a package now."""
        if not remember:
            await self.forget(upload.id)
            return
        life = min(self._life_ms, REMEMBERED_MS)
        await self._note(upload.id, package=package, size=size, expires_at=self._now() + life)
        await asyncio.to_thread(remove, self.file(upload.id))

    async def finish(self, id: str) -> Upload:
        """An upload as it really is: nobody writes to it, and if every byte is here it is a package.

        Goes on with what a crash or an outage of the database ended.

        Raises:
            UploadUnknown: There is none, or it has expired.
            ApplianceError: As `complete`.
        """
        await self._writers.end(id)
        upload = await self.get(id)
        if not upload.all_here and upload.joined == len(upload.parts):
            return upload
        async with self.receiving(upload, upload.offset) as receiver:
            await join_parts(self, upload, receiver)
            try:
                await self.complete(upload, receiver, remember=True, resumed=True)
            except PackageExists:
                # Raised again unless the package has these very bytes: then it was published before.
                doc = await self._store.get("uploads", id)
                if doc is None or not doc["package"]:
                    raise
        return await self.get(id)

    async def concatenate(self, parts: Sequence[str], **fields: Any) -> Upload:
        """Join complete parts, in order, to one upload, and complete it. Each part is deleted when it is joined.

        Needs room for the largest part beside the others. Asked again with the same parts it goes on where it was.

        Args:
            parts: Ids of complete partial uploads.
            fields: As for `create`, without id, parts and size.

        Raises:
            InvalidInput: A part is unknown, not a part or not complete.
            ApplianceError: As `create` and `complete`.
        """
        id = joined_id(parts)
        if await self._store.get("uploads", id) is None:
            found = []
            for part in parts:
                with contextlib.suppress(UploadUnknown):
                    found.append(await self.get(part))
            check_parts(parts, found)
            await asyncio.to_thread(self._blobs.check_space, max(part.offset for part in found))
            await self.create(id=id, parts=parts, size=sum(part.offset for part in found), **fields)
        return await self.finish(id)

    async def terminate(self, id: str) -> None:
        """Delete an upload and what was received; a request that writes to it is ended.

        Raises:
            Conflict: It is being completed.
        """
        await self._writers.end(id)
        await self.forget(id)

    async def forget(self, id: str) -> None:
        """Delete an upload and what was received."""
        await self._store.delete("uploads", {"_id": id})
        receiver = self._writers.take(id)
        if receiver is not None:
            await asyncio.to_thread(receiver.close)
        await asyncio.to_thread(remove, self.file(id))

    async def expire(self) -> None:
        """Delete uploads whose life has ended."""
        for doc in await self._store.find("uploads", {"expires_at": {"lte": self._now()}}, limit=1000):
            if doc["_id"] not in self._writers:
                log.info("an upload expired", extra={"action": "upload_expired", "upload": doc["_id"]})
                await self.forget(doc["_id"])

    def close(self) -> None:
        """Let go of all files."""
        self._writers.close()

    def file(self, id: str) -> Path:
        """Where the bytes of an upload are."""
        return self._layout.upload(id)
