"""The outbox: turns every event of the log into deliveries, and wakes the job that sends them.

A cursor says how far the log was read. It moves in the same write that adds the rows of what was read, and a row's
id is that of its event and destination, so that a crash at any point loses nothing and doubles nothing, and several
processes of one node may do this at the same time: one of them wins each step, the others read again.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence

from appliance.domain.destination import Destination, DestinationState
from appliance.domain.errors import OUTAGES, DuplicateKey, StaleRevision
from appliance.store.ports import Doc, Enqueue, Operation, Replace, Store

from .deliveries import Deliveries, delivery_doc, send_job
from .destinations import Destinations

log = logging.getLogger(__name__)

CURSOR = "outbox"
PAGE = 100  #: events that are read at once
POLL_S = 1.0  #: what falls due later is looked for so often
GATHER_S = 0.1  #: the log is read no more often than this


class Outbox:
    """Follows the event log."""

    def __init__(
        self,
        *,
        store: Store,
        destinations: Destinations,
        deliveries: Deliveries,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._destinations = destinations
        self._deliveries = deliveries
        self._now = now

    async def follow(self) -> None:
        """Relay and wake until cancelled; an outage of the store delays it."""
        seen = -1
        while True:
            try:
                if seen >= 0:  # the first look is at once: it notes from where on events count
                    await asyncio.sleep(GATHER_S)
                seen = await self._store.changed("events", seen, timeout=POLL_S)
                while await self.relay():
                    pass
                await self.wake()
            except StaleRevision:
                continue  # another process of this node was faster
            except OUTAGES as exc:
                log.warning(
                    "The event log cannot be read", extra={"action": "outbox_waits", "error": exc.message}
                )
                await asyncio.sleep(POLL_S)

    async def relay(self) -> bool:
        """Make the deliveries of the next events.

        Returns:
            Whether there may be more.

        Raises:
            StaleRevision: Another process did the same meanwhile; nothing was written.
        """
        cursor = await self._cursor()
        # The events first: a destination that is made after this has none of them.
        events = await self._store.find("events", {"seq": {"gt": cursor["seq"]}}, order="seq", limit=PAGE)
        if not events:
            return False
        destinations = [
            each for each in await self._destinations.all() if each.state is not DestinationState.DISABLED
        ]
        rows = await self._new_rows(events, destinations)
        now = self._now()
        operations: list[Operation] = [Replace("deliveries", row, 0) for row in rows]
        operations += [
            Enqueue(send_job(id, now)) for id in {row["destination"] for row in rows if row["due_at"] <= now}
        ]
        operations.append(Replace("followers", {"_id": CURSOR, "seq": events[-1]["seq"]}, cursor["_rev"]))
        await self._store.batch(operations)
        return len(events) == PAGE

    async def wake(self) -> None:
        """Enqueue the sending of whatever is due by now."""
        now = self._now()
        for destination in await self._destinations.all():
            if self._deliveries.waits(destination):
                continue
            due = await self._deliveries.next_due(destination)
            if due is not None and due <= now:
                await self._store.enqueue(send_job(destination.id, now))

    async def _cursor(self) -> Doc:
        """Where to read on; at the first start of all behind what has happened so far."""
        doc = await self._store.get("followers", CURSOR)
        if doc is None:
            last = await self._store.last_sequence("events")
            with contextlib.suppress(DuplicateKey):
                await self._store.insert("followers", {"_id": CURSOR, "seq": last})
            doc = await self._store.get("followers", CURSOR)
            assert doc is not None
        return doc

    async def _new_rows(self, events: Sequence[Doc], destinations: Sequence[Destination]) -> list[Doc]:
        """Rows that are owed and not there yet: of a log whose cursor was lost, some are."""
        now = self._now()
        rows = {
            row["_id"]: row
            for event in events
            for destination in destinations
            if event["seq"] > destination.from_seq
            and destination.hears(event["type"])
            and event["subject"] != destination.id  # it need not hear of itself
            for row in (delivery_doc(event, destination, now),)
        }
        ids = list(rows)
        for start in range(0, len(ids), 500):
            part = ids[start : start + 500]
            for doc in await self._store.find("deliveries", {"_id": {"in": part}}, limit=len(part)):
                del rows[doc["_id"]]
        return list(rows.values())
