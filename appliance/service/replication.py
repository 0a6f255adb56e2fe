"""Keeps this node and its peers in agreement: reads their change feeds, and tells them when ours grew.

The feed is the truth, an announcement only a hint that it is worth reading now. A lost, doubled or late
announcement changes nothing: every peer's feed is read at a steady interval, after a start, after a registration
and whenever a peer that was down answers again. A peer is told only of records that it did not itself pass on,
so an announcement never echoes.

A node that starts or joins greets its peers: its first announcement to each carries its own record. Its URL or its
certificate may be new, and then nobody could come and read that.

What a feed misses, since a position in it is wrong, is found by comparing what both know (`anti_entropy`): wanted here
when a peer can be reached again, when its feed has another id, and after our own start. A record of this node that
comes back from a peer, and that its database lacks, tells of a restored copy, or of a twin (`twin`).
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, replace
from typing import Any

from appliance.domain.errors import (
    OUTAGES,
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    PermissionDenied,
    StaleRevision,
)
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.node import MAX_PEERS, NodeBody
from appliance.domain.record import TOMBSTONE_LIFE_MS, Record, RecordKind
from appliance.jobs.new import new_job
from appliance.jobs.supervisor import Supervisor
from appliance.peering.identity import Identity
from appliance.peering.records import node_body, record_json
from appliance.peering.wire import Changes
from appliance.store.paging import pages
from appliance.store.ports import Doc, Operation, Replace, Store

from .catalogue import Catalogue
from .holdings import Holdings
from .intake import Intake
from .journal import SYSTEM, entry
from .peers import Peers
from .records import ChangesPage, Records
from .twin import TwinGuard

log = logging.getLogger(__name__)

RECONCILE_JOB = "replication.reconcile"
PAGE = 500
GATHER_S = 0.05  #: after an announcement, changes are gathered for so long before the next
_MANY = 8  #: changes in one announcement; after so many the next waits longer, since each makes the peer ask and write
_GATHER_MOST_S = 0.4
_ANNOUNCED = 100
_TRIES = 8
PATIENCE_S = 10.0  #: for the peers' feeds; a slow one is read on beside what follows
RECONCILER = "reconciler"  #: who follows the change feed for `Replication.settle_missed`
_FEED_PAGES = 10_000  #: of a feed that is read at once: 5 million records
_FEED_IDS = 5  #: new ids that a feed may have while it is read: each is a start of the peer
#: positions; a page that goes on for fewer, with more behind it and nothing new in it, is no progress ...
_SMALL_STEP = 100
_SMALL_STEPS = 50  #: ... and so many of them are none either
_UNREAD_MS = 5_000  #: a feed that is none is left unread for so long, twice as long each time ...
_UNREAD_MOST_MS = 300_000  #: ... up to this, whatever its peer announces
_DAY_MS = 24 * 3600 * 1000
_ROLLED_BACK = "rolled_back"  #: id of the notice that a rollback was noticed


def reconcile_job(now: int) -> Job:
    """The job that reads every peer's feed."""
    return new_job("duty", RECONCILE_JOB, now)


