"""Timed duties: APScheduler's triggers fire, and a row of the job table does the work."""

import asyncio
import contextlib
from collections.abc import Callable

from appliance.domain.errors import OUTAGES
from appliance.domain.job import Job
from appliance.store.ports import Store

from .engine import Engine
from .supervisor import Supervisor

RETRY_S = 5.0  #: a duty that could not be enqueued is tried again after this
JITTER = 0.1  #: of the interval, so that the nodes of a network do not all call at the same moment


class Timers:
    """Enqueues jobs at steady intervals."""

    def __init__(self, engine: Engine, store: Store, supervisor: Supervisor) -> None:
        self._engine = engine
        self._store = store
        self._supervisor = supervisor
        self._closing = asyncio.Event()

    def every(self, name: str, seconds: float, job: Callable[[], Job], *, first_s: float) -> None:
        """Enqueue `job()` every so many seconds; during an outage of the store, once when it is back.

        Args:
            name: Of the duty: its failures are counted apart from those of others.
            seconds: Between two jobs.
            job: Makes the next job.
            first_s: Seconds until the first one.
        """

        async def fire() -> None:
            while not self._closing.is_set():
                try:
                    await self._store.enqueue(job())
                except OUTAGES:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._closing.wait(), RETRY_S)
                else:
                    return

        async def watched() -> None:
            await self._supervisor.once("jobs.timers", fire, step=name)

        self._engine.every(seconds, watched, first_s=first_s, jitter_s=seconds * JITTER)

    def close(self) -> None:
        """Enqueue no more."""
        self._closing.set()
