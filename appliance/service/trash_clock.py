"""The time by which the trash counts its days: it goes on while the machine runs, whatever the wall clock says.

A document in the store holds how far it is, and where the machine's monotonic clock was then. Each purge moves it on.
Between two starts of the machine it stands still: nothing is kept for too short a time, at most for a little longer.
"""

import contextlib
import secrets
import time
from collections.abc import Callable

from appliance.domain.errors import StorageFull
from appliance.store.filesystem import boot_id
from appliance.store.ports import Store

_COLLECTION, _ID = "node", "trash_clock"
_PROCESS = secrets.token_hex(
    8
)  #: where starts of the machine cannot be told apart, those of the process count


def monotonic_ms() -> int:
    """Milliseconds of the machine's monotonic clock."""
    return time.monotonic_ns() // 1_000_000


class TrashClock:
    """Counts milliseconds, for all processes of this node."""

    def __init__(self, store: Store, monotonic: Callable[[], int]) -> None:
        self._store = store
        self._monotonic = monotonic

    async def read(self) -> int:
        """How far it is. It begins to go on with the first look after a start of the machine."""
        doc = await self._store.get(_COLLECTION, _ID) or {"count": 0, "boot": ""}
        if doc["boot"] != (boot_id() or _PROCESS):
            return await self._keep(doc["count"])
        return int(doc["count"]) + max(0, self._monotonic() - int(doc["monotonic"]))

    async def advance(self) -> None:
        """Keep how far it is, for the next start of the machine."""
        await self._keep(await self.read())

    async def _keep(self, count: int) -> int:
        """A full disk does not take it: what is not counted is kept longer."""
        doc = {"_id": _ID, "count": count, "monotonic": self._monotonic(), "boot": boot_id() or _PROCESS}
        with contextlib.suppress(StorageFull):
            await self._store.replace(_COLLECTION, doc)
        return count
