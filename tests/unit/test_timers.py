"""Timed duties that fail."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from appliance.domain.job import Job
from appliance.jobs.supervisor import Supervisor
from appliance.jobs.timers import Timers


class Bench:
    """In place of engine and store: fires duties when it is told to, and takes every job."""

    def __init__(self) -> None:
        self.supervisor = Supervisor(now=lambda: 1_000)
        self.jobs: list[str] = []
        self._fires: list[Callable[[], Awaitable[None]]] = []

    def every(self, seconds: float, function: Callable[[], Awaitable[None]], **_: Any) -> None:
        self._fires.append(function)

    async def enqueue(self, job: Job) -> bool:
        self.jobs.append(job.id)
        return True

    async def fire(self) -> None:
        for each in self._fires:
            await each()


def test_one_that_always_fails_is_told_beside_one_that_works() -> None:
    bench = Bench()
    timers = Timers(cast(Any, bench), cast(Any, bench), bench.supervisor)

    def broken() -> Job:
        raise ValueError("no job")

    def works() -> Job:
        return Job(id="one", queue="default", name="work", run_at=0)

    timers.every("broken", 1, broken, first_s=0)
    timers.every("works", 1, works, first_s=0)
    for _ in range(3):
        asyncio.run(bench.fire())
    assert bench.jobs == ["one"] * 3
    [failing] = bench.supervisor.failing()
    assert (failing.task, failing.failures, failing.persistent) == ("jobs.timers", 3, True)
