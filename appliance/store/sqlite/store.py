"""The port's operations on an SQLite file."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

from appliance.domain.errors import ApplianceError, InvalidSettings, StoreDamaged
from appliance.domain.job import Job
from appliance.store import queue
from appliance.store.changes import Changes
from appliance.store.documents import collection_of
from appliance.store.feed import Feed
from appliance.store.filters import conditions, field_type, int_field
from appliance.store.ports import Doc, Enqueue, Insert, Operation, Outcome, Remove, Replace, Snapshot, Where
from appliance.store.schema import COLLECTIONS, JOBS, RECORDS

from . import queries
from .connection import check, connect, create, damaged, is_no_database, translated
from .place import FilePlace
from .readers import Readers
from .snapshot import last_sequence, snapshot
from .tables import ensure, missing_table, read_feed, stored_version, write_feed
from .transaction import Prepared, Transaction, Written, prepare
from .writer import Writer

log = logging.getLogger(__name__)


class SqliteStore:
    """A metadata store in one file; see `ports.Store` for what each method promises."""

    def __init__(self, path: Path, connection: sqlite3.Connection, place: FilePlace) -> None:
        """Use `open_sqlite`."""
        self._path = path
        self._changes = Changes(self._foreign)
        self._damage: StoreDamaged | None = None
        self._place = place
        self._readers = Readers(path, self._place, self._note_damage)
        self._writer = Writer(connection, path, self._place, self._changes.bump, self._note_damage)

    async def insert(self, collection: str, doc: Doc) -> Doc:
        """Add a document."""
        new = prepare(collection_of(collection), doc)
        written = await self._writer.run(lambda transaction: transaction.insert(new))
        return written.document()

    async def get(self, collection: str, id: str) -> Doc | None:
        """Return a document or None."""
        declared = collection_of(collection)
        sql = queries.select(declared) + " WHERE _id = ?"

        def read(connection: sqlite3.Connection) -> Doc | None:
            row = connection.execute(sql, (id,)).fetchone()
            return queries.document(declared, row) if row else None

        return await self._readers.run(read)

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
        wanted = conditions(declared, where)
        field_type(declared, order)
        if limit <= 0:
            return []
        return await self._readers.run(
            lambda connection: queries.find(
                connection, declared, wanted, order=order, descending=descending, limit=limit, after=after
            )
        )

    async def count(self, collection: str, where: Where | None = None) -> int:
        """How many documents match."""
        declared = collection_of(collection)
        clause, values = queries.matching(conditions(declared, where))
        sql = f'SELECT count(*) FROM "{declared.name}" WHERE {clause}'  # noqa: S608
        row = await self._readers.run(lambda connection: connection.execute(sql, values).fetchone())
        return int(row[0])

    async def replace(self, collection: str, doc: Doc, *, expect: int | None = None) -> Doc:
        """Write a whole document."""
        new = prepare(collection_of(collection), doc)
        written = await self._writer.run(lambda transaction: transaction.replace(new, expect=expect))
        return written.document()

    async def delete(self, collection: str, where: Where) -> int:
        """Delete what matches."""
        declared = collection_of(collection)
        wanted = conditions(declared, where)
        return await self._writer.run(lambda transaction: transaction.delete(declared, wanted))

    async def batch(self, operations: Sequence[Operation]) -> list[Doc | None]:
        """Do all operations or none."""
        steps = [_step(operation) for operation in operations]
        written = await self._writer.run(lambda transaction: [step(transaction) for step in steps])
        return [None if each is None else each.document() for each in written]

    async def enqueue(self, job: Job) -> bool:
        """Add a job."""
        prepare(JOBS, queue.job_document(job))
        _, added = await self._writer.run(lambda transaction: transaction.enqueue(job))
        return added

    async def claim(self, queue: str, worker: str, *, now: int, lease_ms: int, limit: int = 1) -> list[Job]:
        """Take due jobs."""
        return await self._writer.run(
            lambda transaction: transaction.claim(queue, worker, now=now, lease_ms=lease_ms, limit=limit)
        )

    async def extend(self, jobs: Sequence[Job], *, until: int) -> list[str]:
        """Prolong leases."""
        return await self._writer.run(lambda transaction: transaction.extend(jobs, until=until))

    async def settle(self, job: Job, outcome: Outcome, *, now: int) -> Job:
        """Record how a claimed job ended."""
        return await self._writer.run(lambda transaction: transaction.settle(job, outcome, now=now))

    async def retry_job(self, id: str, *, now: int) -> Job:
        """Make a job TODO again."""
        return await self._writer.run(
            lambda transaction: transaction.change_job(id, lambda job: queue.retried(job, now=now))
        )

    async def cancel_job(self, id: str, *, now: int) -> Job:
        """Make a job CANCELLED."""
        return await self._writer.run(
            lambda transaction: transaction.change_job(id, lambda job: queue.cancelled(job, now=now))
        )

    async def prioritize_job(self, id: str, *, now: int) -> Job:
        """Let a TODO job go before all others."""
        return await self._writer.run(
            lambda transaction: transaction.change_job(id, lambda job: queue.prioritized(job, now=now))
        )

    async def put_off_again(self, id: str, *, now: int, lease_ms: int) -> Job:
        """Count the wait or the lease of an active job from now."""
        return await self._writer.run(
            lambda transaction: transaction.change_job(
                id, lambda job: queue.put_off_again(job, now=now, lease_ms=lease_ms)
            )
        )

    async def get_job(self, id: str) -> Job | None:
        """Return a job or None."""
        doc = await self.get(JOBS.name, id)
        return queue.job_of(doc) if doc else None

    async def find_jobs(
        self, where: Where | None = None, *, limit: int = 100, after: tuple[Any, str] | None = None
    ) -> list[Job]:
        """Return jobs, the last changed first."""
        docs = await self.find(
            JOBS.name, where, order="updated_at", descending=True, limit=limit, after=after
        )
        return [queue.job_of(doc) for doc in docs]

    async def purge(self, *, now: int) -> int:
        """Delete what has expired."""
        doomed = [
            (each, conditions(each, {each.expires: {"lte": now}}))
            for each in COLLECTIONS.values()
            if each.expires
        ]
        return await self._writer.run(
            lambda transaction: sum(transaction.delete(each, wanted) for each, wanted in doomed)
        )

    async def last_sequence(self, collection: str) -> int:
        """The highest number given."""
        return await self._readers.run(lambda connection: last_sequence(connection, collection))

    async def changed(self, collection: str, seen: int, *, timeout: float) -> int:
        """Wait until the collection may have changed."""
        return await self._changes.wait(collection, seen, timeout)

    async def feed(self) -> Feed:
        """The change feed's id."""
        return await self._readers.run(read_feed)

    async def renew_feed(self, *, forget: bool = False) -> Feed:
        """Give the change feed a new id."""

        def write(transaction: Transaction) -> Feed:
            connection = transaction.connection
            feed = (
                Feed() if forget else read_feed(connection).renewed(last_sequence(connection, RECORDS.name))
            )
            write_feed(connection, feed)
            return feed

        return await self._writer.run(write)

    async def sums(self, collection: str, field: str, *, low_bits: int) -> dict[int, tuple[int, int]]:
        """Count documents and add up a field."""
        declared = collection_of(collection)
        int_field(declared, field)
        return await self._readers.run(
            lambda connection: queries.sums(connection, declared, field, low_bits=low_bits)
        )

    async def values(self, collection: str, field: str, *, first: int, end: int, limit: int) -> list[int]:
        """The values of a field in a range."""
        declared = collection_of(collection)
        int_field(declared, field)
        return await self._readers.run(
            lambda connection: queries.values(
                connection, declared, field, first=first, end=end, limit=max(0, limit)
            )
        )

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A view that does not see later writes."""
        return snapshot(self._path, self._place)

    async def load(self, collection: str, docs: Sequence[Doc]) -> None:
        """Write documents exactly as exported."""
        declared = collection_of(collection)
        rows = [
            (prepare(declared, doc), doc["_rev"], doc.get(declared.sequence) if declared.sequence else None)
            for doc in docs
        ]

        def write(transaction: Transaction) -> None:
            for new, rev, sequence in rows:
                transaction.insert(new, rev=rev, sequence=sequence)

        await self._writer.run(write)

    async def rewrite(self, collection: str, docs: Sequence[Doc]) -> int:
        """Write documents again, with their `_rev` and sequence numbers."""
        declared = collection_of(collection)
        rows = [
            (prepare(declared, doc), doc["_rev"], doc.get(declared.sequence) if declared.sequence else None)
            for doc in docs
        ]
        return await self._writer.run(
            lambda transaction: sum(
                transaction.rewrite(new, rev=rev, sequence=sequence) for new, rev, sequence in rows
            )
        )

    async def restore_meta(self, feed: Feed, sequences: Mapping[str, int]) -> None:
        """Take over feed and sequence numbers."""

        def write(transaction: Transaction) -> None:
            execute = transaction.connection.execute
            write_feed(transaction.connection, feed)
            for name, last in sequences.items():
                execute(
                    "UPDATE ods_sequences SET last = ? WHERE collection = ?", (last, collection_of(name).name)
                )

        await self._writer.run(write)

    async def schema_version(self) -> int:
        """The schema version of the documents."""
        return await self._readers.run(lambda connection: stored_version(connection) or 0)

    async def set_schema_version(self, version: int) -> None:
        """Record the schema version."""

        def write(transaction: Transaction) -> None:
            transaction.connection.execute(
                "UPDATE ods_meta SET value = ? WHERE key = 'version'", (str(version),)
            )

        await self._writer.run(write)

    async def ping(self) -> None:
        """Return if a query works, the file is in its place, and none has found it damaged so far."""
        if self._damage is not None:
            raise self._damage

        def look(connection: sqlite3.Connection) -> None:
            self._place.check()
            connection.execute("SELECT 1 FROM ods_meta").fetchone()

        await self._readers.run(look)

    async def close(self) -> None:
        """Finish all writes and close the file."""
        await self._changes.close()
        await self._readers.close()
        await self._writer.close()

    def _note_damage(self, error: StoreDamaged) -> None:
        if self._damage is None:
            log.error(error.message, extra={"action": "store_damaged"})
        self._damage = error

    async def _foreign(self) -> Iterable[str]:
        return COLLECTIONS if await self._writer.foreign_commits() else ()


def _step(operation: Operation) -> Any:
    """What an operation does in a transaction; what can be refused or encoded before is."""
    match operation:
        case Insert(collection, doc):
            new = prepare(collection_of(collection), doc)
            return lambda transaction: transaction.insert(new)
        case Replace(collection, doc, expect):
            changed: Prepared = prepare(collection_of(collection), doc)
            return lambda transaction: transaction.replace(changed, expect=expect)
        case Remove(collection, id_, expected):
            declared = collection_of(collection)

            def remove(transaction: Transaction) -> Written | None:
                transaction.remove(declared, id_, expect=expected)
                return None

            return remove
        case Enqueue(job):
            prepare(JOBS, queue.job_document(job))
            return lambda transaction: transaction.enqueue(job)[0]


async def open_sqlite(path: Path, refuse_newer: Callable[[int], None]) -> SqliteStore:
    """Open or make the file.

    Args:
        path: Where it is.
        refuse_newer: Called with the version of an existing file before it is touched; raises if that is too
        new.

    Raises:
        InvalidSettings: It cannot be used.
        StoreDamaged: It is no sound database.
        StoreUnavailable: It does not work.
    """
    connection, place = await asyncio.to_thread(_prepare_file, path, refuse_newer)
    return SqliteStore(path, connection, place)


def _prepare_file(path: Path, refuse_newer: Callable[[int], None]) -> tuple[sqlite3.Connection, FilePlace]:
    try:
        create(path)
        connection = connect(path)
    except StoreDamaged as exc:
        if is_no_database(exc.__cause__):
            raise InvalidSettings(exc.message) from exc
        raise
    try:
        check(connection, path)
        with translated(path):
            connection.execute("BEGIN IMMEDIATE")
            version = stored_version(connection)
            if version is not None:
                refuse_newer(version)
            if missing := missing_table(connection, version):
                raise damaged(path, f"the table {missing} is missing")
            ensure(connection)
            connection.execute("COMMIT")
    except ApplianceError:
        connection.close()
        raise
    return connection, FilePlace(path)
