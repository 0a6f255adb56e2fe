"""The job runner over the real SQLite store, with an injected clock."""

import asyncio
import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import (
    DigestMismatch,
    LeaseLost,
    PeerBusy,
    PeerUnreachable,
    StorageFull,
    StoreUnavailable,
)
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.states import JobState
from appliance.jobs.context import JobContext
from appliance.jobs.runner import CRASHES, RELEASE_SLOTS
from appliance.service.anti_entropy import compare_job
from appliance.service.maintenance import purge_job
from appliance.service.replication import reconcile_job
from appliance.service.verify_jobs import look_job
from appliance.service.vigil import vigil_job
from appliance.service.watchdog import watchdog_job
from appliance.store.ports import Enqueue

from .desk import LEASE_S, START, Desk, eventually

AHEAD_MS = 365 * 24 * 3_600_000


@pytest.fixture
def with_desk(with_store: Any) -> Any:
    """Runs a test with a desk, on SQLite and on MongoDB."""

    async def at_desk(store: Any, test: Any) -> None:
        desk = Desk(store)
        try:
            await test(desk)
        finally:
            await desk.runner.stop(2)

    return lambda test: with_store(lambda store: at_desk(store, test))


def test_a_job_that_failed_while_the_clock_was_ahead_is_tried_again_after_its_wait(with_desk: Any) -> None:
    async def test(desk: Desk) -> None:
        async def work(_job: Job, _context: JobContext) -> None:
            if desk.clock.ms >= START + AHEAD_MS:
                raise PeerUnreachable("clocks differ")

        desk.runner.register("work", work, queue="default", policy=RetryPolicy(base_s=4.0))
        desk.clock.ms += AHEAD_MS
        await desk.runner.start()
        await desk.enqueue("j", "work", "default")
        await eventually(lambda: desk.ended == [("work", "retry")])
        desk.clock.ms = START

        async def waits_from_now() -> bool:
            return (await desk.job("j")).run_at == START + 4000

        await eventually(waits_from_now)
        desk.clock.ms += 4000
        await desk.reaches("j", JobState.DONE)

    with_desk(test)


def test_what_a_worker_left_while_the_clock_was_ahead_is_taken_over_in_time(with_desk: Any) -> None:
    async def test(desk: Desk) -> None:
        async def work(_job: Job, _context: JobContext) -> None:
            pass

        desk.runner.register("work", work, queue="default")
        ahead = START + AHEAD_MS
        for id in ("left", "waits"):
            await desk.enqueue(id, "work", "default", run_at=ahead, updated_at=ahead)
        await desk.store.claim("default", "dead", now=ahead, lease_ms=round(LEASE_S * 1000))
        await desk.runner.start()
        await eventually(lambda: len(desk.ended) == 1)
        desk.clock.ms += round(LEASE_S * 1000) + 1
        await eventually(lambda: len(desk.ended) == 2)

    with_desk(test)


