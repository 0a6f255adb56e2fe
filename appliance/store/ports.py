"""What a metadata store does: one narrow port, two implementations, one contract suite over both.

All documents are dictionaries with a string `_id`; what is returned was stored, types included, after a BSON
round trip, and carries `_rev`, an int that counts the document's writes from 1. Filters name declared fields
only (`schema.COLLECTIONS`, and `_id`): `{"state": "todo"}`, or an operator: `{"at": {"gte": 5}}` with `in,
lt, lte, gt, gte, ne, prefix`. A field that is missing counts as None; `ne` matches None, the comparisons
never do. Times are UTC milliseconds and come from the caller. A write that returned survives `kill -9` and a
power cut.

Every method may raise `StoreUnavailable` when the database does not answer; whether a write that raised it
was done is then unknown. A caller's mistake (an undeclared field, a value of another type than declared, a
naive datetime, more than 16 MB) is a `ValueError`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from appliance.domain.job import Job

from .feed import Feed

Doc = dict[str, Any]
Where = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Insert:
    """Add a document; `DuplicateKey` if its id or a unique field exists."""

    collection: str
    doc: Doc


@dataclass(frozen=True, slots=True)
class Replace:
    """Write a whole document.

    With `expect` the stored `_rev` must equal it (0: must not exist yet), else `StaleRevision`. Without it
    the document is written whether it exists or not.
    """

    collection: str
    doc: Doc
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class Remove:
    """Delete a document: if it is there, or, where a revision is expected, only in that revision."""

    collection: str
    id: str
    expect: int | None = None


@dataclass(frozen=True, slots=True)
class Enqueue:
    """Add a job; see `Store.enqueue`."""

    job: Job


Operation = Insert | Replace | Remove | Enqueue


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The job succeeded. If it was enqueued again meanwhile, it becomes TODO at once with attempts 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """The job waits and runs again; at once if it was enqueued again meanwhile."""

    run_at: int  #: UTC milliseconds
    error: str = ""
    count: bool = True  #: False gives the attempt back: the node stopped, or lacked something


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The job gave up. If it was enqueued again meanwhile, it becomes TODO at once with attempts 0."""

    error: str


Outcome = Done | Retry | Failed


class Snapshot(Protocol):
    """Everything as it was at one moment."""

    def export(self, collection: str) -> AsyncIterator[Doc]:
        """All documents of a collection with their `_rev`, in order of `_id`."""

    async def last_sequence(self, collection: str) -> int:
        """As `Store.last_sequence`."""


