"""Reads every held file again within `scrub.days`, the one that was verified longest ago first.

One process of a node does it: its job has a key. It reads from the disk and not from memory, at a bounded rate and a
low priority, and pauses while packages are received or sent. Where it is needs no note: each file has the time at which
it was last verified. What is damaged is set aside and fetched again at once (`verifying`).
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from appliance.domain.errors import OUTAGES, StaleRevision, StorageError
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.moment import too_early, written_ahead
from appliance.jobs.context import JobContext
from appliance.jobs.new import new_job
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import lower_priority
from appliance.store.ports import Doc, Operation, Store

from .blob_check import Finding, Gentle, verify
from .catalogue import Catalogue
from .damaged import damaged_words
from .journal import SYSTEM, entry
from .metrics import Metrics
from .scrub_pace import Load, Pace
from .trash import Trash
from .verified_blobs import VerifiedBlobs
from .verifying import Verifying

log = logging.getLogger(__name__)

SCRUB_JOB = "scrub.run"
EVERY_S = 600.0
LEAST_RATE = 8 * 1024 * 1024  #: bytes a second at which it reads where less would do
UNDER_LOAD = 8  #: what must be read now is read at a rate that is divided by this while others are busy
_TICK_S = 0.5
_SAY_S = 5.0  #: what was verified is written, and who is busy is looked up, so often
_DAY_MS = 86_400_000
_DUE = 0.75  #: of `scrub.days`, after which a file is read again
_SPENT = 0.125  #: of `scrub.days`, in which all that is due at once is read
_BUSY_MS = 15_000
_MANY = 100
_TRIES = 8
_STATE = "state"
_BUSY = "busy:"
_FRESH: Doc = {
    "_id": _STATE,
    "requested_at": 0,  #: every file that was verified before is due
    "beat": 0,  #: when the process that reads last said so
    "paused": False,
    "began_at": 0,  #: of the pass that runs; 0: none does
    "files": 0,
    "bytes": 0,
    "damaged": 0,
    "last": None,
    "total_files": 0,
    "total_bytes": 0,
    "total_damaged": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """Reading all that is due."""

    began_at: int  #: UTC milliseconds
    ended_at: int = 0  #: 0 while it runs
    files: int = 0
    bytes: int = 0
    damaged: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubStatus:
    """How the scrub of a node is doing."""

    requested_at: int  #: when somebody last started a scrub, UTC milliseconds; 0: never
    state: str  #: "running", "paused", "idle" or "off"
    reason: str  #: a sentence that says why
    days: float
    rate: int  #: bytes a second, at most
    files: int  #: that are here, of packages and of earlier versions
    bytes: int
    due_files: int  #: that are to be read now
    due_bytes: int
    oldest_at: int  #: when the file was verified that waits longest; 0: it never was, or there is none
    current: Pass | None  #: the pass that runs
    last: Pass | None  #: the last one that ended
    total_files: int  #: read so far, ever
    total_bytes: int
    total_damaged: int
    damaged: int  #: files that are damaged now
    repaired: int  #: how often a file was repaired in the last 90 days


@dataclass(slots=True)
class _Unsaid:
    """What was read and is not written yet."""

    operations: list[Operation] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    damaged: int = 0


def scrub_job(now: int) -> Job:
    """The job that runs `Scrub.run`; at most one at a time."""
    return new_job("default", SCRUB_JOB, now)


class Scrub:
    """The scrub of a node, as one of its processes sees it."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        blobs: BlobStore,
        verified: VerifiedBlobs,
        verifying: Verifying,
        trash: Trash,
        metrics: Metrics,
        days: float,
        rate: int,
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        """Make one.

        Args:
            store: Where it says how far it is.
            catalogue: What is held.
            blobs: The files.
            verified: When each was verified.
            verifying: Deals with what is damaged.
            trash: Which earlier versions lie here too.
            metrics: Say how busy this process is.
            days: Within which every file is read; 0: only when somebody asks.
            rate: Bytes a second, at most.
            node_id: The subject of events.
            now: UTC milliseconds.
        """
        self._store = store
        self._catalogue = catalogue
        self._blobs = blobs
        self._verified = verified
        self._verifying = verifying
        self._trash = trash
        self._days = days
        self._most = rate
        self._node_id = node_id
        self._now = now
        self._process = secrets.token_hex(4)
        self._load = Load(metrics)
        self._pace = Pace()
        self._others_busy = False
        self._running = False
        self.figures: dict[str, float] = {}  #: for metrics, as `refresh` last read them

    # For people

    async def start(self, *, actor: str) -> None:
        """Have every file read now, as fast as `scrub.rate` lets."""
        await self._change(requested_at=self._now())
        await self._store.enqueue(scrub_job(self._now()))
        log.info("a scrub was started", extra={"action": "scrub_started", "actor": actor})

    async def status(self) -> ScrubStatus:
        """How it is doing, whichever process of the node does it."""
        await self._verified.refresh()
        state = await self._state()
        held = await self._files()
        due = self._due(held, state)
        damaged = await self._store.count("damaged", {"repaired_at": 0})
        word, reason = self._words(state, len(due))
        if damaged:
            words = damaged_words(self._catalogue) or "What is damaged is fetched again from another node."
            reason = f"{reason} {words}"
        return ScrubStatus(
            requested_at=state["requested_at"],
            state=word,
            reason=reason,
            days=self._days,
            rate=self._most,
            files=len(held),
            bytes=sum(held.values()),
            due_files=len(due),
            due_bytes=sum(held[sha256] for sha256 in due),
            oldest_at=min(map(self._at, held), default=0),
            current=_pass(state) if state["began_at"] else None,
            last=Pass(**state["last"]) if state["last"] else None,
            total_files=state["total_files"],
            total_bytes=state["total_bytes"],
            total_damaged=state["total_damaged"],
            damaged=damaged,
            repaired=await self._store.count("damaged", {"repaired_at": {"gt": 0}}),
        )

    async def refresh(self) -> None:
        """Read `figures` again."""
        found = await self.status()
        self.figures = {
            "files": found.total_files,
            "bytes": found.total_bytes,
            "damaged_files": found.total_damaged,
            "repaired_now": found.repaired,
            "damaged_now": found.damaged,
            "due_files": found.due_files,
            "completed_s": found.last.ended_at / 1000 if found.last else 0,
            "oldest_s": (self._now() - found.oldest_at) / 1000 if found.files and found.oldest_at else 0,
        }

    def _words(self, state: Doc, due: int) -> tuple[str, str]:
        if too_early(state["beat"] + _BUSY_MS, self._now(), _BUSY_MS):
            if state["paused"]:
                return "paused", "The scrub waits while packages are received or sent."
            return "running", "Files are read and compared with their SHA-256."
        if due:
            return "idle", "Files are due; the scrub starts within ten minutes."
        if self._days:
            return "idle", "No file is due."
        return "off", "scrub.days is 0: files are read only when somebody starts a scrub."

    # The job

    async def run(self, _job: Job, context: JobContext) -> None:
        """Read what is due, until nothing is.

        Raises:
            Stopping: The node stops; the next run goes on with what waits longest.
        """
        await self._verified.load()
        state = await self._state()
        if _not_ahead(state, self._now()) != state:
            state = await self._change()
        asked = state["requested_at"] > (state["last"] or {"ended_at": 0})["ended_at"]
        if not state["began_at"] and not asked and not self._due(await self._files(), state):
            return
        if not state["began_at"]:
            state = await self._change(began_at=self._now(), files=0, bytes=0, damaged=0)
        pool = ThreadPoolExecutor(1, thread_name_prefix="scrub", initializer=lower_priority)
        self._running = True
        try:
            await self._read(state, context, pool)
            await self._finish()
        finally:
            self._running = False
            pool.shutdown(wait=False)
            await self._change(beat=0, paused=False)

    async def _read(self, state: Doc, context: JobContext, pool: ThreadPoolExecutor) -> None:
        unsaid, skipped = _Unsaid(), set[str]()
        said = 0.0
        loop = asyncio.get_running_loop()
        try:
            while True:
                held = await self._files()
                due = [sha256 for sha256 in self._due(held, state) if sha256 not in skipped]
                if not due:
                    break
                rate, urgent = self._needed(due, held, state)
                for sha256 in due:
                    reading = loop.run_in_executor(pool, self._verify, sha256, context)
                    while not reading.done():
                        self._set_pace(rate, urgent=urgent)
                        if time.monotonic() - said > _SAY_S or len(unsaid.operations) >= _MANY:
                            state = await self._say(unsaid)
                            if left := self._due(held, state):  # what is read now may be repaired by now
                                rate, urgent = self._needed(left, held, state)
                            said = time.monotonic()
                        await asyncio.wait({reading}, timeout=_TICK_S)
                    finding = reading.result()  # an error of its own is retrieved, not logged by the loop
                    context.check()
                    await self._take(sha256, finding, unsaid, skipped)
                state = await self._say(unsaid)
        finally:
            await self._say(unsaid)

    def _verify(self, sha256: str, context: JobContext) -> Finding | None:
        """Read a blob, in a thread; None if that cannot be done now."""
        gentle = Gentle(lambda count: self._pace.wait(count, context.check))
        try:
            return verify(self._blobs, sha256, check=context.check, gentle=gentle)
        except StorageError as exc:
            log.warning(exc.message, extra={"action": "scrub_skipped", "sha256": sha256})
            return None

    async def _take(self, sha256: str, finding: Finding | None, unsaid: _Unsaid, skipped: set[str]) -> None:
        if finding is None:
            skipped.add(sha256)
            return
        unsaid.files += 1
        unsaid.bytes += finding.read
        if finding.right and finding.stamp is not None:
            unsaid.operations.append(self._verified.remember(sha256, finding.stamp))
        elif await self._verifying.lost(sha256, finding):
            unsaid.damaged += 1
        else:  # it was let go of, or another file took its place
            skipped.add(sha256)

    async def _say(self, unsaid: _Unsaid) -> Doc:
        """Write what was read, and see who else is busy."""
        operations, unsaid.operations = unsaid.operations, []
        if operations:
            await self._store.batch(operations)
        docs = await self._store.find("scrub", {"_id": {"prefix": _BUSY}}, limit=_MANY)
        self._others_busy = any(too_early(doc["until"], self._now(), _BUSY_MS) for doc in docs)
        counts = {"files": unsaid.files, "bytes": unsaid.bytes, "damaged": unsaid.damaged}
        unsaid.files = unsaid.bytes = unsaid.damaged = 0
        return await self._change(
            [counts, {f"total_{name}": count for name, count in counts.items()}],
            beat=self._now(),
            paused=self._pace.stopped,
        )

    async def _finish(self) -> None:
        """All that was due was read."""
        done = replace(_pass(await self._state()), ended_at=self._now())
        await self._change(last=asdict(done), began_at=0)
        if done.damaged:
            event = entry(
                EventType.SCRUB_DAMAGE,
                at=done.ended_at,
                actor=SYSTEM,
                subject=self._node_id,
                files=done.files,
                size=done.bytes,
                damaged=done.damaged,
            )
            await self._store.batch([event])
        await self._store.delete("scrub", {"_id": {"prefix": _BUSY}})
        log.log(
            logging.WARNING if done.damaged else logging.INFO,
            "every file that was due was read",
            extra={"action": "scrub_complete", **asdict(done)},
        )

    # What is due, and how fast it is read

    async def _files(self) -> dict[str, int]:
        """The size of each blob that a package is served from, or that an earlier version needs."""
        found: dict[str, int | None] = await self._trash.files()
        for package in self._catalogue.all():
            if package.held_sha256:
                found[package.held_sha256] = package.body.size
        known = self._verified.all()
        return {
            sha256: known[sha256].stamp.size if sha256 in known else size or 0
            for sha256, size in found.items()
        }

    def _at(self, sha256: str) -> int:
        """When a blob was last verified; 0 if nobody knows: never, or while the clock was ahead."""
        known = self._verified.get(sha256)
        return known.at if known and not written_ahead(known.at, self._now()) else 0

    def _due(self, held: dict[str, int], state: Doc) -> list[str]:
        """What is to be read now, what waits longest first."""
        before = state["requested_at"]
        if self._days:
            before = max(before, self._now() - round(self._days * _DAY_MS * _DUE))
        return sorted(
            (sha256 for sha256 in held if self._at(sha256) < before),
            key=lambda sha256: (self._at(sha256), sha256),
        )

    def _needed(self, due: Sequence[str], held: dict[str, int], state: Doc) -> tuple[float, bool]:
        """The rate in bytes a second that is needed, and whether some of it must go on while others are busy."""
        oldest = min(map(self._at, due), default=0)
        if oldest < state["requested_at"]:
            return self._most, True
        size = sum(held.get(sha256, 0) for sha256 in due)
        needed = size / max(1.0, self._days * _SPENT * 86_400)
        late = oldest < self._now() - self._days * _DAY_MS
        return min(float(self._most), max(LEAST_RATE, needed)), late

    def _set_pace(self, rate: float, *, urgent: bool) -> None:
        busy = self._load.busy() or self._others_busy
        self._pace.set((rate / UNDER_LOAD if urgent else 0.0) if busy else rate)

    # Between processes

    async def watch(self) -> None:
        """Tell the process that scrubs when this one is busy. Never returns."""
        while True:
            await asyncio.sleep(_SAY_S)
            if self._running or not self._load.busy():
                continue
            try:
                state = await self._store.get("scrub", _STATE)
                if state is not None and too_early(state["beat"] + _BUSY_MS, self._now(), _BUSY_MS):
                    until = self._now() + _BUSY_MS
                    await self._store.replace("scrub", {"_id": _BUSY + self._process, "until": until})
            except OUTAGES:
                continue

    async def _state(self) -> Doc:
        return {**_FRESH, **(await self._store.get("scrub", _STATE) or {})}

    async def _change(self, add: Sequence[dict[str, int]] = (), **fields: Any) -> Doc:
        for attempt in range(_TRIES):
            state = _not_ahead(await self._state(), self._now())
            for counts in add:
                state |= {name: state[name] + count for name, count in counts.items()}
            try:
                return await self._store.replace("scrub", {**state, **fields}, expect=state.get("_rev", 0))
            except StaleRevision:
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")


def _not_ahead(state: Doc, now: int) -> Doc:
    """The state, where what was noted while the clock was ahead was noted now."""
    last = state["last"]
    if last and written_ahead(last["ended_at"], now):
        last = {**last, "began_at": min(last["began_at"], now), "ended_at": now}
    requested_at = now if written_ahead(state["requested_at"], now) else state["requested_at"]
    return {**state, "requested_at": requested_at, "last": last}


def _pass(state: Doc) -> Pass:
    return Pass(
        began_at=state["began_at"], files=state["files"], bytes=state["bytes"], damaged=state["damaged"]
    )
