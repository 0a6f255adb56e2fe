"""The signed records that this node keeps, writes and passes on.

Only the newest record of each kind and id is kept. Each write gives it the next number of the change feed, so
the feed is the current state in the order in which this node learned it, and never needs compaction.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from appliance.domain.fingerprint import fingerprint
from appliance.domain.record import TOMBSTONE_LIFE_MS, Record, RecordKind
from appliance.peering.identity import Identity
from appliance.peering.records import parse_record, record_json, sign_record
from appliance.store.ports import Doc, Operation, Replace, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangesPage:
    """A stretch of a node's change feed."""

    feed: str  #: the feed's id: a position in another feed means nothing
    next: int  #: ask from here next time
    more: bool  #: whether the feed goes on behind this page
    records: list[Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """A record in the store, with the write counter that guards its replacement."""

    record: Record | None
    rev: int


@dataclass(slots=True, kw_only=True)
class About:
    """The newest records about one package, tombstones included."""

    package: Known
    replicas: dict[str, Known]  #: by node

    def living(self) -> list[Record]:
        """The replica records of nodes that say something of it still."""
        records = (known.record for known in self.replicas.values())
        return [record for record in records if record is not None and not record.deleted]


def record_doc(record: Record) -> Doc:
    """The document that keeps a record."""
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
    }


def _record(doc: Doc) -> Record:
    return parse_record(doc["record"])


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

    async def known(self, kind: RecordKind, id: str) -> Known:
        """The newest record of this kind and id, tombstones included."""
        doc = await self._store.get("records", f"{kind}:{id}")
        return Known(record=None, rev=0) if doc is None else Known(record=_record(doc), rev=doc["_rev"])

    async def known_many(self, kind: RecordKind, ids: Sequence[str]) -> dict[str, Known]:
        """The newest records of these ids; missing ones are absent."""
        found: dict[str, Known] = {}
        for start in range(0, len(ids), 400):
            part = list(ids[start : start + 400])
            where = {"kind": str(kind), "record_id": {"in": part}}
            for doc in await self._store.find("records", where, limit=len(part)):
                found[doc["record_id"]] = Known(record=_record(doc), rev=doc["_rev"])
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
            TwinRunning: Another copy of this node is running.
        """
        self.check_writing()
        content: Mapping[str, Any] = body if isinstance(body, Mapping) else asdict(body)
        record = sign_record(
            self._identity,
            kind=kind,
            id=id,
            revision=known.record.revision + 1 if known.record else 1,
            at=self._now(),
            deleted=deleted,
            body=content,
        )
        return record, Replace("records", record_doc(record), known.rev)

    async def about(self, package: str) -> About:
        """What is known of a package, in one read."""
        found = About(package=Known(record=None, rev=0), replicas={})
        after: tuple[Any, str] | None = None
        while True:
            docs = await self._store.find("records", {"package": package}, limit=500, after=after)
            for doc in docs:
                known = Known(record=_record(doc), rev=doc["_rev"])
                if doc["kind"] == RecordKind.PACKAGE:
                    found.package = known
                else:
                    found.replicas[doc["node"]] = known
            if len(docs) < 500:
                return found
            after = (docs[-1]["_id"], docs[-1]["_id"])

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
        return [_record(doc) for doc in docs]

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
            records=[_record(doc) for doc in docs],
        )

    async def _after(self, since: int, limit: int) -> list[Doc]:
        return await self._store.find("records", {"seq": {"gt": since}}, order="seq", limit=limit)

    async def bury(self) -> int:
        """Delete tombstones that are older than 90 days; return how many."""
        return await self._store.delete(
            "records", {"deleted": True, "at": {"lt": self._now() - TOMBSTONE_LIFE_MS}}
        )
