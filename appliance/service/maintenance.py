"""Cleaning: files that nothing mentions, at the start and while the node runs; rows that are of no use any more."""

import asyncio
import contextlib
import logging
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from appliance.domain.errors import StaleRevision
from appliance.domain.job import Job
from appliance.domain.package import WANTED
from appliance.domain.record import TOMBSTONE_LIFE_MS, RecordKind
from appliance.domain.states import JobState, TransferState
from appliance.jobs.new import new_job
from appliance.store.blobs import BlobStore
from appliance.store.paging import every, pages
from appliance.store.ports import Remove, Store

from .burial import Burial
from .catalogue import Catalogue
from .fetch_jobs import cancelled_by_person, transfer_id
from .holdings import Holdings
from .public_names import show_changed
from .records import Records
from .trash import Trash, keep_unclaimed, mentioned, named
from .uploads import UploadService

log = logging.getLogger(__name__)

PURGE_JOB = "maintenance.purge"
DAY_MS = 24 * 3600 * 1000
_TRANSFERS_KEPT_MS = 30 * DAY_MS
_JOBS_KEPT_MS = 7 * DAY_MS  #: those that failed too: what is still wanted has a newer one
SWEEP_AGE_S = 600.0  #: a file that nothing mentions is left alone for so long: somebody may be about to


def purge_job(now: int) -> Job:
    """The job that runs `Maintenance.purge`."""
    return new_job("duty", PURGE_JOB, now)


@dataclass(frozen=True, slots=True, kw_only=True)
class InUse:
    """Files that the database has a use for."""

    named: set[str]  #: SHA-256s that the database knows by a name
    blobs: set[str]  #: SHA-256s whose files stay: those, and unclaimed ones for a while
    partials: set[str]  #: ids of transfers
    uploads: set[str]  #: ids of uploads


