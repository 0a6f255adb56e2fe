"""Reading everything as it was at one moment."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from appliance.store.documents import collection_of
from appliance.store.ports import Doc

from .connection import connect, translated
from .place import FilePlace
from .queries import document, select

_PAGE_DOCUMENTS = 500
_PAGE_BYTES = 4 * 1024 * 1024


@asynccontextmanager
async def snapshot(path: Path, place: FilePlace) -> AsyncIterator["SqliteSnapshot"]:
    """Hold a read transaction for as long as the context lasts."""
    await asyncio.to_thread(place.check)
    connection = await asyncio.to_thread(connect, path)
    try:
        with translated(path):
            connection.execute("BEGIN")
            connection.execute(
                "SELECT value FROM ods_meta"
            ).fetchall()  # a snapshot begins with the first read
        yield SqliteSnapshot(path, connection)
    finally:
        await asyncio.to_thread(connection.close)


class SqliteSnapshot:
    """The store at one moment."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection

    async def export(self, collection: str) -> AsyncIterator[Doc]:
        """All documents with their `_rev`, in order of `_id`."""
        collection_of(collection)
        last = ""
        first = True
        while True:
            page = await asyncio.to_thread(self._page, collection, last, first)
            for doc in page:
                yield doc
            if not page:
                return
            last, first = page[-1]["_id"], False

    async def last_sequence(self, collection: str) -> int:
        """The highest number given."""
        return await asyncio.to_thread(self._last_sequence, collection)

    def _page(self, name: str, last: str, first: bool) -> list[Doc]:
        collection = collection_of(name)
        page: list[Doc] = []
        size = 0
        with translated(self._path):
            cursor = self._connection.execute(
                f"{select(collection)} WHERE _id {'>=' if first else '>'} ? ORDER BY _id LIMIT ?",
                (last, _PAGE_DOCUMENTS),
            )
            for row in cursor:
                page.append(document(collection, row))
                size += len(row[2])
                if size >= _PAGE_BYTES:
                    break
            cursor.close()
        return page

    def _last_sequence(self, collection: str) -> int:
        with translated(self._path):
            return last_sequence(self._connection, collection)


def last_sequence(connection: sqlite3.Connection, collection: str) -> int:
    """The highest number given in a collection."""
    row = connection.execute(
        "SELECT last FROM ods_sequences WHERE collection = ?", (collection_of(collection).name,)
    ).fetchone()
    return int(row[0]) if row else 0
