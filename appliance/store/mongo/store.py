"""The port's operations on MongoDB."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from bson.int64 import Int64
from motor.motor_asyncio import AsyncIOMotorClientSession
from pymongo import ReplaceOne
from pymongo.errors import PyMongoError

from appliance.domain.errors import ApplianceError, StaleRevision, StoreUnavailable
from appliance.domain.job import Job
from appliance.store import queue as rules
from appliance.store.changes import Changes
from appliance.store.documents import collection_of
from appliance.store.feed import Feed
from appliance.store.filters import conditions, field_type, int_field
from appliance.store.ports import Doc, Enqueue, Insert, Operation, Outcome, Remove, Replace, Snapshot, Where
from appliance.store.schema import COLLECTIONS, JOBS, RECORDS, Collection

from . import documents
from .connection import META, META_ID, SELECT_S, Client, index_of, make_client, prepare_database
from .documents import SEQUENCES, Database
from .errors import translate, translated
from .jobs import MongoQueue
from .queries import behind, matching
from .snapshot import snapshot
from .transactions import Transactions
from .watching import Watch

_Step = Callable[[AsyncIOMotorClientSession], Awaitable[Doc | None]]


class MongoStore:
    """A metadata store in MongoDB; see `ports.Store` for what each method promises."""

    def __init__(self, client: Client, database: Database) -> None:
        """Use `open_mongo`."""
        self._client = client
        self._database = database
        self._queue = MongoQueue(database)
        self._transactions = Transactions(client)
        self._watch = Watch(database)
        self._changes = Changes(self._watch.foreign)

    async def note_writes(self) -> None:
        """Take what is there as known: `changed` tells of what comes after."""
        await self._watch.foreign()

    async def insert(self, collection: str, doc: Doc) -> Doc:
        """Add a document."""
        declared = collection_of(collection)
        content = documents.prepare(declared, doc)
        return await self._write(
            declared, lambda session: documents.insert(self._database, declared, content, session)
        )

    async def get(self, collection: str, id: str) -> Doc | None:
        """Return a document or None."""
        with translated():
            return await self._database[collection_of(collection).name].find_one({"_id": id})

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
        """Return a page of documents."""
        declared = collection_of(collection)
        query = matching(conditions(declared, where))
        field_type(declared, order)
        if limit <= 0:
            return []
        position = behind(order, descending, after)
        if position:
            query = {"$and": [query, position]} if query else position
        direction = -1 if descending else 1
        sort = [("_id", direction)] if order == "_id" else [(order, direction), ("_id", direction)]
        with translated():
            cursor = self._database[declared.name].find(query, sort=sort, limit=limit, batch_size=limit + 1)
            return await cursor.to_list(None)

    async def count(self, collection: str, where: Where | None = None) -> int:
        """How many documents match."""
        declared = collection_of(collection)
        query = matching(conditions(declared, where))
        with translated():
            return await self._database[declared.name].count_documents(query)

    async def replace(self, collection: str, doc: Doc, *, expect: int | None = None) -> Doc:
        """Write a whole document."""
        declared = collection_of(collection)
        content = documents.prepare(declared, doc)
        return await self._write(
            declared, lambda session: documents.replace(self._database, declared, content, expect, session)
        )

    async def delete(self, collection: str, where: Where) -> int:
        """Delete what matches."""
        return await self._delete(collection_of(collection), where)

    async def batch(self, operations: Sequence[Operation]) -> list[Doc | None]:
        """Do all operations or none."""
        steps = [self._step(operation) for operation in operations]
        touched = {_collection(operation).name for operation in operations}

        async def work(session: AsyncIOMotorClientSession) -> list[Doc | None]:
            return [await step(session) for step in steps]

        done = await self._transactions.run(
            work, sequences=any(COLLECTIONS[name].sequence for name in touched)
        )
        self._changes.bump(touched)
        return done

    async def enqueue(self, job: Job) -> bool:
        """Add a job."""
        with translated():
            _, added = await self._queue.enqueue(job)
        self._changes.bump([JOBS.name])
        return added

    async def claim(self, queue: str, worker: str, *, now: int, lease_ms: int, limit: int = 1) -> list[Job]:
        """Take due jobs."""
        with translated():
            taken = await self._queue.claim(queue, worker, now=now, lease_ms=lease_ms, limit=limit)
        if taken:
            self._changes.bump([JOBS.name])
        return taken

    async def extend(self, jobs: Sequence[Job], *, until: int) -> list[str]:
        """Prolong leases."""
        with translated():
            lost = await self._queue.extend(jobs, until=until)
        if len(lost) < len(jobs):
            self._changes.bump([JOBS.name])
        return lost

    async def settle(self, job: Job, outcome: Outcome, *, now: int) -> Job:
        """Record how a claimed job ended."""
        with translated():
            settled = await self._queue.settle(job, outcome, now=now)
        self._changes.bump([JOBS.name])
        return settled

    async def retry_job(self, id: str, *, now: int) -> Job:
        """Make a job TODO again."""
        return await self._change_job(id, lambda job: rules.retried(job, now=now))

    async def cancel_job(self, id: str, *, now: int) -> Job:
        """Make a job CANCELLED."""
        return await self._change_job(id, lambda job: rules.cancelled(job, now=now))

    async def prioritize_job(self, id: str, *, now: int) -> Job:
        """Let a TODO job go before all others."""
        return await self._change_job(id, lambda job: rules.prioritized(job, now=now))

    async def put_off_again(self, id: str, *, now: int, lease_ms: int) -> Job:
        """Count the wait or the lease of an active job from now."""
        return await self._change_job(id, lambda job: rules.put_off_again(job, now=now, lease_ms=lease_ms))

    async def get_job(self, id: str) -> Job | None:
        """Return a job or None."""
        doc = await self.get(JOBS.name, id)
        return rules.job_of(doc) if doc else None

    async def find_jobs(
        self, where: Where | None = None, *, limit: int = 100, after: tuple[Any, str] | None = None
    ) -> list[Job]:
        """Return jobs, the last changed first."""
        docs = await self.find(
            JOBS.name, where, order="updated_at", descending=True, limit=limit, after=after
        )
        return [rules.job_of(doc) for doc in docs]

    async def purge(self, *, now: int) -> int:
        """Delete what has expired."""
        expiring = [each for each in COLLECTIONS.values() if each.expires]
        return sum([await self._delete(each, {each.expires: {"lte": now}}) for each in expiring])

    async def last_sequence(self, collection: str) -> int:
        """The highest number given."""
        with translated():
            found = await self._database[SEQUENCES].find_one({"_id": collection_of(collection).name})
        return int(found["last"]) if found else 0

    async def changed(self, collection: str, seen: int, *, timeout: float) -> int:
        """Wait until the collection may have changed."""
        return await self._changes.wait(collection, seen, timeout)

    async def feed(self) -> Feed:
        """The change feed's id."""
        with translated():
            meta = await self._database[META].find_one({"_id": META_ID})
        return _feed(meta or {})

    async def renew_feed(self, *, forget: bool = False) -> Feed:
        """Give the change feed a new id."""
        while True:
            old = await self.feed()
            # Read before the id is replaced: what is written meanwhile is then read twice, never missed.
            feed = Feed() if forget else old.renewed(await self.last_sequence(RECORDS.name))
            with translated():
                outcome = await self._database[META].update_one(
                    {"_id": META_ID, "feed": old.id}, {"$set": _feed_fields(feed)}
                )
            if outcome.matched_count:
                return feed

    async def sums(self, collection: str, field: str, *, low_bits: int) -> dict[int, tuple[int, int]]:
        """Count documents and add up a field."""
        declared = collection_of(collection)
        int_field(declared, field)
        value, size = f"${field}", 1 << low_bits
        low: dict[str, Any] = {"$mod": [value, Int64(size)]}
        group = {"_id": {"$subtract": [value, low]}, "count": {"$sum": 1}, "sum": {"$sum": low}}
        with translated():
            cursor = self._database[declared.name].aggregate(
                # The condition and the hint let the index answer alone.
                [{"$match": {field: {"$gte": 0}}}, {"$group": group}],
                hint=index_of(field),
                allowDiskUse=True,
            )
            return {
                int(found["_id"]) >> low_bits: (int(found["count"]), int(found["sum"]))
                async for found in cursor
            }

    async def values(self, collection: str, field: str, *, first: int, end: int, limit: int) -> list[int]:
        """The values of a field in a range."""
        declared = collection_of(collection)
        int_field(declared, field)
        if limit <= 0:
            return []
        with translated():
            cursor = self._database[declared.name].find(
                {field: {"$gte": first, "$lt": end}},
                {"_id": False, field: True},
                sort=[(field, 1)],
                limit=limit,
                batch_size=limit + 1,
                hint=index_of(field),
            )
            return [found[field] async for found in cursor]

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view that does not see later writes."""
        return snapshot(self._client, self._database)

    async def load(self, collection: str, docs: Sequence[Doc]) -> None:
        """Write documents exactly as exported."""
        declared = collection_of(collection)
        for doc in docs:
            documents.prepare(declared, doc)
        if docs:
            with translated():
                await self._database[declared.name].insert_many([dict(doc) for doc in docs])
            self._changes.bump([declared.name])

    async def rewrite(self, collection: str, docs: Sequence[Doc]) -> int:
        """Write documents again, with their `_rev` and sequence numbers."""
        declared = collection_of(collection)
        writes = []
        for doc in docs:
            content = {**documents.prepare(declared, doc), "_rev": doc["_rev"]}
            if declared.sequence:
                content[declared.sequence] = doc[declared.sequence]
            writes.append(ReplaceOne({"_id": doc["_id"], "_rev": doc["_rev"]}, content))
        if not writes:
            return 0
        with translated():
            outcome = await self._database[declared.name].bulk_write(writes, ordered=False)
        self._changes.bump([declared.name])
        return int(outcome.matched_count)

    async def restore_meta(self, feed: Feed, sequences: Mapping[str, int]) -> None:
        """Take over feed and sequence numbers."""
        with translated():
            await self._database[META].update_one({"_id": META_ID}, {"$set": _feed_fields(feed)})
            for name, last in sequences.items():
                await self._database[SEQUENCES].update_one(
                    {"_id": collection_of(name).name}, {"$set": {"last": last}}, upsert=True
                )

    async def schema_version(self) -> int:
        """The schema version of the documents."""
        with translated():
            meta = await self._database[META].find_one({"_id": META_ID})
        return int(meta["version"]) if meta else 0

    async def set_schema_version(self, version: int) -> None:
        """Record the schema version."""
        with translated():
            await self._database[META].update_one({"_id": META_ID}, {"$set": {"version": version}})

    async def ping(self) -> None:
        """Return if the primary answers."""
        try:
            await asyncio.wait_for(self._client.admin.command("ping"), SELECT_S)
        except PyMongoError as exc:
            raise translate(exc) from exc
        except TimeoutError as exc:
            raise StoreUnavailable("MongoDB does not answer.") from exc

    async def close(self) -> None:
        """Finish all transactions and disconnect."""
        await self._changes.close()
        with contextlib.suppress(TimeoutError):  # one that hangs was not acknowledged
            await asyncio.wait_for(self._transactions.close(), SELECT_S)
        self._client.close()

    async def _write(
        self, collection: Collection, work: Callable[[documents.Session], Awaitable[Doc]]
    ) -> Doc:
        if collection.sequence:
            written = await self._transactions.run(work, sequences=True)
        else:
            with translated():
                written = await work(None)
        self._changes.bump([collection.name])
        return written

    async def _delete(self, collection: Collection, where: Where) -> int:
        query = matching(conditions(collection, where))
        with translated():
            count = await documents.remove(self._database, collection, query, None)
        if count:
            self._changes.bump([collection.name])
        return count

    async def _change_job(self, id: str, change: Callable[[Job], Job]) -> Job:
        with translated():
            job = await self._queue.change_job(id, change)
        self._changes.bump([JOBS.name])
        return job

    def _step(self, operation: Operation) -> _Step:
        declared = _collection(operation)
        match operation:
            case Insert(_, doc):
                new = documents.prepare(declared, doc)
                return lambda session: documents.insert(self._database, declared, new, session)
            case Replace(_, doc, expect):
                changed = documents.prepare(declared, doc)
                return lambda session: documents.replace(self._database, declared, changed, expect, session)
            case Remove(_, id_, expected):

                async def remove(session: AsyncIOMotorClientSession) -> None:
                    query = {"_id": id_} if expected is None else {"_id": id_, "_rev": expected}
                    count = await documents.remove(self._database, declared, query, session)
                    if expected is not None and not count:
                        raise StaleRevision(collection=declared.name, id=id_)

                return remove
            case Enqueue(job):
                documents.prepare(JOBS, rules.job_document(job))

                async def enqueue(session: AsyncIOMotorClientSession) -> Doc:
                    return (await self._queue.enqueue(job, session))[0]

                return enqueue


def _collection(operation: Operation) -> Collection:
    return JOBS if isinstance(operation, Enqueue) else collection_of(operation.collection)


def _feed(meta: Mapping[str, Any]) -> Feed:
    return Feed(id=meta.get("feed", ""), earlier=meta.get("feeds", {}))


def _feed_fields(feed: Feed) -> Doc:
    return {"feed": feed.id, "feeds": dict(feed.earlier)}


async def open_mongo(url: str, refuse_newer: Callable[[int], None]) -> MongoStore:
    """Connect, and make what is missing.

    Args:
        url: `mongodb://…` or `mongodb+srv://…`; the database is the one it names, else "ods".
        refuse_newer: Called with the version of an existing database before it is touched; raises if too new.

    Raises:
        InvalidSettings: It cannot be used.
        StoreUnavailable: It does not answer.
    """
    client = make_client(url)
    try:
        store = MongoStore(client, await prepare_database(client, refuse_newer))
        await store.note_writes()
    except ApplianceError:
        client.close()
        raise
    return store
