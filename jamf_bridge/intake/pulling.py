"""The job that takes one package in from an MDM server's storage: an upload like any other, whose bytes we fetch.

What has arrived is an unfinished upload under an id that follows from server, record and mark, so that a lost
connection, a restart or a kill at any point goes on behind the last byte that is here. Nothing is published before
length and digest are those that the record states.
"""

import asyncio
import contextlib
import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from appliance.domain.errors import (
    ApplianceError,
    InvalidInput,
    StaleRevision,
    Stopping,
    UploadUnknown,
)
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.mdm_errors import BytesWrong, MdmError, MdmNeedsAttention, MdmUnreachable
from appliance.domain.names import check_filename, package_id
from appliance.domain.package import Package
from appliance.jobs.context import JobContext
from appliance.jobs.new import new_job
from appliance.service.catalogue import Catalogue
from appliance.service.journal import SYSTEM, entry
from appliance.service.receiving import Receiver
from appliance.service.uploads import Upload, UploadService
from appliance.store.ports import Doc, Enqueue, Operation, Store

from ..digests import unlike
from ..driver import CloudState, Driver, RemotePackage
from ..servers.server import Server, ServerState
from ..servers.servers import Servers
from ..versions import note_digests, note_pulled
from .progress import Cancelled, PullProgress, transfer_id
from .remote import STUCK, RowState, is_place, row_id, row_write
from .stream_digests import StreamDigests

log = logging.getLogger(__name__)

PULL_JOB = "mdm.pull"
_STRONGEST = ("sha3_512", "sha512", "sha256", "md5")
_LATER_S = 60.0  #: a server that may not be called now is asked again after this
_LOOK_S = 0.5  #: the longest time until a stop is noticed
_CANCELLED = "cancelled"


def pull_key(server: str, remote: str) -> str:
    """At most one pull of a record is queued or runs."""
    return f"{PULL_JOB}:{server}:{remote}"


def pull_job(server: str, remote: str, now: int) -> Job:
    """The job that takes a record's bytes in."""
    return new_job(
        "transfer", PULL_JOB, now, key=pull_key(server, remote), args={"server": server, "remote": remote}
    )


