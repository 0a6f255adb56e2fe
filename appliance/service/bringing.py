"""The job that brings one package here: manifest, space, chunks, whole-file hashes, publication.

It runs in a thread of the executor `transfer` or `small`. Every step can be cut off by a crash: the record, the partial
file with its chunk map and the job's lease are enough to go on.
"""

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Executor
from typing import Any, NamedTuple, TypeVar

from appliance.domain.errors import (
    ApplianceError,
    ChunkInvalid,
    IntegrityFailure,
    ManifestInvalid,
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    RecordWrong,
    Stopping,
    StorageError,
    StorageFull,
)
from appliance.domain.job import Job
from appliance.domain.manifest import Manifest
from appliance.domain.package import Package
from appliance.domain.states import TransferState
from appliance.jobs.context import JobContext
from appliance.jobs.run import Task
from appliance.peering.content import ContentPool
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile

from .fetch_jobs import UNWANTED
from .fetcher import Fetch, Source
from .frontier import FrontierHash
from .holdings import Holdings, fits, inline_manifest
from .landing import Landing
from .metrics import Metrics
from .peers import Peers
from .recent import Buffers
from .salvage import salvage
from .transfers import Live, Transfers
from .verified_blobs import VerifiedBlobs
from .verifying import Verifying

T = TypeVar("T")

log = logging.getLogger(__name__)

WRONG_RECORD_S = 3600  #: a package whose record cannot be right is fetched again after so long
_TELL_S = 0.2  #: several small packages that are done are told of together, and so late at most


class _Unwanted(Exception):
    """The bytes are no longer wanted."""


class _End(NamedTuple):
    """How an attempt ended."""

    state: TransferState
    words: str = ""
    error: ApplianceError | None = None
    retry_at: int = 0  #: when it may begin again, UTC milliseconds; 0: when its job does


