"""The job that brings one package here: manifest, space, chunks, whole-file hashes, publication.

It runs in a thread of the `transfer` executor. Every step can be cut off by a crash: the record, the partial file
with its chunk map and the job's lease are enough to go on.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor

from appliance.domain.errors import (
    ApplianceError,
    DigestMismatch,
    IntegrityFailure,
    ManifestInvalid,
    PeerError,
    PeerMisbehaved,
    Stopping,
    StorageError,
)
from appliance.domain.job import Job
from appliance.domain.manifest import Manifest
from appliance.domain.states import TransferState
from appliance.jobs.context import JobContext
from appliance.peering.content import ContentPool
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.partial import PartialFile
from appliance.store.ports import Store

from .fetcher import Fetch, Source
from .frontier import FrontierHash
from .holdings import Holdings
from .landing import Landing
from .metrics import Metrics
from .packages import manifest_doc
from .peers import Peers
from .recent import Buffers
from .salvage import salvage
from .transfers import Live, Transfers

log = logging.getLogger(__name__)


class _Unwanted(Exception):
    """The bytes are no longer wanted."""


class Bringing:
    """Runs the job `transfer.fetch`."""

    def __init__(
        self,
        *,
        store: Store,
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
    ) -> None:
        self._store = store
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
        live = context.wait(self._transfers.begin(job.args["package"]))
        if live is None:
            return
        end = context.wait
        try:
            self._bring(live, context)
        except _Unwanted:
            why = live.doc["error"] if live.cancelled else "no longer wanted"
            end(self._transfers.end(live, TransferState.CANCELLED, why))
        except Stopping:
            end(self._transfers.end(live, TransferState.PENDING))
            raise
        except (PeerError, StorageError, IntegrityFailure) as exc:
            end(self._transfers.end(live, TransferState.STALLED, exc.message))
            raise
        else:
            end(self._transfers.end(live, TransferState.DONE))

    def _bring(self, live: Live, context: JobContext) -> None:
        manifest = self._manifest(live, context)
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
                    on_strike=lambda source, error: self._strike(context, source, error),
                    on_fetched=fetched,
                )
                live.add_sources = fetch.add_sources
                fetch.run(self._connections, _spawn)
            self._transfers.set_state(live, TransferState.VERIFYING)
            if whole.digests() != (manifest.sha1, manifest.sha256):
                partial.discard()
                raise DigestMismatch(
                    "All chunks match the manifest and the whole file does not: the record is wrong. "
                    "Upload the package again where it came from."
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
        self._blobs.commit(path, manifest.sha256, synced=True)

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
                manifest = self._peers.client(source.node).manifest(live.package.id, body.sha256)
                if (manifest.size, manifest.sha1, manifest.sha256, manifest.digest) != (
                    body.size,
                    body.sha1,
                    body.sha256,
                    body.manifest,
                ):
                    raise PeerMisbehaved("Its manifest does not match the signed record.")
            except (PeerMisbehaved, ManifestInvalid) as exc:
                source.strikes += 1
                self._strike(context, source, exc)
                reasons.append(f"{source.name}: {exc.message}")
            except PeerError as exc:
                reasons.append(f"{source.name}: {exc.message}")
            else:
                context.wait(self._store.replace("manifests", manifest_doc(manifest)))
                return manifest
        raise PeerError(f"No source gave the manifest ({'; '.join(reasons) or 'there is no source'}).")

    def _strike(self, context: JobContext, source: Source, error: ApplianceError) -> None:
        log.warning(
            "a source served what was not asked for",
            extra={"action": "source_struck", "peer": source.node, "reason": error.message},
        )
        self._metrics.chunk_failure(source.node, error.code)
        context.wait(self._peers.strike(source.node, error.message))


def _spawn(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, name="fetch", daemon=True)
    thread.start()
    return thread