class Pulling:
    """Runs the job `mdm.pull`."""

    def __init__(
        self,
        *,
        store: Store,
        servers: Servers,
        uploads: UploadService,
        catalogue: Catalogue,
        caught_up: Callable[[], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        """Make it; `caught_up` returns when what peers know was read after a start."""
        self._store = store
        self._servers = servers
        self._uploads = uploads
        self._catalogue = catalogue
        self._caught_up = caught_up
        self._now = now

    def run(self, job: Job, context: JobContext) -> None:
        """Take the bytes of a record in, in a slot of the transfers; the work itself waits on the event loop.

        Raises:
            MdmError: It could not be completed now; what arrived stays.
            StorageError: The disk is full or fails.
            BytesWrong: The bytes are not those that the record states; nothing was kept.
            Stopping: The node stops.
        """
        context.wait(self._until_stopped(job, context))

    async def _until_stopped(self, job: Job, context: JobContext) -> None:
        task = asyncio.create_task(self._pull(job.args["server"], job.args["remote"]))
        try:
            while not task.done():
                await asyncio.wait({task}, timeout=_LOOK_S)
                if context.stopping.is_set():
                    task.cancel()
            await task
        except asyncio.CancelledError:
            context.check()
            raise Stopping() from None

    async def _pull(self, server_id: str, remote_id: str) -> None:
        await self._caught_up()
        server = await self._servers.get(server_id)
        row = await self._store.get("mdm_remote", row_id(server_id, remote_id))
        if row is None or row["state"] != RowState.WANTED:
            return
        if server.state in {ServerState.PAUSED, ServerState.DISABLED} or not server.config.enabled:
            raise MdmUnreachable(
                f"{server.config.name} is not asked now: {server.reason or server.state}.",
                retry_after=_LATER_S,
            )
        driver = await self._servers.driver(server_id)
        try:
            package = await self._take(server, driver, row)
        except (BytesWrong, InvalidInput) as exc:
            await self._give_up(server, row, exc)
            raise
        except MdmNeedsAttention as exc:
            await self._servers.attention(server_id, exc)
            raise MdmUnreachable(exc.message, retry_after=_LATER_S) from exc
        if package and server.config.intake.note:
            await self._note(server, driver, row_id(server_id, remote_id))

    async def _here(self, row: Doc) -> Package | None:
        """What is here under the name of a record, as it is in the store."""
        await self._catalogue.load()
        return self._catalogue.by_id(package_id(check_filename(row["file_name"])))

    async def _check_wanted(self, row: Doc) -> None:
        """Let bytes come as long as what they are to replace is what is here. Else the next look decides anew.

        Raises:
            _NotWanted: It changed.
        """
        if row.get("over") is not None and not is_place(row, await self._here(row)):
            raise _NotWanted(f'"{row["file_name"]}" changed here while it was fetched.')

    async def _begin_publishing(self, row: Doc, sha256: str) -> None:
        """Note which bytes this record brings, before they are published: no look takes them for somebody else's.

        Raises:
            _NotWanted: The record has other bytes by now.
            Cancelled: A person cancelled it.
        """
        now = await self._mark(row, brought=sha256)
        if now["mark"] != row["mark"]:
            raise _NotWanted(f'"{row["file_name"]}" has other bytes in the MDM by now.')
        if now.get("tried") == row["mark"]:
            raise Cancelled

    async def _check_new(self, row: Doc, size: int, found: Mapping[str, str]) -> None:
        """Let bytes be published that are new here, or that somebody put there since the present ones are here.

        Raises:
            _NotWanted: They are those of an earlier version, whose further digests were not known.
        """
        here = await self._here(row)
        if here is None or row.get("act"):
            return
        sha256 = found["sha256"]
        past = {*here.body.replaces, *([here.body.sha256] if here.withdrawn else [])}
        if sha256 in past or await self._store.count("superseded", {"package": here.id, "sha256": sha256}):
            await note_digests(self._store, row["server"], here, sha256, size, found)
            await self._mark(row, state=RowState.TAKEN, taken=row["mark"], error="")
            raise _NotWanted(f'"{row["file_name"]}" is an earlier version of what is here.')

    async def _take(self, server: Server, driver: Driver, row: Doc) -> str:
        """Fetch and publish; return the package's id, or "" if somebody cancelled it."""
        upload = await self._upload(server, row)
        progress = await PullProgress.begin(self._store, upload, row, server, self._now)
        try:
            if not upload.package:
                upload = await self._receive(driver, upload, row, progress)
        except _NotWanted as exc:
            log.info(
                exc.reason,
                extra={"action": "mdm_pull_dropped", "mdm": server.id, "package_name": row["file_name"]},
            )
            await progress.dropped(exc.reason)
            return ""
        except Cancelled:
            await self._mark(row, **_stuck(row, RowState.FAILED, _CANCELLED))
            return ""
        except (ApplianceError, asyncio.CancelledError) as exc:
            stalled = exc if isinstance(exc, ApplianceError) else None
            await progress.stalled(stalled)
            raise
        events = [
            entry(
                EventType.MDM_PULLED,
                at=self._now(),
                actor=SYSTEM,
                subject=upload.package,
                filename=upload.filename,
                server=server.config.name,
                size=upload.size,
            )
        ]
        note = server.config.intake.note
        await self._mark(
            row,
            *events,
            state=RowState.TAKEN,
            taken=row["mark"],
            sure=row["mark"],
            package=upload.package,
            noted=not note,
            error="",
        )
        await progress.done()
        return upload.package

    async def _upload(self, server: Server, row: Doc) -> Upload:
        """The upload that this pull fills, new or continued."""
        id = upload_id(row)
        old = row.get("upload", "")
        if old and old != id:  # other bytes were stated when it began
            with contextlib.suppress(UploadUnknown):
                await self._uploads.terminate(old)
        if old != id:
            row = await self._mark(row, upload=id)
        try:
            return await self._uploads.get(id)
        except UploadUnknown:
            options = server.config.intake
            return await self._uploads.create(
                id=id,
                filename=row["file_name"],
                size=row["size"],
                stage=options.stage or None,
                tags=options.tags or None,
                sha256=row["hashes"].get("sha256", ""),
                replace=True,
                actor=f"mdm:{server.config.name}",
            )

    async def _receive(self, driver: Driver, upload: Upload, row: Doc, progress: PullProgress) -> Upload:
        remote = RemotePackage(
            id=row["remote"],
            file_name=row["file_name"],
            state=CloudState.READY,
            size=row["size"],
            hashes=row["hashes"],
        )
        try:
            async with (
                self._uploads.receiving(upload, upload.offset) as receiver,
                StreamDigests.over(self._uploads.file(upload.id), upload.offset) as digests,
            ):
                await self._check_wanted(row)
                await self._copy(driver, remote, receiver, digests, progress)
                found = {"sha256": (await receiver.manifest()).sha256, **await digests.hexdigests()}
                wrong = _wrong(remote, receiver.offset, found)
                if wrong:
                    raise BytesWrong(wrong)
                await self._check_wanted(row)
                await self._check_new(row, receiver.offset, found)
                await self._begin_publishing(row, found["sha256"])
                further = {kind: digest for kind, digest in found.items() if kind != "sha256"}
                await self._uploads.complete(upload, receiver, remember=True, resumed=True, hashes=further)
                await note_pulled(self._store, row["server"], await self._here(row), found["sha256"])
        except (BytesWrong, _NotWanted):
            await self._uploads.terminate(upload.id)
            raise
        return await self._uploads.get(upload.id)

    @staticmethod
    async def _copy(
        driver: Driver,
        remote: RemotePackage,
        receiver: Receiver,
        digests: StreamDigests,
        progress: PullProgress,
    ) -> None:
        """Every byte that is missing, from the server into the upload."""
        if remote.size is not None and receiver.offset >= remote.size:
            return
        blocks = driver.open_package(remote, receiver.offset)
        async with contextlib.aclosing(blocks) as opened:  # type: ignore[type-var]
            async for block in opened:
                await receiver.write(block)
                await digests.feed(block)
                await progress.advanced(receiver.offset)
        await receiver.flush()

    async def _note(self, server: Server, driver: Driver, id: str) -> None:
        """Leave a note on the record. One that is lost to a crash may be left twice."""
        row = await self._store.get("mdm_remote", id)
        if row is None or row["noted"]:
            return
        remote = RemotePackage(id=row["remote"], file_name=row["file_name"])
        try:
            await driver.add_note(
                remote, f"Taken in by Open Distribution Server, verified ({row['size']} bytes)."
            )
        except MdmError as exc:
            log.info(
                "a note was not left", extra={"action": "mdm_note", "mdm": server.id, "reason": exc.message}
            )
            return
        await self._mark(row, noted=True)

    async def _give_up(self, server: Server, row: Doc, error: ApplianceError) -> None:
        """What cannot succeed until the record changes."""
        wrong = isinstance(error, BytesWrong)
        type = EventType.MDM_QUARANTINED if wrong else EventType.TRANSFER_FAILED
        event = entry(
            type,
            at=self._now(),
            actor=SYSTEM,
            subject=server.id,
            filename=row["file_name"],
            server=server.config.name,
            reason=error.message,
        )
        state = RowState.QUARANTINED if wrong else RowState.FAILED
        await self._mark(row, event, **_stuck(row, state, error.message))

    async def gave_up(self, job: Job, error: str) -> None:
        """The job failed for the last time."""
        row = await self._store.get("mdm_remote", row_id(job.args["server"], job.args["remote"]))
        if row is not None and row["state"] == RowState.WANTED:
            event = entry(
                EventType.TRANSFER_FAILED,
                at=self._now(),
                actor=SYSTEM,
                subject=job.args["server"],
                filename=row["file_name"],
                reason=error,
            )
            # Not marked as tried: when the server can be listed again, so can this be.
            await self._mark(row, event, state=RowState.FAILED, error=error)

    async def want_again(self, server_id: str, remote_id: str) -> None:
        """A person retries a pull that failed, was cancelled or brought wrong bytes."""
        row = await self._store.get("mdm_remote", row_id(server_id, remote_id))
        if row is not None:
            job = Enqueue(pull_job(server_id, remote_id, self._now()))
            await self._mark(row, job, state=RowState.WANTED, error="", tried="")

    async def job_retried(self, server_id: str, remote_id: str) -> None:
        """A person retries a pull by its job: it is wanted again if it had failed or was cancelled."""
        row = await self._store.get("mdm_remote", row_id(server_id, remote_id))
        if row is not None and row["state"] in STUCK:
            await self.want_again(server_id, remote_id)

    async def cancel(self, server_id: str, remote_id: str, transfer: str = "") -> None:
        """Remember that a person cancelled a pull: these bytes are not wanted until the person retries.

        Args:
            server_id: The server.
            remote_id: The record.
            transfer: Only if the record's bytes are still those of this transfer.
        """
        row = await self._store.get("mdm_remote", row_id(server_id, remote_id))
        if row is None or row["state"] not in {RowState.WANTED, RowState.FAILED, RowState.PENDING}:
            return
        if row["mark"] and transfer in {"", pull_transfer(row)}:
            kept = {"state": RowState.PENDING} if row["state"] == RowState.PENDING else {}
            await self._mark(row, **{**_stuck(row, RowState.FAILED, _CANCELLED), **kept})

    async def transfer_of(self, server_id: str, remote_id: str) -> str:
        """The id of the transfer of a record's bytes, which may not have begun; "" if there is no such record."""
        row = await self._store.get("mdm_remote", row_id(server_id, remote_id))
        return pull_transfer(row) if row is not None else ""

    async def _mark(self, row: Doc, *more: Operation, **changes: Any) -> Doc:
        """Change a row, unless the record has other bytes by now: then only what does not speak of them."""
        while True:
            try:
                stored = await self._store.batch(
                    [row_write({**row, **_words(changes), "at": self._now()}), *more]
                )
            except StaleRevision:
                current = await self._store.get("mdm_remote", row["_id"])
                if current is None:
                    return row
                if current["mark"] != row["mark"]:
                    changes = {
                        name: value
                        for name, value in changes.items()
                        if name in {"taken", "sure", "package", "noted"}
                    }
                row = current
            else:
                return stored[0] or row


def upload_id(row: Doc) -> str:
    """The id of the upload that a record's bytes fill."""
    return hashlib.sha256(f"{row['_id']}:{row['mark']}".encode()).hexdigest()[:32]


def pull_transfer(row: Doc) -> str:
    """The id of the transfer of a record's bytes."""
    return transfer_id(package_id(check_filename(row["file_name"])), upload_id(row))


def _stuck(row: Doc, state: RowState, error: str) -> dict[str, Any]:
    """What a row says of bytes that are not fetched again until they change or a person retries."""
    verdict = {"state": str(state), "error": error}
    return {"state": state, "error": error, "tried": row["mark"], "verdict": verdict}


class _NotWanted(Exception):
    """What is being fetched is not to be published."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _words(changes: dict[str, Any]) -> dict[str, Any]:
    return {name: str(value) if isinstance(value, RowState) else value for name, value in changes.items()}


def _wrong(remote: RemotePackage, size: int, found: dict[str, str]) -> str:
    """What is wrong with the bytes, "" if nothing is."""
    if remote.size is not None and size != remote.size:
        return f'"{remote.file_name}" has {size} bytes; its record states {remote.size}.'
    wrong = unlike(found, remote.hashes)
    if not wrong:
        return ""
    kind = min(wrong, key=_STRONGEST.index)
    stated = remote.hashes[kind]
    return f'The {kind.upper()} of "{remote.file_name}" is {found[kind]}; its record states {stated}.'