class Bringing:
    """Runs the jobs `transfer.fetch` and, for small packages, `transfer.fetch_small`."""

    def __init__(
        self,
        *,
        layout: Layout,
        blobs: BlobStore,
        holdings: Holdings,
        transfers: Transfers,
        peers: Peers,
        pool: ContentPool,
        hashing: Executor,
        metrics: Metrics,
        connections: int,
        now: Callable[[], int],
        verified: VerifiedBlobs,
        verifying: Verifying,
    ) -> None:
        self._verified = verified
        self._verifying = verifying
        self._layout = layout
        self._blobs = blobs
        self._holdings = holdings
        self._transfers = transfers
        self._peers = peers
        self._pool = pool
        self._hashing = hashing
        self._metrics = metrics
        self._connections = connections
        self._now = now
        self._buffers = Buffers()

    def run(self, job: Job, context: JobContext) -> None:
        """Bring the package named in the job here, if it is wanted and not here.

        Raises:
            PeerError: It could not be completed now; what is verified stays.
            StorageError: The disk is full or fails.
            Stopping: The node stops.
        """
        live = context.wait(self._begin(job))
        if live is None:
            return
        try:
            end = self._attempt(live, context)
        except BaseException:
            self._transfers.forget(live)
            raise
        context.wait(self._end(live, end))
        if end.error is not None:
            raise end.error

    def run_small(self, tasks: Sequence[Task]) -> list[BaseException | None]:
        """Bring several small packages here, one after the other: each costs messages and writes, not bytes.

        What the database is asked and told is gathered, so that it is one round for all of them.

        Returns:
            What `run` would have raised, for each.
        """
        wait = tasks[0].context.wait
        begun = wait(_all(self._begin(task.job) for task in tasks))
        errors = [live if isinstance(live, BaseException) else None for live in begun]
        ended: dict[int, Coroutine[Any, Any, None]] = {}
        away: dict[str, Source] = {}  # asking again for each package would hold up all
        told = time.monotonic()

        def tell() -> None:
            nonlocal told
            for position, result in zip(list(ended), wait(_all(ended.values())), strict=True):
                errors[position] = result or errors[position]
            ended.clear()
            told = time.monotonic()

        for position, (task, live) in enumerate(zip(tasks, begun, strict=True)):
            if isinstance(live, Live):
                sources = live.progress.sources
                for source in sources:
                    if source.node in away:
                        source.like(away[source.node])
                end = task.catch(functools.partial(self._attempt, live, task.context))
                if isinstance(end, BaseException):
                    self._transfers.forget(live)
                    errors[position] = end
                else:
                    errors[position] = end.error
                    ended[position] = self._end(live, end)
                away |= {source.node: source for source in sources if source.away}
            if time.monotonic() - told > _TELL_S:
                tell()
        tell()
        return errors

    def _begin(self, job: Job) -> Coroutine[Any, Any, Live | None]:
        return self._transfers.begin(job.args["package"], job.args.get("sha256", ""))

    def _end(self, live: Live, end: "_End") -> Coroutine[Any, Any, None]:
        return self._transfers.end(live, end.state, end.words, retry_at=end.retry_at)

    def _attempt(self, live: Live, context: JobContext) -> "_End":
        try:
            context.check()
            self._bring(live, context)
        except _Unwanted:
            return _End(TransferState.CANCELLED, live.doc["error"] if live.cancelled else UNWANTED)
        except Stopping as exc:
            return _End(TransferState.PENDING, error=exc)
        except RecordWrong as exc:
            self._strike_author(live, context, exc)
            retry_at = self._now() + 1000 * WRONG_RECORD_S
            return _End(TransferState.STALLED, exc.message, exc, retry_at)
        except (PeerError, StorageError, IntegrityFailure) as exc:
            needed = exc.details.get("needed") if isinstance(exc, StorageFull) else None
            if isinstance(needed, int):
                self._transfers.lacks_room(live.package.id, needed)
            return _End(TransferState.STALLED, exc.message, exc)
        return _End(TransferState.DONE)

    def _bring(self, live: Live, context: JobContext) -> None:
        manifest = inline_manifest(live.package.body) or self._manifest(live, context)
        if self._blobs.exists(manifest.sha256, manifest.size) and self._verifying.verify_local(
            manifest.sha256, context
        ):
            self._transfers.set_state(live, TransferState.VERIFYING)
            return
        partial = PartialFile.open(
            self._layout, live.doc["_id"], manifest, check_space=self._blobs.check_space
        )
        whole = FrontierHash(partial, manifest.size, self._hashing, self._buffers)
        try:

            def check() -> None:
                context.check()
                if live.unwanted.is_set():
                    raise _Unwanted

            def fetched(source: Source, count: int) -> None:
                self._metrics.fetched(source.node, count)
                if live.first_chunk_at == 0:
                    live.first_chunk_at = self._now()

            def salvaged(count: int) -> None:
                live.progress.bytes_done += count
                live.progress.chunks_done += 1

            salvage(self._layout.damaged(manifest.sha256), manifest, partial, check, salvaged)
            with Landing(partial, whole, manifest.size) as landing:
                fetch = Fetch(
                    package=live.package.id,
                    manifest=manifest,
                    partial=partial,
                    progress=live.progress,
                    pool=self._pool,
                    check=check,
                    landing=landing,
                    on_strike=lambda source, error: self._strike(context, source, error, live.package),
                    on_fetched=fetched,
                )
                live.add_sources = fetch.add_sources
                fetch.run(self._connections, _spawn)
            self._transfers.set_state(live, TransferState.VERIFYING)
            if whole.digests() != (manifest.sha1, manifest.sha256):
                partial.discard()
                raise RecordWrong(
                    "All chunks match the manifest and the whole file does not: the record is wrong. "
                    "Upload the package again where it came from. Until then it is looked at once an hour.",
                    retry_after=WRONG_RECORD_S,
                )
            check()
            path = partial.finish()
        except _Unwanted:
            if not live.cancelled:
                partial.discard()
            raise
        finally:
            whole.close()
            partial.close()
        committed = self._blobs.commit(path, manifest.sha256, synced=True)
        live.writes.append(self._verified.remember(manifest.sha256, committed.stamp))
        if committed.replaced:
            context.wait(self._verified.relink(manifest.sha256))

    def _manifest(self, live: Live, context: JobContext) -> Manifest:
        """The manifest from here, or from the first source that gives one that matches the record."""
        body = live.package.body
        known = context.wait(self._holdings.manifest(body))
        if known is not None:
            return known
        reasons = []
        for source in live.progress.sources:
            context.check()
            try:
                manifest = self._peers.client(source.node).manifest(live.package.id, body.sha256, body.size)
                if not fits(manifest, body):
                    raise PeerMisbehaved("Its manifest does not match the signed record.")
            except (PeerMisbehaved, ManifestInvalid) as exc:
                source.strikes += 1
                self._strike(context, source, exc, live.package)
                reasons.append(f"{source.name}: {exc.message}")
            except PeerError as exc:
                reasons.append(f"{source.name}: {exc.message}")
            else:
                context.wait(self._holdings.keep_manifest(manifest))
                return manifest
        raise PeerError(f"No source gave the manifest ({'; '.join(reasons) or 'there is no source'}).")

    def _strike_author(self, live: Live, context: JobContext, error: RecordWrong) -> None:
        """Count a record that cannot be right, once: against its author, or who says that it holds such a file."""
        if live.doc.get("retry_at"):
            return
        sources = {source.node: source for source in live.progress.sources}
        if self._peers.find(live.package.author) is not None:
            struck = [live.package.author]
        else:
            struck = [node for node, source in sources.items() if source.chunks]
        for node in struck:
            log.warning(
                "a record is wrong: the whole file does not match it",
                extra={"action": "record_wrong", "peer": node, "package": live.package.id},
            )
            self._metrics.chunk_failure(node, error.code)
            reason = f"{live.package.body.filename}: {error.message}"
            context.wait(self._peers.strike(node, reason, package=live.package.id))

    def _strike(self, context: JobContext, source: Source, error: ApplianceError, package: Package) -> None:
        log.warning(
            "a source served what was not asked for",
            extra={"action": "source_struck", "peer": source.node, "reason": error.message},
        )
        self._metrics.chunk_failure(source.node, error.code)
        if isinstance(error, ChunkInvalid):
            self._complain(source, package, error)
        context.wait(self._peers.strike(source.node, error.message, package=package.id))

    def _complain(self, source: Source, package: Package, error: ChunkInvalid) -> None:
        """Tell a source that it gave wrong bytes, so that it verifies its file; one that does not listen is left."""
        index = error.details.get("index")
        with contextlib.suppress(PeerError, PeerNotFound):
            self._peers.client(source.node).complain(
                package.id, package.body.sha256, index if isinstance(index, int) else 0
            )


async def _all(steps: Iterable[Awaitable[T]]) -> list[T | BaseException]:
    """Await all; one that fails leaves its error in its place."""
    return await asyncio.gather(*steps, return_exceptions=True)


def _spawn(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="fetch", daemon=True)
    thread.start()
    return thread