class Store(Protocol):
    """The metadata store."""

    async def insert(self, collection: str, doc: Doc) -> Doc:
        """Add a document and return it as stored.

        Raises:
            DuplicateKey: Its id or a unique field exists.
        """

    async def get(self, collection: str, id: str) -> Doc | None:
        """Return a document or None."""

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        order: str = "_id",
        descending: bool = False,
        limit: int = 100,
        after: tuple[Any, str] | None = None,
    ) -> list[Doc]:
        """Return up to `limit` documents, ordered by (`order`, `_id`).

        Args:
            collection: Its name.
            where: The filter; all parts must hold.
            order: A declared field or `_id`.
            descending: Turn the order around (both parts).
            limit: At most this many.
            after: Continue behind the document with this (value of `order`, `_id`).
        """

    async def count(self, collection: str, where: Where | None = None) -> int:
        """How many documents match."""

    async def replace(self, collection: str, doc: Doc, *, expect: int | None = None) -> Doc:
        """Write a whole document as the `Replace` operation does and return it as stored.

        Raises:
            StaleRevision: `expect` does not hold.
            DuplicateKey: A unique field exists on another document.
        """

    async def delete(self, collection: str, where: Where) -> int:
        """Delete what matches (`{"_id": ...}` is allowed); return how many."""

    async def batch(self, operations: Sequence[Operation]) -> list[Doc | None]:
        """Do all operations or none.

        Returns:
            For each operation the stored document (Enqueue: the job's), or None for Remove.

        Raises:
            DuplicateKey: As for insert; nothing was written.
            StaleRevision: As for replace; nothing was written.
        """

    async def enqueue(self, job: Job) -> bool:
        """Add a job in state TODO.

        If another active job has the same key nothing is added: a TODO job keeps the earlier `run_at` and the
        higher priority of the two; a DOING one is marked to run once more when it is done, with the new
        arguments' job otherwise dropped.

        Returns:
            Whether a new job was added.
        """

    async def claim(self, queue: str, worker: str, *, now: int, lease_ms: int, limit: int = 1) -> list[Job]:
        """Take up to `limit` jobs that are due: TODO with `run_at` reached, or DOING with an ended lease.

        Highest priority first, then earliest `run_at`. Each is DOING afterwards, with this worker, a new
        lease, one attempt more and a token one higher. No job is given to two claimers.
        """

    async def extend(self, jobs: Sequence[Job], *, until: int) -> list[str]:
        """Prolong the leases of jobs that are still held; return the ids of those that are not.

        A cancelled job is not held.
        """

    async def settle(self, job: Job, outcome: Outcome, *, now: int) -> Job:
        """Record how a claimed job ended.

        Raises:
            LeaseLost: Another worker claimed it since, or it was cancelled.
        """

    async def retry_job(self, id: str, *, now: int) -> Job:
        """Make a FAILED or CANCELLED job TODO again with attempts 0.

        One that waits runs now, one that runs goes on.

        Raises:
            JobUnknown: There is none of this id.
            InvalidTransition: It is DONE, or another active job has its key.
        """

    async def cancel_job(self, id: str, *, now: int) -> Job:
        """Make a TODO, DOING or FAILED job CANCELLED.

        Who holds its lease learns it from `extend` or `settle`.

        Raises:
            JobUnknown: There is none of this id.
            InvalidTransition: It is DONE.
        """

    async def prioritize_job(self, id: str, *, now: int) -> Job:
        """Let a TODO job go before all others of its queue, now.

        Raises:
            JobUnknown: There is none of this id.
            InvalidTransition: It does not wait.
        """

    async def put_off_again(self, id: str, *, now: int, lease_ms: int) -> Job:
        """Count the wait or the lease of an active job from now: it was written while the clock was ahead.

        One that has ended stays as it is.

        Raises:
            JobUnknown: There is none of this id.
        """

    async def get_job(self, id: str) -> Job | None:
        """Return a job or None."""

    async def find_jobs(
        self, where: Where | None = None, *, limit: int = 100, after: tuple[Any, str] | None = None
    ) -> list[Job]:
        """Return jobs, the last changed first (keyset on (`updated_at`, id), descending)."""

    async def purge(self, *, now: int) -> int:
        """Delete documents whose expiry has passed; return how many."""

    async def last_sequence(self, collection: str) -> int:
        """The highest number given in this collection, 0 before the first."""

    async def changed(self, collection: str, seen: int, *, timeout: float) -> int:
        """Wait until the collection may have changed since the count `seen`, at most `timeout` seconds.

        To miss nothing: ask for the count (time-out 0), read the collection, then wait with that count.

        Returns:
            A count to pass next time. Changes by this process show at once, by others within half a second.
            A count that differs does not promise a change; an equal one after the time-out promises none.
        """

    async def feed(self) -> Feed:
        """The change feed's id, and up to which number its earlier ids still hold; read from the database each time."""

    async def renew_feed(self, *, forget: bool = False) -> Feed:
        """Give the change feed a new id, which every process of this store sees from then on.

        Numbers of `records` up to the last one stay good under the id that they were given under; with `forget` no
        number of an earlier id does.
        """

    async def sums(self, collection: str, field: str, *, low_bits: int) -> dict[int, tuple[int, int]]:
        """Count documents, and add up a declared int field, from its index alone.

        Args:
            collection: Its name.
            field: Documents without it, or with a negative value, are left out.
            low_bits: Documents whose values differ in these bits only are counted together.

        Returns:
            By the value without its low bits (shifted): how many documents, and the sum of their low bits.
        """

    async def values(self, collection: str, field: str, *, first: int, end: int, limit: int) -> list[int]:
        """The values of a declared int field from `first` up to before `end`, in order, at most `limit` of them."""

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view for an export that does not see writes made meanwhile."""

    async def load(self, collection: str, docs: Sequence[Doc]) -> None:
        """Write documents exactly as exported, `_rev` and sequence numbers included."""

    async def rewrite(self, collection: str, docs: Sequence[Doc]) -> int:
        """Write documents again that were read from here and completed; for `migrations`.

        `_rev` and sequence numbers stay as they are, so nobody takes them for news. A document that somebody else
        wrote meanwhile is left alone.

        Returns:
            How many were written.
        """

    async def restore_meta(self, feed: Feed, sequences: Mapping[str, int]) -> None:
        """Take over a feed, and the last sequence numbers of an exported store, after `load`."""

    async def schema_version(self) -> int:
        """The version of `schema` that the documents follow."""

    async def set_schema_version(self, version: int) -> None:
        """Record that the documents follow this version; for `migrations` alone."""

    async def ping(self) -> None:
        """Return if the store works.

        Raises:
            StoreUnavailable: It does not.
        """

    async def close(self) -> None:
        """Finish all writes and let go."""
