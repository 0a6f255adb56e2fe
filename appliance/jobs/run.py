"""One claimed row while it runs, and what its end means."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from appliance.domain.errors import ApplianceError, LeaseLost, Stopping
from appliance.domain.job import Job, RetryPolicy, decide_retry, is_outage
from appliance.log import scrub
from appliance.store.ports import Done, Failed, Outcome, Retry

from .context import JobContext

T = TypeVar("T")

ERROR_LENGTH = 300

TOGETHER = {"small": 8}  #: queues whose functions take several jobs at once, and at most how many

JobFunction = Callable[..., Any]  #: of a job and its context, or of a list of `Task`s; see `Runner.register`
FailedHook = Callable[[Job, str], Awaitable[None]]


class Task(NamedTuple):
    """One of several jobs that a function does in turn."""

    job: Job
    context: JobContext

    def catch(self, step: Callable[[], T]) -> T | BaseException:
        """What a step returns, or what it raises: the others go on."""
        try:
            return step()
        except BaseException as exc:  # the runner's net
            return exc


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What to do for jobs of one name."""

    name: str
    function: JobFunction  #: a coroutine function on the queues of `engine.LOOPS`, a plain one elsewhere
    queue: str
    policy: RetryPolicy
    on_failed: FailedHook | None


@dataclass(slots=True, kw_only=True)
class Run:
    """A claimed job, from the claim until its end is recorded."""

    job: Job
    registration: Registration
    context: JobContext
    lease_until: int  #: UTC milliseconds
    began: float = field(default_factory=time.monotonic)
    task: "asyncio.Task[Any] | None" = None  #: of a coroutine that runs now
    ended: bool = False


def call(runs: Sequence[Run]) -> Sequence[BaseException | None]:
    """Call the plain function of runs that share a slot; how each ended."""
    registration = runs[0].registration
    if registration.queue in TOGETHER:
        return list(registration.function([Task(run.job, run.context) for run in runs]))
    [run] = runs
    run.context.check()
    registration.function(run.job, run.context)
    return [None]


def describe(error: BaseException) -> str:
    """The one line about an error that is kept with the job and shown to people."""
    text = error.message if isinstance(error, ApplianceError) else str(error)
    line = " ".join(scrub(f"{type(error).__name__}: {text}".rstrip(": ")).split())
    return line if len(line) <= ERROR_LENGTH else line[: ERROR_LENGTH - 1] + "…"


def outcome_of(
    error: BaseException | None, job: Job, policy: RetryPolicy, *, now: int, jitter: Callable[[], float]
) -> Outcome | None:
    """What to record for a run that ended with `error`, or None: nothing, since somebody else holds the job.

    That the database is away or the disk is full is no fault of the job: it costs no attempt, and the job goes on when
    there is a database, or room, again.

    Args:
        error: What the function raised; None if it returned.
        job: As claimed.
        policy: The retry policy of its name.
        now: UTC milliseconds.
        jitter: Returns 0.0 to 1.0.
    """
    match error:
        case None:
            return Done()
        case Stopping() | asyncio.CancelledError():
            return Retry(run_at=now, count=False)
        case LeaseLost():
            return None
    if is_outage(error):
        kept = policy.wait_out((now - job.created_at) / 1000, jitter)
        return Retry(run_at=now + round(kept * 1000), error=describe(error), count=False)
    wait = decide_retry(error, job.attempts, policy, jitter)
    if wait is None:
        return Failed(error=describe(error))
    return Retry(run_at=now + round(wait * 1000), error=describe(error))
