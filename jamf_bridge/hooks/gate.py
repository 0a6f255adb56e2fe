"""Turns a flood of equal hints into few jobs, without an answer before the job is in the store.

Hints of one kind share a write: those that come while it is prepared wait for it, later ones for the next. After a job
was queued that is not due yet, equal hints need no write at all: it has not begun, so it sees what they are about.
"""

import asyncio
from collections.abc import Awaitable, Callable

SPACING_S = 0.02  #: between two writes of one kind: at most 50 a second, and no sender waits long


class HintGate:
    """One server's hints of one kind."""

    def __init__(self, queue: Callable[[], Awaitable[int]], now: Callable[[], int]) -> None:
        """Make it.

        Args:
            queue: Queues the job; answers until when, in UTC milliseconds, it is certain not to have begun, or 0.
            now: UTC milliseconds.
        """
        self._queue = queue
        self._now = now
        self._covered = range(0)  #: the time in which the queued job is certain not to have begun
        self._last = float("-inf")
        self._turn = asyncio.Lock()
        self._round: asyncio.Task[None] | None = None

    async def pass_on(self) -> None:
        """Return when a job is queued that begins after this call.

        Raises:
            StoreUnavailable: It could not be queued.
        """
        if self._now() in self._covered:
            return
        if self._round is None:
            self._round = asyncio.create_task(self._write())
        await asyncio.shield(self._round)

    async def _write(self) -> None:
        async with self._turn:
            try:
                pause = self._last + SPACING_S - asyncio.get_running_loop().time()
                if pause > 0:
                    await asyncio.sleep(pause)
            finally:
                self._round = None  # hints from here on need a write of their own
            if self._now() in self._covered:
                return  # the write before this one queued a job that has not begun
            began = self._now()
            self._covered = range(began, await self._queue())
            self._last = asyncio.get_running_loop().time()
