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
    InvalidInput,
    NotSettled,
    OffsetMismatch,
    PackageExists,
    StaleRevision,
    SyncFailed,
    TooLarge,
    UploadUnknown,
)
from appliance.domain.manifest import check_digest
from appliance.domain.names import check_filename
from appliance.domain.node import check_stage, check_within
from appliance.domain.package import Effect, Presence, check_tags
from appliance.domain.precondition import Precondition
from appliance.domain.sizes import human_size
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import open_in_place, remove, storage_error
from appliance.store.layout import Layout
from appliance.store.ports import Remove, Store

from .installer_facts import with_installer
from .joining import check_parts, join_parts, joined_id
from .packages import Packages
from .receiving import Receiver
from .upload import Outcome, Upload, empty_file, from_doc, mismatch, this_boot, to_doc
from .writers import Interrupt, Writers

__all__ = ["Outcome", "Upload", "UploadService"]

log = logging.getLogger(__name__)

_ABSENT = {Presence.WAITING, Presence.ARRIVING}
_PROLONG_MS = 300_000  #: while bytes arrive, an upload's life is prolonged no more often than this
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
        self._prolong_ms = min(_PROLONG_MS, life_ms // 4)
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
        allow_empty: bool = False,
        condition: Precondition | None = None,
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
            EmptyFile: The size is 0 and `allow_empty` is not asked for.
            PackageExists: Another file has the name and `replace` is not asked for.
            PreconditionFailed: The condition does not hold; it is looked at again when the bytes are here.
            StorageFull: There is no room for it.
            PermissionDenied: The stage, or that of the package that is to be replaced, is not one of `within`.
        """
        if size is not None and size > self.max_size:
            raise TooLarge(
                f"An upload has at most {human_size(self.max_size)} (uploads.max_size); "
                f"this one has {human_size(size)}."
            )
        if stage == "":  # a script's empty variable must not mean every node
            raise InvalidInput("The stage is empty; leave it out for the node's default.")
        sha1 = check_digest("sha1", sha1) if sha1 else ""
        sha256 = check_digest("sha256", sha256) if sha256 else ""
        if not part:
            filename = check_filename(filename)
            if size == 0 and not allow_empty:
                raise empty_file(filename)
            if condition is not None:
                await self._packages.check_precondition(filename, condition)
        known: dict[str, Any] = {"size": size, "sha1": sha1, "sha256": sha256}
        name = "" if part else self._packages.check_publishable(filename, replace=replace, **known)
        before, now = self._packages.replaced_by(name), self._now()
        default = self._default_stage if not within or self._default_stage in within else within[0]
        asked = {"stage": stage, "tags": tags, "notes": notes}
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
            given=tuple(field for field, value in asked.items() if value is not None),
            allow_empty=allow_empty,
            condition=condition,
            sha1=sha1,
            sha256=sha256,
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
            info = self.file(upload.id).stat()
        except FileNotFoundError:
            return 0
        # A part that was being joined is joined again from its beginning. A file with a second name is a blob: all of
        # it is on the disk, and it must not be cut.
        trusted = (upload.boot == this_boot() and not upload.parts) or info.st_nlink > 1
        return info.st_size if trusted else min(info.st_size, upload.synced)

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
            await self._prolong(current.id)
            receiver = self._writers.take(upload.id) or await Receiver.open(
                self.file(upload.id), offset, check=lambda: self._blobs.check_space(0)
            )
            receiver.checksum = None
            writer.upload, writer.receiver = current, receiver
            prolonging = asyncio.create_task(self._keep_alive(current.id, receiver))
            try:
                yield receiver
                await receiver.flush()
            except BaseException:
                await asyncio.to_thread(receiver.close)
                raise
            finally:
                prolonging.cancel()
            if receiver.sound:
                self._writers.keep(upload.id, receiver)
            else:
                await asyncio.to_thread(receiver.close)

    async def _keep_alive(self, id: str, receiver: Receiver) -> None:
        """Let an upload live on while its bytes arrive: another process of the node may look for expired ones."""
        seen = receiver.offset
        while True:
            await asyncio.sleep(self._prolong_ms / 1000)
            if receiver.offset != seen:
                seen = receiver.offset
                with contextlib.suppress(*OUTAGES):
                    await self._prolong(id)

    async def _prolong(self, id: str) -> None:
        """Let the life of an upload begin again, unless that was done a moment ago or it is complete."""
        doc, expires = await self._store.get("uploads", id), self._now() + self._life_ms
        if doc is not None and not doc.get("package") and doc["expires_at"] < expires - self._prolong_ms:
            with contextlib.suppress(StaleRevision):  # who wrote it prolonged it, or ended it
                await self._store.replace("uploads", {**doc, "expires_at": expires}, expect=doc["_rev"])

    async def rest(self, upload: Upload, receiver: Receiver, **changes: Any) -> None:
        """A request ended and the upload is not complete: make durable what there is, and prolong its life.

        Raises:
            SyncFailed: The disk did not keep it; the upload continues where the last good sync was.
        """
        try:
            await receiver.sync()
        except SyncFailed:
            await self._disbelieve(upload.id)
            raise
        expires = self._now() + self._life_ms
        await self._note(upload.id, synced=receiver.offset, boot=this_boot(), expires_at=expires, **changes)

    async def _disbelieve(self, id: str) -> None:
        """After a failed sync: only what was made durable before counts, as after a crash of the machine."""
        doc = await self._store.get("uploads", id)
        if doc is None:
            return
        log.error(
            "the disk did not keep what was uploaded; the upload continues where it was last safe",
            extra={"action": "upload_unsynced", "upload": id, "offset": doc["synced"]},
        )
        await self._note(id, boot="")
        with contextlib.suppress(OSError):
            await asyncio.to_thread(_cut, self.file(id), doc["synced"])

    async def _note(self, id: str, **changes: Any) -> None:
        while (doc := await self._store.get("uploads", id)) is not None:
            with contextlib.suppress(StaleRevision):
                await self._store.replace("uploads", {**doc, **changes}, expect=doc["_rev"])
                return

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

        Whatever door they came by, this is where a file without bytes ends that nobody means.

        Args:
            upload: The upload.
            receiver: Has all its bytes.
            remember: Whether its id is to answer for a while.
            resumed: It was perhaps completed before, and only the note about it was lost.
            hashes: Further digests, if the caller knows them.

        Raises:
            EmptyFile: There are none; nothing is kept.
            DigestMismatch: They do not have the expected checksum; nothing is kept.
            PackageExists: Another file has the name; nothing is kept.
            PreconditionFailed: The package that is there is not as it has to be; nothing is kept.
            NotSettled: The package is published and cannot be served here yet; the bytes are kept.
            StoreUnavailable: The database is away; the bytes are kept, `finish` goes on later.
            StorageFull: As for StoreUnavailable; its disk is full.
            SyncFailed: The disk did not keep them; there is no blob, and they have to be sent again.
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
        if not manifest.size and not upload.allow_empty:
            await self.forget(upload.id)
            raise empty_file(upload.filename)
        if upload.size is None:  # the file is another name of the blob from here on, and must not grow
            await self._note(upload.id, size=manifest.size)
        try:
            committed = await asyncio.to_thread(
                self._blobs.commit, self.file(upload.id), manifest.sha256, keep=True
            )
        except SyncFailed:
            await (self._disbelieve(upload.id) if remember else self.forget(upload.id))
            raise
        blob = self._blobs.path(manifest.sha256)
        try:
            package, effect = await self._packages.publish(
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
                given=upload.given,
                condition=upload.condition,
                resumed=resumed,
                committed=committed,
            )
        except (*OUTAGES, NotSettled):
            raise
        except PackageExists as exc:
            if resumed and exc.details.get("sha256") == manifest.sha256:
                await self._end(
                    upload, str(exc.details["id"]), manifest.size, Effect.UNCHANGED, remember=True
                )
            else:
                await self.forget(upload.id)
            raise
        except ApplianceError:
            await self.forget(upload.id)
            raise
        if package.presence in _ABSENT and package.body.sha256 == manifest.sha256:
            # The blob was here before, for a version that expired, and was deleted at this very moment.
            await asyncio.to_thread(self._blobs.commit, self.file(upload.id), manifest.sha256, keep=True)
            package = await self._packages.settled(package.id, upload.actor)
        await self._end(upload, package.id, manifest.size, effect, remember=remember)
        log.info(
            "an upload is complete",
            extra={
                "action": "upload_complete",
                "package": package.id,
                "package_name": package.body.filename,
                "size": manifest.size,
                "effect": str(effect),
                "received_at": ended,
            },
        )
        return Outcome(package=package, effect=effect)

    async def _end(self, upload: Upload, package: str, size: int, effect: Effect, *, remember: bool) -> None:
        """The upload is a package now."""
        if not remember:
            await self.forget(upload.id)
            return
        life = min(self._life_ms, REMEMBERED_MS)
        ended = self._now() + life
        await self._note(upload.id, package=package, effect=str(effect), size=size, expires_at=ended)
        await self._delete_file(upload.id)

    async def _delete_file(self, id: str) -> bool:
        """Delete what was received, if the disk lets us; says whether nothing is left."""
        try:
            await asyncio.to_thread(remove, self.file(id))
        except OSError as exc:
            log.warning(
                "the file of an upload cannot be deleted; ODS tries again later",
                extra={"action": "upload_left", "upload": id, "reason": exc.strerror},
            )
            return False
        return True

    async def finish(self, id: str, *, resumed: bool = True) -> Upload:
        """An upload as it really is: nobody writes to it, and if every byte is here it is a package.

        Goes on with what a crash or an outage of the database ended.

        Args:
            id: The upload's.
            resumed: As for `complete`.

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
                await self.complete(upload, receiver, remember=True, resumed=resumed)
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
        fresh = await self._store.get("uploads", id) is None
        if fresh:
            found = []
            for part in parts:
                with contextlib.suppress(UploadUnknown):
                    found.append(await self.get(part))
            check_parts(parts, found)
            await asyncio.to_thread(self._blobs.check_space, max(part.offset for part in found))
            await self.create(id=id, parts=parts, size=sum(part.offset for part in found), **fields)
        return await self.finish(id, resumed=not fresh)

    async def terminate(self, id: str) -> None:
        """Delete an upload and what was received; a request that writes to it is ended.

        Raises:
            Conflict: It is being completed.
        """
        await self._writers.end(id)
        await self.forget(id)

    async def forget(self, id: str) -> None:
        """Delete an upload and what was received. A file that cannot be deleted is one of an expired upload."""
        if await self._let_go(id):  # first: on a full disk the database may need its room
            await self._store.delete("uploads", {"_id": id})
        else:
            await self._note(id, expires_at=0)

    async def _let_go(self, id: str) -> bool:
        """Close and delete what was received; says whether nothing is left."""
        receiver = self._writers.take(id)
        if receiver is not None:
            await asyncio.to_thread(receiver.close)
        return await self._delete_file(id)

    async def expire(self) -> None:
        """Delete uploads whose life has ended, and that nobody has prolonged since."""
        for doc in await self._store.find("uploads", {"expires_at": {"lte": self._now()}}, limit=1000):
            if doc["_id"] in self._writers:
                continue
            try:
                await self._store.batch([Remove("uploads", doc["_id"], doc["_rev"])])
            except StaleRevision:
                continue
            log.info("an upload expired", extra={"action": "upload_expired", "upload": doc["_id"]})
            if not await self._let_go(doc["_id"]):
                await self._store.replace("uploads", {**doc, "expires_at": 0})

    def used(self) -> int:
        """Bytes on the disk of uploads that are not complete. Looks at each, and so blocks."""
        found = 0
        for path in self._layout.uploads.iterdir():
            with contextlib.suppress(OSError):  # it was completed or deleted at this moment
                info = path.stat()
                found += info.st_size if info.st_nlink == 1 else 0
        return found

    def close(self) -> None:
        """Let go of all files."""
        self._writers.close()

    def file(self, id: str) -> Path:
        """Where the bytes of an upload are."""
        return self._layout.upload(id)


def _cut(path: Path, length: int) -> None:
    """Let a file have at most so many bytes; one with a second name, that of a blob, loses its own."""
    if path.stat().st_nlink > 1:
        remove(path)
    else:
        os.truncate(path, length)
