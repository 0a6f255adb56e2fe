"""What is written when a package shall be brought here: a transfer, which people see, and a job, which does it."""

import secrets

from appliance.domain.job import Job
from appliance.domain.manifest import chunk_count
from appliance.domain.package import Package
from appliance.domain.states import TransferState
from appliance.store.ports import Doc

FETCH_JOB = "transfer.fetch"
FETCH_SMALL_JOB = "transfer.fetch_small"
STOPPED = frozenset({TransferState.STALLED, TransferState.FAILED})
SMALL = 8 * 1024 * 1024  #: bytes; packages of at most so many are brought several in one run


def fetch_job(view: Package, now: int) -> Job:
    """The job that brings a package here; one at a time for each package."""
    small = view.body.size <= SMALL
    return Job(
        id=secrets.token_hex(12),
        queue="small" if small else "transfer",
        name=FETCH_SMALL_JOB if small else FETCH_JOB,
        args={"package": view.id},
        key=f"fetch:{view.id}",
        run_at=now,
        created_at=now,
    )


def transfer_id(package: str, sha256: str) -> str:
    """The id of the transfer of these bytes of a package; also the name of its partial file."""
    return f"{package}-{sha256[:16]}"


def put_off(transfer: Doc | None, now: int) -> bool:
    """Whether a transfer stopped because no source can give what is right; it states when it is looked at again."""
    return transfer is not None and transfer["state"] in STOPPED and bool(transfer.get("retry_at", 0) > now)


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
        "attempts": 0,
        "started_at": now,
        "updated_at": now,
    }
