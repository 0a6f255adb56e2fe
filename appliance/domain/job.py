"""Jobs, and when a failed one is tried again."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import OUTAGES, ApplianceError
from .states import JobState

QUEUES = ("transfer", "small", "hash", "delivery", "duty", "release", "default")  #: one executor each


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One unit of deferred work."""

    id: str
    queue: str  #: one of `QUEUES`
    name: str  #: what to do, for example "transfer.fetch"
    args: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""  #: at most one active (TODO or DOING) job has this key; "" means no limit
    priority: int = 0  #: higher first
    run_at: int = 0  #: not before, UTC milliseconds
    state: JobState = JobState.TODO
    attempts: int = 0  #: claims so far, this one included
    worker: str = ""  #: who holds it
    lease_until: int = 0  #: UTC milliseconds
    token: int = 0  #: fencing token: counts the claims of this job, settles only with the current one
    again: bool = False  #: it was enqueued while it ran: run once more
    error: str = ""  #: why the last attempt failed
    created_at: int = 0
    updated_at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often and how long a kind of job is tried again."""

    attempts: int = 8  #: then it has FAILED
    base_s: float = 2.0  #: wait after the first failure
    cap_s: float = 900.0  #: the longest wait; in an outage also that after the last attempt, see `jobs.run`

    def wait(self, attempt: int, jitter: Callable[[], float]) -> float:
        """Seconds to wait after attempt number `attempt` (from 1); `jitter` returns 0.0 to 1.0."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 30)) * (0.75 + 0.5 * jitter())

    def wait_out(self, kept_s: float, jitter: Callable[[], float]) -> float:
        """Seconds to wait in an outage, by how long a job is kept from its end already; `jitter` as for `wait`."""
        return min(self.cap_s, max(self.base_s, kept_s)) * (0.75 + 0.5 * jitter())


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the database is away or the disk is full, or was raised because of that."""
    return isinstance(error, OUTAGES) or isinstance(error.__cause__, OUTAGES)


#: a job that another one follows anyway; in an outage it waits a minute, unless that one comes first
ONCE = RetryPolicy(attempts=1, cap_s=60.0)


def decide_retry(
    error: BaseException, attempt: int, policy: RetryPolicy, jitter: Callable[[], float]
) -> float | None:
    """Seconds until the next try, or None to give up.

    Known errors say themselves whether a retry can help; an unknown one is a bug and is tried a few times, since
    the next version may have mended it.
    """
    if attempt >= policy.attempts:
        return None
    if isinstance(error, ApplianceError):
        if not error.retryable:
            return None
        after = error.details.get("retry_after")
        if isinstance(after, int | float):
            return float(after)
    return policy.wait(attempt, jitter)
