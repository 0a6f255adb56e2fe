"""Packages that could not be settled, kept in the database until they can: a restart or another process forgets none.

Whoever settles several packages notes those that fail; every reconciliation settles them again (`holdings`), and the
watchdog counts those that fail for long.
"""

import contextlib
from collections.abc import Callable

from appliance.domain.errors import StaleRevision
from appliance.store.paging import every
from appliance.store.ports import Doc, Remove, Replace, Store

_PREFIX = "unsettled:"


async def read_unsettled(store: Store) -> list[Doc]:
    """What is noted: `package`, its `filename`, `since` when it fails (UTC milliseconds) and the `reason`."""
    return [doc async for doc in every(store, "notices", {"_id": {"prefix": _PREFIX}})]


class Unsettled:
    """The notes of one node."""

    def __init__(self, store: Store, now: Callable[[], int]) -> None:
        self._store = store
        self._now = now

    async def note(self, package: str, filename: str, reason: str) -> None:
        """Note that a package could not be settled, and why.

        Also if that is noted already: whoever settled it before does not remove the note then.
        """
        id = f"{_PREFIX}{package}"
        old = await self._store.get("notices", id)
        since = old["since"] if old is not None else self._now()
        new: Doc = {"_id": id, "package": package, "filename": filename, "reason": reason, "since": since}
        with contextlib.suppress(StaleRevision):  # another process noted it
            await self._store.batch([Replace("notices", new, old["_rev"] if old is not None else 0)])

    async def remove(self, doc: Doc) -> None:
        """Remove a note whose package was settled, unless it was noted anew."""
        with contextlib.suppress(StaleRevision):
            await self._store.batch([Remove("notices", doc["_id"], doc["_rev"])])
