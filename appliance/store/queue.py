"""The rules of the job queue, without a database: what enqueue, claim and settle make of a job."""

from dataclasses import MISSING, fields, replace
from typing import Any

from appliance.domain.errors import InvalidTransition, LeaseLost
from appliance.domain.job import Job
from appliance.domain.states import JobState

from .ports import Doc, Done, Failed, Outcome, Retry

_NAMES = tuple(field.name for field in fields(Job) if field.name not in {"id", "state", "args"})
_DEFAULTS: dict[str, Any] = {
    field.name: "" if field.default is MISSING else field.default
    for field in fields(Job)
    if field.name in _NAMES
}
_STATES = frozenset(JobState)
_ACTIVE = frozenset({JobState.TODO, JobState.DOING})


def job_document(job: Job) -> Doc:
    """Return the document of a job."""
    doc: dict[str, Any] = {name: getattr(job, name) for name in _NAMES}
    doc["_id"] = job.id
    doc["state"] = job.state.value
    doc["args"] = dict(job.args)
    doc["active_key"] = job.key if job.key and job.state in _ACTIVE else None
    return doc


def job_of(doc: Doc) -> Job:
    """Return the job of a document.

    What is missing or of another type in it has its default: one odd row must not hold up the others.
    """
    state, args = doc.get("state"), doc.get("args")
    return Job(
        id=doc["_id"],
        state=JobState(state) if state in _STATES else JobState.FAILED,
        args=args if isinstance(args, dict) else {},
        **{
            name: value if isinstance(value := doc.get(name), type(default)) else default
            for name, default in _DEFAULTS.items()
        },
    )


def fresh(job: Job) -> Job:
    """The job as it is added."""
    return replace(job, state=JobState.TODO, worker="", lease_until=0, again=False)


def merged(stored: Job, new: Job) -> Job:
    """What an active job becomes when another with its key is enqueued."""
    touched = max(stored.updated_at, new.updated_at)
    if stored.state is JobState.DOING:
        return replace(stored, again=True, updated_at=touched)
    return replace(
        stored,
        run_at=min(stored.run_at, new.run_at),
        priority=max(stored.priority, new.priority),
        updated_at=touched,
    )


def claimed(stored: Job, worker: str, *, now: int, lease_ms: int) -> Job:
    """What a due job becomes when it is taken."""
    return replace(
        stored,
        state=JobState.DOING,
        worker=worker,
        lease_until=now + lease_ms,
        attempts=stored.attempts + 1,
        token=stored.token + 1,
        again=False,  # whatever was enqueued before this moment is seen by the run that begins now
        updated_at=now,
    )


def is_held(stored: Job | None, job: Job) -> bool:
    """Whether the claim that `job` stands for is still the current one."""
    return stored is not None and stored.state is JobState.DOING and stored.token == job.token


def lease_lost(job: Job) -> LeaseLost:
    """The error for a claim that is no longer the current one."""
    return LeaseLost(f"Job {job.id} was cancelled, or another worker claimed it.", job=job.id)


def settled(stored: Job, outcome: Outcome, *, now: int) -> Job:
    """What a held job becomes when its run ends."""
    free = replace(stored, worker="", lease_until=0, again=False, updated_at=now)
    match outcome:
        case Retry():
            return replace(
                free,
                state=JobState.TODO,
                run_at=min(outcome.run_at, now) if stored.again else outcome.run_at,
                attempts=stored.attempts if outcome.count else max(0, stored.attempts - 1),
                error=outcome.error,
            )
        case Done():
            ended = replace(free, state=JobState.DONE, error="")
        case Failed():
            ended = replace(free, state=JobState.FAILED, error=outcome.error)
    if stored.again:
        return replace(ended, state=JobState.TODO, run_at=now, attempts=0)
    return ended


def retried(stored: Job, *, now: int) -> Job:
    """What a job becomes when a person asks for another try.

    Raises:
        InvalidTransition: It is DONE.
    """
    match stored.state:
        case JobState.DONE:
            raise InvalidTransition(f"Job {stored.id} is done; there is nothing to retry.", job=stored.id)
        case JobState.DOING:
            return stored
        case JobState.TODO:
            return replace(stored, run_at=min(stored.run_at, now), attempts=0, updated_at=now)
        case JobState.FAILED | JobState.CANCELLED:
            return replace(
                stored, state=JobState.TODO, run_at=now, attempts=0, again=False, error="", updated_at=now
            )


def prioritized(stored: Job, *, now: int) -> Job:
    """What a waiting job becomes when it goes before all others, those that were put first before it included.

    Raises:
        InvalidTransition: It does not wait.
    """
    if stored.state is not JobState.TODO:
        raise InvalidTransition(
            f"Job {stored.id} is {stored.state}; only one that waits can go first.", job=stored.id
        )
    return replace(stored, priority=max(now, stored.priority), run_at=min(stored.run_at, now), updated_at=now)


def put_off_again(stored: Job, *, now: int, lease_ms: int) -> Job:
    """What an active job becomes that was written while the clock was ahead: what is left of its wait begins now."""
    if stored.state is JobState.TODO:
        left = max(0, stored.run_at - stored.updated_at)
        return replace(stored, run_at=min(stored.run_at, now + left), updated_at=now)
    if stored.state is JobState.DOING:
        return replace(stored, lease_until=min(stored.lease_until, now + lease_ms), updated_at=now)
    return stored


def key_taken(job: Job) -> InvalidTransition:
    """The error for a retry whose key another active job has."""
    return InvalidTransition(
        f"Job {job.id} cannot be retried: the same work is already under way.", job=job.id
    )


def cancelled(stored: Job, *, now: int) -> Job:
    """What a job becomes when a person stops it.

    Raises:
        InvalidTransition: It is DONE.
    """
    if stored.state is JobState.DONE:
        raise InvalidTransition(f"Job {stored.id} is done; there is nothing to cancel.", job=stored.id)
    if stored.state is JobState.CANCELLED:
        return stored
    return replace(stored, state=JobState.CANCELLED, worker="", lease_until=0, again=False, updated_at=now)


def prolonged(stored: Job, until: int) -> Job:
    """A held job with a longer lease."""
    return replace(stored, lease_until=until)
