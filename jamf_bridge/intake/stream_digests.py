"""The further digests of bytes that stream by, in a thread beside: they are not worth a second reading."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from appliance.service.digests import FurtherDigests

BLOCK = 1024 * 1024  #: bytes handed over at once
WAITING = 8  #: blocks


class StreamDigests:
    """MD5, SHA-512 and SHA3-512 of a stream. At most a few blocks wait."""

    def __init__(self, thread: ThreadPoolExecutor) -> None:
        self._digests = FurtherDigests()
        self._thread = thread
        self._gathered: list[bytes] = []
        self._count = 0
        self._waiting: deque[Future[None]] = deque()

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, path: Path, length: int) -> AsyncIterator["StreamDigests"]:
        """Digests of the first `length` bytes of a file, to be fed with what comes behind them."""
        with ThreadPoolExecutor(1, thread_name_prefix="digests") as thread:
            stream = cls(thread)
            try:
                if length:
                    await asyncio.wrap_future(thread.submit(stream._digests.file, path, length))
                yield stream
            finally:
                thread.shutdown(wait=False, cancel_futures=True)

    async def feed(self, data: bytes) -> None:
        """The next bytes."""
        self._gathered.append(data)
        self._count += len(data)
        if self._count >= BLOCK:
            self._hand_over()
            while len(self._waiting) > WAITING:
                await asyncio.wrap_future(self._waiting.popleft())

    def _hand_over(self) -> None:
        block, self._gathered, self._count = self._gathered, [], 0
        self._waiting.append(self._thread.submit(self._update, block))

    def _update(self, block: list[bytes]) -> None:
        for data in block:
            self._digests.update(data)

    async def hexdigests(self) -> dict[str, str]:
        """The digests by kind; nothing may be fed after it."""
        if self._gathered:
            self._hand_over()
        while self._waiting:
            await asyncio.wrap_future(self._waiting.popleft())
        return self._digests.hexdigests()
