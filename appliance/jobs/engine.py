"""APScheduler, as this product uses it: executors for claimed rows, and interval triggers.

Facts of APScheduler 3.11 that shape this file (from its source):
- `add_job` without a trigger runs a function once, as soon as the loop comes round. Measured: 0.1 ms until it
  runs in a pool, 0.09 ms of CPU more than the bare pool. Its jobs do not survive the process; the store's do.
- `misfire_grace_time=None` is needed, or a row that waits a second behind a busy loop is silently dropped.
- `AsyncIOExecutor` runs coroutine functions on the loop, but does not hand out their tasks.
- A pool executor's `shutdown(wait=True)` would block the event loop; so the pools are ours.
"""

import asyncio
import concurrent.futures
import datetime
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from apscheduler.executors.asyncio import AsyncIOExecutor
from apscheduler.executors.pool import BasePoolExecutor
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.interval import IntervalTrigger

LOOPS = frozenset({"duty", "release", "default"})  #: the queues whose functions are coroutines

_TIMERS = "timers"

# It writes two lines for each run at level info; the runner says what there is to say.
logging.getLogger("apscheduler").setLevel(logging.ERROR)


class _PoolExecutor(BasePoolExecutor):  # type: ignore[misc]  # APScheduler carries no types
    """Runs jobs on a pool that somebody else owns."""

    def __init__(self, pool: concurrent.futures.Executor) -> None:
        super().__init__(pool)

    def shutdown(self, wait: bool = True) -> None:
        """Leave the pool alone; its owner ends it."""


class Engine:
    """One scheduler and its pools."""

    def __init__(self, slots: Mapping[str, int]) -> None:
        """Make pools of these sizes; those of `LOOPS` get none, since they are the event loop."""
        self._pools = {
            queue: concurrent.futures.ThreadPoolExecutor(count, thread_name_prefix=f"ods-{queue}")
            for queue, count in slots.items()
            if queue not in LOOPS
        }
        self._stopped = False
        self._scheduler = AsyncIOScheduler(
            timezone=datetime.UTC,
            executors={
                **{queue: AsyncIOExecutor() for queue in (*LOOPS, _TIMERS)},
                **{queue: _PoolExecutor(pool) for queue, pool in self._pools.items()},
            },
        )

    def pool(self, queue: str) -> concurrent.futures.Executor:
        """The threads of a queue.

        Raises:
            KeyError: The queue has none.
        """
        return self._pools[queue]

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._scheduler.start()

    def stop(self) -> None:
        """End without waiting; threads that still run a function keep running it."""
        self._stopped = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def submit(self, queue: str, function: Callable[[Any], Any], argument: object) -> None:
        """Run `function(argument)` once on the executor of `queue`, as soon as may be."""
        self._scheduler.add_job(function, args=(argument,), executor=queue, misfire_grace_time=None)

    def every(
        self, seconds: float, function: Callable[[], Awaitable[None]], *, first_s: float, jitter_s: float = 0
    ) -> None:
        """Await `function()` every so many seconds; a firing is left out while the one before still runs.

        Args:
            seconds: Between two firings.
            function: A coroutine function.
            first_s: Seconds until the first firing.
            jitter_s: Each firing is late by a random part of this.
        """

        @functools.wraps(function)
        async def fire() -> None:
            try:
                await function()
            except asyncio.CancelledError:  # of a shutdown; its executor would log that as a failure
                if not self._stopped:
                    raise

        self._scheduler.add_job(
            fire,
            IntervalTrigger(seconds=seconds, jitter=jitter_s or None, timezone=datetime.UTC),
            executor=_TIMERS,
            next_run_time=datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=first_s),
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
        )

    def clock_set_back(self) -> None:
        """Fire at the latest after an interval: the scheduler goes by the wall clock, and waits for what it was."""
        now = datetime.datetime.now(datetime.UTC)
        for job in self._scheduler.get_jobs():
            interval = (
                job.trigger.interval if isinstance(job.trigger, IntervalTrigger) else datetime.timedelta()
            )
            if job.next_run_time is not None and job.next_run_time > now + interval:
                job.modify(next_run_time=now + interval)
