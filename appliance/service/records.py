"""The signed records that this node keeps, writes and passes on.

Only the newest record of each kind and id is kept. Each write gives it the next number of the change feed, so
the feed is the current state in the order in which this node learned it, and never needs compaction.

What the store has is checked like what comes from a peer, but for the signature: a record that breaks a rule, from an
older version, a bug or a hand that touched the database, is skipped as if it were not there, counted and shown. Whoever
writes the record next replaces it. One that is only ahead of the clock stays, because this node's clock may be behind;
but it goes to no peer, and any record that is not ahead outranks it, unless it is one of those that it replaced: these
come back from peers. So the revisions that a record replaced are noted beside it.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from appliance.domain.errors import InvalidInput, TwinRunning, WireInvalid
from appliance.domain.fingerprint import fingerprint
from appliance.domain.record import (
    AHEAD_MS,
    PASSED_ON_MS,
    Record,
    RecordKind,
    ahead_ms,
    next_revision,
    replica_id,
)
from appliance.peering.identity import Identity
from appliance.peering.records import check_rules, parse_record, record_json, sign_record
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Replace, Store

from .undone import described, undoes

log = logging.getLogger(__name__)

_REMEMBERED = 10_000  #: records that break a rule
_LOGGED = 20  #: of these: a database full of them must not fill the log
_REPLACED = 16  #: revisions that a stored record replaced, noted beside it
_CHECKED = 4096  #: records whose rules are not checked again while they stay as they are


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesPage:
    """A stretch of a node's change feed."""

    feed: str  #: the feed's id: a position in another feed means nothing
    next: int  #: ask from here next time
    more: bool  #: whether the feed goes on behind this page
    records: list[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A record in the store, if it breaks no rule, with the write counter that guards its replacement."""

    record: Record | None
    rev: int
    replaced: tuple[int, ...] = ()  #: the revisions before it, newest first
    lost: Record | None = None  #: a replacement that it undoes, see `undone`
    #: as `described` before the bytes of `lost`, or of the record if it undoes nothing, took the place of others here
    before: Mapping[str, Any] = field(default_factory=dict)

    def followed_by(self, record: Record) -> Doc:
        """The document that keeps a record in the place of this one."""
        doc = record_doc(record, self._as_replaced())
        if record.kind is not RecordKind.PACKAGE:
            return doc
        before = self.before
        lost = next((one for one in (self.record, self.lost) if one and undoes(record, one)), None)
        if lost is not None:
            doc["lost"] = record_json(lost)
        elif self.record is not None and self.record.body["sha256"] != record.body["sha256"]:
            before = described(self.record)
        if before:
            doc["before"] = dict(before)
        return doc

    def undone_by(self, record: Record) -> Doc | None:
        """The document that notes a record that lost beside this one, if this one undoes it; None if it does not."""
        if self.record is None or not undoes(self.record, record):
            return None
        if self.lost is not None and not record.outranks(self.lost):
            return None
        return {**record_doc(self.record, self.replaced), "lost": record_json(record)}

    def _as_replaced(self) -> tuple[int, ...]:
        before = (self.record.revision,) if self.record is not None else ()
        return (*before, *self.replaced)[:_REPLACED]


@dataclass(slots=True, kw_only=True)
class About:
    """The newest records about one package, tombstones included."""

    package: Known
    replicas: dict[str, Known]  #: by node

    def living(self) -> list[Record]:
        """The replica records of nodes that say something of it still."""
        records = (known.record for known in self.replicas.values())
        return [record for record in records if record is not None and not record.deleted]


def record_doc(record: Record, replaced: Sequence[int] = ()) -> Doc:
    """The document that keeps a record, with the revisions that it replaced here."""
    package, node = "", ""
    if record.kind is RecordKind.REPLICA:
        package, _, node = record.id.partition(".")
    elif record.kind is RecordKind.PACKAGE:
        package = record.id
    else:
        node = record.id
    return {
        "_id": record.key_in_store,
        "kind": str(record.kind),
        "record_id": record.id,
        "author": record.author,
        "deleted": record.deleted,
        "package": package,
        "node": node,
        "at": record.at,
        "fingerprint": fingerprint(record.key_in_store, record.signature),
        "record": record_json(record),
        "replaced": list(replaced),
    }


def stored_record(doc: Doc) -> Record:
    """The record of a document.

    Raises:
        InvalidInput: It breaks a rule, or is not the one that the document says.
    """
    record = parse_record(doc.get("record"))
    check_rules(record)
    told = (doc["_id"], doc.get("kind"), doc.get("record_id"), doc.get("deleted"))
    if told != (record.key_in_store, str(record.kind), record.id, record.deleted):
        raise WireInvalid("It is not the record under whose id it is kept.")
    return record


def _lost(doc: Doc) -> Record | None:
    """The replacement that the record of a document undoes, as it was noted beside it."""
    if doc.get("lost") is None:
        return None
    try:
        record = parse_record(doc["lost"])
        check_rules(record)
    except InvalidInput:
        return None
    return record if record.key_in_store == doc["_id"] else None


class Records:
    """Reads and signs records. Writing is the caller's: an operation that fails if somebody wrote in between."""

    def __init__(
        self,
        store: Store,
        identity: Identity,
        now: Callable[[], int],
        *,
        check_writing: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._identity = identity
        self._now = now
        self.check_writing = check_writing  #: raises TwinRunning if this node must not write
        #: whether a peer agreed with our clock just now
        self.clock_trusted: Callable[[], bool] = lambda: False
        #: stored records that break a rule, and which; filled by `read`, so only of what was read since the start
        self.broken: dict[str, str] = {}
        #: stored records that are ahead of the clock, and whether we wrote them; filled by `read` as well
        self.ahead: dict[str, bool] = {}
        self._ahead_told = False
        self._checked: dict[str, int] = {}  #: write counters of records that break no rule, by id

    def may_write(self) -> bool:
        """Whether this node may write records: no other copy of it is running."""
        try:
            self.check_writing()
        except TwinRunning:
            return False
        return True

    def read(self, doc: Doc) -> Record | None:
        """The record of a document, or None if it breaks a rule.

        Every read keeps the lists up to date: a record that breaks a rule is noted in `broken`, one that is ahead of
        the clock in `ahead`, and one that is right is taken off them.
        """
        id, rev = doc["_id"], doc["_rev"]
        try:
            record = parse_record(doc["record"]) if self._checked.get(id) == rev else stored_record(doc)
        except InvalidInput as exc:
            self._note_broken(id, exc.message)
            return None
        if self._checked.get(id) != rev:
            if len(self._checked) >= _CHECKED:
                self._checked.clear()
            self._checked[id] = rev
            self.broken.pop(id, None)
        if self.is_ahead(record):
            self._note_ahead(id, own=record.author == self._identity.node_id)
        elif self.ahead:
            self.ahead.pop(id, None)
        return record

    def _note_broken(self, id: str, reason: str) -> None:
        if id in self.broken or len(self.broken) >= _REMEMBERED:
            return
        self.broken[id] = reason
        if len(self.broken) <= _LOGGED:
            log.warning(
                "a stored record breaks a rule and is skipped; `ods fsck` lists such records",
                extra={"action": "record_skipped", "record": id[:200], "reason": reason},
            )

    def _note_ahead(self, id: str, *, own: bool) -> None:
        if not self._ahead_told:
            self._ahead_told = True
            log.warning(
                "stored records are more than an hour ahead of this node's clock: is it right?",
                extra={"action": "records_ahead", "record": id[:200]},
            )
        if len(self.ahead) < _REMEMBERED:
            self.ahead[id] = own

    def is_ahead(self, record: Record) -> bool:
        """Whether a record is so far ahead of the clock that nobody takes it."""
        return ahead_ms(record, self._now()) > AHEAD_MS

    def goes_out(self, record: Record) -> bool:
        """Whether peers would take a record: one that is ahead of the clock is not passed on until its time comes."""
        return ahead_ms(record, self._now()) <= PASSED_ON_MS

    def _known(self, doc: Doc) -> Known:
        told = doc.get("replaced")
        replaced = tuple(each for each in told if isinstance(each, int)) if isinstance(told, list) else ()
        before = doc.get("before")
        return Known(
            record=self.read(doc),
            rev=doc["_rev"],
            replaced=replaced,
            lost=_lost(doc),
            before=before if isinstance(before, dict) else {},
        )

    async def known(self, kind: RecordKind, id: str) -> Known:
        """The newest record of this kind and id, tombstones included."""
        doc = await self._store.get("records", f"{kind}:{id}")
        return Known(record=None, rev=0) if doc is None else self._known(doc)

    async def known_many(self, kind: RecordKind, ids: Sequence[str]) -> dict[str, Known]:
        """The newest records of these ids; missing ones are absent.

        A row is found by its `_id` alone, as it is when it is replaced: its other fields may be wrong.
        """
        found: dict[str, Known] = {}
        for start in range(0, len(ids), 400):
            part = [f"{kind}:{id}" for id in ids[start : start + 400]]
            for doc in await self._store.find("records", {"_id": {"in": part}}, limit=len(part)):
                found[doc["_id"].partition(":")[2]] = self._known(doc)
        return found

    def write(
        self, kind: RecordKind, id: str, body: Any, known: Known, *, deleted: bool = False
    ) -> tuple[Record, Operation]:
        """Sign the next revision of a record.

        Args:
            kind: What it describes.
            id: Its id.
            body: The body's dataclass, or a mapping.
            known: What `known` answered.
            deleted: Whether it is a tombstone.

        Returns:
            The record, and the operation that keeps it.

        Raises:
            InvalidInput: The body breaks a rule: other nodes would refuse it.
            TwinRunning: Another copy of this node is running.
        """
        self.check_writing()
        content: Mapping[str, Any] = body if isinstance(body, Mapping) else asdict(body)
        now = self._now()
        # What only this node writes comes back from peers if they have a higher revision, and is outranked then.
        trusted = kind is not RecordKind.PACKAGE or self.clock_trusted()
        record = sign_record(
            self._identity,
            kind=kind,
            id=id,
            revision=next_revision(known.record, now, trusted=trusted),
            at=now,
            deleted=deleted,
            body=content,
        )
        check_rules(record)
        return record, Replace("records", known.followed_by(record), known.rev)

    async def about(self, package: str) -> About:
        """What is known of a package, in one read.

        What this node is about to write, the package's record and that of its own replica, is found even if the row's
        other fields are wrong.
        """
        found = About(package=Known(record=None, rev=0), replicas={})
        own = [f"{RecordKind.PACKAGE}:{package}"]
        own.append(f"{RecordKind.REPLICA}:{replica_id(package, self._identity.node_id)}")
        docs = [doc async for doc in every(self._store, "records", {"package": package})]
        missing = set(own) - {doc["_id"] for doc in docs}
        if missing:
            docs += await self._store.find("records", {"_id": {"in": sorted(missing)}})
        for doc in docs:
            kind, _, id = doc["_id"].partition(":")
            of, _, node = id.partition(".")
            if of != package:
                continue
            if kind == RecordKind.PACKAGE:
                found.package = self._known(doc)
            elif kind == RecordKind.REPLICA:
                found.replicas[node] = self._known(doc)
        return found

    async def replicas(self, package: str) -> list[Record]:
        """Every node's living replica record of a package."""
        return (await self.about(package)).living()

    async def replicas_of(self, packages: Sequence[str]) -> dict[str, list[Record]]:
        """Every node's living replica records of several packages, by package id."""
        return {id: await self.replicas(id) for id in packages}

    async def nodes(self) -> list[Record]:
        """Every node of the network that this node has heard of and that has not left."""
        docs = await self._store.find(
            "records", {"kind": str(RecordKind.NODE), "deleted": False}, limit=10_000
        )
        return [record for doc in docs if (record := self.read(doc)) is not None]

    async def left(self, ids: Sequence[str]) -> set[str]:
        """Those of the nodes of which a tombstone says that they left; a record that is only absent says nothing."""
        known = await self.known_many(RecordKind.NODE, ids)
        return {id for id, each in known.items() if each.record is not None and each.record.deleted}

    async def changes(self, *, since: int, feed: str, limit: int, wait_s: float) -> ChangesPage:
        """A page of this node's change feed, at once if there is one, else after at most `wait_s` seconds.

        Args:
            since: The position behind which to begin.
            feed: The feed id that `since` belongs to; if it is none of this feed's, the reader begins again.
            limit: At most this many records.
            wait_s: How long to wait for the first record.
        """
        own = await self._store.feed()
        since = own.start(feed, since)
        seen = await self._store.changed("records", -1, timeout=0)
        docs = await self._after(since, limit)
        if not docs and since > await self._store.last_sequence("records"):
            # The caller read further than this database goes: an older copy was restored while the node ran.
            since = 0
            docs = await self._after(since, limit)
        if not docs and wait_s > 0:
            await self._store.changed("records", seen, timeout=wait_s)
            docs = await self._after(since, limit)
        more = len(docs) == limit
        return ChangesPage(
            feed=own.id,
            next=docs[-1]["seq"] if docs else since,
            more=more,
            records=[
                record for doc in docs if (record := self.read(doc)) is not None and self.goes_out(record)
            ],
        )

    async def _after(self, since: int, limit: int) -> list[Doc]:
        return await self._store.find("records", {"seq": {"gt": since}}, order="seq", limit=limit)
