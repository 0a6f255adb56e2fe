"""The runs that this worker holds: their leases are prolonged, and what is no longer ours is told to stop."""

import asyncio
import logging
import time
from collections.abc import Callable

from appliance.domain.job import Job
from appliance.domain.states import JobState
from appliance.store.ports import Store

from .run import Run

log = logging.getLogger(__name__)

CANCEL_LOOK_S = 0.2  #: cancelled jobs are looked for at most so often, while any run here


class Leases:
    """Every run between its claim and the record of its end. Lives on the event loop."""

    def __init__(self, store: Store, *, lease_ms: int, now: Callable[[], int]) -> None:
        """Make an empty collection.

        Args:
            store: Where the jobs are.
            lease_ms: Length of a lease.
            now: Returns UTC milliseconds.
        """
        self._store = store
        self._lease_ms = lease_ms
        self._now = now
        self._runs: dict[str, Run] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._looked = 0.0

    def __contains__(self, id: str) -> bool:
        return id in self._runs

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, run: Run) -> None:
        """Keep a run that begins."""
        self._runs[run.job.id] = run
        self._empty.clear()

    def remove(self, run: Run) -> None:
        """Let go of a run whose end is recorded."""
        if self._runs.get(run.job.id) is run:
            del self._runs[run.job.id]
        if not self._runs:
            self._empty.set()

    def unfinished(self) -> list[Job]:
        """The jobs whose functions still run."""
        return [run.job for run in self._runs.values() if not run.ended]

    async def wait_empty(self) -> None:
        """Return when nothing is held."""
        await self._empty.wait()

    async def claiming_time(self) -> int:
        """A time to claim with at which no lease held here has ended; overdue ones are prolonged first.

        They are overdue when the process or the store slept. Without this our own jobs would look abandoned to us.

        Raises:
            StoreUnavailable: Nobody knows.
        """
        now = self._now()
        for _ in range(3):
            if not any(run.lease_until <= now for run in self._runs.values() if not run.context.lost):
                break
            await self.renew()
            now = self._now()
        return now

    async def renew(self) -> None:
        """Prolong all leases.

        Raises:
            StoreUnavailable: Nobody knows. What runs goes on: settling is fenced, and whoever takes a job
                over finds the same verified bytes.
        """
        runs = [run for run in self._runs.values() if not run.context.lost]
        if not runs:
            return
        until = self._now() + self._lease_ms
        gone = set(await self._store.extend([run.job for run in runs], until=until))
        for run in runs:
            if run.job.id not in gone:
                run.lease_until = until
            elif not run.ended:
                self.lose(run.job.id, "It was cancelled, or another worker holds it.")

    async def stop_cancelled(self) -> bool:
        """Stop runs of jobs that a person cancelled, if it is time to look for some; return whether it was.

        Raises:
            StoreUnavailable: Nobody knows.
        """
        if not self._runs or time.monotonic() - self._looked < CANCEL_LOOK_S:
            return not self._runs
        self._looked = time.monotonic()
        for job in await self._store.find_jobs({"state": str(JobState.CANCELLED)}, limit=100):
            run = self._runs.get(job.id)
            if run is not None and run.job.token == job.token and not run.ended:
                self.lose(job.id, "It was cancelled.")
        return True

    def lose(self, id: str, why: str) -> None:
        """Stop a run whose result no longer counts."""
        run = self._runs[id]
        if run.context.lost:
            return
        log.warning(
            "A running job is no longer this worker's",
            extra={"action": "lease_lost", "job": id, "job_name": run.job.name, "reason": why},
        )
        run.context.stop(lost=why)
        if run.task is not None:
            run.task.cancel()

    def stop_all(self) -> None:
        """Ask every function to end."""
        for run in self._runs.values():
            run.context.stop()

    def cancel_coroutines(self) -> None:
        """Cancel the coroutines that have not ended by themselves."""
        for run in self._runs.values():
            if run.task is not None:
                run.task.cancel()
