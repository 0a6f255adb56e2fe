"""Starting a node: what has to be waited for is waited for, while health and downloads are answered already.

A database that is away and a disk that is full pass; the process stays up, says in `/health/ready` what it waits for,
and goes on by itself. What only a person can fix (a damaged database, keys that do not belong to it, wrong credentials)
ends the start with one sentence.
"""

import asyncio
import errno
import logging
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from appliance.api.routes import make_application
from appliance.api.starting import Starting
from appliance.domain.errors import InvalidSettings, StorageError, StoreDamaged, StoreUnavailable
from appliance.domain.event import EventType
from appliance.log import AccessLog
from appliance.server import Assembled, Part
from appliance.service.journal import SYSTEM, entry
from appliance.service.metrics import LoopLag
from appliance.service.node_keys import open_keys, refuse_lost_file
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import is_full, lock_directory, storage_error
from appliance.store.layout import Layout
from appliance.store.opening import FILE_NAME, open_store
from config.settings import Settings
from web.routes import ROUTES as PAGES

from .clock import now_ms
from .graph import Graph, connect
from .life import Life
from .place import Announce, Place, find_place

log = logging.getLogger(__name__)

RETRY_S = 1.0
_PASSING = {errno.EROFS, errno.EIO}  #: beside a full disk

T = TypeVar("T")


class Startup:
    """Makes a node, or a worker beside one, out of its settings."""

    def __init__(
        self,
        settings: Settings,
        layout: Layout,
        place: Place,
        starting: Starting,
        *,
        serving: bool,
        announce: Announce,
    ) -> None:
        """Make nothing yet.

        Args:
            settings: What to build.
            layout: Where the files are.
            place: Where the node is.
            starting: Told what is waited for.
            serving: Whether it answers HTTP; a worker only runs jobs.
            announce: Shows a line to the person who started it.
        """
        self._settings = settings
        self._layout = layout
        self._place = place
        self._starting = starting
        self._serving = serving
        self._announce = announce
        self._graph: Graph | None = None
        self._answer: Callable[[], None] = lambda: None

    async def assemble(self, answer: Callable[[], None]) -> Assembled:
        """Open everything, in order, however long it takes, and bring files and records into line.

        Args:
            answer: Called when something has to be waited for: somebody should answer meanwhile.

        Raises:
            ApplianceError: What a person has to mend.
            OSError: The data directory cannot be used.
        """
        settings, layout = self._settings, self._layout
        self._answer = answer
        async with AsyncExitStack() as undo:
            blobs = await self._waited(lambda: asyncio.to_thread(self._open_files))
            store = await self._waited(lambda: open_store(settings.database.url, layout.root))
            undo.push_async_callback(store.close)
            keys = await self._waited(lambda: open_keys(store, layout, create=self._serving, now=now_ms))
            await self._waited(lambda: asyncio.to_thread(self._place.keep))
            graph = connect(settings, layout, blobs, self._place, store, keys, serving=self._serving)
            life = Life(
                graph, serving=self._serving, first_password=settings.admin.password, announce=self._announce
            )
            undo.push_async_callback(life.stop)
            await self._waited(life.prepare)
            undo.pop_all()
        self._graph = graph
        self._starting.end()
        app = graph.app
        lag = LoopLag(app.metrics.event_loop_lag_seconds, graph.supervisor)
        parts = [
            Part(name="store", stop=store.close),
            Part(name="services", start=life.start, stop=life.stop),
            Part(name="lag", start=lag.start, stop=lag.stop),
            Part(name="throughput", start=app.throughput.start, stop=app.throughput.stop),
        ]
        if self._serving:
            parts.append(Part(name="folders", start=graph.folders.start, stop=graph.folders.stop))
        runner, grace_s = app.runner, settings.server.grace_s
        if runner is not None:
            parts.append(
                Part(name="runner", start=runner.start, stop=lambda: runner.stop(grace_s), early=True)
            )
        if not self._serving:
            return Assembled(application=None, parts=parts)
        application = make_application(app, log_function=AccessLog(app.metrics.observe_request), pages=PAGES)
        return Assembled(application=application, parts=parts)

    def drain(self) -> None:
        """From now on, not ready: the node stops."""
        self._starting.drain()
        if self._graph is not None:
            self._graph.app.system.drain()

    def refused(self) -> None:
        """Count a connection that was refused."""
        if self._graph is not None:
            self._graph.app.metrics.connections_refused.inc()

    async def reload(self) -> ssl.SSLContext | None:
        """Read the certificate again; one that cannot be used is told, and the one before is kept."""
        if not self._settings.http.tls.enabled or (self._place.made is not None and self._graph is None):
            return None
        try:
            place = await asyncio.to_thread(find_place, self._settings, self._layout)
            if place.made is not None:
                raise InvalidSettings(f"{place.certificate} or its key is missing.")
        except InvalidSettings as exc:
            log.error(
                "the new certificate cannot be used; the one before is kept",
                extra={"action": "certificate_refused", "error": exc.message},
            )
            await self._tell_refused(exc.message)
            return None
        self._place = place
        if self._graph is not None:
            try:
                await self._graph.moved(place.tls_fingerprint)
            except StoreUnavailable as exc:  # the next start says it
                log.warning(exc.message, extra={"action": "record_unwritten"})
        log.info(
            "the certificate was read again",
            extra={"action": "certificate_read", "file": str(place.certificate)},
        )
        return place.tls

    async def _tell_refused(self, reason: str) -> None:
        if self._graph is None:
            return
        app = self._graph.app
        event = entry(
            EventType.CERTIFICATE_REFUSED,
            at=now_ms(),
            actor=SYSTEM,
            subject=app.identity.node_id,
            reason=reason,
        )
        try:
            await app.store.batch([event])
        except StoreUnavailable as exc:
            log.warning(exc.message, extra={"action": "event_lost"})

    def _open_files(self) -> BlobStore:
        blobs = BlobStore(self._layout, floor_bytes=self._settings.transfers.min_free)
        if not self._settings.database.url:
            refuse_lost_file(self._layout, self._layout.root / FILE_NAME)
        if self._serving:
            lock_directory(self._layout.root)
        return blobs

    async def _waited(self, step: Callable[[], Awaitable[T]]) -> T:
        """What a step returns once it can be done."""
        told = ""
        while True:
            error: StorageError
            try:
                done = await step()
            except StoreDamaged:
                raise
            except StorageError as exc:
                error = exc
            except OSError as exc:
                if not is_full(exc) and exc.errno not in _PASSING:
                    raise
                error = storage_error(exc)
            else:
                if told:
                    log.info("the start goes on", extra={"action": "start_resumed"})
                self._starting.waits("", "")
                return done
            self._starting.waits("store" if isinstance(error, StoreUnavailable) else "disk", error.message)
            self._answer()
            if error.message != told:
                told = error.message
                log.warning("the start waits", extra={"action": "start_waits", "error": error.message})
            await asyncio.sleep(RETRY_S)
