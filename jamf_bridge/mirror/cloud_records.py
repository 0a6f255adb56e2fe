"""Package records whose bytes lie in the MDM's own storage, and uploads to it. Nothing here calls the MDM.

Such a record is never given hashes: the MDM computes them. If it holds other bytes than the network, the question is
whose are newer. What was taken in from there, or what we uploaded there, was here before what is here now: then the
network is ahead. Anything else may be an upload that somebody made over there; `intake` takes it in, or shows why not.
"""

import asyncio
import logging
from collections.abc import Callable

from appliance.domain.event import EventType
from appliance.domain.moment import too_early
from appliance.domain.package import Package
from appliance.service.journal import SYSTEM, entry
from appliance.store.blobs import BlobStore
from appliance.store.ports import Doc, Enqueue, Operation, Store

from ..driver import RemotePackage
from ..intake.remote import RowState, row_id, same_mark
from ..servers.server import Server
from .links import LinkState, UploadState, changed
from .plan import difference, ownership
from .upload_plan import BUDGET_MS, MAX_UPLOADS, UploadStep, lost, new_upload, under_way, upload_step
from .uploading import upload_job

log = logging.getLogger(__name__)

_UPLOADING = "Its bytes are being uploaded, or the MDM still works on them."


class CloudRecords:
    """One run over one server. Methods answer the link as it should be, and what is to be written with it."""

    def __init__(
        self,
        *,
        store: Store,
        server: Server,
        blobs: BlobStore,
        uploads: bool,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._server = server
        self._blobs = blobs
        self._uploads = uploads
        self._now = now

    def settled(self, package: Package, link: Doc, remote: RemotePackage, templates: str) -> Doc:
        """The MDM's storage holds a package's bytes: there is nothing to be done."""
        upload = link["upload"]
        if upload is not None and upload["state"] == UploadState.PENDING:
            done = {"state": str(UploadState.DONE), "mark": remote.mark, "at": self._now(), "error": ""}
            upload = {**upload, **done} if remote.mark else upload
        return changed(
            link,
            self._now(),
            state=LinkState.MIRRORED,
            file_name=package.body.filename,
            remote_id=remote.id,
            ours=ownership(package, link, remote),
            absent=False,
            revision=package.revision,
            written_at=package.at,
            sha256=package.body.sha256,
            templates=templates,
            difference="",
            error="",
            attempts=0,
            retry_at=0,
            tried="",
            upload=upload,
        )

    async def differs(
        self, package: Package, link: Doc, remote: RemotePackage
    ) -> tuple[Doc, list[Operation]]:
        """The MDM's storage holds other bytes than a package has: wait, upload, or show a conflict."""
        row = await self._store.get("mdm_remote", row_id(self._server.id, remote.id)) or {}
        if row.get("state") in {RowState.WANTED, RowState.PENDING} and self._server.config.intake.enabled:
            reason = f"{self._server.config.name} has newer bytes; they are being taken in."
            return changed(link, self._now(), state=LinkState.WAITING, error=reason), []
        past = link["upload"] or {}
        ours = (str(row.get("taken") or ""), str(past.get("mark") or ""))
        ahead = bool(remote.mark) and any(same_mark(mark, remote.mark) for mark in ours)
        ahead = ahead or (bool(past) and lost(remote))
        if under_way(package, link) and (ahead or too_early(past["at"] + BUDGET_MS, self._now(), BUDGET_MS)):
            waiting = changed(link, self._now(), state=LinkState.WAITING, error=_UPLOADING)
            return await self.upload(package, waiting, remote, ahead=ahead)
        if ahead and self._uploads:
            after, more = await self.upload(package, link, remote, ahead=True)
            if more:
                return changed(after, self._now(), state=LinkState.WAITING, error=_UPLOADING), more
        return self._conflict(package, link, remote, self._reason(package, row, past, ahead=ahead))

    def _reason(self, package: Package, row: Doc, upload: Doc, *, ahead: bool) -> str:
        name, server = package.body.filename, self._server.config.name
        if ahead and upload.get("sha256") == package.body.sha256 and upload.get("error"):
            return (
                f'"{name}" is newer here than in {server}, and could not be uploaded there: {upload["error"]}'
            )
        if ahead:
            return (
                f'"{name}" is newer here than in the storage of {server}. Upload it there as well, remove the file '
                "there, or let ODS upload (mirror.upload)."
            )
        told = str(row.get("error", "")) if row.get("state") != RowState.TAKEN else ""
        return told or (
            f'{server} stores other bytes of "{name}", and it cannot be told which are newer. Upload the right file '
            "again, here or there."
        )

    def _conflict(
        self, package: Package, link: Doc, remote: RemotePackage, reason: str
    ) -> tuple[Doc, list[Operation]]:
        """Show a conflict, with one event for each distinct difference."""
        word = difference(package, remote)
        after = changed(
            link, self._now(), state=LinkState.CONFLICT, error=reason, difference=word, remote_id=remote.id,
            ours=ownership(package, link, remote),
        )  # fmt: skip
        if link["difference"] == word:
            return after, []
        event = entry(
            EventType.MDM_RECORD_CONFLICT,
            at=self._now(),
            actor=SYSTEM,
            subject=package.id,
            filename=package.body.filename,
            server=self._server.config.name,
            remote=remote.id,
            reason=reason,
        )
        return after, [event]

    async def upload(
        self, package: Package, link: Doc, remote: RemotePackage | None, *, ahead: bool = False
    ) -> tuple[Doc, list[Operation]]:
        """Queue, finish or give up the upload of a package's bytes, as it is due.

        Args:
            package: The package.
            link: Its link.
            remote: Its record as it was listed.
            ahead: The bytes that the MDM has were ours or are older: they may be replaced.
        """
        if not self._uploads or package.held_sha256 != package.body.sha256:
            return link, []
        now = self._now()
        match upload_step(package, link, remote, ahead=ahead, now=now):
            case UploadStep.QUEUE if await self._on_disk(package):
                job = Enqueue(upload_job(self._server.id, package.id, now))
                if remote is not None and link["remote_id"] != remote.id:
                    link = {**link, "remote_id": remote.id, "ours": ownership(package, link, remote)}
                return {**link, "upload": new_upload(package, link, remote, now=now)}, [job]
            case UploadStep.GIVE_UP:
                error = f"{MAX_UPLOADS} uploads did not arrive in {self._server.config.name}."
                log.warning(error, extra={"action": "mdm_upload_failed", "package": package.id})
                upload = {**link["upload"], "state": str(UploadState.FAILED), "error": error, "at": now}
                return changed(link, now, upload=upload, error=error), []
        return link, []

    async def _on_disk(self, package: Package) -> bool:
        return await asyncio.to_thread(self._blobs.exists, package.body.sha256, package.body.size)