class Replication:
    """Follows the peers' feeds and announces our own."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        catalogue: Catalogue,
        holdings: Holdings,
        intake: Intake,
        peers: Peers,
        identity: Identity,
        own: NodeBody,
        calls: Executor,
        supervisor: Supervisor,
        twins: TwinGuard,
        now: Callable[[], int],
        speaks: bool = True,
        reconcile_s: float = 60.0,
    ) -> None:
        """Take what it needs.

        Args:
            store: The metadata.
            records: The signed records.
            catalogue: The packages of this node.
            holdings: Settles packages.
            intake: Takes records in.
            peers: The registrations.
            identity: This node's.
            own: What this node's record says, but for its peers.
            calls: Threads for requests.
            supervisor: Watches what runs beside.
            twins: Knows this start of the node, and whether another copy of it is running.
            now: UTC milliseconds.
            speaks: Whether this process says where the node is, or repeats what another said.
            reconcile_s: Seconds between two reconciliations.
        """
        self._speaks = speaks
        self._reconcile_ms = round(reconcile_s * 1000)
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._holdings = holdings
        self._intake = intake
        self._peers = peers
        self._identity = identity
        self._own = own
        self._calls = calls
        self._supervisor = supervisor
        self._twins = twins
        self._now = now
        #: by peer: how often its feed was none, and until when it is left unread
        self._unread: dict[str, tuple[int, int]] = {}
        self._uncompared: set[str] = set()  #: peers to compare with once their feed has been read
        self._returned: set[str] = set()  #: those to ask then for what is missing
        #: called when a peer's feed was read, and this node may lack what is behind its position
        self.on_gap: Callable[[str], Awaitable[None]] = _nothing
        #: called with the newest record of each peer
        self.on_node: Callable[[Record], Awaitable[None]] = _nothing
        self._reading: dict[str, asyncio.Task[bool]] = {}
        self._read_again: set[str] = set()
        self._telling: dict[str, asyncio.Task[bool]] = {}
        self._told: dict[str, int] = {}
        self._heard: dict[str, set[tuple[str, int]]] = {}
        self._ungreeted: set[str] = set()  #: peers that wait to hear from us, and where we are now
        self._looking: asyncio.Task[bool] | None = None
        self._start_sequence = 0
        self._stopped = False
        holdings.on_written = self.announce
        intake.on_own_record = self._overtake
        if speaks:
            twins.on_passed_on = self._look_at_own

    async def start(self) -> None:
        """Write this node's own record, and bring every package in line with its record."""
        await self._catalogue.load()
        await self.own_record()
        await self._holdings.refresh_nodes()
        self._start_sequence = await self._store.last_sequence("records")

    async def settle_all(self) -> None:
        """Bring every package in line: after a start, or after the node's stage or tags changed."""
        async for docs in pages(self._store, "records", {"kind": str(RecordKind.PACKAGE)}):
            if self._stopped:
                return
            ids = (id for doc in docs if isinstance(id := doc.get("record_id"), str))
            await self._holdings.settle_many(ids, again=True)

    def greet(self) -> None:
        """Tell every peer where this node is now: after a start."""
        self._ungreeted.update(self._peers.active_ids())
        self.announce()

    @property
    def reading(self) -> bool:
        """Whether a peer's feed is being read; after a start, until all were read or could not be."""
        return bool(self._reading)

    def stop(self) -> None:
        """Stop reading and telling."""
        self._stopped = True
        looking = [self._looking] if self._looking is not None else []
        for task in (*self._reading.values(), *self._telling.values(), *looking):
            task.cancel()

    async def moved(self, tls_fingerprint: str) -> None:
        """The node has another certificate: say so in its record, and tell every peer."""
        if tls_fingerprint != self._own.tls_fingerprint:
            self._own = replace(self._own, tls_fingerprint=tls_fingerprint)
            await self.own_record()
            self.greet()

    async def own_record(self) -> Record:
        """This node's own record; a new revision is written if something about the node changed, or it was started."""
        for attempt in range(_TRIES):
            known = await self._records.known(RecordKind.NODE, self._identity.node_id)
            own = replace(self._own, peers=tuple(sorted(self._peers.active_ids())[:MAX_PEERS]))
            if known.record is not None and (not self._twins.writing or self._stands(known.record, own)):
                return known.record
            body = {**asdict(own), **self._twins.run_after(known.record).fields()}
            record, operation = self._records.write(RecordKind.NODE, self._identity.node_id, body, known)
            try:
                await self._store.batch([operation])
            except StaleRevision:  # two registrations at once
                if attempt == _TRIES - 1:
                    raise
            else:
                self.announce()
                return record
        raise AssertionError("a try returns or raises")

    def _stands(self, record: Record, own: NodeBody) -> bool:
        """Whether this process has nothing to correct in this node's record."""
        if record.deleted or self._records.is_ahead(record):  # it was written while the clock was wrong
            return False
        return not self._speaks or (self._twins.is_current(record) and node_body(record) == own)

    async def _overtake(self, record: Record) -> None:
        """Outrank a record of another life of this node that came back from a peer, or one that says it is gone."""
        if record.kind is RecordKind.NODE and not self._speaks:
            await self._twins.pass_on()  # the process that says where the node is looks at it
            return
        twin = await self._twins.proven_by(record)
        if record.author == self._identity.node_id and not twin:
            await self._note_rollback(record)
        if record.kind is RecordKind.NODE:
            if not record.deleted and node_body(record).url != self._own.url:
                log.warning(
                    "somebody speaks as this node elsewhere: was its data directory copied, or an old copy restored?",
                    extra={"action": "identity_elsewhere", "url": node_body(record).url},
                )
            try:
                await self.own_record()  # before nothing is written any more: it tells the twin of us
                await self._holdings.refresh_nodes()
                self.greet()  # a peer believes what it was told last of where this node is
            finally:
                if twin:  # also if the database is away just now: the record may not come again
                    await self._twins.found(record)
        elif record.kind is RecordKind.REPLICA:
            await self._holdings.settle_many([record.id.partition(".")[0]])

    async def _look_at_own(self) -> None:
        """A worker took in a record that another life of this node wrote."""
        record = (await self._records.known(RecordKind.NODE, self._identity.node_id)).record
        if record is not None and (record.deleted or not self._twins.is_current(record)):
            await self._overtake(record)

    async def _note_rollback(self, record: Record) -> None:
        """This database lacks what this node once wrote: let peers read its feed from the beginning, once a start.

        A record that this database once had, as is noted beside what replaced it, says nothing of the kind.
        """
        if record.deleted and record.at < self._now() - TOMBSTONE_LIFE_MS + _DAY_MS:
            return  # it was deleted here because its time was over
        if record.revision in (await self._records.known(record.kind, record.id)).replaced:
            return  # it was replaced here, by one of a lower revision: the clock was behind
        event = entry(
            EventType.NODE_ROLLED_BACK,
            at=self._now(),
            actor=SYSTEM,
            subject=self._identity.node_id,
            name=self._own.name,
            record=record.key_in_store,
        )
        if not await self._twins.note_once(_ROLLED_BACK, event):
            return
        log.warning(
            "a peer has records of this node that its database lacks; they are taken back",
            extra={"action": "rolled_back", "record": record.key_in_store, "revision": record.revision},
        )
        await self._store.renew_feed(forget=True)
        self.greet()

    # Our feed, for peers

    async def changes(self, *, since: int, feed: str, limit: int, wait_s: float) -> ChangesPage:
        """A page of this node's change feed; see `Records.changes`."""
        return await self._records.changes(since=since, feed=feed, limit=limit, wait_s=wait_s)

    def announce(self) -> None:
        """Tell every peer that our feed grew, soon and only once for changes that come together."""
        if self._stopped:
            return
        for peer in self._peers.active_ids():
            if peer not in self._telling:
                self._telling[peer] = self._spawn("replication.announce", self._tell, peer)

    def _spawn(self, task: str, work: Callable[[str], Awaitable[None]], peer: str) -> "asyncio.Task[bool]":
        """Begin what is done for one peer; if it fails in a way that nobody foresaw, the next round does it again."""
        return asyncio.get_running_loop().create_task(
            self._supervisor.once(task, lambda: work(peer), step=peer)
        )

    async def _tell(self, peer: str) -> None:
        pause_s = GATHER_S
        try:
            while not self._stopped:
                since = self._told.get(peer, self._start_sequence)
                docs = await self._store.find("records", {"seq": {"gt": since}}, order="seq", limit=PAGE)
                end = docs[-1]["seq"] if docs else since
                docs = [doc for doc in docs if _can_be_told(doc)]
                if end == since and peer not in self._ungreeted:
                    return
                heard = self._heard.get(peer, set())
                news = [doc for doc in docs if _mark(doc["record"]) not in heard]
                heard.difference_update(_mark(doc["record"]) for doc in docs)
                self._told[peer] = end
                if news or peer in self._ungreeted:
                    left_alone = await self._call_announce(peer, news)
                    if left_alone:
                        return
                pause_s = min(2 * pause_s, _GATHER_MOST_S) if len(news) >= _MANY else GATHER_S
                await asyncio.sleep(pause_s)
        except (PeerError, PeerNotFound, *OUTAGES) as exc:
            log.info(
                "a peer was not told of changes; it will read them",
                extra={"action": "announcement_lost", "peer": peer, "reason": exc.message},
            )
        finally:
            self._telling.pop(peer, None)

    async def _call_announce(self, peer: str, docs: Sequence[dict[str, Any]]) -> bool:
        """Call a peer; says whether it was not, because it is being left alone."""
        if self._peers.backing_off(peer):
            return True
        items = [
            {"kind": doc["kind"], "id": doc["record_id"], "revision": doc["record"]["revision"]}
            for doc in docs[-_ANNOUNCED:]
        ]
        greeting = record_json(await self.own_record()) if peer in self._ungreeted else None
        client = self._peers.client(peer)
        try:
            await asyncio.get_running_loop().run_in_executor(self._calls, client.announce, items, greeting)
        except PeerError as exc:
            await self._peers.record_failure(peer, exc)
            raise
        if greeting is not None:
            self._ungreeted.discard(peer)
        await self._peers.record_success(peer)
        return False

    # Peers' feeds, for us

    async def greeted(self, peer: str, record: Mapping[str, Any]) -> None:
        """A peer says where it is now.

        Raises:
            PermissionDenied: It speaks of another node.
        """
        if record.get("kind") != str(RecordKind.NODE) or record.get("id") != peer:
            raise PermissionDenied("A greeting has the record of the node that sends it.")
        await self._take(peer, [record], [])

    def returned(self, peer: str) -> None:
        """A peer can be reached again: read its feed, ask it for what is missing, and compare with it."""
        self._returned.add(peer)
        self.catch_up(peer)

    def catch_up(self, peer: str) -> None:
        """Read a peer's feed now, then compare with it."""
        self._uncompared.add(peer)
        self.announced(peer)

    async def read(self, peer: str) -> None:
        """Read a peer's feed to its end, or as far as it can be read."""
        self.announced(peer)
        running = self._reading.get(peer)
        if running is not None:
            await asyncio.wait([running])

    async def take_found(self, peer: str, raw: Sequence[Any]) -> list[Record]:
        """Take in records that a comparison with a peer brought; return those that were new."""
        return await self._take(peer, raw, [])

    def announced(self, peer: str) -> None:
        """A peer says that its feed grew: read it now, and once more if it is being read."""
        if self._stopped or 0 < self._unread.get(peer, (0, 0))[1] - self._now() <= _UNREAD_MOST_MS:
            return
        if peer in self._reading:
            self._read_again.add(peer)
        else:
            self._reading[peer] = self._spawn("replication.read", self._read, peer)

    async def joined(self, peer: str, *, by_us: bool) -> None:
        """A registration became active: read the peer's feed, and see what it can give us.

        Args:
            peer: Node id.
            by_us: Whether this node joined, and not the peer. The one that joins completes the registration last: it
                says when it has, and is read then.
        """
        self._heard.pop(peer, None)
        await self.own_record()
        await self._holdings.refresh_nodes()
        if by_us:
            self._ungreeted.add(peer)
            self.announce()
            self.announced(peer)
        self._uncompared.add(peer)
        await self.fill(again=True)

    async def reconcile(self) -> None:
        """Read the feed of every peer that is not being left alone, and see that all that is missing moves."""
        for peer in self._peers.active_ids():
            if not self._peers.backing_off(peer):
                self.announced(peer)
        self._ungreeted.intersection_update(self._peers.active_ids())
        if self._ungreeted:
            self.announce()
        running = list(self._reading.values())
        if running:
            await asyncio.wait(running, timeout=PATIENCE_S)
        await self.own_record()
        await self._holdings.follow_nodes()
        await self.follow_peers()
        await self.settle_missed()
        await self.fill()

    async def follow_peers(self) -> None:
        """Do again what follows from the newest record of each peer: an outage may have lost it.

        One from before the peer joined says nothing: a copy that was put back may have joined, and be older.
        """
        for id in self._peers.active_ids():
            record = (await self._records.known(RecordKind.NODE, id)).record
            peer = self._peers.find(id)  # it may have left meanwhile
            if record is not None and peer is not None and record.at > peer.joined_at:
                await self.on_node(record)

    async def next_look(self) -> int:
        """About when everything that is missing is looked at again, UTC milliseconds."""
        jobs = await self._store.find_jobs({"name": RECONCILE_JOB}, limit=1)
        return (jobs[0].updated_at if jobs else self._now()) + self._reconcile_ms

    async def settle_missed(self) -> None:
        """Settle packages that could not be settled, and those whose newest record is not what the view of them says.

        Whoever writes a record settles its package. It may have been cut off in between, by a database that went
        away for example; so the change feed is followed once more, at a leisurely pace.
        """
        await self._holdings.settle_noted()
        cursor = await self._store.get("followers", RECONCILER)
        if cursor is None:  # the start of the node settles everything
            last = await self._store.last_sequence("records")
            cursor = await self._store.replace("followers", {"_id": RECONCILER, "seq": last})
        kind = str(RecordKind.PACKAGE)
        while not self._stopped:
            docs = await self._store.find(
                "records", {"kind": kind, "seq": {"gt": cursor["seq"]}}, order="seq", limit=PAGE
            )
            missed = (doc.get("record_id") for doc in docs if not self._catalogue.shows(doc))
            await self._holdings.settle_many(id for id in missed if isinstance(id, str))
            if docs:
                moved = {"_id": RECONCILER, "seq": docs[-1]["seq"]}
                cursor = await self._store.replace("followers", moved)
            if len(docs) < PAGE:
                return

    async def fill(self, *, again: bool = False) -> None:
        """Settle every package that this node lacks or may let go; `again`: a source may be back, so try now."""
        lacking = [
            package.id
            for package in self._catalogue.all()
            if self._holdings.cares_for_replicas_of(package.id)
        ]
        await self._holdings.settle_many(lacking, again=again)

    def look(self) -> None:
        """Settle what is missing, soon: a source left."""
        if not self._stopped and (self._looking is None or self._looking.done()):
            looking = self._supervisor.once("replication.look", self._look)
            self._looking = asyncio.get_running_loop().create_task(looking)

    async def _look(self) -> None:
        await self.own_record()
        await self.fill()

    async def _read(self, peer: str) -> None:
        try:
            while not self._stopped:
                self._read_again.discard(peer)
                renewed = await self._read_all(peer)
                if peer in self._returned:
                    self._returned.discard(peer)
                    try:
                        await self.fill(again=True)
                    except BaseException:  # an outage, or a stop
                        self._returned.add(peer)
                        raise
                if renewed or peer in self._uncompared:
                    await self.on_gap(peer)
                    self._uncompared.discard(peer)
                if peer not in self._read_again:
                    return
        except (PeerError, PeerNotFound) as exc:
            log.warning(
                "a peer's feed could not be read",
                extra={"action": "feed_unread", "peer": peer, "reason": exc.message},
            )
        except OUTAGES as exc:
            log.warning(exc.message, extra={"action": "feed_unread", "peer": peer})
        finally:
            self._reading.pop(peer, None)
            if (
                peer in self._read_again
            ):  # it failed, and meanwhile the peer told us something: where it is now
                self._read_again.discard(peer)
                self.announced(peer)

    async def _read_all(self, peer: str) -> bool:
        """Read a peer's feed to its end; says whether it has another id than when it was read last."""
        bounds = FeedBounds()
        more = True
        while more and not self._stopped:
            cursor = await self._store.get("cursors", peer) or {"_id": peer, "feed": "", "since": 0}
            client = self._peers.client(peer)
            try:
                page = await asyncio.get_running_loop().run_in_executor(
                    self._calls, client.changes, cursor["since"], cursor["feed"], 0.0
                )
                try:
                    bounds.check(page, feed=cursor["feed"], since=cursor["since"])
                except PeerMisbehaved:
                    self._leave_unread(peer)
                    raise
            except PeerError as exc:
                await self._peers.record_failure(peer, exc)
                raise
            await self._peers.record_success(peer)
            moved = (page.feed, page.next) != (cursor["feed"], cursor["since"])
            extra = (
                [Replace("cursors", {"_id": peer, "feed": page.feed, "since": page.next})] if moved else []
            )
            bounds.took(page, new=len(await self._take(peer, page.records, extra)))
            more = page.more
        self._unread.pop(peer, None)
        return bounds.ids > 0

    def _leave_unread(self, peer: str) -> None:
        times = self._unread.get(peer, (0, 0))[0]
        self._unread[peer] = times + 1, self._now() + min(_UNREAD_MOST_MS, _UNREAD_MS << min(times, 10))

    async def _take(self, peer: str, raw: Sequence[Any], extra: Sequence[Operation]) -> list[Record]:
        """Take records in; what is new came from this peer, which need not be told of it."""
        heard = self._heard.setdefault(peer, set())
        marks = {
            _mark(item) for item in raw if isinstance(item, dict) and isinstance(item.get("revision"), int)
        }
        heard |= marks
        winners = await self._intake.take(peer, raw, extra)
        heard -= marks - {(record.key_in_store, record.revision) for record in winners}
        return winners


