"""What is written about a package that is to be fetched: a transfer, which people see, and a job, which does it.

The liveness rule: whatever is wanted here and not here has an active job, or a stated reason with a time at which it is
looked at again. A transfer without a job is no state: `follow` is asked at every change and at every reconciliation,
and names the job that is missing or the end that a transfer has come to.
"""

from dataclasses import dataclass

from appliance.domain.holding import Action, Decision
from appliance.domain.job import Job
from appliance.domain.manifest import chunk_count
from appliance.domain.moment import too_early
from appliance.domain.package import Package, Presence
from appliance.domain.states import JobState, TransferState
from appliance.jobs.new import new_job
from appliance.store.ports import Doc

FETCH_JOB = "transfer.fetch"
FETCH_SMALL_JOB = "transfer.fetch_small"
FETCH_JOBS = (FETCH_JOB, FETCH_SMALL_JOB)
SMALL = 8 * 1024 * 1024  #: bytes; packages of at most so many are brought several in one run
RESTART_MS = 3_600_000  #: a transfer that failed is begun again after this, and none is put off for longer
UNBEGUN_MS = 5_000  #: a transfer that is fetched is written every second
UNWANTED = "no longer wanted"

_UNDER_WAY = {TransferState.PENDING, TransferState.FETCHING, TransferState.VERIFYING}
_RUNNING = {TransferState.FETCHING, TransferState.VERIFYING}
STOPPED = {TransferState.STALLED, TransferState.FAILED}


def fetch_job(view: Package, now: int) -> Job:
    """The job that brings a package here; one at a time for each transfer."""
    small = view.body.size <= SMALL
    return new_job(
        "small" if small else "transfer",
        FETCH_SMALL_JOB if small else FETCH_JOB,
        now,
        key=fetch_key(transfer_id(view.id, view.body.sha256)),
        args={"package": view.id, "sha256": view.body.sha256},
    )


def transfer_id(package: str, sha256: str) -> str:
    """The id of the transfer of these bytes of a package; also the name of its partial file."""
    return f"{package}-{sha256[:16]}"


def fetch_key(transfer: str) -> str:
    """The key of the job of a transfer."""
    return f"fetch:{transfer}"


def put_off(transfer: Doc | None, now: int) -> bool:
    """Whether a transfer stopped because no source can give what is right; it states when it is looked at again."""
    if transfer is None or transfer["state"] not in STOPPED:
        return False
    return too_early(int(transfer.get("retry_at", 0)), now, RESTART_MS)


def new_transfer_doc(view: Package, now: int) -> Doc:
    """The document of a transfer that has not begun."""
    return {
        "_id": transfer_id(view.id, view.body.sha256),
        "package": view.id,
        "filename": view.body.filename,
        "sha256": view.body.sha256,
        "size": view.body.size,
        "state": str(TransferState.PENDING),
        "bytes_done": 0,
        "chunks_done": 0,
        "chunks": chunk_count(view.body.size),
        "rate": 0.0,
        "sources": [],
        "error": "",
        "retry_at": 0,
        "cancelled_by": "",
        "attempts": 0,
        "moved_at": 0,  # when bytes came last
        "failed_at": 0,  # when it failed last, and began again
        "started_at": now,
        "updated_at": now,
    }


def restarted_doc(transfer: Doc, view: Package, now: int) -> Doc:
    """The document of a transfer that begins again: that is no news of its bytes, nor of its author.

    One that was cancelled begins as a new one does: nobody waited for it.
    """
    doc = new_transfer_doc(view, now) | {"retry_at": transfer.get("retry_at", 0)}
    if transfer["state"] == TransferState.CANCELLED:
        return doc
    failed = transfer["state"] == TransferState.FAILED
    doc["failed_at"] = transfer["updated_at"] if failed else transfer.get("failed_at", 0)
    return doc | {name: transfer.get(name, 0) for name in ("moved_at", "started_at")}


def cancelled_by_person(transfer: Doc | None) -> bool:
    """Whether a person stopped a transfer: it then waits for a person, and for nothing else."""
    if transfer is None or transfer["state"] != TransferState.CANCELLED:
        return False
    # A document of before has the person in its words only.
    return bool(transfer.get("cancelled_by")) or transfer["error"].startswith("cancelled by ")


