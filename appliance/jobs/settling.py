"""Recording how runs ended: in the store, in the log, and with whoever counts."""

import asyncio
import logging
import time
from collections.abc import Callable

from appliance.domain.errors import OUTAGES, ApplianceError, LeaseLost, Stopping
from appliance.domain.job import Job
from appliance.domain.states import JobState
from appliance.store.ports import Done, Failed, Outcome, Store

from .outage import Outage
from .run import Registration, Run, describe, outcome_of

log = logging.getLogger(__name__)

Observer = Callable[[str, str, float], None]


class Settling:
    """Settles claimed jobs."""

    def __init__(
        self,
        store: Store,
        *,
        now: Callable[[], int],
        jitter: Callable[[], float],
        outage: Outage,
        observe: Observer | None,
    ) -> None:
        """See `Runner` for the arguments."""
        self._store = store
        self._now = now
        self._jitter = jitter
        self._outage = outage
        self._observe = observe

    async def settle(self, job: Job, outcome: Outcome) -> Job | None:
        """Record an outcome, however long the store is away; None if the job is no longer ours."""
        while True:
            try:
                return await self._store.settle(job, outcome, now=self._now())
            except LeaseLost:
                return None
            except OUTAGES as exc:
                await asyncio.sleep(self._outage.began(exc))
            except Exception:  # the runner's net: the lease ends, and the job runs again
                fields = {"action": "settle_failed", "job": job.id, "job_name": job.name}
                log.exception("Cannot record how a job ended", extra=fields)
                return None

    async def record(self, run: Run, error: BaseException | None) -> None:
        """Settle a run that ended with `error`, or well."""
        outcome: Outcome | None = None
        if not run.context.lost:
            outcome = outcome_of(
                error, run.job, run.registration.policy, now=self._now(), jitter=self._jitter
            )
        stored = None if outcome is None else await self.settle(run.job, outcome)
        if stored is None:
            word = "lost"
        elif isinstance(outcome, Done):
            word = "done"
        elif isinstance(outcome, Failed):
            word = "failed"
        else:
            word = "stopped" if isinstance(error, Stopping) else "retry"
        self._report(run, word, error)
        if stored is not None and stored.state is JobState.FAILED and isinstance(outcome, Failed):
            await self.tell_failed(run.job, run.registration, outcome.error)

    def _report(self, run: Run, word: str, error: BaseException | None) -> None:
        job, seconds = run.job, time.monotonic() - run.began
        fields: dict[str, object] = {
            "action": f"job_{word}",
            "job": job.id,
            "job_name": job.name,
            "attempt": job.attempts,
            "seconds": round(seconds, 3),
        }
        if error is not None and word in {"retry", "failed"}:
            known = isinstance(error, ApplianceError)
            log.log(
                logging.WARNING if word == "retry" and known else logging.ERROR,
                "A job failed and will be tried again" if word == "retry" else "A job failed and gave up",
                extra={**fields, "error": describe(error)},
                exc_info=None if known else error,  # an unknown error is a bug
            )
        else:
            log.debug("A job ended", extra=fields)
        if self._observe is not None:
            self._observe(job.name, word, seconds)

    async def tell_failed(self, job: Job, registration: Registration, text: str) -> None:
        """Do what the registration wants done once a failure is recorded."""
        if registration.on_failed is None:
            return
        try:
            await registration.on_failed(job, text)
        except Exception:  # the runner's net
            log.exception(
                "What follows a failed job failed itself",
                extra={"action": "on_failed_failed", "job": job.id, "job_name": job.name},
            )
