"""One queue of one worker: how many rows run, and when to ask the store for more."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TypeVar

from appliance.domain.job import Job

T = TypeVar("T")

EMPTY_PAUSE_S = 0.02  #: after an answer without rows the queue is asked again no sooner than this


class Lane:
    """Claims rows of one queue into its free slots.

    Every settlement of every queue counts as a change of the jobs, so a busy neighbour would make an empty
    queue ask all the time; hence the pause after an empty answer. An idle queue is asked at once.
    """

    def __init__(
        self,
        queue: str,
        slots: int,
        claim: Callable[[str, int], Awaitable[list[Job] | None]],
        poll_s: float,
        *,
        together: int = 1,
    ) -> None:
        """Make a lane.

        Args:
            queue: Its name.
            slots: At most so many runs at a time.
            claim: Asks for up to so many rows, begins them and returns them, or None when the store is down.
            poll_s: Ask at least so often while slots are free: rows fall due without anybody telling.
            together: At most so many rows share a slot, one after the other.
        """
        self.queue = queue
        self.slots = slots
        self.running = 0
        self.beat = time.monotonic()  #: when the loop last came round
        self._together = together
        self._claim = claim
        self._poll_s = poll_s
        self._wake = asyncio.Event()
        self._due = True
        self._closing = False
        self._quiet_until = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Claim until closed. Between two rounds nothing is held up: a claim that was begun is finished."""
        loop = asyncio.get_running_loop()
        self._due = True  # whatever a run before this one left undone
        while not self._closing:
            self._wake.clear()
            self.beat = time.monotonic()
            free = self.slots - self.running
            if self._due and free > 0:
                self._due = False
                wanted = free * self._together
                jobs = await self._claim(self.queue, wanted)
                if jobs is None or len(jobs) == wanted:
                    self._due = True
                elif not jobs:
                    self._quiet_until = loop.time() + EMPTY_PAUSE_S
            if not (self._wake.is_set() or self._closing):
                poll = loop.call_later(self._poll_s, self.changed)
                await self._wake.wait()
                poll.cancel()
        if self._timer is not None:
            self._timer.cancel()

    def shares(self, rows: Sequence[T]) -> Iterator[list[T]]:
        """Rows that were claimed at once, in equal parts for the slots that are free."""
        parts = min(len(rows), self.slots - self.running)
        return (list(rows[number::parts]) for number in range(parts))

    def changed(self) -> None:
        """There may be rows to claim."""
        self._due = True
        loop = asyncio.get_running_loop()
        if loop.time() >= self._quiet_until:
            self._wake.set()
        elif self._timer is None:
            self._timer = loop.call_at(self._quiet_until, self._again)

    def _again(self) -> None:
        self._timer = None
        self._wake.set()

    def freed(self) -> None:
        """A row that ran here has ended."""
        self.running -= 1
        self._wake.set()

    def close(self) -> None:
        """Claim no more."""
        self._closing = True
        self._wake.set()
