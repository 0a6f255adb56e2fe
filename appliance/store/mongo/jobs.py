"""The job queue's operations. Every change is a compare-and-set, so workers in several processes agree."""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import replace

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError
from pymongo.read_concern import ReadConcern

from appliance.domain.errors import DuplicateKey, JobUnknown, StoreUnavailable
from appliance.domain.job import Job
from appliance.domain.states import JobState
from appliance.store import queue
from appliance.store.ports import Doc, Outcome
from appliance.store.schema import JOBS

from .documents import Database, Session, duplicate, insert, prepare

_ROUNDS = 200  #: of a compare-and-set; more means that something is wrong


class MongoQueue:
    """Jobs in a database. Raises the driver's errors, which the store translates."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._jobs = database[JOBS.name]
        # What is compared is what was written last, even if the majority has yet to follow.
        self._latest = self._jobs.with_options(read_concern=ReadConcern("local"))

    async def enqueue(self, job: Job, session: Session = None) -> tuple[Doc, bool]:
        """Add a job or merge it into the active one with its key; say whether it was added."""
        new = prepare(JOBS, queue.job_document(queue.fresh(job)))
        for number in range(_ROUNDS):
            stored = await self._find({"active_key": job.key}, session) if job.key else None
            if stored is not None:
                saved = await self._swap(stored, queue.merged(queue.job_of(stored), job), session)
                if saved is not None:
                    return saved, False
            else:
                try:
                    return await insert(self._database, JOBS, new, session), True
                except DuplicateKey as exc:
                    # In a transaction this has ended it; outside, another enqueue was faster.
                    if exc.details["field"] == "_id" or session is not None:
                        raise
            await _pause(number)
        raise _contended()

    async def claim(self, queue_name: str, worker: str, *, now: int, lease_ms: int, limit: int) -> list[Job]:
        """Take due jobs, one at a time."""
        due = {
            "$or": [
                {"queue": queue_name, "state": JobState.TODO.value, "run_at": {"$lte": now}},
                {"queue": queue_name, "state": JobState.DOING.value, "lease_until": {"$lte": now}},
            ]
        }
        change = {
            "$set": {
                "state": JobState.DOING.value,
                "worker": worker,
                "lease_until": now + lease_ms,
                "again": False,
                "updated_at": now,
            },
            "$inc": {"attempts": 1, "token": 1, "_rev": 1},
        }
        taken: list[Job] = []
        while len(taken) < limit:
            doc = await self._jobs.find_one_and_update(
                due,
                change,
                sort=[("priority", -1), ("run_at", 1), ("_id", 1)],
                return_document=ReturnDocument.AFTER,
            )
            if doc is None:
                break
            taken.append(queue.job_of(doc))
        return taken

    async def extend(self, jobs: Sequence[Job], *, until: int) -> list[str]:
        """Prolong leases; return the ids of lost ones."""
        outcomes = await asyncio.gather(
            *(
                self._jobs.update_one(
                    {"_id": job.id, "state": JobState.DOING.value, "token": job.token},
                    {"$set": {"lease_until": until}, "$inc": {"_rev": 1}},
                )
                for job in jobs
            )
        )
        return [job.id for job, outcome in zip(jobs, outcomes, strict=True) if not outcome.matched_count]

    async def settle(self, job: Job, outcome: Outcome, *, now: int) -> Job:
        """Record the end of a run."""
        quick = await self._settle_quickly(job, outcome, now)
        if quick is not None:
            return quick
        for number in range(_ROUNDS):
            stored = await self._find({"_id": job.id}, None)
            if stored is None or not queue.is_held(queue.job_of(stored), job):
                raise queue.lease_lost(job)
            settled = queue.settled(queue.job_of(stored), outcome, now=now)
            if await self._swap(stored, settled, None) is not None:
                return settled
            await _pause(number)
        raise _contended()

    async def change_job(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Apply a person's wish to a job."""
        for number in range(_ROUNDS):
            stored = await self._find({"_id": id}, None)
            if stored is None:
                raise JobUnknown(f"There is no job {id}.", job=id)
            job = queue.job_of(stored)
            changed = change(job)
            if changed == job:
                return job
            try:
                if await self._swap(stored, changed, None) is not None:
                    return changed
            except DuplicateKey as exc:
                raise queue.key_taken(job) from exc
            await _pause(number)
        raise _contended()

    async def _settle_quickly(self, job: Job, outcome: Outcome, now: int) -> Job | None:
        # A held job differs from what was claimed by its lease and by `again` only, and the latter is mostly unset.
        settled = queue.settled(replace(job, again=False), outcome, now=now)
        content = queue.job_document(settled)
        del content["_id"]
        changed = await self._jobs.update_one(
            {"_id": job.id, "state": JobState.DOING.value, "token": job.token, "again": False},
            {"$set": content, "$inc": {"_rev": 1}},
        )
        return settled if changed.matched_count else None

    async def _find(self, query: Doc, session: Session) -> Doc | None:
        # In a transaction the read concern is the transaction's.
        jobs = self._latest if session is None else self._jobs
        return await jobs.find_one(query, session=session)

    async def _swap(self, stored: Doc, job: Job, session: Session) -> Doc | None:
        """Write a job if nobody has since; return the document or None."""
        doc = {**queue.job_document(job), "_rev": stored["_rev"] + 1}
        try:
            outcome = await self._jobs.replace_one(
                {"_id": job.id, "_rev": stored["_rev"]}, doc, session=session
            )
        except DuplicateKeyError as exc:
            raise duplicate(exc, JOBS, doc) from exc
        return doc if outcome.matched_count else None


async def _pause(number: int) -> None:
    await asyncio.sleep(random.uniform(0, min(0.001 * (number + 1), 0.05)))


def _contended() -> StoreUnavailable:
    return StoreUnavailable("A job is changed by too many at once.")