def test_duties_go_on_when_the_clock_is_set_back(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        made = 0

        def duty() -> Job:
            nonlocal made
            made += 1
            return Job(id=f"d{made}", queue="default", name="work", run_at=0)

        async def work(_job: Job, _context: JobContext) -> None:
            pass

        desk.runner.register("work", work, queue="default")
        desk.runner.every(
            "duty", 0.2, duty, first_s=7200.0
        )  # as if the clock had been two hours ahead until now
        await desk.runner.start()
        await asyncio.sleep(0.1)
        assert made == 0
        desk.clock.ms -= 7_200_000
        await eventually(lambda: made >= 2)

    desk(test)


def test_functions_run_in_the_threads_of_their_queue_or_on_the_loop(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        where: dict[str, str] = {}

        def threaded(job: Job, context: JobContext) -> None:
            where[job.id] = threading.current_thread().name

        async def looped(job: Job, context: JobContext) -> None:
            where[job.id] = threading.current_thread().name

        desk.runner.register("fetch", threaded, queue="transfer")
        desk.runner.register("sum", threaded, queue="hash")
        desk.runner.register("tidy", looped, queue="default")
        await desk.runner.start()
        await desk.enqueue("a", "fetch")
        await desk.enqueue("b", "sum", "hash")
        await desk.enqueue("c", "tidy", "default")
        await eventually(lambda: len(desk.ended) == 3)
        assert where["a"].startswith("ods-transfer")
        assert where["b"].startswith("ods-hash")
        assert where["c"] == "MainThread"
        assert sorted(desk.ended) == [("fetch", "done"), ("sum", "done"), ("tidy", "done")]
        for id in "abc":
            job = await desk.job(id)
            assert (job.state, job.attempts, job.worker, job.error) == (JobState.DONE, 1, "", "")

    desk(test)


@pytest.mark.parametrize(("queue", "asynchronous"), [("default", False), ("transfer", True)])
def test_the_wrong_kind_of_function_is_refused(desk: Any, queue: str, asynchronous: bool) -> None:
    async def test(desk: Desk) -> None:
        async def looped(job: Job, context: JobContext) -> None: ...

        def threaded(job: Job, context: JobContext) -> None: ...

        with pytest.raises(ValueError, match="coroutine"):
            desk.runner.register("x", looped if asynchronous else threaded, queue=queue)
        with pytest.raises(ValueError, match="no queue"):
            desk.runner.register("x", threaded, queue="mail")

    desk(test)


def test_no_more_jobs_run_than_there_are_slots_and_all_get_their_turn(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        lock, now, most, ran = threading.Lock(), 0, 0, []

        def work(job: Job, context: JobContext) -> None:
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            context.stopping.wait(0.002)
            with lock:
                now -= 1
                ran.append(job.id)

        desk.runner.register("work", work, queue="transfer")
        await desk.runner.start()
        await desk.store.batch(
            [Enqueue(Job(id=f"j{n}", queue="transfer", name="work", run_at=START)) for n in range(60)]
        )
        await eventually(lambda: len(desk.ended) == 60)
        assert sorted(ran) == sorted({f"j{n}" for n in range(60)})
        assert most == 2
        assert desk.runner.running("transfer") == 0

    desk(test, poll_s=30.0)  # a slot that becomes free is filled at once, not at the next poll


def test_duties_run_whatever_fills_the_other_queues(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        asked: set[str] = set()

        async def silent(job: Job, context: JobContext) -> None:
            asked.add(job.id)
            await asyncio.sleep(60)

        async def duty(job: Job, context: JobContext) -> None: ...

        desk.runner.register("sync", silent, queue="default")
        desk.runner.register("ask", silent, queue="release")
        duties = [
            make(START) for make in (reconcile_job, watchdog_job, compare_job, look_job, vigil_job, purge_job)
        ]
        for job in duties:
            desk.runner.register(job.name, duty, queue="duty")
        for number in range(40):
            await desk.enqueue(f"s{number}", "sync", "default")
            await desk.enqueue(f"a{number}", "ask", "release")
        await desk.runner.start()
        await eventually(lambda: len(asked) == 2 + RELEASE_SLOTS)
        for job in duties:
            await desk.store.enqueue(job)
        await eventually(lambda: len(desk.ended) == len(duties))
        assert len(asked) == 2 + RELEASE_SLOTS, "a few at a time"

    desk(test)


def test_a_known_failure_is_retried_when_its_wait_is_over(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        tries: list[int] = []

        def work(job: Job, context: JobContext) -> None:
            tries.append(job.attempts)
            if len(tries) == 1:
                raise PeerUnreachable("No route to the peer.")
            if len(tries) == 2:
                raise PeerBusy("Come back.", retry_after=90)

        desk.runner.register("work", work, queue="transfer", policy=RetryPolicy(attempts=5, base_s=4.0))
        await desk.runner.start()
        await desk.enqueue("a", "work")
        await eventually(lambda: desk.ended == [("work", "retry")])
        job = await desk.job("a")
        assert (job.state, job.run_at, job.error) == (
            JobState.TODO,
            START + 4000,
            "PeerUnreachable: No route to the peer.",
        )
        assert await desk.store.claim("transfer", "other", now=START + 3999, lease_ms=1) == []
        desk.clock.ms += 4000
        await eventually(lambda: len(desk.ended) == 2)
        job = await desk.job("a")
        assert job.run_at == START + 4000 + 90_000
        desk.clock.ms += 90_000
        job = await desk.reaches("a", JobState.DONE)
        assert tries == [1, 2, 3]
        assert job.error == ""

    desk(test)


def test_what_cannot_be_mended_fails_at_once_and_is_told(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        told: list[tuple[str, str, JobState]] = []

        def work(job: Job, context: JobContext) -> None:
            raise DigestMismatch("The SHA-1 is another one.")

        async def on_failed(job: Job, text: str) -> None:
            told.append((job.id, text, (await desk.job(job.id)).state))

        desk.runner.register("work", work, queue="hash", on_failed=on_failed)
        await desk.runner.start()
        await desk.enqueue("a", "work", "hash")
        await eventually(lambda: bool(told))
        # It is recorded before it is told.
        assert told == [("a", "DigestMismatch: The SHA-1 is another one.", JobState.FAILED)]
        assert desk.ended == [("work", "failed")]

    desk(test)


def test_a_bug_is_tried_again_then_fails_in_one_line_without_secrets(
    desk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(desk: Desk) -> None:
        async def work(job: Job, context: JobContext) -> None:
            raise ValueError("bad\nthing at https://u:sesame@host/?token=abc " + "x" * 900)

        async def broken_hook(job: Job, text: str) -> None:
            raise RuntimeError("hook")

        policy = RetryPolicy(attempts=2, base_s=1)
        desk.runner.register("work", work, queue="default", policy=policy, on_failed=broken_hook)
        await desk.runner.start()
        await desk.enqueue("a", "work", "default")
        await eventually(lambda: desk.ended == [("work", "retry")])
        desk.clock.ms += 60_000
        job = await desk.reaches("a", JobState.FAILED)
        assert job.error.startswith("ValueError: bad thing at https://")
        assert len(job.error) <= 300
        assert "sesame" not in job.error
        assert "abc" not in job.error
        assert "Traceback" not in job.error
        # The runner lives on.
        await desk.enqueue("b", "work", "default")
        await eventually(lambda: len(desk.ended) == 3)

    with caplog.at_level(logging.WARNING):
        desk(test)
    bugs = [record for record in caplog.records if getattr(record, "action", "") == "job_failed"]
    assert bugs
    assert bugs[0].exc_info is not None  # the traceback is in the log, and only there


def test_a_thread_that_raises_system_exit_gives_its_slot_back(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        def work(job: Job, context: JobContext) -> None:
            raise SystemExit(3)

        desk.runner.register("work", work, queue="hash", policy=RetryPolicy(attempts=1))
        await desk.runner.start()
        for id in ("a", "b"):
            await desk.enqueue(id, "work", "hash")
            await desk.reaches(id, JobState.FAILED)

    desk(test)


def test_an_unknown_job_fails_and_says_so(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        await desk.runner.start()
        await desk.enqueue("a", "from.the.future")
        job = await desk.reaches("a", JobState.FAILED)
        assert "from.the.future" in job.error

    desk(test)


def test_enqueued_again_while_it_runs_it_runs_once_more(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        started, go, runs = threading.Event(), threading.Event(), []

        def work(job: Job, context: JobContext) -> None:
            runs.append((job.attempts, job.token))
            started.set()
            go.wait(5)

        desk.runner.register("work", work, queue="transfer")
        await desk.runner.start()
        assert await desk.enqueue("a", "work", key="k")
        await eventually(started.is_set)
        assert not await desk.enqueue("b", "work", key="k")
        assert not await desk.enqueue("c", "work", key="k")
        assert len(runs) == 1
        go.set()
        await eventually(lambda: len(desk.ended) == 2)
        await desk.reaches("a", JobState.DONE)
        assert runs == [(1, 1), (1, 2)]
        assert await desk.store.get_job("b") is None

    desk(test)


@pytest.mark.parametrize("queue", ["transfer", "default"])
def test_a_cancelled_job_is_stopped_while_it_runs(desk: Any, queue: str) -> None:
    async def test(desk: Desk) -> None:
        seen: list[type[BaseException]] = []
        started = threading.Event()

        def threaded(job: Job, context: JobContext) -> None:
            started.set()
            assert context.stopping.wait(10)
            try:
                context.check()
            except LeaseLost as exc:
                seen.append(type(exc))
                raise

        async def looped(job: Job, context: JobContext) -> None:
            started.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError as exc:
                seen.append(type(exc))
                raise

        desk.runner.register("work", looped if queue == "default" else threaded, queue=queue)
        await desk.runner.start()
        await desk.enqueue("a", "work", queue)
        await eventually(started.is_set)
        await desk.store.cancel_job("a", now=START)
        # Well before the lease would be renewed (10 s).
        await eventually(lambda: desk.ended == [("work", "lost")], timeout=3)
        assert seen == [asyncio.CancelledError if queue == "default" else LeaseLost]
        assert (await desk.job("a")).state is JobState.CANCELLED

    desk(test)


def test_when_the_lease_is_lost_the_run_is_stopped_and_its_result_dropped(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        started, contexts, let_end = threading.Event(), [], threading.Event()

        def work(job: Job, context: JobContext) -> None:
            contexts.append(context)
            started.set()
            let_end.wait(10)  # ends well, but too late

        desk.runner.register("work", work, queue="transfer")
        await desk.runner.start()
        await desk.enqueue("a", "work")
        await eventually(started.is_set)
        # Another worker, whose clock shows that the lease has ended, takes it over.
        [taken] = await desk.store.claim("transfer", "w2", now=START + 60_000, lease_ms=60_000)
        await eventually(contexts[0].stopping.is_set)
        with pytest.raises(LeaseLost):
            contexts[0].check()
        let_end.set()
        await eventually(lambda: desk.ended == [("work", "lost")])
        job = await desk.job("a")
        assert (job.state, job.worker, job.token) == (JobState.DOING, "w2", taken.token)

    desk(test, lease_s=0.06)  # renewed, and so found lost, every 20 ms


def test_leases_are_renewed_while_a_job_runs(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        go = threading.Event()
        desk.runner.register("work", lambda job, context: go.wait(10) and None, queue="transfer")
        await desk.runner.start()
        await desk.enqueue("a", "work")
        await desk.reaches("a", JobState.DOING)
        for step in range(1, 4):
            desk.clock.ms = START + step * 200  # less than a lease: no time jumps

            async def renewed() -> bool:
                return (await desk.job("a")).lease_until >= desk.clock.ms + 300

            await eventually(renewed)
        go.set()
        job = await desk.reaches("a", JobState.DONE)
        assert (job.attempts, job.token) == (1, 1)
        assert desk.ended == [("work", "done")]

    desk(test, lease_s=0.3)


def test_after_a_long_sleep_of_the_machine_a_worker_keeps_its_own_jobs(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        go, runs = threading.Event(), []

        def work(job: Job, context: JobContext) -> None:
            runs.append(context)
            go.wait(10)

        desk.runner.register("work", work, queue="transfer")
        await desk.runner.start()
        await desk.enqueue("a", "work")
        await eventually(lambda: bool(runs))
        desk.clock.ms += 3_600_000  # the lease ended long ago, and a slot is free
        await desk.enqueue("b", "work")
        await eventually(lambda: len(runs) == 2)
        assert [context.job.id for context in runs] == ["a", "b"]
        assert not runs[0].stopping.is_set()
        go.set()
        await desk.reaches("a", JobState.DONE)

    desk(test)


def test_stop_gives_the_attempt_back_and_claims_nothing_more(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        started = threading.Semaphore(0)

        def threaded(job: Job, context: JobContext) -> None:
            started.release()
            context.stopping.wait(10)
            context.check()

        async def looped(job: Job, context: JobContext) -> None:
            started.release()
            await asyncio.sleep(60)  # never looks: it is cancelled

        desk.runner.register("work", threaded, queue="transfer")
        desk.runner.register("tidy", looped, queue="default")
        await desk.runner.start()
        for id in ("a", "b", "waiting"):
            await desk.enqueue(id, "work")
        await desk.enqueue("c", "tidy", "default")
        await eventually(lambda: desk.runner.running("transfer") == 2 and desk.runner.running("default") == 1)
        for _ in range(3):
            assert await asyncio.to_thread(started.acquire, True, 5)
        assert await desk.runner.stop(1.0) == []
        assert sorted(desk.ended) == [("tidy", "stopped"), ("work", "stopped"), ("work", "stopped")]
        for id in ("a", "b", "c", "waiting"):
            job = await desk.job(id)
            assert (job.state, job.attempts, job.run_at, job.error) == (JobState.TODO, 0, START, "")

    desk(test)


def test_stop_reports_a_thread_that_does_not_end_and_leaves_its_lease(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        started, go = threading.Event(), threading.Event()

        def work(job: Job, context: JobContext) -> None:
            started.set()
            go.wait(20)

        desk.runner.register("work", work, queue="hash")
        await desk.runner.start()
        await desk.enqueue("a", "work", "hash")
        await eventually(started.is_set)
        try:
            assert [job.id for job in await desk.runner.stop(0.2)] == ["a"]
            assert (await desk.job("a")).state is JobState.DOING
        finally:
            go.set()

    desk(test)


def test_a_thread_can_await_on_the_loop_and_the_loop_cannot_wait_for_itself(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        got: list[object] = []

        async def answer() -> str:
            return threading.current_thread().name

        async def refuse() -> None:
            raise PeerUnreachable("gone")

        def threaded(job: Job, context: JobContext) -> None:
            got.append(context.wait(answer()))
            try:
                context.wait(refuse())
            except PeerUnreachable as exc:
                got.append(exc.message)

        async def looped(job: Job, context: JobContext) -> None:
            try:
                context.wait(answer())
            except RuntimeError:
                got.append("refused")

        desk.runner.register("threaded", threaded, queue="hash")
        desk.runner.register("looped", looped, queue="default")
        await desk.runner.start()
        await desk.enqueue("a", "threaded", "hash")
        await eventually(lambda: len(desk.ended) == 1)
        await desk.enqueue("b", "looped", "default")
        await eventually(lambda: len(desk.ended) == 2)
        assert got == ["MainThread", "gone", "refused"]

    desk(test)


def test_through_an_outage_what_runs_goes_on_and_is_recorded_afterwards(
    desk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(desk: Desk) -> None:
        started, go, contexts = threading.Event(), threading.Event(), []

        def work(job: Job, context: JobContext) -> None:
            contexts.append(context)
            started.set()
            go.wait(10)

        desk.runner.register("work", work, queue="transfer")
        await desk.runner.start()
        await desk.enqueue("a", "work")
        await eventually(started.is_set)
        await desk.flaky.go_away()
        await desk.enqueue("b", "work")  # somebody else can still reach the store
        await eventually(lambda: desk.flaky.refused > 2)
        assert not contexts[0].stopping.is_set()
        go.set()
        await eventually(lambda: desk.runner.running("transfer") == 0)
        before = desk.flaky.refused
        await eventually(lambda: desk.flaky.refused > before + 1)
        assert desk.ended == []
        # During the outage the lease has ended; the worker must not take its own job as abandoned.
        desk.clock.ms += 10 * round(LEASE_S * 1000)
        desk.flaky.down = False
        await desk.reaches("a", JobState.DONE)
        await desk.reaches("b", JobState.DONE)
        assert [context.job.id for context in contexts] == ["a", "b"]
        assert desk.runner.heartbeat_age() < 5

    with caplog.at_level(logging.INFO):
        desk(test)
    actions = [getattr(record, "action", "") for record in caplog.records]
    assert actions.count("store_lost") == 1
    assert actions.count("store_back") == 1


def test_a_runner_starts_while_the_store_is_away(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        async def work(job: Job, context: JobContext) -> None: ...

        desk.runner.register("work", work, queue="default")
        desk.flaky.down = True
        await desk.runner.start()
        await desk.enqueue("a", "work", "default")
        await eventually(lambda: desk.flaky.refused > 3)
        desk.flaky.down = False
        await desk.reaches("a", JobState.DONE)

    desk(test)


def test_a_job_that_brings_its_workers_down_is_given_up(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        told: list[str] = []

        async def on_failed(job: Job, text: str) -> None:
            told.append(text)

        def work(job: Job, context: JobContext) -> None:
            raise AssertionError("it must not run again")

        desk.runner.register(
            "work", work, queue="transfer", policy=RetryPolicy(attempts=3), on_failed=on_failed
        )
        await desk.enqueue("a", "work")
        for attempt in range(3 + CRASHES):
            desk.clock.ms += 1000
            [job] = await desk.store.claim("transfer", f"dead{attempt}", now=desk.clock.ms, lease_ms=500)
        desk.clock.ms += 1000
        await desk.runner.start()
        job = await desk.reaches("a", JobState.FAILED)
        await eventually(lambda: told == [job.error])

    desk(test)


@pytest.mark.parametrize("queue", ["duty", "hash"])
@pytest.mark.parametrize("outage", [StorageFull, StoreUnavailable])
def test_no_job_gives_up_because_of_an_outage(
    desk: Any, queue: str, outage: type[StorageFull] | type[StoreUnavailable]
) -> None:
    async def test(desk: Desk) -> None:
        ended: list[str] = []
        away = True

        def run(job: Job) -> None:
            if away:
                raise outage("Not now.")
            ended.append(job.id)

        async def duty(job: Job, context: JobContext) -> None:
            run(job)

        def work(job: Job, context: JobContext) -> None:
            run(job)

        async def on_failed(job: Job, text: str) -> None:
            ended.append(f"{job.id} gave up")

        function = duty if queue == "duty" else work
        policy = RetryPolicy(attempts=2, base_s=2.0, cap_s=60.0)
        desk.runner.register("work", function, queue=queue, policy=policy, on_failed=on_failed)
        await desk.enqueue("a", "work", queue, key="work")
        await desk.runner.start()
        for runs in range(1, 5):  # twice as often as it is tried otherwise
            await eventually(lambda runs=runs: desk.ended == [("work", "retry")] * runs)
            job = await desk.job("a")
            assert (job.state, job.attempts) == (JobState.TODO, 0)
            assert "Not now." in job.error
            assert START < job.run_at <= desk.clock.ms + 75_000
            desk.clock.ms = job.run_at
        away = False
        # The next of a timed duty does not wait.
        await desk.enqueue("b", "work", queue, key="work")
        await desk.reaches("a", JobState.DONE)
        assert ended == ["a"]
        assert (await desk.job("a")).error == ""

    desk(test)


def test_timed_duties_are_enqueued_and_do_not_pile_up(desk: Any) -> None:
    async def test(desk: Desk) -> None:
        go, runs, made = asyncio.Event(), [], 0

        async def work(job: Job, context: JobContext) -> None:
            runs.append(job.id)
            await go.wait()

        def duty() -> Job:
            nonlocal made
            made += 1
            return Job(id=f"d{made}", queue="default", name="work", key="duty", run_at=START)

        desk.runner.register("work", work, queue="default")
        desk.runner.every("duty", 0.02, duty, first_s=0.0)
        desk.runner.every("never", 3600, lambda: Job(id="never", queue="default", name="work", run_at=START))
        await desk.runner.start()
        await eventually(lambda: made >= 4)
        assert runs == ["d1"]
        go.set()
        await eventually(lambda: len(runs) >= 3)
        assert await desk.store.get_job("never") is None
        assert await desk.runner.stop(2) == []
        after = made
        await asyncio.sleep(0.06)
        assert made == after

    desk(test)


_CHILD = """
import asyncio, sys, threading
from pathlib import Path
from appliance.jobs.runner import Runner
from appliance.store.opening import open_store

def work(job, context):
    print("running", flush=True)
    threading.Event().wait()

async def main():
    store = await open_store("", Path(sys.argv[1]))
    runner = Runner(store, worker_id="child", transfer_slots=1, hash_slots=1, default_slots=1,
                    lease_s=30, now=lambda: int(sys.argv[2]), jitter=lambda: 0.5)
    runner.register("work", work, queue="transfer")
    await runner.start()
    await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.mark.parametrize("same_worker", [False, True])
def test_the_job_of_a_killed_worker_is_taken_over(desk: Any, tmp_path: Path, same_worker: bool) -> None:
    async def test(desk: Desk) -> None:
        await desk.enqueue("a", "work")
        child = await asyncio.to_thread(
            subprocess.Popen,
            [sys.executable, "-c", _CHILD, str(tmp_path), str(START)],
            stdout=subprocess.PIPE,
            text=True,
        )
        with child:
            try:
                assert child.stdout is not None
                assert await asyncio.to_thread(child.stdout.readline) == "running\n"
            finally:
                child.send_signal(signal.SIGKILL)
                await asyncio.to_thread(child.wait)
        dead = await desk.job("a")
        assert (dead.state, dead.worker, dead.lease_until) == (JobState.DOING, "child", START + 30_000)

        runs: list[Job] = []
        desk.runner.register("work", lambda job, context: runs.append(job), queue="transfer")
        await desk.runner.start()
        if not same_worker:
            desk.clock.ms = START + 29_999
            await desk.enqueue("b", "work")
            await desk.reaches("b", JobState.DONE)
            assert (await desk.job("a")).worker == "child"
            runs.clear()
            desk.clock.ms = START + 30_000
        job = await desk.reaches("a", JobState.DONE)
        assert job.token == 2
        # Its own crash costs a job no attempt; one that others must clear away does.
        assert [run.attempts for run in runs] == [1 if same_worker else 2]

    desk(test, worker_id="child" if same_worker else "w1")


def test_a_job_starts_within_milliseconds_of_being_enqueued(desk: Any) -> None:
    """Far below the poll interval: the store's wake-up starts it, not the clock."""

    async def test(desk: Desk) -> None:
        loop, waits = asyncio.get_running_loop(), []
        done = asyncio.Event()

        async def work(job: Job, context: JobContext) -> None:
            waits.append(loop.time() - began)
            done.set()

        desk.runner.register("work", work, queue="default")
        await desk.runner.start()
        for n in range(20):
            done.clear()
            began = loop.time()
            await desk.enqueue(f"j{n}", "work", "default")
            await done.wait()
        assert sorted(waits)[10] < 0.1

    desk(test, poll_s=30.0)
