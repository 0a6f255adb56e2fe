"""What happens to the services of a node when the process starts and stops."""

import asyncio
import logging

from appliance import __version__
from appliance.domain.errors import OUTAGES, StorageFull
from appliance.domain.event import EventType
from appliance.service.accounts import FIRST
from appliance.service.catalogue import Catalogue
from appliance.service.journal import SYSTEM, entry
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
        app = self._graph.app
        if self._serving:
            password = await app.accounts.ensure_first(self._first_password)
            if password:
                self._announce(f"First account:  {FIRST}  password:  {password}  (shown only now)")
        await app.peers.load()
        await app.replication.start()
        if self._serving:
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
        app = self._graph.app
        self._tasks.append(asyncio.create_task(app.transfers.watch()))
        self._tasks.append(asyncio.create_task(app.peers.follow()))
        self._tasks.append(asyncio.create_task(app.notifications.outbox.follow()))
        self._tasks.append(asyncio.create_task(self._graph.coverage.follow()))
        self._tasks.append(asyncio.create_task(_follow_other_processes(app.store, app.catalogue)))
        self._graph.bridge.start()
        for task in self._tasks:
            task.add_done_callback(_tell_end)
        app.replication.greet()
        for peer in app.peers.active_ids():
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


def _tell_end(task: asyncio.Task[None]) -> None:
    """These tasks end with the process; one that ends before has a fault that must not stay unseen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error(
            "A task of the node ended; start the node again", extra={"action": "task_ended"}, exc_info=error
        )


async def _follow_other_processes(store: Store, catalogue: Catalogue) -> None:
    """Take over what other processes of this node change in the shared store."""
    seen = -1
    while True:
        await asyncio.sleep(WATCH_S)
        try:
            seen = await store.changed("packages", seen, timeout=3600)
            await catalogue.load()
        except OUTAGES:
            continue