def running(transfer: Doc | None) -> bool:
    """Whether a job should be at work on it."""
    return transfer is not None and transfer["state"] in _RUNNING


def retry_time(transfer: Doc | None) -> int:
    """When a transfer that stopped may begin again, UTC milliseconds; 0: at any time."""
    if transfer is None or transfer["state"] not in STOPPED:
        return 0
    wait = int(transfer.get("retry_at", 0))
    return (
        max(wait, transfer["updated_at"] + RESTART_MS) if transfer["state"] == TransferState.FAILED else wait
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What has to be written about a transfer."""

    transfer: Doc | None = None
    enqueue: bool = False


def follow(
    decision: Decision, view: Package, transfer: Doc | None, job: Job | None, *, at_once: bool, now: int
) -> Step:
    """What becomes of a package's transfer, so that it has a job or an end.

    Args:
        decision: What was decided about the package.
        view: The package.
        transfer: The transfer of its newest bytes, if there is or was one.
        job: The active job of that transfer, if there is one. It may be left out where `needs_job` says no.
        at_once: Whether a transfer that stopped begins again now: a source may be back.
        now: UTC milliseconds.
    """
    if decision.action is Action.FETCH:
        return _wanted(view, transfer, job, at_once=at_once, now=now)
    if transfer is None or transfer["state"] == TransferState.DONE:
        return Step()
    if decision.presence is Presence.HELD:
        whole = {"bytes_done": transfer["size"], "chunks_done": transfer["chunks"]}
        return Step(transfer={**_ended(transfer, TransferState.DONE, "", now), **whole})
    if decision.presence in {Presence.WITHDRAWN, Presence.NOT_ADMITTED}:
        if transfer["state"] == TransferState.CANCELLED and not cancelled_by_person(transfer):
            return Step()
        return Step(transfer=_ended(transfer, TransferState.CANCELLED, UNWANTED, now))
    if transfer["state"] == TransferState.PENDING or (running(transfer) and job is None):
        return Step(transfer=_ended(transfer, TransferState.STALLED, decision.reason, now))
    return Step()


def needs_job(decision: Decision, transfer: Doc | None) -> bool:
    """Whether `follow` has to know the active job."""
    if transfer is None:
        return False
    if decision.action is Action.FETCH:
        return transfer["state"] in _UNDER_WAY | STOPPED
    return running(transfer)


def _wanted(view: Package, transfer: Doc | None, job: Job | None, *, at_once: bool, now: int) -> Step:
    if transfer is None or transfer["state"] in {TransferState.DONE, TransferState.CANCELLED}:
        return Step(transfer=new_transfer_doc(view, now), enqueue=True)
    if transfer["state"] == TransferState.PENDING:
        if job is None:
            return Step(enqueue=True)
        # A worker may have found a moment ago that it was not wanted: it looks once more.
        unbegun = job.state is JobState.DOING and not too_early(
            transfer["updated_at"] + UNBEGUN_MS + 1, now, UNBEGUN_MS
        )
        return Step(enqueue=unbegun)
    if running(transfer):
        return Step() if job is not None else _again(transfer, now)
    if put_off(transfer, now):
        return Step()
    if not at_once and (job is not None or too_early(retry_time(transfer), now, RESTART_MS)):
        return Step()  # it goes on when its job does, or at its time
    if transfer["state"] == TransferState.FAILED:
        return Step(transfer=restarted_doc(transfer, view, now), enqueue=True)
    return _again(transfer, now)


def _again(transfer: Doc, now: int) -> Step:
    """What is verified stays, and so does the count of attempts."""
    doc = {**transfer, "state": str(TransferState.PENDING), "rate": 0.0, "updated_at": now}
    return Step(transfer=doc, enqueue=True)


def _ended(transfer: Doc, state: TransferState, error: str, now: int) -> Doc:
    return {
        **transfer,
        "state": str(state),
        "error": error,
        "cancelled_by": "",
        "rate": 0.0,
        "updated_at": now,
    }
