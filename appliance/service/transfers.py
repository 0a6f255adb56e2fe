"""Transfers as people and other services see them: which packages are being brought here, and how far they are.

The work itself is a job (`service.bringing`). What it has done lives in memory, is written to the store every
second, and, chunk by chunk, in the map beside the partial file.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from appliance.domain.errors import OUTAGES, InvalidTransition, JobUnknown, StaleRevision
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.package import WANTED, Package, Presence
from appliance.domain.states import JobState, TransferState, advance
from appliance.peering.records import replica_body
from appliance.store.paging import every
from appliance.store.ports import Doc, Enqueue, Operation, Replace, Store

from .catalogue import Catalogue
from .fetch_jobs import (
    FETCH_JOBS,
    UNWANTED,
    cancelled_by_person,
    fetch_job,
    fetch_key,
    new_transfer_doc,
    put_off,
    restarted_doc,
    retry_time,
    transfer_id,
)
from .fetcher import Progress, Source
from .holdings import Holdings
from .journal import SYSTEM, entry
from .peers import Peers
from .records import Records

log = logging.getLogger(__name__)

TICK_S = 1.0
_SOURCES_EVERY = 5  #: ticks between looks for new sources
_NEEDED = {
    "package", "filename", "sha256", "size", "state", "bytes_done", "chunks_done", "chunks", "rate", "sources",
    "error", "attempts", "started_at", "updated_at",
}  # fmt: skip
_RETRIED = {TransferState.CANCELLED, TransferState.FAILED, TransferState.STALLED}
_MANY = 10_000
_TRIES = 5
_PASSING = {TransferState.FETCHING, TransferState.VERIFYING}
_OPEN = [str(state) for state in TransferState if state not in {TransferState.DONE, TransferState.CANCELLED}]
_UNWANTED = {Presence.HELD, Presence.NOT_ADMITTED, Presence.WITHDRAWN}


@dataclass(slots=True, eq=False)
class Live:
    """A transfer that a job of this process works on."""

    doc: Doc
    package: Package
    state: TransferState
    progress: Progress
    unwanted: threading.Event  #: set when the bytes are no longer wanted, or a person cancelled
    cancelled: bool = False  #: by a person: what is verified stays for a retry
    add_sources: Callable[[list[Source]], None] = lambda _: None
    began: float = field(default_factory=time.monotonic)
    ticks: int = 0
    rate: float = 0.0  #: bytes a second, smoothed
    counted: int = 0
    received: int = 0  #: bytes that came in this run, when that was last looked at
    first_chunk_at: int = 0  #: UTC milliseconds of the first verified chunk of this run
    writes: list[Operation] = field(default_factory=list)  #: to be done when it has ended

    def view(self) -> Doc:
        """The document as it would be written now."""
        progress = self.progress
        return {
            **self.doc,
            "state": str(self.state),
            "bytes_done": progress.bytes_done,
            "chunks_done": progress.chunks_done,
            "rate": round(self.rate, 1),
            "sources": [
                {"node": s.node, "name": s.name, "bytes": s.bytes, "chunks": s.chunks, "strikes": s.strikes}
                for s in progress.sources
            ],
        }


class Pulls(Protocol):
    """Transfers whose source is no peer: their documents have a field `pull`."""

    async def retry(self, doc: Doc) -> None:
        """Start one again, now."""

    def job_key(self, doc: Doc) -> str:
        """The key of the job that does one."""

    async def cancel(self, doc: Doc) -> None:
        """Stop one whose document says already that it was cancelled."""

    async def job_cancelled(self, job: Job) -> None:
        """Remember that a person cancels a job, if it brings such a transfer, begun or not."""

    async def job_retried(self, job: Job) -> None:
        """Want again what a job that a person retried brings, if it brings such a transfer."""

    async def transfer_of(self, job: Job) -> str:
        """The id of the transfer that a job brings, begun or not; "" if it brings none."""


class Transfers:
    """Every transfer of this node."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        catalogue: Catalogue,
        holdings: Holdings,
        peers: Peers,
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._holdings = holdings
        self._peers = peers
        self._node_id = node_id
        self._now = now
        self._live: dict[str, Live] = {}
        self._roomless: dict[
            str, int
        ] = {}  #: bytes that packages need which stopped because the disk was full
        self.fits: Callable[[int], bool] = lambda _needed: True  #: whether so many bytes fit on the disk
        self.pulls: Pulls | None = None  #: whoever brings packages from elsewhere than peers

    # For people

    async def page(
        self, where: dict[str, Any] | None = None, *, limit: int = 100, after: tuple[Any, str] | None = None
    ) -> list[Doc]:
        """Transfers, the last changed first, with what running ones have done up to this moment."""
        docs = await self._store.find(
            "transfers", where, order="updated_at", descending=True, limit=limit, after=after
        )
        return [self._shown(doc) for doc in docs if doc.keys() >= _NEEDED]  # an odd row hides no others

    async def get(self, id: str) -> Doc:
        """One transfer.

        Raises:
            JobUnknown: There is none of this id.
        """
        return self._shown(await self._stored(id))

    async def _stored(self, id: str) -> Doc:
        doc = await self._store.get("transfers", id)
        if doc is None:
            raise JobUnknown(f"There is no transfer {id}.")
        return doc

    def _shown(self, doc: Doc) -> Doc:
        live = self._live.get(doc["_id"])
        return live.view() if live and not live.cancelled else doc

    def progress(self, package: str) -> Live | None:
        """The running transfer of a package, if this process runs it."""
        found = self._catalogue.by_id(package)
        return self._live.get(transfer_id(package, found.body.sha256)) if found else None

    def held_chunks(self, package_id: str, sha256: str) -> bytes | None:
        """The map of verified chunks of a package that is held or arriving here, or None."""
        live = self._live.get(transfer_id(package_id, sha256))
        return live.progress.chunks.packed() if live and live.progress.chunks else None

    async def retry(self, id: str, *, actor: str) -> Doc:
        """Start a stalled, failed or cancelled transfer again, now; one that just ends, as soon as it has ended.

        Raises:
            JobUnknown: There is none of this id.
            InvalidTransition: It runs, or is done.
            StaleRevision: It changes all the time.
        """
        doc = await self.get(id)
        if "pull" in doc and self.pulls is not None and doc["state"] != TransferState.DONE:
            await self.pulls.retry(doc)
            return await self.get(id)
        package = self._catalogue.by_id(doc["package"])

        def again(doc: Doc) -> tuple[Doc, list[Operation]]:
            state = TransferState(doc["state"])
            if state in {TransferState.DONE, TransferState.FETCHING, TransferState.VERIFYING}:
                raise InvalidTransition(f"The transfer is {state}; there is nothing to retry.")
            if package is None or transfer_id(package.id, package.body.sha256) != id:
                raise InvalidTransition("Other bytes have this name now; the transfer is of no use any more.")
            now = self._now()
            return restarted_doc(doc, package, now), [Enqueue(fetch_job(package, now))]

        again(doc)  # says why not, before anything is done
        await self._peers.forgive(doc["package"])
        await self._rewrite(id, again)
        log.info(
            "a transfer is retried", extra={"action": "transfer_retried", "transfer": id, "actor": actor}
        )
        await self._holdings.settle(doc["package"])
        return await self.get(id)

    async def _rewrite(self, id: str, change: Callable[[Doc], tuple[Doc, list[Operation]]]) -> Doc:
        """Write what becomes of a transfer, and more with it, by what it is at that moment."""
        for _ in range(_TRIES):
            doc = await self._stored(id)
            new, more = change(self._shown(doc))
            with contextlib.suppress(StaleRevision):  # it advanced
                stored = await self._store.batch([Replace("transfers", new, doc["_rev"]), *more])
                return stored[0] or new
        raise StaleRevision("The transfer changes all the time; try again.")

    async def stopped(self, package: Package) -> str:
        """The id of the transfer of a package that has stopped and can be retried, "" if there is none."""
        doc = await self._store.get("transfers", transfer_id(package.id, package.body.sha256))
        missing = package.presence in {*WANTED, Presence.DAMAGED}
        return doc["_id"] if missing and doc is not None and doc["state"] in _RETRIED else ""

    async def cancelled(self, packages: Iterable[Package]) -> int:
        """How many of these packages are not here because a person cancelled their transfers."""
        docs = await self._store.find("transfers", {"state": str(TransferState.CANCELLED)}, limit=_MANY)
        ids = {doc["_id"] for doc in docs if cancelled_by_person(doc)}
        return sum(transfer_id(package.id, package.body.sha256) in ids for package in packages)

    async def cancel(self, id: str, *, actor: str) -> Doc:
        """Stop a transfer; what is verified stays for a retry.

        Raises:
            JobUnknown: There is none of this id.
            InvalidTransition: It is done.
            StaleRevision: It changes all the time.
        """

        def stopped(doc: Doc) -> tuple[Doc, list[Operation]]:
            state = str(advance(TransferState(doc["state"]), TransferState.CANCELLED))
            why = {"error": f"cancelled by {actor}", "cancelled_by": actor}
            return {**doc, "state": state, **why, "updated_at": self._now()}, []

        doc = await self._rewrite(id, stopped)
        live = self._live.get(id)
        if live is not None:
            live.doc = doc
            live.cancelled = True
            live.unwanted.set()
        if "pull" in doc and self.pulls is not None:
            await self.pulls.cancel(doc)
            return await self.get(id)
        waiting = await self._job(doc)
        if waiting is not None and waiting.state is JobState.TODO:
            await self._store.cancel_job(waiting.id, now=self._now())
        log.info(
            "a transfer was cancelled", extra={"action": "transfer_cancelled", "transfer": id, "actor": actor}
        )
        await self._holdings.settle(doc["package"])
        return await self.get(id)

    async def prioritize(self, id: str, *, actor: str) -> Doc:
        """Let a transfer that waits go before all others.

        Raises:
            JobUnknown: There is none of this id.
            InvalidTransition: It does not wait.
        """
        doc = await self.get(id)
        job = await self._job(doc)
        if job is None:
            raise InvalidTransition(f"The transfer is {doc['state']}; only one that waits can go first.")
        await self._store.prioritize_job(job.id, now=self._now())
        log.info(
            "a transfer goes first", extra={"action": "transfer_prioritized", "transfer": id, "actor": actor}
        )
        return await self.get(id)

    async def _job(self, doc: Doc) -> Job | None:
        """The active job of a transfer."""
        pulled = "pull" in doc and self.pulls is not None
        key = self.pulls.job_key(doc) if pulled and self.pulls else fetch_key(doc["_id"])
        jobs = await self._store.find_jobs({"active_key": key}, limit=1)
        return jobs[0] if jobs else None

    async def job_cancelled(self, job: Job, *, actor: str) -> None:
        """Stop what an active job brings, before a person cancels the job; without it, it would be begun again."""
        if self.pulls is not None:
            await self.pulls.job_cancelled(job)
        transfer = await self._of_job(job)
        if transfer:
            with contextlib.suppress(InvalidTransition):  # it is done, and its job is of no use any more
                await self.cancel(transfer, actor=actor)

    async def job_retried(self, job: Job) -> None:
        """Have a job that a person retried find that what it brings is wanted."""
        if self.pulls is not None:
            await self.pulls.job_retried(job)

    async def _of_job(self, job: Job) -> str:
        """The id of the transfer that a job works on, "" if there is none."""
        if job.name not in FETCH_JOBS:
            pulled = await self.pulls.transfer_of(job) if self.pulls is not None else ""
            return pulled if pulled and await self._store.get("transfers", pulled) is not None else ""
        package = self._catalogue.by_id(str(job.args.get("package", "")))
        sha256 = job.args.get("sha256") or (package.body.sha256 if package is not None else "")
        id = transfer_id(str(job.args.get("package", "")), str(sha256))
        return id if await self._store.get("transfers", id) is not None else ""

    async def retry_times(self, docs: Sequence[Doc]) -> dict[str, int]:
        """When transfers that wait go on, UTC milliseconds by id; 0 for one that does not wait for a certain time."""
        keys = {fetch_key(doc["_id"]): doc["_id"] for doc in docs if doc["state"] in _OPEN}
        found = {doc["_id"]: retry_time(doc) for doc in docs}
        if keys:
            for job in await self._store.find_jobs({"active_key": {"in": list(keys)}}, limit=len(keys)):
                if job.state is JobState.TODO:
                    found[keys[job.key]] = job.run_at
        return found

    async def next_looks(self, packages: Sequence[Package]) -> dict[str, int]:
        """When packages that wait are looked at again, UTC milliseconds by id; 0: at the next reconciliation."""
        ids = {transfer_id(package.id, package.body.sha256): package for package in packages}
        docs = await self._store.find("transfers", {"_id": {"in": list(ids)}}, limit=len(ids)) if ids else []
        times = await self.retry_times([doc for doc in docs if not cancelled_by_person(doc)])
        return {package.id: max(package.retry_at, times.get(id, 0)) for id, package in ids.items()}

    # For the job

    async def begin(self, package_id: str, sha256: str = "") -> Live | None:
        """Open the transfer that a job was made for, or None if its bytes are not needed now.

        What is decided on is read from the store: another process may have written it a moment ago.

        Args:
            package_id: Package id.
            sha256: The bytes that the job is for; "" means whatever the package has.
        """
        package = await self._catalogue.refresh(package_id)
        if package is None or package.presence is not Presence.ARRIVING:
            package = await self._holdings.settle(package_id)
        if package is None or (sha256 and package.body.sha256 != sha256):
            await self._close(transfer_id(package_id, sha256))
            return None
        if package.presence is not Presence.ARRIVING:
            return None
        id = transfer_id(package.id, package.body.sha256)
        sources, here, doc = await asyncio.gather(
            self.sources(package), self._holdings.on_disk(package.body), self._store.get("transfers", id)
        )
        if here or not sources:
            await asyncio.gather(self._peers.load(), self._holdings.follow_nodes())
            package = await self._holdings.settle(package_id)
            if package is None or package.presence is not Presence.ARRIVING:
                return None
            id = transfer_id(package.id, package.body.sha256)
            sources, doc = await self.sources(package), await self._store.get("transfers", id)
        doc = doc or new_transfer_doc(package, self._now())
        if doc["state"] == TransferState.DONE:  # another process was faster, since the package was read
            await self._holdings.settle(package_id)
            return None
        stopped = doc["state"] == TransferState.CANCELLED or put_off(doc, self._now())
        if stopped or id in self._live:
            return None
        doc["attempts"] += 1
        live = Live(
            doc=doc,
            package=package,
            state=TransferState(doc["state"]),
            progress=Progress(sources=sources),
            unwanted=threading.Event(),
        )
        if live.state is TransferState.FAILED:
            live.state = TransferState.PENDING
        self.set_state(live, TransferState.FETCHING)
        self._live[id] = live
        return live

    async def _close(self, id: str) -> None:
        """End a transfer of bytes that their package no longer has."""
        doc = await self._store.get("transfers", id)
        if doc is not None and doc["state"] in _OPEN and id not in self._live:
            ended = {
                "state": str(TransferState.CANCELLED),
                "error": UNWANTED,
                "cancelled_by": "",
                "rate": 0.0,
            }
            with contextlib.suppress(StaleRevision):  # somebody else works on it
                await self._store.replace(
                    "transfers", {**doc, **ended, "updated_at": self._now()}, expect=doc["_rev"]
                )

    async def close_unwanted(self) -> None:
        """End every transfer whose bytes are here, or are not wanted here any more."""
        async for doc in every(self._store, "transfers", {"state": {"in": _OPEN}}):
            if "pull" in doc or doc["_id"] in self._live:
                continue
            package = self._catalogue.by_id(doc["package"])
            if (
                package is None or package.body.sha256 != doc["sha256"]
            ):  # another process may just have begun it
                package = await self._catalogue.refresh(doc["package"])
            if package is None or package.body.sha256 != doc["sha256"]:
                await self._close(doc["_id"])
            elif package.presence in _UNWANTED:
                await self._holdings.settle(package.id)

    async def sources(self, package: Package) -> list[Source]:
        """The registered peers that hold the newest bytes of a package and may be asked."""
        holders = [
            body.node
            for body in map(replica_body, await self._records.replicas(package.id))
            if body.node != self._node_id
            and body.sha256 == package.body.sha256
            and body.presence == Presence.HELD
        ]
        return [
            Source(
                node=node,
                name=self._holdings.name_of(node),
                address=self._peers.address(node),
            )
            for node in self._peers.usable_sources(holders, package.id)
        ]

    def lacks_room(self, package: str, needed: int) -> None:
        """A transfer ends because the disk is full: it begins again as soon as so many bytes fit."""
        self._roomless[package] = needed

    async def _look_for_room(self) -> None:
        """Begin again what stopped for want of room, and fits now."""
        for package, needed in list(self._roomless.items()):
            if not await asyncio.to_thread(self.fits, needed):
                continue
            del self._roomless[package]
            log.info("there is room again", extra={"action": "transfer_has_room", "package": package})
            await self._holdings.settle(package, again=True)

    def forget(self, live: Live) -> None:
        """Its job ended in a way that says nothing of the transfer: another one goes on with it."""
        self._live.pop(live.doc["_id"], None)

    def set_state(self, live: Live, state: TransferState) -> None:
        """The one setter of a running transfer's state."""
        if live.state is not state:
            log.log(
                logging.DEBUG if state in _PASSING else logging.INFO,
                "a transfer advances",
                extra={
                    "action": f"transfer_{state}",
                    "transfer": live.doc["_id"],
                    "package": live.package.id,
                    "package_name": live.package.body.filename,
                    "first_chunk_at": live.first_chunk_at,
                },
            )
        live.state = advance(live.state, state)

    async def end(self, live: Live, state: TransferState, error: str = "", *, retry_at: int = 0) -> None:
        """Write how a running transfer ended, and settle its package.

        Args:
            live: The transfer.
            state: What it is from now on.
            error: Why, in a sentence.
            retry_at: When it may begin again, UTC milliseconds; 0: when its job does.
        """
        self.forget(live)
        if state is not TransferState.DONE and live.cancelled and not await self._stays_cancelled(live):
            await self._holdings.settle(live.package.id)  # retried since: its job runs once more
            return
        self._note_moved(live)
        self.set_state(live, state)
        ended = {
            "rate": 0.0,
            "error": error,
            "retry_at": retry_at or live.doc.get("retry_at", 0),
            "updated_at": self._now(),
        }
        doc = {
            **live.view(),
            **ended,
            "cancelled_by": live.doc.get("cancelled_by", "") if live.cancelled else "",
        }
        events: list[Operation] = [*live.writes]
        if state is TransferState.STALLED and live.doc["attempts"] == 1:
            events.append(
                entry(
                    EventType.TRANSFER_STALLED,
                    at=self._now(),
                    actor=SYSTEM,
                    subject=live.package.id,
                    filename=live.package.body.filename,
                    reason=error,
                )
            )
        if state is TransferState.PENDING:
            # The node stops: the job is there, and goes on after the next start; if a person canceled it, that stands.
            with contextlib.suppress(JobUnknown):  # nothing of it was written yet
                await self._rewrite(
                    live.doc["_id"], lambda stored: (stored if cancelled_by_person(stored) else doc, [])
                )
        else:
            await self._holdings.settle(live.package.id, extra=events, transfer=doc)
        if state is TransferState.DONE:
            for source in live.progress.sources:
                if source.bytes and not source.strikes:
                    await self._peers.redeem(source.node, live.package.id)

    async def _stays_cancelled(self, live: Live) -> bool:
        return cancelled_by_person(await self._store.get("transfers", live.doc["_id"]))

    async def give_up(self, package_id: str, error: str, sha256: str = "") -> None:
        """The job of a package's transfer failed for the last time."""
        package = await self._catalogue.refresh(package_id)
        if package is None:
            return
        doc = await self._store.get("transfers", transfer_id(package.id, sha256 or package.body.sha256))
        if doc is None or doc["state"] in {TransferState.DONE, TransferState.CANCELLED}:
            return
        now = self._now()
        event = entry(
            EventType.TRANSFER_FAILED,
            at=now,
            actor=SYSTEM,
            subject=package.id,
            filename=package.body.filename,
            reason=error,
        )
        doc.update(state=str(TransferState.FAILED), error=error, updated_at=now)
        await self._holdings.settle(package.id, extra=[event], transfer=doc)

    async def watch(self) -> None:
        """Every second, for ever: write progress, notice what is no longer wanted, look for new sources."""
        while True:
            await asyncio.sleep(TICK_S)
            with contextlib.suppress(*OUTAGES):  # then it begins again when its job does
                await self._look_for_room()
            for live in list(self._live.values()):
                try:
                    await self._tick(live)
                except OUTAGES as exc:
                    log.debug(
                        "progress was not written", extra={"action": "progress_unwritten", "reason": str(exc)}
                    )

    def _note_moved(self, live: Live) -> None:
        """Note when bytes came: from a source, not from what was verified before this run."""
        received = sum(source.bytes for source in live.progress.sources)
        if received > live.received:
            live.doc["moved_at"] = self._now()
        live.received = received

    async def _tick(self, live: Live) -> None:
        if live.cancelled:
            return  # it ends at its next chunk; what is written of it until then is that it was cancelled
        live.ticks += 1
        done = live.progress.bytes_done
        live.rate += 0.3 * ((done - live.counted) / TICK_S - live.rate) if live.counted else 0.0
        self._note_moved(live)
        live.counted = done
        package = self._catalogue.by_id(live.package.id)
        if (
            package is None
            or package.body.sha256 != live.package.body.sha256
            or package.presence in _UNWANTED  # while it only waits for a source, what is verified is of use
        ):
            live.unwanted.set()
            return
        try:
            live.doc = await self._store.replace(
                "transfers", {**live.view(), "updated_at": self._now()}, expect=live.doc.get("_rev")
            )
        except StaleRevision:
            stored = await self._store.get("transfers", live.doc["_id"])
            if stored is not None:
                live.doc = stored
                if cancelled_by_person(stored):
                    live.cancelled = True
                    live.unwanted.set()
        if live.ticks % _SOURCES_EVERY == 0:
            live.add_sources(await self.sources(live.package))
