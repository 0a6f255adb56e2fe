"""Runs the rows of the job table on APScheduler executors."""

import asyncio
import concurrent.futures
import contextlib
import inspect
import logging
import math
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from appliance.domain.errors import OUTAGES, JobUnknown, LeaseLost, Stopping
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.states import JobState
from appliance.store.ports import Failed, Outcome, Retry, Store

from .context import JobContext
from .engine import LOOPS, Engine
from .lane import Lane
from .leases import Leases
from .outage import Outage
from .run import TOGETHER, FailedHook, JobFunction, Registration, Run, call
from .settling import Observer, Settling
from .supervisor import Supervisor
from .timers import Timers

log = logging.getLogger(__name__)

DUTY_SLOTS = 16  #: coroutines of "duty", which no other work holds up
RELEASE_SLOTS = 4  #: of "release": each may wait a minute for a peer, in one of the threads for requests
COROUTINE_GRACE_S = 2.0  #: a coroutine that a stop finds in the middle is cancelled after this
_PAGE = 100
_SET_BACK_MS = 1000  #: a clock that goes back by less than this was not set
CRASHES = 20  #: a job that was claimed so many times more than its policy allows brings its workers down


class Runner:
    """Claims, runs and settles jobs until it is stopped. Belongs to the event loop that started it."""

    def __init__(
        self,
        store: Store,
        *,
        worker_id: str,
        transfer_slots: int,
        hash_slots: int,
        default_slots: int,
        delivery_slots: int = 4,
        small_slots: int = 8,
        lease_s: float,
        now: Callable[[], int],
        jitter: Callable[[], float],
        poll_s: float = 1.0,
        observe: Observer | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Make a runner.

        Args:
            store: Where the jobs are.
            worker_id: Who claims. No two living runners may share it; a runner that starts gives back what an
                earlier life under the same id still held, so a stable one resumes at once after a crash.
            transfer_slots: How many jobs of the queue "transfer" run at a time, each in a thread.
            hash_slots: How many of "hash", each in a thread.
            default_slots: How many coroutines of "default".
            delivery_slots: How many of "delivery", each in a thread.
            small_slots: How many threads run jobs of the queue "small", each several of them in turn.
            lease_s: Seconds after which the jobs of a worker that died are taken over by others.
            now: Returns UTC milliseconds.
            jitter: Returns 0.0 to 1.0, for the waits between retries.
            poll_s: The queues are asked at least so often, in seconds.
            observe: Called on the event loop when a run has ended: name, outcome ("done", "retry", "failed",
                "stopped" or "lost"), seconds.
            supervisor: Watches the tasks of the runner itself.
        """
        slots = {
            "transfer": transfer_slots,
            "hash": hash_slots,
            "delivery": delivery_slots,
            "small": small_slots,
            "duty": DUTY_SLOTS,
            "release": RELEASE_SLOTS,
            "default": default_slots,
        }
        self._store = store
        self._worker = worker_id
        self._lease_ms = round(lease_s * 1000)
        self._now = now
        self._poll_s = poll_s
        self._registered: dict[str, Registration] = {}
        self._engine = Engine(slots)
        self._supervisor = supervisor or Supervisor(now=now)
        self._timers = Timers(self._engine, store, self._supervisor)
        self._lanes = {
            queue: Lane(queue, count, self._claim, poll_s, together=TOGETHER.get(queue, 1))
            for queue, count in slots.items()
        }
        self._leases = Leases(store, lease_ms=self._lease_ms, now=now)
        self._outage = Outage(jitter)
        self._settling = Settling(store, now=now, jitter=jitter, outage=self._outage, observe=observe)
        self._tasks: set[asyncio.Task[None]] = set()
        self._serving: list[asyncio.Task[None]] = []
        self._recovery: asyncio.Task[None] | None = None
        self._latest: float = (
            math.inf
        )  #: the time of the last look at the clock; none at first: it may have been ahead
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closing = asyncio.Event()

    def register(
        self,
        name: str,
        function: JobFunction,
        *,
        queue: str,
        policy: RetryPolicy = RetryPolicy(),  # noqa: B008  # frozen
        on_failed: FailedHook | None = None,
    ) -> None:
        """Say what to do for jobs of this name; before `start`.

        Args:
            name: The job's name.
            function: Called with the job and its `JobContext`: a coroutine function if the queue is
                one of `LOOPS`, else a plain one, in a thread. What it raises decides about a retry. On the queue
                "small" it is called with a list of `Task`s, and returns for each what it would have raised, or None.
            queue: Whose slots it takes; jobs of this name must be enqueued with the same one.
            policy: How often it is tried again.
            on_failed: Awaited with the job and the error line when it gave up and that has been recorded.

        Raises:
            ValueError: The queue does not exist, runs the other kind of function, or takes no second one.
        """
        if queue not in self._lanes:
            raise ValueError(f"there is no queue {queue}")
        if queue in TOGETHER and any(each.queue == queue for each in self._registered.values()):
            raise ValueError(f"{name}: the queue {queue} has its function")
        if inspect.iscoroutinefunction(function) != (queue in LOOPS):
            raise ValueError(
                f"{name}: coroutine functions, and no others, run on the queues {', '.join(sorted(LOOPS))}"
            )
        self._registered[name] = Registration(
            name=name, function=function, queue=queue, policy=policy, on_failed=on_failed
        )

    def every(
        self, name: str, seconds: float, job: Callable[[], Job], *, first_s: float | None = None
    ) -> None:
        """Enqueue `job()` every so many seconds, up to a tenth late. With a key it cannot pile up.

        Args:
            name: Of the duty, where its failures are counted.
            seconds: Between two jobs.
            job: Makes the next job.
            first_s: Seconds until the first one; without it, `seconds`.
        """
        self._timers.every(name, seconds, job, first_s=seconds if first_s is None else first_s)

    def pool(self, queue: str) -> concurrent.futures.Executor:
        """The threads of "transfer", "hash" or "delivery"; what else runs there delays claimed jobs."""
        return self._engine.pool(queue)

    def running(self, queue: str) -> int:
        """How many slots of this queue are taken here now."""
        return self._lanes[queue].running

    def heartbeat_age(self) -> float:
        """Seconds since the slowest lane last came round; above a few, this worker takes no jobs."""
        return time.monotonic() - min(lane.beat for lane in self._lanes.values())

    async def start(self) -> None:
        """Begin to claim. A store that is down delays the claims, not the start."""
        self._loop = asyncio.get_running_loop()
        self._engine.start()
        renewal_s = self._lease_ms / 3000
        self._engine.every(renewal_s, self._renew, first_s=renewal_s)
        watched = {f"jobs.{queue}": lane.run for queue, lane in self._lanes.items()}
        watched["jobs.watch"] = self._watch
        self._serving = [
            self._supervisor.start(task, run, closing=self._closing) for task, run in watched.items()
        ]

    async def stop(self, grace_s: float) -> list[Job]:
        """End every run and record how it ended.

        Functions see `context.stopping`; coroutines that do not look are cancelled after two seconds.

        Args:
            grace_s: How long to wait for them.

        Returns:
            Jobs whose threads still run. Their leases are left to end: nobody may take them over before.
        """
        self._closing.set()
        self._timers.close()
        if self._loop is None:
            self._engine.stop()
            return []
        deadline = time.monotonic() + grace_s
        for lane in self._lanes.values():
            lane.close()
        self._leases.stop_all()
        patience = min(COROUTINE_GRACE_S, grace_s / 2)
        cancelling = self._loop.call_later(patience, self._leases.cancel_coroutines)
        # A claim under way is finished, and what it brought is given back; so wait for the lanes as well.
        await self._until(deadline, *(asyncio.shield(task) for task in self._serving))
        await self._until(deadline, self._leases.wait_empty())
        await self._until(deadline, *(asyncio.shield(task) for task in self._tasks))
        cancelling.cancel()
        pending = [*self._serving, *self._tasks, *([self._recovery] if self._recovery else [])]
        for task in pending:
            task.cancel()
        await asyncio.gather(*pending, return_exceptions=True)
        self._engine.stop()
        await asyncio.sleep(0)  # the scheduler ends itself in the next round of the loop
        self._loop = None
        stuck = self._leases.unfinished()
        if stuck:
            log.warning(
                "Jobs did not stop in time",
                extra={"action": "jobs_left", "jobs": [f"{job.name} {job.id}" for job in stuck]},
            )
        return stuck

    # Claiming

    async def _claim(self, queue: str, free: int) -> list[Job] | None:
        """Claim and begin up to `free` jobs; None after an outage of the store, having waited a while."""
        try:
            await self._recover()
            await self._look_at_clock()
            now = await self._leases.claiming_time()
            jobs = await self._store.claim(queue, self._worker, now=now, lease_ms=self._lease_ms, limit=free)
        except OUTAGES as exc:
            await self._pause(self._outage.began(exc))
            return None
        self._outage.over()
        runs = [run for job in jobs if (run := self._admitted(job)) is not None]
        for group in self._lanes[queue].shares(runs):
            self._lanes[queue].running += 1
            self._engine.submit(queue, self._coroutine if queue in LOOPS else self._thread, group)
        return jobs

    async def _recover(self) -> None:
        """Once, before the first claim: give back what an earlier life of this worker still holds."""
        if self._recovery is None or (self._recovery.done() and self._recovery.exception() is not None):
            self._recovery = asyncio.create_task(self._give_back_orphans())
        await asyncio.shield(self._recovery)

    async def _give_back_orphans(self) -> None:
        after: tuple[int, str] | None = None
        page: list[Job] = []
        while after is None or len(page) == 100:
            page = await self._store.find_jobs({"state": str(JobState.DOING)}, limit=100, after=after)
            for job in page:
                if job.worker == self._worker:
                    # A crash is no failure of the job: the attempt is given back.
                    with contextlib.suppress(LeaseLost):
                        await self._store.settle(job, Retry(run_at=self._now(), count=False), now=self._now())
                    log.info(
                        "A job goes on after a crash",
                        extra={"action": "job_recovered", "job": job.id, "job_name": job.name},
                    )
            after = (page[-1].updated_at, page[-1].id) if page else (0, "")

    async def _look_at_clock(self) -> None:
        """If the clock was set back: let timers and jobs of before wait from now, and no longer than was meant."""
        now = self._now()
        if now < self._latest - _SET_BACK_MS:
            if self._latest < math.inf:
                self._engine.clock_set_back()
            await self._put_off_again(now)
        self._latest = now

    async def _put_off_again(self, now: int) -> None:
        ahead = {
            "state": {"in": [str(JobState.TODO), str(JobState.DOING)]},
            "updated_at": {"gt": now + _SET_BACK_MS},
        }
        while jobs := await self._store.find_jobs(ahead, limit=_PAGE):
            writes = (self._store.put_off_again(job.id, now=now, lease_ms=self._lease_ms) for job in jobs)
            for result in await asyncio.gather(*writes, return_exceptions=True):
                if isinstance(result, BaseException) and not isinstance(result, JobUnknown):
                    raise result

    def _admitted(self, job: Job) -> Run | None:
        """The run of a job that was claimed, or None if it cannot be run and was given back."""
        registration = self._registered.get(job.name)
        if self._closing.is_set():
            self._spawn(self._give_back(job, Retry(run_at=self._now(), count=False)))
        elif registration is None or registration.queue != job.queue:
            text = f"This version does not know the job {job.name} on the queue {job.queue}."
            self._spawn(self._give_back(job, Failed(error=text)))
        elif job.attempts > registration.policy.attempts + CRASHES:
            text = f"Given up after {job.attempts} runs that ended with the end of their worker."
            self._spawn(self._give_back(job, Failed(error=text), registration))
        elif job.id in self._leases:
            # The older run was overtaken unnoticed; it must be gone before another one begins.
            self._leases.lose(job.id, "Its lease ended.")
            self._spawn(self._give_back(job, Retry(run_at=self._now() + 1000, count=False)))
        else:
            run = Run(
                job=job,
                registration=registration,
                context=JobContext(job, asyncio.get_running_loop()),
                lease_until=job.lease_until,
            )
            self._leases.add(run)
            return run
        return None

    async def _give_back(self, job: Job, outcome: Outcome, registration: Registration | None = None) -> None:
        """Settle a job that was claimed and not begun."""
        stored = await self._settling.settle(job, outcome)
        if stored is not None and isinstance(outcome, Failed):
            fields = {"action": "job_failed", "job": job.id, "job_name": job.name, "error": outcome.error}
            log.error("A job failed without being run", extra=fields)
            if registration is not None and stored.state is JobState.FAILED:
                await self._settling.tell_failed(job, registration, outcome.error)

    # Running

    def _thread(self, runs: list[Run]) -> None:
        """Run a function in its pool; the slot becomes free whatever it raises."""
        errors: Sequence[BaseException | None]
        try:
            errors = call(runs)
        except BaseException as exc:  # the runner's net
            errors = [exc] * len(runs)
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has been closed since: the process ends
                loop.call_soon_threadsafe(self._ended, runs, errors)

    async def _coroutine(self, runs: list[Run]) -> None:
        """Run a coroutine function; the slot becomes free whatever it raises."""
        [run] = runs
        error: BaseException | None = None
        run.task = asyncio.current_task()
        try:
            run.context.check()
            await run.registration.function(run.job, run.context)
        except asyncio.CancelledError:
            error = LeaseLost(run.context.lost) if run.context.lost else Stopping()
        except BaseException as exc:  # the runner's net
            error = exc
        self._ended(runs, [error])

    def _ended(self, runs: list[Run], errors: Sequence[BaseException | None]) -> None:
        self._lanes[runs[0].job.queue].freed()
        for run, error in zip(runs, errors, strict=True):
            run.ended, run.task = True, None
            # A task of its own: no cancellation of the run can lose its outcome, and the lane claims meanwhile.
            self._spawn(self._record(run, error))

    async def _record(self, run: Run, error: BaseException | None) -> None:
        try:
            await self._settling.record(run, error)
        finally:
            self._leases.remove(run)

    # Keeping

    async def _watch(self) -> None:
        """Wake the lanes when jobs change, and stop what was cancelled."""
        seen, unlooked = -1, False
        while not self._closing.is_set():
            count = seen
            try:
                count = await self._store.changed("jobs", seen, timeout=self._poll_s)
                if count != seen:
                    unlooked = True
                    for lane in self._lanes.values():
                        lane.changed()
                if unlooked and await self._leases.stop_cancelled():
                    unlooked = False
            except OUTAGES as exc:
                await self._pause(self._outage.began(exc))
            seen = count

    async def _renew(self) -> None:
        """Prolong all leases; every third of their length."""
        try:
            await self._supervisor.once("jobs.leases", self._leases.renew, passing=OUTAGES)
        except OUTAGES as exc:
            self._outage.began(exc)

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not beyond `stop`."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    @staticmethod
    async def _until(deadline: float, *waits: Any) -> None:
        """Wait for all of these, but no longer than until `deadline` on the monotonic clock."""
        if waits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    asyncio.gather(*waits, return_exceptions=True), max(0.05, deadline - time.monotonic())
                )
