"""The one thread that writes, and its group commit.

While a commit is under way, further writes gather; the next transaction does all of them, each behind a
savepoint, so that one refused write fails alone and one `fsync` serves the whole group.
"""

import asyncio
import random
import sqlite3
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from appliance.domain.errors import StoreDamaged, StoreUnavailable

from .connection import BUSY_S, FAULTS, is_busy, translate, translated
from .place import FilePlace
from .transaction import HARMLESS, Transaction

T = TypeVar("T")

_MAX_GROUP = 256
_YIELD_S = 0.002  #: after a group, when another process writes too: SQLite's own waiting is unfair


@dataclass(slots=True)
class _Write:
    work: Callable[[Transaction], Any]
    future: asyncio.Future[Any]
    result: Any = None
    refused: Exception | None = None


class Writer:
    """Runs write operations one after the other. Belongs to the event loop it was made on."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        place: FilePlace,
        committed: Callable[[Iterable[str]], None],
        on_damage: Callable[[StoreDamaged], None],
    ) -> None:
        """Take over a connection.

        Args:
            connection: From `connect`; the writer closes it.
            path: Its file.
            place: Asked before each commit whether the file is still there.
            committed: Called on the loop with the collections that a commit changed.
            on_damage: Called when the file turns out to be damaged.
        """
        self._on_damage = on_damage
        self._path = path
        self._place = place
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._connection = connection
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="store-writer")
        self._waiting: list[_Write] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._closed = False
        with translated(path):
            self._data_version = self._read_data_version()
            # From here on `_begin` waits: fairer to other processes than SQLite, whose pauses grow to 100 ms.
            self._connection.execute("PRAGMA busy_timeout=0")
        self._foreign = False  # another process committed since `foreign_commits` was asked last

    async def run(self, work: Callable[[Transaction], T]) -> T:
        """Do this in a transaction; return when it is on the disk."""
        if self._closed:
            raise StoreUnavailable("The database is closed.")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Write(work, future))
        if self._idle.is_set():
            self._dispatch()
        return await future

    async def foreign_commits(self) -> bool:
        """Whether another process has committed since the last call."""
        if self._closed:
            return False
        return await self._loop.run_in_executor(self._thread, self._look)

    async def close(self) -> None:
        """Finish what waits, then close the file."""
        self._closed = True
        await self._idle.wait()
        await self._loop.run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    def _dispatch(self) -> None:
        group, self._waiting = self._waiting[:_MAX_GROUP], self._waiting[_MAX_GROUP:]
        self._idle.clear()
        self._thread.submit(self._commit, group).add_done_callback(lambda done: self._report(group, done))

    def _report(self, group: list[_Write], done: Future[set[str]]) -> None:
        # In the writer's thread. A loop that is closed has nobody left to tell.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._finish, group, done)

    def _finish(self, group: list[_Write], done: Future[set[str]]) -> None:
        failure = done.exception()
        if isinstance(failure, StoreDamaged):
            self._on_damage(failure)
        for write in group:
            if write.future.done():  # its caller was cancelled
                continue
            error = failure or write.refused
            if error is not None:
                write.future.set_exception(error)
            else:
                write.future.set_result(write.result)
        if failure is None:
            self._committed(done.result())
        if self._waiting:
            self._dispatch()
        else:
            self._idle.set()

    def _commit(self, group: list[_Write]) -> set[str]:
        connection = self._connection
        touched: set[str] = set()
        try:
            contended = self._begin()
            for write in group:
                connection.execute("SAVEPOINT one")
                transaction = Transaction(connection)
                try:
                    write.result = write.work(transaction)
                except UnicodeDecodeError:  # a ValueError as well, but the file's fault
                    raise
                except HARMLESS as exc:
                    connection.execute("ROLLBACK TO one")
                    write.refused = exc
                else:
                    touched |= transaction.touched
                connection.execute("RELEASE one")
            self._place.check()
            connection.execute("COMMIT")
        except FAULTS as exc:
            self._place.check()
            raise translate(exc, self._path) from exc
        finally:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
        if contended:
            time.sleep(_YIELD_S)
        return touched

    def _begin(self) -> bool:
        """Take the write lock; return whether another process is writing as well."""
        deadline = time.monotonic() + BUSY_S
        waited = False
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as exc:
                if not is_busy(exc) or time.monotonic() > deadline:
                    raise
            else:
                return self._note_foreign() or waited
            waited = True
            time.sleep(random.uniform(0.0002, 0.001))

    def _look(self) -> bool:
        try:
            self._note_foreign()
        except sqlite3.OperationalError:
            return True  # somebody is at it
        found, self._foreign = self._foreign, False
        return found

    def _note_foreign(self) -> bool:
        # data_version changes with commits of other connections only.
        version = self._read_data_version()
        changed = version != self._data_version
        self._data_version = version
        self._foreign |= changed
        return changed

    def _read_data_version(self) -> int:
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])
