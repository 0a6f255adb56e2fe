"""What is done inside a write transaction; runs in the writer's thread."""

import re
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.domain.errors import DuplicateKey, InvalidTransition, JobUnknown, LeaseLost, StaleRevision
from appliance.domain.job import Job
from appliance.store import queue
from appliance.store.documents import declared_values, encode
from appliance.store.filters import Condition
from appliance.store.ports import Doc, Outcome
from appliance.store.schema import JOBS, Collection

from .queries import complete, document, matching, select


@dataclass(frozen=True, slots=True)
class Prepared:
    """A document ready to be written: the work that needs no transaction is done."""

    collection: Collection
    id: str
    values: list[Any]  #: of the declared fields
    body: bytes


def prepare(collection: Collection, doc: Doc) -> Prepared:
    """Check and encode a document.

    Raises:
        ValueError: It cannot be stored.
    """
    content = {key: value for key, value in doc.items() if key not in {"_rev", collection.sequence}}
    return Prepared(collection, str(doc.get("_id")), declared_values(collection, content), encode(content))


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a prepared document."""

    prepared: Prepared
    rev: int
    sequence: int | None

    def document(self) -> Doc:
        """The document as stored."""
        return complete(self.prepared.collection, self.prepared.body, self.rev, self.sequence)


@dataclass(slots=True)
class Transaction:
    """The operations of one caller; all are undone if one raises."""

    connection: sqlite3.Connection
    touched: set[str] = field(default_factory=set)  #: collections that were changed

    def insert(self, new: Prepared, *, rev: int = 1, sequence: int | None = None) -> Written:
        """Add a document, with a given sequence number or the next."""
        collection = new.collection
        values, sequence = self._values(new, sequence)
        marks = ", ".join("?" * (len(values) + 3))
        names = "".join(f'"{name}", ' for name in collection.fields)
        try:
            self.connection.execute(
                f'INSERT INTO "{collection.name}" (_id, _rev, {names}_body) VALUES ({marks})',  # noqa: S608
                [new.id, rev, *values, new.body],
            )
        except sqlite3.IntegrityError as exc:
            raise _duplicate(exc, new) from exc
        self.touched.add(collection.name)
        return Written(new, rev, sequence)

    def replace(self, new: Prepared, *, expect: int | None) -> Written:
        """Write a document as the `Replace` operation does."""
        collection = new.collection
        columns = "".join(f', "{name}"' for name in collection.fields)
        row = self.connection.execute(
            f'SELECT _rev{columns} FROM "{collection.name}" WHERE _id = ?',  # noqa: S608
            (new.id,),
        ).fetchone()
        stored = row[0] if row else 0
        if expect is not None and expect != stored:
            raise StaleRevision(collection=collection.name, id=new.id)
        if not row:
            return self.insert(new)
        values, sequence = self._values(new, None)
        # A column that is not assigned leaves its index alone: most writes change one or two.
        changes = {
            name: value
            for name, value, old in zip(collection.fields, values, row[1:], strict=True)
            if value != old
        }
        assignments = "".join(f'"{name}" = ?, ' for name in changes)
        try:
            self.connection.execute(
                f'UPDATE "{collection.name}" SET {assignments}_rev = ?, _body = ? WHERE _id = ?',  # noqa: S608
                [*changes.values(), stored + 1, new.body, new.id],
            )
        except sqlite3.IntegrityError as exc:
            raise _duplicate(exc, new) from exc
        self.touched.add(collection.name)
        return Written(new, stored + 1, sequence)

    def rewrite(self, new: Prepared, *, rev: int, sequence: int | None) -> bool:
        """Write a document again as it was numbered, unless it was written since; say whether it was written."""
        collection = new.collection
        values = [
            sequence if name == collection.sequence else value
            for name, value in zip(collection.fields, new.values, strict=True)
        ]
        assignments = "".join(f'"{name}" = ?, ' for name in collection.fields)
        count = self.connection.execute(
            f'UPDATE "{collection.name}" SET {assignments}_body = ? WHERE _id = ? AND _rev = ?',  # noqa: S608
            [*values, new.body, new.id, rev],
        ).rowcount
        if count:
            self.touched.add(collection.name)
        return bool(count)

    def delete(self, collection: Collection, conditions: Sequence[Condition]) -> int:
        """Delete what matches; return how many."""
        clause, values = matching(conditions)
        count = self.connection.execute(
            f'DELETE FROM "{collection.name}" WHERE {clause}',  # noqa: S608
            values,
        ).rowcount
        if count:
            self.touched.add(collection.name)
        return count

    def remove(self, collection: Collection, id: str, *, expect: int | None) -> None:
        """Delete a document as the `Remove` operation does."""
        count = self.connection.execute(
            f'DELETE FROM "{collection.name}" WHERE _id = ? AND _rev = coalesce(?, _rev)',  # noqa: S608
            (id, expect),
        ).rowcount
        if count:
            self.touched.add(collection.name)
        elif expect is not None:
            raise StaleRevision(collection=collection.name, id=id)

    def enqueue(self, job: Job) -> tuple[Written, bool]:
        """Add a job or merge it into the active one with its key; say whether it was added."""
        if job.key:
            stored = self._job("active_key = ?", job.key)
            if stored is not None:
                return self._save(queue.merged(stored, job)), False
        return self.insert(prepare(JOBS, queue.job_document(queue.fresh(job)))), True

    def claim(self, queue_name: str, worker: str, *, now: int, lease_ms: int, limit: int) -> list[Job]:
        """Take due jobs."""
        due: list[Job] = []
        for state, column in (("todo", "run_at"), ("doing", "lease_until")):
            rows = self.connection.execute(
                f"{select(JOBS)} WHERE queue = ? AND state = ? AND {column} <= ? "
                "ORDER BY priority DESC, run_at, _id LIMIT ?",
                (queue_name, state, now, limit),
            ).fetchall()
            due += [queue.job_of(document(JOBS, row)) for row in rows]
        due.sort(key=lambda job: (-job.priority, job.run_at, job.id))
        taken = [queue.claimed(job, worker, now=now, lease_ms=lease_ms) for job in due[:limit]]
        for job in taken:
            self._save(job)
        return taken

    def extend(self, jobs: Sequence[Job], *, until: int) -> list[str]:
        """Prolong leases; return the ids of lost ones."""
        lost: list[str] = []
        for job in jobs:
            stored = self._job("_id = ?", job.id)
            if stored is not None and queue.is_held(stored, job):
                self._save(queue.prolonged(stored, until))
            else:
                lost.append(job.id)
        return lost

    def settle(self, job: Job, outcome: Outcome, *, now: int) -> Job:
        """Record the end of a run."""
        stored = self._job("_id = ?", job.id)
        if stored is None or not queue.is_held(stored, job):
            raise queue.lease_lost(job)
        settled = queue.settled(stored, outcome, now=now)
        self._save(settled)
        return settled

    def change_job(self, id: str, change: Callable[[Job], Job]) -> Job:
        """Apply a person's wish to a job."""
        stored = self._job("_id = ?", id)
        if stored is None:
            raise JobUnknown(f"There is no job {id}.", job=id)
        changed = change(stored)
        if changed != stored:
            try:
                self._save(changed)
            except DuplicateKey as exc:
                raise queue.key_taken(stored) from exc
        return changed

    def _job(self, condition: str, value: str) -> Job | None:
        row = self.connection.execute(f"{select(JOBS)} WHERE {condition}", (value,)).fetchone()
        return queue.job_of(document(JOBS, row)) if row else None

    def _save(self, job: Job) -> Written:
        return self.replace(prepare(JOBS, queue.job_document(job)), expect=None)

    def _values(self, new: Prepared, sequence: int | None) -> tuple[list[Any], int | None]:
        collection = new.collection
        if not collection.sequence:
            return new.values, None
        if sequence is None:
            self.connection.execute(
                "UPDATE ods_sequences SET last = last + 1 WHERE collection = ?", (collection.name,)
            )
            row = self.connection.execute(
                "SELECT last FROM ods_sequences WHERE collection = ?", (collection.name,)
            ).fetchone()
            sequence = int(row[0])
        values = [
            sequence if name == collection.sequence else value
            for name, value in zip(collection.fields, new.values, strict=True)
        ]
        return values, sequence


#: What an operation may raise without harm to the others of its group.
HARMLESS = (DuplicateKey, StaleRevision, LeaseLost, JobUnknown, InvalidTransition, ValueError)


def _duplicate(error: sqlite3.IntegrityError, new: Prepared) -> DuplicateKey:
    found = re.search(r"failed: \w+\.(\w+)", str(error))
    name = found[1] if found else "_id"
    return DuplicateKey(
        f"A document with this {name} exists in {new.collection.name}.",
        collection=new.collection.name,
        field=name,
        id=new.id,
    )
