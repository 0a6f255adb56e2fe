"""Deletes tombstones whose time is over, by how long this node's machine ran with them, whatever the wall clock says.

Once a day of that time it notes how far the change feed was: what is behind the note of 90 days ago was here since. So
a clock that is wrong for a while, on this machine or on all, buries nothing that an absent node has yet to hear of.
"""

from collections.abc import Callable

from appliance.domain.record import TOMBSTONE_LIFE_MS
from appliance.store.ports import Store

_COLLECTION, _ID = "node", "tombstones"
_DAY_MS = 24 * 3600 * 1000


class Burial:
    """Buries tombstones."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        """Make one.

        Args:
            store: Where the records are.
            now: UTC milliseconds.
        """
        self._store = store
        self._now = now

    async def bury(self, count: int) -> int:
        """Delete tombstones that were written and came here more than 90 days ago; return how many.

        Args:
            count: How long the machine ran until now, as `Trash.elapsed` says, in milliseconds.
        """
        last = await self._store.last_sequence("records")
        doc = await self._store.get(_COLLECTION, _ID) or {"days": []}
        days = [day for day in doc["days"] if day["count"] <= count and day["seq"] <= last]
        if not days or count - days[-1]["count"] >= _DAY_MS:
            days.append({"count": count, "seq": last})
        old = [day for day in days if count - day["count"] >= TOMBSTONE_LIFE_MS]
        days = days[max(0, len(old) - 1) :]
        if days != doc["days"]:
            await self._store.replace(_COLLECTION, {"_id": _ID, "days": days})
        if not old:
            return 0
        where = {
            "deleted": True,
            "at": {"lt": self._now() - TOMBSTONE_LIFE_MS},
            "seq": {"lte": old[-1]["seq"]},
        }
        return await self._store.delete("records", where)
