"""Notices a twin: another process that works under this node's identity on a database of its own.

A copied data directory, a cloned machine, a restored copy while the original still runs. Peers follow the one whose
node record is the newest, and what the other one publishes reaches nobody, so both stop writing until a person has
ended one and restarted the other.

How it is told from an earlier life of this node, without looking at any clock: each start draws a *run*, a random
word, and the node record says it, and which other runs its writer has seen. A record of this node that names our run
as seen, and was written by a run that is not ours, was written by somebody else after we started. A record of an
earlier life cannot name our run. It is outranked, which names its run: if its writer lives, it learns of us that way,
and its answer names us.

    original (run w)                                       copy (run x)
                                                           starts: "x, seen w"
    reads it: a twin. "w, seen x", and stops      ------>  reads it: a twin. "x, seen w", and stops

The run is kept in the store: the serving process draws it, workers beside it share it. A worker that takes such a
record in passes it on, since only the serving process knows what the answer has to say.
"""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from appliance.domain.errors import OUTAGES, StaleRevision, TwinRunning
from appliance.domain.event import EventType
from appliance.domain.record import Record, RecordKind
from appliance.peering.records import node_body
from appliance.store.ports import Doc, Insert, Operation, Replace, Store

from .journal import SYSTEM, entry

log = logging.getLogger(__name__)

