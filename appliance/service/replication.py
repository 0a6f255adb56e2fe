"""Keeps this node and its peers in agreement: reads their change feeds, and tells them when ours grew.

The feed is the truth, an announcement only a hint that it is worth reading now. A lost, doubled or late
announcement changes nothing: every peer's feed is read at a steady interval, after a start, after a registration
and whenever a peer that was down answers again. A peer is told only of records that it did not itself pass on,
so an announcement never echoes.

A node that starts or joins greets its peers: its first announcement to each carries its own record. Its URL or its
certificate may be new, and then nobody could come and read that.
"""

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from appliance.domain.errors import (
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    PermissionDenied,
    StoreUnavailable,
)
from appliance.domain.job import Job
from appliance.domain.node import NodeBody
from appliance.domain.record import Record, RecordKind
from appliance.jobs.supervisor import Supervisor
from appliance.peering.identity import Identity
from appliance.peering.records import node_body, record_json
from appliance.store.ports import Doc, Operation, Replace, Store

from .catalogue import Catalogue
from .holdings import Holdings
from .intake import Intake
from .peers import Peers
from .records import ChangesPage, Records

log = logging.getLogger(__name__)

RECONCILE_JOB = "replication.reconcile"
PAGE = 500
GATHER_S = 0.05  #: after an announcement, changes are gathered for so long before the next
_MANY = 8  #: changes in one announcement; after so many the next waits longer, since each makes the peer ask and write
_GATHER_MOST_S = 0.4
_ANNOUNCED = 100


