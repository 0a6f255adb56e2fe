"""A few threads that read, each with its own connection; the queries of one round of the event loop go together."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from appliance.domain.errors import StoreDamaged, StoreUnavailable
from appliance.store.rounds import Rounds

from .connection import connect, translated
from .place import FilePlace

T = TypeVar("T")

_THREADS = 3


class Readers:
    """Runs queries beside the writer: WAL lets both go on."""

    def __init__(
        self, path: Path, place: FilePlace, on_damage: Callable[[StoreDamaged], None] = lambda _: None
    ) -> None:
        self._path = path
        self._place = place
        self._on_damage = on_damage
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="store-reader")
        self._rounds = Rounds(self._threads, _THREADS)
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query; it must read all its rows before it returns."""
        if self._closed:
            raise StoreUnavailable("The database is closed.")
        return await self._rounds.run(lambda: self._read(query))

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        try:
            with translated(self._path):
                connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
                if connection is None:
                    connection = self._connect()
                    connection.execute("PRAGMA query_only=1")
                    self._local.connection = connection
                    self._connections.append(connection)
                return query(connection)
        except StoreDamaged as exc:
            self._on_damage(exc)
            raise

    def _connect(self) -> sqlite3.Connection:
        self._place.check()  # another file may be there
        return connect(self._path)

    async def close(self) -> None:
        """Wait for running queries and close all connections."""
        self._closed = True
        await asyncio.sleep(0)  # what was asked in this round of the loop is on its way then
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for connection in self._connections:
            connection.close()
