"""Queues a sync when one is due: by the clock, or because something changed here that an MDM server should see."""

import asyncio
import logging
from collections.abc import Callable

from appliance.domain.errors import OUTAGES
from appliance.domain.moment import too_early
from appliance.service.catalogue import Catalogue
from appliance.service.holdings import Holdings
from appliance.store.ports import Store

from .jobs import sync_job
from .servers.server import Server, ServerState
from .servers.servers import Servers
from .syncing import ATTENTION_S

log = logging.getLogger(__name__)

LOOK_S = 1.0
GATHER_MS = 1000  #: changes here that come together are mirrored together
BETWEEN_MS = 5000  #: syncs for changes here are at least so far apart


class Watching:
    """Looks at the clock and at this node's packages and nodes, as long as the process lives."""

    def __init__(
        self,
        *,
        store: Store,
        servers: Servers,
        catalogue: Catalogue,
        holdings: Holdings,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._servers = servers
        self._catalogue = catalogue
        self._holdings = holdings
        self._now = now
        self._seen: frozenset[object] | None = None
        self._changed_at = 0  #: when something was seen that is not synced yet; 0 if nothing
        self._queued_at = 0

    async def run(self) -> None:
        """Watch for ever. It is supervised: if one server's row is odd, the clock does not stop for all."""
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                await self._look()
            except OUTAGES as exc:
                log.debug(exc.message, extra={"action": "mdm_watch"})

    async def _look(self) -> None:
        servers = [server for server in await self._servers.all() if server.config.enabled]
        if not servers:
            self._seen = None
            return
        changed = self._changed_here()
        for server in servers:
            if _due(server, self._now()):
                await self._store.enqueue(sync_job(server.id, self._now(), reason="poll"))
            elif changed and server.usable:
                await self._store.enqueue(sync_job(server.id, self._now(), reason="changes here"))

    def _changed_here(self) -> bool:
        """Whether it is time to sync for what changed here."""
        now = self._now()
        seen = frozenset(
            (package.id, package.revision, package.held_sha256 == package.body.sha256)
            for package in self._catalogue.all()
        ) | frozenset(self._holdings.nodes.items())
        if seen != self._seen:  # the first look counts as a change: nobody knows what was missed before it
            self._changed_at = self._changed_at or now
        self._seen = seen
        due = max(self._changed_at + GATHER_MS, self._queued_at + BETWEEN_MS)
        if self._changed_at and not too_early(due, now, BETWEEN_MS):
            self._changed_at, self._queued_at = 0, now
            return True
        return False


def _due(server: Server, now: int) -> bool:
    if server.state is ServerState.PAUSED:
        return bool(server.health.get("paused_until", 0) <= now)
    longest_s = max(server.config.intake.poll_s, ATTENTION_S)
    return not too_early(server.health.get("next_poll_at", 0), now, round(longest_s * 1000))
