"""Reading everything as it was at one moment."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from motor.motor_asyncio import AsyncIOMotorClientSession

from appliance.store.documents import collection_of
from appliance.store.ports import Doc

from .connection import Client
from .documents import SEQUENCES, Database
from .errors import translated

_BATCH = 500


@asynccontextmanager
async def snapshot(client: Client, database: Database) -> AsyncIterator["MongoSnapshot"]:
    """Hold a snapshot session. The server keeps its history for five minutes unless set otherwise."""
    with translated():
        session = await client.start_session(snapshot=True)
    try:
        view = MongoSnapshot(database, session)
        await view.begin()
        yield view
    finally:
        await session.end_session()


class MongoSnapshot:
    """The store at one moment."""

    def __init__(self, database: Database, session: AsyncIOMotorClientSession) -> None:
        self._database = database
        self._session = session

    async def begin(self) -> None:
        """Fix the moment: it is that of the session's first read."""
        with translated():
            await self._database[SEQUENCES].find_one({}, session=self._session)

    async def export(self, collection: str) -> AsyncIterator[Doc]:
        """All documents with their `_rev`, in order of `_id`."""
        name = collection_of(collection).name
        with translated():
            cursor = self._database[name].find({}, session=self._session, batch_size=_BATCH).sort("_id", 1)
            async for doc in cursor:
                yield doc

    async def last_sequence(self, collection: str) -> int:
        """The highest number given."""
        with translated():
            found = await self._database[SEQUENCES].find_one(
                {"_id": collection_of(collection).name}, session=self._session
            )
        return int(found["last"]) if found else 0