NOTICE = "run"  #: id of the notice that keeps the run, and the twin once one was found
SEEN = 8  #: runs that a record names at most
_TRIES = 8
_PAUSE_S = 0.5
_IDLE_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Which life of a node wrote a node record."""

    id: str = ""  #: "" where an older version wrote it
    seen: tuple[str, ...] = ()  #: other runs that its writer knew of, newest first

    @classmethod
    def of(cls, record: Record) -> "Run":
        """The run that a node record names."""
        id, seen = record.body.get("run"), record.body.get("runs_seen")
        listed = seen if isinstance(seen, list | tuple) else ()
        return cls(
            id=id if isinstance(id, str) else "",
            seen=tuple(each for each in listed if isinstance(each, str))[:SEEN],
        )

    def fields(self) -> dict[str, Any]:
        """What the body of a node record has of it."""
        return {"run": self.id, "runs_seen": list(self.seen)}


class TwinGuard:
    """Knows this node's run, and whether a twin was found."""

    def __init__(self, *, store: Store, node_id: str, now: Callable[[], int]) -> None:
        self._store = store
        self._node_id = node_id
        self._now = now
        self._runs: list[str] = []  #: this node's while this process lives, the present one last
        self._twin = ""  #: the URL of the twin
        self._passed_on = 0
        self._writing_down: asyncio.Task[None] | None = None
        #: called in the serving process when a worker took in a record of this node that another life wrote
        self.on_passed_on: Callable[[], Awaitable[None]] | None = None

    async def start(self, *, serving: bool) -> None:
        """Draw a run, as the serving process; join that of the node, as a worker beside it."""
        if serving:
            self._runs.append(secrets.token_hex(8))
            self._take(await self._store.replace("notices", _notice(self._runs[-1])))
            return
        while not self._runs:
            doc = await self._store.get("notices", NOTICE)
            if doc is None:  # the serving process has not started yet
                try:
                    doc = await self._store.replace("notices", _notice(secrets.token_hex(8)), expect=0)
                except StaleRevision:
                    continue
            self._take(doc)

    async def follow(self) -> None:
        """Take over what other processes of this node find. Never returns."""
        seen, done = -1, 0
        while True:
            await asyncio.sleep(_PAUSE_S)
            try:
                seen = await self._store.changed("notices", seen, timeout=_IDLE_S)
                await self._look()
                if self._passed_on > done and self.on_passed_on is not None:
                    passed_on = self._passed_on
                    await self.on_passed_on()
                    done = passed_on
            except OUTAGES:
                seen = -1  # what was not looked at is looked at again

    async def _look(self) -> None:
        doc = await self._store.get("notices", NOTICE)
        if doc is not None:
            self._take(doc)

    def _take(self, doc: Doc) -> None:
        if doc["run"] not in self._runs:
            self._runs.append(doc["run"])
            self._twin = ""
        elif doc["run"] != self._runs[-1]:
            return  # of before a restart that this process knows of
        # One that this process found stays, also if it could not be written down.
        self._twin, self._passed_on = doc["twin"] or self._twin, doc["passed_on"]

    async def pass_on(self) -> None:
        """Let the serving process look at this node's record: it is one that another life of this node wrote."""
        await self._change(lambda doc: {**doc, "passed_on": doc["passed_on"] + 1})

    async def note_once(self, id: str, event: Insert) -> bool:
        """Log an event at most once a start, whichever process of the node it is; says whether it was logged."""
        doc = await self._store.get("notices", id)
        if doc is not None and doc["run"] == self._runs[-1]:
            return False
        new = {"_id": id, "run": self._runs[-1]}
        try:
            await self._store.batch([Replace("notices", new, doc["_rev"] if doc else 0), event])
        except StaleRevision:
            return False
        return True

    async def _change(self, change: Callable[[Doc], Doc], *more: Operation) -> None:
        """Change the notice that keeps the run, with further operations in the same write."""
        for attempt in range(_TRIES):
            doc = await self._store.get("notices", NOTICE)
            new = change(doc) if doc is not None else None
            if doc is None or new is None or new == doc:
                return
            try:
                await self._store.batch([Replace("notices", new, doc["_rev"]), *more])
            except StaleRevision:
                if attempt == _TRIES - 1:
                    raise
                continue
            return

    @property
    def writing(self) -> bool:
        """Whether this node may write records."""
        return not self._twin

    @property
    def reason(self) -> str:
        """Why this node writes nothing; "" if it does."""
        if not self._twin:
            return ""
        return (
            f"Another copy of this node is running, at {self._twin}, so this one accepts no uploads and changes. "
            "Stop one of the two, then restart the other."
        )

    def check(self) -> None:
        """Let a write of this node pass.

        Raises:
            TwinRunning: A twin was found.
        """
        if self._twin:
            raise TwinRunning(self.reason)

    def run_after(self, known: Record | None) -> Run:
        """What this node's next record says, if it replaces this one."""
        before = Run() if known is None else Run.of(known)
        seen = dict.fromkeys(each for each in (before.id, *before.seen) if each and each != self._runs[-1])
        return Run(id=self._runs[-1], seen=tuple(seen)[:SEEN])

    def is_current(self, record: Record) -> bool:
        """Whether the present run wrote a node record."""
        return Run.of(record).id == self._runs[-1]

    async def proven_by(self, record: Record) -> bool:
        """Whether a record from a peer, which this node's database lacked, proves that a twin is at work."""
        if not self._would_prove(record):
            return False
        await self._look()  # the serving process may have been restarted just now
        return self._would_prove(record)

    def _would_prove(self, record: Record) -> bool:
        if record.kind is not RecordKind.NODE or record.author != self._node_id:
            return False
        run = Run.of(record)
        return bool(run.id) and run.id not in self._runs and not set(self._runs).isdisjoint(run.seen)

    async def found(self, record: Record) -> None:
        """A record from a peer proves it: write nothing from now on, in any process, until the next start."""
        url = node_body(record).url
        first, self._twin = not self._twin, url
        if not first:
            return
        log.error(
            "another process works under the identity of this node; this one writes nothing until it is restarted",
            extra={"action": "twin_detected", "url": url},
        )
        run = self._runs[-1]
        try:
            await self._write_down(run, url)
        except (*OUTAGES, StaleRevision, asyncio.CancelledError):
            self._writing_down = asyncio.create_task(self._write_down_later(run, url))
            raise

    async def _write_down(self, run: str, url: str) -> None:
        """Tell the other processes of this node, and people. Twice is once."""
        await self._store.renew_feed(forget=True)
        event = entry(
            EventType.NODE_TWIN_DETECTED, at=self._now(), actor=SYSTEM, subject=self._node_id, url=url
        )
        await self._change(
            lambda doc: doc if doc["run"] != run else {**doc, "twin": doc["twin"] or url}, event
        )

    async def _write_down_later(self, run: str, url: str) -> None:
        """Until it is written the other processes go on writing, and the record that proves it may not come again."""
        while run == self._runs[-1]:
            await asyncio.sleep(_PAUSE_S)
            with contextlib.suppress(*OUTAGES, StaleRevision):
                await self._write_down(run, url)
                return


def _notice(run: str) -> Doc:
    return {"_id": NOTICE, "run": run, "twin": "", "passed_on": 0}