class Maintenance:
    """Keeps disk and database free of what nobody needs."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        catalogue: Catalogue,
        holdings: Holdings,
        trash: Trash,
        uploads: UploadService,
        blobs: BlobStore,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._burial = Burial(store, now)
        self._records = records
        self._catalogue = catalogue
        self._holdings = holdings
        self._trash = trash
        self._uploads = uploads
        self._blobs = blobs
        self._now = now
        self._began = time.time()  #: by the clock that files have, too
        self._found: set[str] | None = None  #: blobs that were here before this process: names may come back

    async def clean_files(self) -> None:
        """After a crash: remove files that are neither old nor new state, and restore missing links.

        Every package must be settled before. Blobs that nothing names stay for a while, whose days begin only when the
        database is believed.
        """
        in_use = await self._in_use()
        names = self._catalogue.held_names()
        await asyncio.to_thread(
            self._blobs.adopt_or_clean,
            believed=bool(in_use.named),
            names=names,
            blobs=in_use.blobs,
            partials=in_use.partials,
            uploads=in_use.uploads,
            since=self._began,
        )
        await show_changed(self._catalogue, self._blobs, names)
        sizes = await asyncio.to_thread(self._blobs.sizes)
        self._found = set(sizes)
        await self._keep(sizes.keys() - in_use.blobs, sizes)
        await self._trash.purge()

    async def drop_leftovers(self) -> None:
        """Delete uploads and partial files that serve nothing any more, without a write to the database: it is full."""
        await self._catalogue.load()
        in_use = await self._in_use()
        old = await asyncio.to_thread(self._blobs.unused, 0.0)
        if old.blobs and not in_use.named:
            return  # as everywhere: the database is far more likely the wrong one than right
        now = self._now()
        living = {doc["_id"] async for doc in every(self._store, "uploads") if doc["expires_at"] > now}
        for path in old.partials:
            if path.name.removesuffix(".map") not in in_use.partials:
                await asyncio.to_thread(self._blobs.drop, path)
        for path in old.uploads:
            if path.name.split(".")[0] not in living:
                await asyncio.to_thread(self._blobs.drop, path)

    async def _keep(self, found: Iterable[str], sizes: Mapping[str, int]) -> None:
        """Let files that nothing names stay for a while."""
        unclaimed = {sha256: sizes[sha256] for sha256 in found if sha256 in sizes}
        await keep_unclaimed(self._store, unclaimed, self._now())

    async def _in_use(self) -> InUse:
        """Every file that the database has a use for; which blobs these are, `trash` says."""
        packages = self._catalogue.all()
        open_states = {"state": {"in": [str(s) for s in TransferState if s is not TransferState.DONE]}}
        under_way = [doc async for doc in every(self._store, "transfers", open_states)]
        wanted = {package.id: package.body.sha256 for package in packages if not package.withdrawn}
        uploads = [doc async for doc in every(self._store, "uploads")]
        return InUse(
            named=await named(self._store, packages),
            blobs=await mentioned(self._store, packages),
            partials={
                doc["_id"]
                for doc in under_way
                if doc.get("sha256") and wanted.get(doc.get("package", "")) == doc["sha256"]
            },
            uploads={doc["_id"] for doc in uploads},
        )

    async def sweep(self, age_s: float = SWEEP_AGE_S) -> None:
        """Delete what nothing mentions and nobody touched for a while: uploads that lost a race leave such files.

        Who is about to mention a file has touched it, so that the order is: look what is old, then what is mentioned.
        A blob that this process found at its start did not come by such a race: it stays as long as an earlier version.
        One that did not look at its start takes what its first sweep finds for that.
        A blob that a record names and that is not in use is settled: it may be the last copy.
        """
        if self._found is None:
            self._found = set(await asyncio.to_thread(self._blobs.sizes))
        old = await asyncio.to_thread(self._blobs.unused, age_s)
        await self._catalogue.load()
        in_use = await self._in_use()
        if not in_use.named:  # as at the start: far more likely the wrong database than right
            return
        unclaimed = set(old.blobs) - in_use.blobs
        before = unclaimed & self._found
        if before:
            await self._keep(before, await asyncio.to_thread(self._blobs.sizes))
        held = self._catalogue.held_names()
        names = [name for name in old.names if unicodedata.normalize("NFC", name) not in held]
        files = [path for path in old.partials if path.name.removesuffix(".map") not in in_use.partials]
        files += [path for path in old.uploads if path.name.split(".")[0] not in in_use.uploads]
        for sha256 in unclaimed - before:
            await asyncio.to_thread(self._blobs.sweep, sha256, age_s)
        for name in names:
            await asyncio.to_thread(self._blobs.sweep_name, name, age_s)
        for path in files:
            await asyncio.to_thread(self._blobs.drop, path)
        idle = [
            package.id
            for package in self._catalogue.all()
            if not package.withdrawn
            and package.held_sha256 != package.body.sha256
            and package.body.sha256 in old.blobs
        ]
        await self._holdings.settle_many(idle)

    async def purge(self) -> None:
        """Delete what has expired: nonces, invites, uploads, old tombstones, ended jobs and transfers."""
        now = self._now()
        await self._store.purge(now=now)
        await self._uploads.expire()
        await self._burial.bury(await self._trash.elapsed())
        before = now - TOMBSTONE_LIFE_MS
        for id in [package.id for package in self._catalogue.all()]:
            package, rev = self._catalogue.by_id(id), self._catalogue.rev(id)
            if package is not None and package.withdrawn and package.at < before:
                if not await self._has_record(package.id):
                    gone = Remove("packages", package.id, rev)
                    with contextlib.suppress(StaleRevision):  # another process published it again
                        await self._store.batch([gone])
                await self._catalogue.refresh(package.id)
        await self._trash.purge()
        await self._purge_transfers(now - _TRANSFERS_KEPT_MS)
        ended = [str(state) for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED)]
        await self._store.delete("jobs", {"state": {"in": ended}, "updated_at": {"lt": now - _JOBS_KEPT_MS}})

    async def _has_record(self, package: str) -> bool:
        return (await self._records.known(RecordKind.PACKAGE, package)).rev > 0

    async def _purge_transfers(self, before: int) -> None:
        """Delete those that ended long ago; a person's cancel stays for as long as these bytes are wanted here."""
        wanted = {
            transfer_id(package.id, package.body.sha256)
            for package in self._catalogue.all()
            if package.presence in WANTED
        }
        old = {
            "state": {"in": [str(TransferState.DONE), str(TransferState.CANCELLED)]},
            "updated_at": {"lt": before},
        }
        async for docs in pages(self._store, "transfers", old):
            ids = [doc["_id"] for doc in docs if not (cancelled_by_person(doc) and doc["_id"] in wanted)]
            if ids:
                await self._store.delete("transfers", {"_id": {"in": ids}, **old})
