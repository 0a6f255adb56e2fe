"""Noticing what other processes wrote, without reading documents."""

from collections.abc import Iterable
from typing import Any

from appliance.store.schema import COLLECTIONS

from .documents import SEQUENCES, Database
from .errors import translated


class Watch:
    """Looks at the time of the replica set's last write, and then at the sequence numbers.

    The time tells that something was written, the numbers whether it was in a collection that has them. Those are
    where many wait at once (a long poll for each peer), who must not wake for every job that runs.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._written: Any = None
        self._given: dict[str, tuple[int, int]] = {}

    async def foreign(self) -> Iterable[str]:
        """The collections that may have been written since the last call."""
        with translated():
            hello = await self._database.command("hello")
            # What the majority has: it is also what queries see. mongos does not tell; then always look.
            written = (hello.get("lastWrite") or {}).get("majorityOpTime")
            if written is not None and written == self._written:
                return ()
            given = {
                found["_id"]: (found["last"], found.get("removals", 0))
                async for found in self._database[SEQUENCES].find({})
            }
        before, self._given, self._written = self._given, given, written
        return [
            name
            for name, collection in COLLECTIONS.items()
            if not collection.sequence or given.get(name) != before.get(name)
        ]