class FeedBounds:
    """What one reading of a feed may cost: no peer keeps this node reading for ever."""

    def __init__(self) -> None:
        self.ids = 0  #: how often the feed had another id
        self._pages = 0
        self._step = 0  #: how far the last page went
        self._barren = 0

    def check(self, page: Changes, *, feed: str, since: int) -> None:
        """Let a page pass that was asked for from position `since` of the feed `feed`.

        Raises:
            PeerMisbehaved: The feed does not advance, does not end, or is another one all the time.
        """
        self._pages += 1
        self.ids += page.feed != feed
        self._step = page.next - (since if page.feed == feed else 0)
        if page.more and self._step <= 0:
            raise PeerMisbehaved("Its change feed does not advance.")
        if self.ids > _FEED_IDS:
            raise PeerMisbehaved("Its change feed has a new id on every page.")
        if self._pages > _FEED_PAGES or self._barren > _SMALL_STEPS:
            raise PeerMisbehaved("Its change feed does not end.")

    def took(self, page: Changes, *, new: int) -> None:
        """Note how many records of a page were new. One without any may be of records that do not go out."""
        if page.more and not new and self._step < _SMALL_STEP:
            self._barren += 1


async def _nothing(_of: object) -> None:
    pass


def _can_be_told(doc: Doc) -> bool:
    """Whether a document has what an announcement says of it."""
    record = doc.get("record")
    return isinstance(record, dict) and isinstance(record.get("revision"), int) and "record_id" in doc


def _mark(record: Mapping[str, Any]) -> tuple[str, int]:
    return f"{record.get('kind')}:{record.get('id')}", record.get("revision", 0)
