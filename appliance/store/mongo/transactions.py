"""Running transactions, again if MongoDB asks for it."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorClientSession
from pymongo.errors import PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from .errors import is_commit_unknown, is_transient, translate

T = TypeVar("T")

RETRY_S = 10.0  #: how long a transaction is tried again
#: ... while another one that may belong to a killed process holds what it needs: MongoDB ends that one after
#: 60 s (transactionLifetimeLimitSeconds), and nobody else may.
CONFLICT_S = 75.0
WRITE_CONFLICT = 112

_READ = ReadConcern("snapshot")
_WRITE = WriteConcern(w="majority", j=True, wtimeout=int(RETRY_S * 1000))


class Transactions:
    """Runs transactions to their end, even if the caller is cancelled: a session serves one thread at a time."""

    def __init__(self, client: "AsyncIOMotorClient[dict[str, Any]]") -> None:
        self._client = client
        self._running: set[asyncio.Task[Any]] = set()
        self._sequences = asyncio.Lock()

    async def run(self, work: Callable[[AsyncIOMotorClientSession], Awaitable[T]], *, sequences: bool) -> T:
        """Do this in a transaction and return when the majority has it.

        Args:
            work: The operations; may run more than once.
            sequences: Whether it takes sequence numbers. Such transactions would only get in each other's way.
        """
        task = asyncio.create_task(self._guarded(work, sequences))
        self._running.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Wait for what runs."""
        if self._running:
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # marks it as seen: a cancelled caller will not look

    async def _guarded(self, work: Callable[[AsyncIOMotorClientSession], Awaitable[T]], sequences: bool) -> T:
        if not sequences:
            return await self._retried(work)
        async with self._sequences:
            return await self._retried(work)

    async def _retried(self, work: Callable[[AsyncIOMotorClientSession], Awaitable[T]]) -> T:
        began = time.monotonic()
        wait = 0.002
        while True:
            try:
                return await self._once(work, began + RETRY_S)
            except PyMongoError as exc:
                limit = CONFLICT_S if getattr(exc, "code", None) == WRITE_CONFLICT else RETRY_S
                if not is_transient(exc) or time.monotonic() > began + limit:
                    raise translate(exc) from exc
            await asyncio.sleep(random.uniform(0, wait))
            wait = min(2 * wait, 0.5)

    async def _once(self, work: Callable[[AsyncIOMotorClientSession], Awaitable[T]], deadline: float) -> T:
        # Leaving the session aborts a transaction that was not committed.
        async with await self._client.start_session() as session:
            session.start_transaction(read_concern=_READ, write_concern=_WRITE)
            result = await work(session)
            while True:
                try:
                    await session.commit_transaction()
                except PyMongoError as exc:
                    if not is_commit_unknown(exc) or time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.05)
                else:
                    return result
