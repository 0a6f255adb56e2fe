"""The job that uploads one package to an MDM's own storage; whether it arrived, the listing shows."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from enum import Enum
from typing import Any, Protocol

from appliance.domain.errors import InvalidInput, StaleRevision, Stopping
from appliance.domain.job import Job
from appliance.domain.mdm_errors import MdmNeedsAttention, MdmRefused, MdmUnreachable
from appliance.domain.package import Package
from appliance.jobs.context import JobContext
from appliance.jobs.new import new_job
from appliance.service.catalogue import Catalogue
from appliance.store.blobs import BlobStore
from appliance.store.ports import Doc, Store

from ..driver import CloudState, Driver
from ..intake.remote import row_id, same_mark
from ..names import nfc
from ..servers.server import Server
from ..versions import COLLECTION as VERSIONS
from ..versions import is_expected, note_sent, versions_id
from .links import COLLECTION, UploadState, link_id, write_link
from .package_facts import package_facts
from .plan import IN_CLOUD, Likeness, likeness

log = logging.getLogger(__name__)

UPLOAD_JOB = "mdm.upload"
_LATER_S = 60.0  #: a server that may not be called now is asked again after this
_WORKING_S = 20.0  #: an MDM that works on an upload is asked again after this
_LOOK_S = 0.5  #: the longest time until a stop is noticed


class _Step(Enum):
    """What to do about an upload that is queued."""

    SEND = "send"
    SENT = "sent"  #: the MDM has the bytes
    DECIDE_ANEW = "decide_anew"  #: what it was decided on has changed


def upload_job(server: str, package: str, now: int) -> Job:
    """The job that uploads a package; one at a time for each."""
    return new_job(
        "transfer",
        UPLOAD_JOB,
        now,
        key=f"{UPLOAD_JOB}:{server}:{package}",
        args={"server": server, "package": package},
    )


class ServersToCall(Protocol):
    """The part of `Servers` that is used."""

    async def get(self, id: str) -> Server:
        """One server."""

    async def driver(self, id: str) -> Driver:
        """Its driver."""

    async def attention(self, id: str, error: MdmNeedsAttention) -> None:
        """Note that a person has to mend something."""


class Uploading:
    """Runs the job `mdm.upload`."""

    def __init__(
        self,
        *,
        store: Store,
        servers: ServersToCall,
        catalogue: Catalogue,
        blobs: BlobStore,
        caught_up: Callable[[], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        """Make it; `caught_up` returns when what peers know was read after a start."""
        self._caught_up = caught_up
        self._store = store
        self._servers = servers
        self._catalogue = catalogue
        self._blobs = blobs
        self._now = now

    def run(self, job: Job, context: JobContext) -> None:
        """Upload the bytes, in a slot of the transfers; the work itself waits on the event loop.

        Raises:
            MdmError: It could not be done now.
            Stopping: The node stops.
        """
        context.wait(self._until_stopped(job, context))

    async def _until_stopped(self, job: Job, context: JobContext) -> None:
        task = asyncio.create_task(self._upload(job.args["server"], job.args["package"]))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_S)
                if context.stopping.is_set():
                    task.cancel()
            await task
        except asyncio.CancelledError:
            context.check()
            raise Stopping() from None

    async def _upload(self, server_id: str, package_id: str) -> None:
        await self._caught_up()
        await self._catalogue.load()
        server = await self._servers.get(server_id)
        link = await self._store.get(COLLECTION, link_id(server_id, package_id))
        package = self._catalogue.by_id(package_id)
        upload = link["upload"] if link else None
        if link is None or upload is None or upload["state"] != UploadState.QUEUED:
            return
        if package is None or package.withdrawn or package.held_sha256 != upload["sha256"]:
            await self._note(link, state=UploadState.FAILED, error="Its bytes are not at this node any more.")
            return
        if not server.usable:
            raise MdmUnreachable(
                f"{server.config.name} is not asked now: {server.reason or server.state}.",
                retry_after=_LATER_S,
            )
        driver = await self._servers.driver(server_id)
        try:
            step = await self._asked_again(driver, package, link)
            if step is _Step.DECIDE_ANEW:
                await self._note(link, sha256="", state=UploadState.FAILED, error="")
                return
            if step is _Step.SEND:
                facts = package_facts(package, server.config.mirror)
                path = str(self._blobs.path(package.held_sha256))
                await note_sent(self._store, server_id, package, self._now())
                await driver.upload_package(facts, link["remote_id"], path)
        except (MdmRefused, InvalidInput) as exc:
            await self._note(
                link, state=UploadState.FAILED, attempts=upload["attempts"] + 1, error=exc.message
            )
            log.warning(
                exc.message, extra={"action": "mdm_upload_failed", "mdm": server_id, "package": package_id}
            )
            return
        except MdmNeedsAttention as exc:
            await self._servers.attention(server_id, exc)
            raise MdmUnreachable(exc.message, retry_after=_LATER_S) from exc
        await self._note(link, state=UploadState.PENDING, attempts=upload["attempts"] + 1, error="")
        log.info("a package was uploaded", extra={"action": "mdm_uploaded", "package": package_id})

    async def _asked_again(self, driver: Driver, package: Package, link: Doc) -> "_Step":
        """What to do about an upload, from the record as it is now: what it was decided on may be old.

        Raises:
            MdmUnreachable: The MDM works on an upload that may be somebody else's.
        """
        remote = await driver.find_package(link["remote_id"])
        if remote is None or nfc(remote.file_name) != package.body.filename:
            return _Step.DECIDE_ANEW
        same = likeness(package, remote) is Likeness.SAME
        if same and remote.state in IN_CLOUD:
            return _Step.SENT  # by an earlier try whose answer was lost
        known = await self._store.get(VERSIONS, versions_id(link["server"], package.id))
        ours = is_expected(known, package.body.sha256, self._now())
        if remote.state is CloudState.PENDING and not ours:
            raise MdmUnreachable("The MDM still works on an upload of this name.", retry_after=_WORKING_S)
        row = await self._store.get("mdm_remote", row_id(link["server"], remote.id)) or {}
        expected = (str(link["upload"].get("over") or ""), str(row.get("taken") or ""))
        if remote.mark and not any(same_mark(mark, remote.mark) for mark in expected):
            return _Step.DECIDE_ANEW  # somebody uploaded other bytes meanwhile
        return _Step.SEND

    async def gave_up(self, job: Job, error: str) -> None:
        """The job failed for the last time."""
        link = await self._store.get(COLLECTION, link_id(job.args["server"], job.args["package"]))
        if link is not None and link["upload"] and link["upload"]["state"] == UploadState.QUEUED:
            attempts = link["upload"]["attempts"] + 1
            await self._note(link, state=UploadState.FAILED, attempts=attempts, error=error)

    async def _note(self, link: Doc, **changes: Any) -> None:
        """Write how the upload goes, unless the link speaks of another upload by now."""
        sha256 = link["upload"]["sha256"]
        while True:
            upload = {**link["upload"], **changes, "at": self._now()}
            upload["state"] = str(upload["state"])
            try:
                await write_link(
                    self._store, {**link, "upload": upload, "error": upload["error"] or link["error"]}
                )
            except StaleRevision:
                current = await self._store.get(COLLECTION, link["_id"])
                if current is None or not current["upload"] or current["upload"]["sha256"] != sha256:
                    return
                link = current
            else:
                return
