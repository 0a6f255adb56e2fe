"""Notices when a package that was uploaded here has reached every node that admits it, and says so once.

It follows this node's change feed. How far is kept in the store, and what was said is kept with the event in one
write, so that a crash neither forgets nor repeats.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from appliance.domain.errors import OUTAGES, StaleRevision
from appliance.domain.event import EventType
from appliance.domain.node import NodeBody, admit
from appliance.domain.package import PackageBody, Presence
from appliance.domain.record import Record, RecordKind
from appliance.peering.records import node_body, package_body, replica_body
from appliance.store.ports import Doc, Operation, Replace, Store

from .journal import SYSTEM, entry
from .records import Records

CURSOR = "coverage"
PAGE = 500  #: records that are read at once
PAUSE_S = 0.5  #: between two looks, while much changes
_IDLE_S = 60.0


class Coverage:
    """Who holds the packages of this node."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        stages: Sequence[str],
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._records = records
        self._stages = stages
        self._node_id = node_id
        self._now = now

    async def follow(self) -> None:
        """Look whenever records change, until cancelled."""
        seen = -1
        while True:
            try:
                seen = await self._store.changed("records", seen, timeout=_IDLE_S)
                while await self.look():
                    pass
            except (*OUTAGES, StaleRevision):
                pass  # the database is away, or another process of this node looks too: again after the pause
            await asyncio.sleep(PAUSE_S)

    async def look(self) -> bool:
        """Judge the packages that the next records of the change feed touch.

        Returns:
            Whether there may be more.

        Raises:
            StaleRevision: Another process of this node did the same meanwhile.
        """
        cursor = await self._store.get("followers", CURSOR)
        if cursor is None:
            last = await self._store.last_sequence("records")
            await self._store.replace("followers", {"_id": CURSOR, "seq": last}, expect=0)
            return False
        docs = await self._store.find("records", {"seq": {"gt": cursor["seq"]}}, order="seq", limit=PAGE)
        if not docs:
            return False
        nodes = {record.id: node_body(record) for record in await self._records.nodes()}
        touched = dict.fromkeys(package for doc in docs if (package := doc.get("package")))
        if any(doc.get("kind") == RecordKind.NODE for doc in docs):
            # A node that left, or admits less than before, may have been the last that was missing.
            touched |= dict.fromkeys(await self._waiting())
        await self._judge_all(list(touched), nodes)
        new = {"_id": CURSOR, "seq": docs[-1]["seq"]}
        await self._store.replace("followers", new, expect=cursor["_rev"])
        return len(docs) == PAGE

    async def _waiting(self) -> list[str]:
        """Packages that were looked at and not everywhere."""
        found = await self._store.find("notices", {"_id": {"prefix": "coverage:"}}, limit=100_000)
        return [doc["package"] for doc in found if not doc["told"]]

    async def _judge_all(self, packages: Sequence[str], nodes: Mapping[str, NodeBody]) -> None:
        for start in range(0, len(packages), PAGE):
            part = packages[start : start + PAGE]
            ids = [f"coverage:{package}" for package in part]
            docs = await self._store.find("notices", {"_id": {"in": ids}}, limit=PAGE)
            notices = {doc["package"]: doc for doc in docs}
            for known in (await self._records.known_many(RecordKind.PACKAGE, part)).values():
                if known.record is not None:
                    await self._judge(known.record, notices.get(known.record.id), nodes)

    async def _judge(self, record: Record, notice: Doc | None, nodes: Mapping[str, NodeBody]) -> None:
        body, package = package_body(record), record.id
        if record.deleted or body.origin != self._node_id:
            if notice is not None:
                await self._store.delete("notices", {"_id": notice["_id"]})
            return
        if notice is not None and notice["told"] and notice["sha256"] == body.sha256:
            return
        said = {
            replica.node: replica.presence
            for replica in map(replica_body, await self._records.replicas(package))
            if replica.sha256 == body.sha256
        }
        holding = {node for node, presence in said.items() if presence == Presence.HELD}
        admitting = {
            node
            for node, about in nodes.items()
            # A node knows best itself: it may take no file that large, or know other stages.
            if self._admits(about, body) and said.get(node) != Presence.NOT_ADMITTED
        }
        done = bool(admitting) and admitting <= holding
        await self._note(notice, package, body, told=done, nodes=len(admitting))

    async def _note(
        self, notice: Doc | None, package: str, body: PackageBody, *, told: bool, nodes: int
    ) -> None:
        if notice is not None and notice["sha256"] == body.sha256 and notice["told"] == told:
            return
        now = self._now()
        new = {"_id": f"coverage:{package}", "package": package, "sha256": body.sha256, "told": told}
        operations: list[Operation] = [Replace("notices", new, notice["_rev"] if notice else 0)]
        if told and nodes > 1:  # a node alone has nobody to wait for
            operations.append(
                entry(
                    EventType.PACKAGE_REPLICATED,
                    at=now,
                    actor=SYSTEM,
                    subject=package,
                    filename=body.filename,
                    sha256=body.sha256,
                    size=body.size,
                    nodes=nodes,
                    seconds=max(0, now - body.uploaded_at) // 1000,
                )
            )
        with contextlib.suppress(StaleRevision):  # another process of this node said it
            await self._store.batch(operations)

    def _admits(self, node: NodeBody, body: PackageBody) -> bool:
        return admit(
            stages=self._stages,
            node_stage=node.stage,
            take=node.tags_take,
            refuse=node.tags_refuse,
            package_stage=body.stage,
            tags=body.tags,
        ).admitted
