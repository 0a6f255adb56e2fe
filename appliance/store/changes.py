"""Wake-ups: who waits for a collection to change, and how changes by other processes are noticed."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from appliance.domain.errors import OUTAGES

from .documents import collection_of
from .schema import COLLECTIONS

POLL_S = 0.4  #: between looks at what other processes did; the port promises half a second


class Changes:
    """A count for each collection that grows when it may have changed.

    Belongs to one event loop. Other processes are only watched while somebody waits.
    """

    def __init__(self, foreign: Callable[[], Awaitable[Iterable[str]]]) -> None:
        """Make counts.

        Args:
            foreign: Returns the collections that another process may have changed since the last call.
        """
        self._foreign = foreign
        self._counts = dict.fromkeys(COLLECTIONS, 1)
        self._waiters: dict[str, set[asyncio.Future[None]]] = {name: set() for name in COLLECTIONS}
        self._poller: asyncio.Task[None] | None = None

    def bump(self, collections: Iterable[str]) -> None:
        """Wake who waits for these collections."""
        for name in collections:
            self._counts[name] += 1
            for waiter in self._waiters[name]:
                if not waiter.done():
                    waiter.set_result(None)

    async def wait(self, name: str, seen: int, timeout: float) -> int:
        """Do what `Store.changed` promises."""
        collection_of(name)
        if self._counts[name] != seen or timeout <= 0:
            return self._counts[name]
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[name].add(waiter)
        if self._poller is None:
            self._poller = asyncio.create_task(self._poll())
        try:
            await asyncio.wait([waiter], timeout=timeout)
        finally:
            self._waiters[name].discard(waiter)
        return self._counts[name]

    async def close(self) -> None:
        """Stop watching and wake everybody."""
        if self._poller is not None:
            self._poller.cancel()
            await asyncio.wait([self._poller])
            self._poller = None
        self.bump(self._counts)

    async def _poll(self) -> None:
        blind = False
        try:
            while any(self._waiters.values()):
                try:
                    changed = await self._foreign()
                except OUTAGES:
                    blind = True
                else:
                    # What happened during an outage is unknown: then everybody looks again.
                    self.bump(self._counts if blind else changed)
                    blind = False
                await asyncio.sleep(POLL_S)
        finally:
            self._poller = None
