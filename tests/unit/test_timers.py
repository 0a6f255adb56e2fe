"""Timed duties that fail."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from appliance.domain.job import Job
from appliance.jobs.engine import Engine
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


async def _slow(began: asyncio.Event) -> None:
    began.set()
    await asyncio.sleep(60)


@pytest.mark.parametrize("stops", [True, False], ids=["stopped", "cancelled by something else"])
def test_only_an_end_that_nobody_asked_for_is_a_failure(
    caplog: pytest.LogCaptureFixture, stops: bool
) -> None:
    """The scheduler cancels what runs when it is shut down; a slow database is enough for that."""

    async def test() -> None:
        engine, began = Engine({}), asyncio.Event()
        engine.every(0.01, lambda: _slow(began), first_s=0)
        engine.start()
        await asyncio.wait_for(began.wait(), 10)
        if not stops:
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0.05)
        engine.stop()
        await asyncio.sleep(0.05)

    asyncio.run(test())
    failures = [
        record.getMessage() for record in caplog.records if "raised an exception" in record.getMessage()
    ]
    assert bool(failures) is not stops


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
