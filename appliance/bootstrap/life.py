"""What happens to the services of a node when the process starts and stops."""

import asyncio
import logging

from appliance import __version__
from appliance.domain.errors import OUTAGES, StorageFull
from appliance.domain.event import EventType
from appliance.jobs.supervisor import Failing
from appliance.service.accounts import FIRST
from appliance.service.catalogue import Catalogue
from appliance.service.holdings import Holdings
from appliance.service.journal import SYSTEM, entry
from appliance.service.verifying import START_S, Verifying
from appliance.store.ports import Store

from .clock import now_ms
from .graph import Graph
from .place import Announce

log = logging.getLogger(__name__)

WATCH_S = 0.5


class Life:
    """What happens to the services when the process starts and stops."""

    def __init__(self, graph: Graph, *, serving: bool, first_password: str, announce: Announce) -> None:
        self._graph = graph
        self._serving = serving
        self._first_password = first_password
        self._announce = announce
        self._tasks: list[asyncio.Task[None]] = []

    async def prepare(self) -> None:
        """Read what is kept, and bring files and records into line. What was cut off can be done again."""
        try:
            await self._prepare()
        except StorageFull:
            if self._serving:
                await self._graph.maintenance.drop_leftovers()
            raise

    async def _prepare(self) -> None:
        app = self._graph.app
        if self._serving:
            password = await app.accounts.ensure_first(self._first_password)
            if password:
                self._announce(f"First account:  {FIRST}  password:  {password}  (shown only now)")
        await app.peers.load()
        if self._serving:
            await app.store.renew_feed()  # the database may be a restored copy, and the original went on
        await self._graph.twins.start(serving=self._serving)
        await app.replication.start()
        await app.verifying.load()
        if self._serving:
            await app.registrations.finish()
            await app.verifying.look(names=False, wait_s=START_S)
            await app.replication.settle_all()
            await self._graph.maintenance.clean_files()
            started = entry(
                EventType.NODE_STARTED,
                at=now_ms(),
                actor=SYSTEM,
                subject=app.identity.node_id,
                version=__version__,
            )
            try:
                await app.store.batch([started])
            except StorageFull as exc:  # what is here can be served all the same
                log.warning(exc.message, extra={"action": "event_lost"})

    async def start(self) -> None:
        """Begin to follow peers and other processes."""
        app, supervisor = self._graph.app, self._graph.supervisor
        supervisor.on_new_kind = self._tell_failure
        for task, follow in (
            ("transfers", app.transfers.watch),
            ("peers", app.peers.follow),
            ("outbox", app.notifications.outbox.follow),
            ("coverage", self._graph.coverage.follow),
            ("scrub", app.scrub.watch),
            ("catalog", lambda: _follow_other_processes(app.store, app.catalogue, app.verifying)),
            ("twins", self._graph.twins.follow),
            ("nodes", lambda: _follow_nodes(app.store, app.holdings)),
            ("records", self._graph.record_repair.follow),
        ):
            self._tasks.append(supervisor.start(task, follow))
        self._graph.bridge.start(supervisor)
        app.replication.greet()
        for peer in app.peers.active_ids():
            if self._serving:
                app.replication.catch_up(peer)
            else:
                app.replication.announced(peer)

    async def stop(self) -> None:
        """Let go of tasks, files and connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._graph.bridge.stop()
        await self._graph.app.neighbourhood.stop()
        self._graph.app.replication.stop()
        self._graph.app.uploads.close()
        self._graph.pool.close()
        self._graph.app.system.close()
        if self._graph.app.directory is not None:
            self._graph.app.directory.close()
        self._graph.calls.shutdown(wait=False, cancel_futures=True)
        self._graph.files.shutdown(wait=False)

    async def _tell_failure(self, failing: Failing) -> None:
        """Log that a background task failed in a new way where people look, whichever process of the node it is."""
        event = entry(
            EventType.TASK_FAILED,
            at=now_ms(),
            actor=SYSTEM,
            subject=self._graph.app.identity.node_id,
            task=failing.task,
            error=failing.error,
        )
        await self._graph.app.store.batch([event])


async def _follow_other_processes(store: Store, catalogue: Catalogue, verifying: Verifying) -> None:
    """Take over what other processes of this node change in the shared store."""
    seen = -1
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            seen = await store.changed("packages", seen, timeout=3600)
            await catalogue.load()
            await verifying.notice_repairs()
        except OUTAGES:
            seen = -1  # what could not be read is read again


async def _follow_nodes(store: Store, holdings: Holdings) -> None:
    """Take over the nodes that other processes of this node learn of."""
    seen = -1
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            seen = await store.changed("records", seen, timeout=3600)
            await holdings.follow_nodes()
        except OUTAGES:
            seen = -1  # what could not be read is read again
