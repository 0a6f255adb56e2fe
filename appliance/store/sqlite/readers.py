"""A few threads that read, each with its own connection.

Handing a query to a thread and its answer back costs several times the query. So the queries that one round of the
event loop asks go to a thread together.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from appliance.domain.errors import StoreUnavailable

from .connection import connect, translated

T = TypeVar("T")

_THREADS = 3
_FEW = 8  #: so many queries go to one thread

_Read = tuple[Callable[[sqlite3.Connection], Any], asyncio.Future[Any]]


class Readers:
    """Runs queries beside the writer: WAL lets both go on."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._threads = ThreadPoolExecutor(max_workers=_THREADS, thread_name_prefix="store-reader")
        self._waiting: list[_Read] = []
        self._closed = False

    async def run(self, query: Callable[[sqlite3.Connection], T]) -> T:
        """Run a query; it must read all its rows before it returns."""
        if self._closed:
            raise StoreUnavailable("The database is closed.")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._dispatch, loop)
        self._waiting.append((query, future))
        return await future

    def _dispatch(self, loop: asyncio.AbstractEventLoop) -> None:
        group, self._waiting = self._waiting, []
        share = -(-len(group) // _THREADS) if len(group) > _FEW else len(group)
        for start in range(0, len(group), share):
            self._threads.submit(self._run, group[start : start + share], loop)

    def _run(self, group: list[_Read], loop: asyncio.AbstractEventLoop) -> None:
        answers: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        for query, future in group:
            try:
                answers.append((future, self._read(query), None))
            except Exception as exc:  # not caught: it is raised where the query was asked
                answers.append((future, None, exc))
        with suppress(RuntimeError):  # a loop that is closed has nobody left to tell
            loop.call_soon_threadsafe(_answer, answers)

    def _read(self, query: Callable[[sqlite3.Connection], T]) -> T:
        with translated(self._path):
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = connect(self._path)
                connection.execute("PRAGMA query_only=1")
                self._local.connection = connection
                self._connections.append(connection)
            return query(connection)

    async def close(self) -> None:
        """Wait for running queries and close all connections."""
        self._closed = True
        await asyncio.sleep(0)  # what was asked in this round of the loop is on its way then
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        for connection in self._connections:
            connection.close()


def _answer(answers: list[tuple[asyncio.Future[Any], Any, Exception | None]]) -> None:
    for future, result, error in answers:
        if future.done():  # its caller was cancelled
            continue
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)