def reconcile_job(now: int) -> Job:
    """The job that reads every peer's feed."""
    return Job(
        id=secrets.token_hex(12),
        queue="default",
        name=RECONCILE_JOB,
        key=RECONCILE_JOB,
        run_at=now,
        created_at=now,
    )


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
    ) -> None:
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
        self._reading: dict[str, asyncio.Task[bool]] = {}
        self._read_again: set[str] = set()
        self._telling: dict[str, asyncio.Task[bool]] = {}
        self._told: dict[str, int] = {}
        self._heard: dict[str, set[tuple[str, int]]] = {}
        self._ungreeted: set[str] = set()  #: peers that wait to hear from us, and where we are now
        self._start_sequence = 0
        self._stopped = False
        holdings.on_written = self.announce
        intake.on_own_record = self._overtake

    async def start(self) -> None:
        """Write this node's own record, and bring every package in line with its record."""
        await self._catalogue.load()
        await self.own_record()
        await self._holdings.refresh_nodes()
        self._start_sequence = await self._store.last_sequence("records")

    async def settle_all(self) -> None:
        """Bring every package in line: after a start, or after the node's stage or tags changed."""
        after: tuple[Any, str] | None = None
        while not self._stopped:
            docs = await self._store.find(
                "records", {"kind": str(RecordKind.PACKAGE)}, limit=200, after=after
            )
            ids = (id for doc in docs if isinstance(id := doc.get("record_id"), str))
            await self._holdings.settle_many(ids, again=True)
            if len(docs) < 200:
                return
            after = (docs[-1]["_id"], docs[-1]["_id"])

    def greet(self) -> None:
        """Tell every peer where this node is now: after a start."""
        self._ungreeted.update(self._peers.active_ids())
        self.announce()

    def stop(self) -> None:
        """Stop reading and telling."""
        self._stopped = True
        for task in (*self._reading.values(), *self._telling.values()):
            task.cancel()

    async def own_record(self) -> Record:
        """This node's own record; a new revision is written if something about the node changed."""
        known = await self._records.known(RecordKind.NODE, self._identity.node_id)
        if (
            known.record is not None
            and not known.record.deleted
            and not self._records.is_ahead(known.record)  # else it was written while the clock was wrong
            and node_body(known.record) == self._own
        ):
            return known.record
        record, operation = self._records.write(RecordKind.NODE, self._identity.node_id, self._own, known)
        await self._store.batch([operation])
        self.announce()
        return record

    async def _overtake(self, record: Record) -> None:
        """Outrank a record of an earlier life of this node that came back from a peer, or one that says it is gone."""
        if record.kind is RecordKind.NODE:
            if not record.deleted and node_body(record).url != self._own.url:
                log.warning(
                    "somebody speaks as this node elsewhere: was its data directory copied, or an old copy restored?",
                    extra={"action": "identity_elsewhere", "url": node_body(record).url},
                )
            await self.own_record()
            await self._holdings.refresh_nodes()
        else:
            await self._holdings.say_again(record.id.partition(".")[0])

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
        except (PeerError, PeerNotFound, StoreUnavailable) as exc:
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

    def announced(self, peer: str) -> None:
        """A peer says that its feed grew: read it now, and once more if it is being read."""
        if self._stopped:
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
        await self._holdings.refresh_nodes()
        if by_us:
            self._ungreeted.add(peer)
            self.announce()
            self.announced(peer)
        await self.fill(again=True)

    async def reconcile(self) -> None:
        """Read the feed of every peer that is not being left alone, and retry what is missing."""
        for peer in self._peers.active_ids():
            if not self._peers.backing_off(peer):
                self.announced(peer)
        self._ungreeted.intersection_update(self._peers.active_ids())
        if self._ungreeted:
            self.announce()
        running = list(self._reading.values())
        if running:
            await asyncio.wait(running)
        await self.fill()

    async def fill(self, *, again: bool = False) -> None:
        """Settle every package that this node lacks or may let go; `again`: a source may be back, so try now."""
        lacking = [
            package.id
            for package in self._catalogue.all()
            if self._holdings.cares_for_replicas_of(package.id)
        ]
        await self._holdings.settle_many(lacking, again=again)

    async def _read(self, peer: str) -> None:
        try:
            while not self._stopped:
                self._read_again.discard(peer)
                was_down = self._peers.is_down(peer)
                await self._read_all(peer)
                if was_down:
                    await self.fill(again=True)
                if peer not in self._read_again:
                    return
        except (PeerError, PeerNotFound) as exc:
            log.warning(
                "a peer's feed could not be read",
                extra={"action": "feed_unread", "peer": peer, "reason": exc.message},
            )
        except StoreUnavailable as exc:
            log.warning(exc.message, extra={"action": "feed_unread", "peer": peer})
        finally:
            self._reading.pop(peer, None)
            if (
                peer in self._read_again
            ):  # it failed, and meanwhile the peer told us something: where it is now
                self._read_again.discard(peer)
                self.announced(peer)

    async def _read_all(self, peer: str) -> None:
        more = True
        while more and not self._stopped:
            cursor = await self._store.get("cursors", peer) or {"_id": peer, "feed": "", "since": 0}
            client = self._peers.client(peer)
            try:
                page = await asyncio.get_running_loop().run_in_executor(
                    self._calls, client.changes, cursor["since"], cursor["feed"], 0.0
                )
                if page.more and page.next <= cursor["since"] and page.feed == cursor["feed"]:
                    raise PeerMisbehaved("Its change feed does not advance.")
            except PeerError as exc:
                await self._peers.record_failure(peer, exc)
                raise
            await self._peers.record_success(peer)
            moved = (page.feed, page.next) != (cursor["feed"], cursor["since"])
            extra = (
                [Replace("cursors", {"_id": peer, "feed": page.feed, "since": page.next})] if moved else []
            )
            await self._take(peer, page.records, extra)
            more = page.more

    async def _take(self, peer: str, raw: Sequence[Any], extra: Sequence[Operation]) -> None:
        """Take records in; what is new came from this peer, which need not be told of it."""
        heard = self._heard.setdefault(peer, set())
        marks = {_mark(item) for item in raw if isinstance(item, dict)}
        heard |= marks
        winners = await self._intake.take(peer, raw, extra)
        heard -= marks - {(record.key_in_store, record.revision) for record in winners}


def _can_be_told(doc: Doc) -> bool:
    """Whether a document has what an announcement says of it."""
    record = doc.get("record")
    return isinstance(record, dict) and isinstance(record.get("revision"), int) and "record_id" in doc


def _mark(record: Mapping[str, Any]) -> tuple[str, int]:
    return f"{record.get('kind')}:{record.get('id')}", record.get("revision", 0)
