"""Small jobs share a slot, and each has its own end."""

import threading
from typing import Any

import pytest

from appliance.domain.errors import PeerUnreachable
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.states import JobState
from appliance.jobs.run import TOGETHER, Task
from appliance.store.ports import Enqueue

from .desk import START, Desk, eventually


def test_small_jobs_share_a_slot_and_each_has_its_own_end(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        calls: list[list[str]] = []

        def work(tasks: list[Task]) -> list[BaseException | None]:
            calls.append([task.job.id for task in tasks])
            return [PeerUnreachable("away") if task.job.id == "j3" else None for task in tasks]

        desk.runner.register("work", work, queue="small", policy=RetryPolicy(attempts=5, base_s=4.0))
        with pytest.raises(ValueError, match="has its function"):
            desk.runner.register("other", work, queue="small")
        await desk.store.batch(
            [Enqueue(Job(id=f"j{n}", queue="small", name="work", run_at=START)) for n in range(20)]
        )
        await desk.runner.start()
        await eventually(lambda: len(desk.ended) == 20)
        assert [len(call) for call in calls] == [TOGETHER["small"], TOGETHER["small"], 20 % TOGETHER["small"]]
        assert sorted(id for call in calls for id in call) == sorted(f"j{n}" for n in range(20))
        assert desk.ended.count(("work", "retry")) == 1
        assert (await desk.job("j3")).state is JobState.TODO
        assert (await desk.job("j4")).state is JobState.DONE
        assert desk.runner.running("small") == 0

    desk(test, small_slots=1)


def test_small_jobs_are_spread_over_the_free_slots(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        met = threading.Barrier(3, timeout=10)

        def work(tasks: list[Task]) -> list[BaseException | None]:
            met.wait()
            return [None] * len(tasks)

        desk.runner.register("work", work, queue="small")
        await desk.store.batch(
            [Enqueue(Job(id=f"j{n}", queue="small", name="work", run_at=START)) for n in range(3)]
        )
        await desk.runner.start()
        await eventually(lambda: desk.ended == [("work", "done")] * 3)

    desk(test, small_slots=3)


def test_a_step_of_a_small_job_that_breaks_is_its_own(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        def step(task: Task) -> str:
            if task.job.id == "j0":
                raise KeyError("a bug")
            return "well"

        def work(tasks: list[Task]) -> list[BaseException | None]:
            ends = [task.catch(lambda task=task: step(task)) for task in tasks]  # type: ignore[misc]
            return [end if isinstance(end, BaseException) else None for end in ends]

        desk.runner.register("work", work, queue="small", policy=RetryPolicy(attempts=1))
        await desk.store.batch(
            [Enqueue(Job(id=f"j{n}", queue="small", name="work", run_at=START)) for n in range(3)]
        )
        await desk.runner.start()
        await eventually(lambda: len(desk.ended) == 3)
        assert sorted(desk.ended) == [("work", "done"), ("work", "done"), ("work", "failed")]
        assert "a bug" in (await desk.job("j0")).error

    desk(test, small_slots=1)


def test_a_cancelled_small_job_stops_and_its_neighbours_go_on(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        begun, go = threading.Event(), threading.Event()

        def work(tasks: list[Task]) -> list[BaseException | None]:
            begun.set()
            assert go.wait(10)
            ends = [task.catch(task.context.check) for task in tasks]
            return list(ends)

        desk.runner.register("work", work, queue="small")
        await desk.store.batch(
            [Enqueue(Job(id=f"j{n}", queue="small", name="work", run_at=START)) for n in range(3)]
        )
        await desk.runner.start()
        await eventually(begun.is_set)
        await desk.store.cancel_job("j1", now=desk.clock())
        await eventually(lambda: any(run.context.lost for run in desk.runner._leases._runs.values()))
        go.set()
        await eventually(lambda: len(desk.ended) == 3)
        assert sorted(desk.ended) == [("work", "done"), ("work", "done"), ("work", "lost")]
        assert (await desk.job("j1")).state is JobState.CANCELLED

    desk(test, small_slots=1)
