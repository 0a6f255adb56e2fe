"""The states of jobs, transfers and peers, and which may follow which."""

from collections.abc import Mapping
from enum import StrEnum

from .errors import InvalidTransition


class JobState(StrEnum):
    """A job's life."""

    TODO = "todo"  #: waits for its time and a free worker
    DOING = "doing"  #: claimed under a lease; claimable again when the lease ends
    DONE = "done"  #: succeeded
    FAILED = "failed"  #: gave up after its last attempt; can be retried by hand
    CANCELLED = "cancelled"  #: stopped by a person


class TransferState(StrEnum):
    """The life of bringing one package here."""

    PENDING = "pending"  #: record known, job enqueued
    FETCHING = "fetching"  #: chunks arrive
    VERIFYING = "verifying"  #: all chunks are in; the whole-file hashes are checked
    #: a source, the disk or the record fails, and `error` says what: goes on with the next attempt of its job, at
    #: `retry_at`, or when there is a new source
    STALLED = "stalled"
    DONE = "done"  #: published here
    FAILED = "failed"  #: its job failed for the last time; begins again after an hour, or by hand
    CANCELLED = "cancelled"  #: no longer wanted, or stopped by a person


class PeerState(StrEnum):
    """A registration's life."""

    PENDING = "pending"  #: one side has asked; the other has not confirmed
    ACTIVE = "active"  #: both sides confirmed that they can call each other
    LEAVING = "leaving"  #: removed here; the peer has not been told yet


#: the steps of a transfer that a job works on; what becomes of one without a job, `service.fetch_jobs` decides
TRANSFER_STEPS: Mapping[TransferState, frozenset[TransferState]] = {
    TransferState.PENDING: frozenset(
        {TransferState.FETCHING, TransferState.STALLED, TransferState.FAILED, TransferState.CANCELLED}
    ),
    TransferState.FETCHING: frozenset(
        {
            TransferState.PENDING,
            TransferState.VERIFYING,
            TransferState.STALLED,
            TransferState.FAILED,
            TransferState.CANCELLED,
        }
    ),
    TransferState.VERIFYING: frozenset(
        {
            TransferState.PENDING,
            TransferState.FETCHING,
            TransferState.STALLED,
            TransferState.DONE,
            TransferState.FAILED,
            TransferState.CANCELLED,
        }
    ),
    TransferState.STALLED: frozenset(
        {TransferState.PENDING, TransferState.FETCHING, TransferState.FAILED, TransferState.CANCELLED}
    ),
    TransferState.FAILED: frozenset({TransferState.PENDING, TransferState.CANCELLED}),
    TransferState.CANCELLED: frozenset({TransferState.PENDING}),
    TransferState.DONE: frozenset(),
}


def advance(current: TransferState, new: TransferState) -> TransferState:
    """Return `new` if it may follow `current`; staying is always allowed.

    Raises:
        InvalidTransition: It may not.
    """
    if new is not current and new not in TRANSFER_STEPS[current]:
        raise InvalidTransition(f"A transfer that is {current} cannot become {new}.")
    return new
