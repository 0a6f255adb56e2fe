"""Brings what this node holds into line with the record of a package.

`settle` is the one place where that happens. Uploads, replacements, promotions and withdrawals write a record and
settle; records from peers are taken in and settled; a finished transfer settles. It reads the newest record and
who holds what, asks `domain.holding.decide`, and carries the decision out in an order that survives a crash at
any point: files are linked before the store says so, and removed after. Settling twice is settling once.
"""

import asyncio
import base64
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from appliance.domain.errors import StaleRevision, StoreUnavailable
from appliance.domain.event import EventType
from appliance.domain.holding import Action, Decision, Situation, decide
from appliance.domain.manifest import Manifest
from appliance.domain.node import Admission, NodeBody, admit
from appliance.domain.package import Package, PackageBody, Presence, ReplicaBody
from appliance.domain.record import Record, RecordKind, replica_id
from appliance.domain.states import TransferState
from appliance.jobs.supervisor import Supervisor
from appliance.peering.records import node_body, package_body, replica_body
from appliance.store.blobs import BlobStore
from appliance.store.ports import Doc, Enqueue, Operation, Replace, Store
from appliance.store.rounds import Rounds

from .catalogue import Catalogue, package_doc
from .consequences import events_of, lost_to_another, view_of
from .fetch_jobs import STOPPED, fetch_job, new_transfer_doc, put_off, transfer_id
from .journal import SYSTEM, entry
from .records import About, Known, Records

log = logging.getLogger(__name__)

FILE_THREADS = 4
_TRIES = 8
SAID_FROM = 64 * 1024 * 1024  #: bytes; a smaller package is here almost before a record says that it arrives
RESTART_MS = 3_600_000  #: a transfer that gave up is begun anew after so long
REASON_LENGTH = 1000  #: characters of a reason that a record tells others
_UNDER_WAY = {TransferState.PENDING, TransferState.FETCHING, TransferState.VERIFYING}


class Sources(Protocol):
    """What `Holdings` asks about peers."""

    def usable_sources(self, ids: Iterable[str]) -> list[str]:
        """Those of the nodes that are registered, active and not set aside for misbehaviour."""


def inline_manifest(body: PackageBody) -> Manifest | None:
    """The manifest, if the record carries its chunk list."""
    if not body.chunks and body.size:
        return None
    return Manifest(size=body.size, sha1=body.sha1, sha256=body.sha256, chunks=base64.b64decode(body.chunks))


def fits(manifest: Manifest, body: PackageBody) -> bool:
    """Whether a manifest is the one that a record vouches for."""
    wanted = (body.size, body.sha1, body.sha256, body.manifest)
    return (manifest.size, manifest.sha1, manifest.sha256, manifest.digest) == wanted


def manifest_doc(manifest: Manifest) -> Doc:
    """The document that keeps a manifest."""
    return {
        "_id": manifest.sha256,
        "size": manifest.size,
        "sha1": manifest.sha1,
        "chunks": manifest.chunks,
    }


async def stored_manifest(store: Store, body: PackageBody) -> Manifest | None:
    """The manifest that a package's record vouches for, if the store has it."""
    for id in (body.sha256, _second_manifest_id(body.sha256, body.manifest)):
        doc = await store.get("manifests", id)
        if doc is not None:
            kept = Manifest(size=doc["size"], sha1=doc["sha1"], sha256=body.sha256, chunks=doc["chunks"])
            if fits(kept, body):
                return kept
    return None


def _second_manifest_id(sha256: str, digest: str) -> str:
    """Where a manifest is kept if another record has the same SHA-256 and lists other chunks: one of them is wrong."""
    return f"{sha256}.{digest}"


class Holdings:
    """What this node holds."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        catalogue: Catalogue,
        blobs: BlobStore,
        sources: Sources,
        stages: Sequence[str],
        max_size: int,
        node_id: str,
        own: NodeBody,
        now: Callable[[], int],
        files: Executor,
        supervisor: Supervisor,
    ) -> None:
        """Make one.

        Args:
            store: Where what is held is written.
            records: What the network agrees on.
            catalogue: The view of packages in memory.
            blobs: The bytes.
            sources: Who may be asked for bytes.
            stages: All stages, in their order.
            max_size: Larger packages are not admitted, in bytes.
            node_id: This node's id.
            own: This node's own record.
            now: UTC milliseconds.
            files: Threads in which files are looked at and linked.
            supervisor: Counts and shows packages that cannot be settled.
        """
        self._files = Rounds(files, FILE_THREADS)
        self._supervisor = supervisor
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._blobs = blobs
        self._sources = sources
        self._stages = stages
        self._max_size = max_size
        self._node_id = node_id
        self._own = own
        self._now = now
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._nodes: dict[str, NodeBody] = {}
        self.on_written: Callable[[], None] = lambda: (
            None
        )  #: called when records were written that peers should see

    async def refresh_nodes(self) -> None:
        """Read again which nodes the network has."""
        self._nodes = {record.id: node_body(record) for record in await self._records.nodes()}

    @property
    def nodes(self) -> dict[str, NodeBody]:
        """Every node of the network by id, as last read."""
        return self._nodes

    async def manifest(self, body: PackageBody) -> Manifest | None:
        """The manifest of a package, if it is known here."""
        return inline_manifest(body) or await stored_manifest(self._store, body)

    async def keep_manifest(self, manifest: Manifest) -> None:
        """Keep a manifest that a record vouches for; one of the same SHA-256 for which another record does stays."""
        doc = manifest_doc(manifest)
        known = await self._store.get("manifests", manifest.sha256)
        if known is not None and any(known[name] != doc[name] for name in ("size", "sha1", "chunks")):
            doc["_id"] = _second_manifest_id(manifest.sha256, manifest.digest)
        await self._store.replace("manifests", doc)

    async def on_disk(self, body: PackageBody) -> bool:
        """Whether the bytes of a package are a blob here."""
        return await self._files.run(partial(self._blobs.exists, body.sha256, body.size))

    def cares_for_replicas_of(self, id: str, node: str = "") -> bool:
        """Whether it matters here that another node, or the one that is given, holds a package.

        It is wanted, or may be let go. While it arrives, only a further source matters.
        """
        package = self._catalogue.by_id(id)
        if package is not None and package.presence is Presence.ARRIVING and node:
            return bool(self._sources.usable_sources([node]))
        if package is None or package.presence in {Presence.WAITING, Presence.ARRIVING, Presence.DAMAGED}:
            return True
        return package.presence is Presence.HELD and not self._admission(self._own, package.body).admitted

    async def say_again(self, id: str) -> None:
        """Write this node's replica record of a package anew, above one from before a restored copy."""
        package = self._catalogue.by_id(id)
        if package is not None:
            operations = self._replica(package, await self._records.about(id))
            if operations:
                await self._store.batch(operations)
                self.on_written()

    async def settle_many(self, ids: Iterable[str], *, again: bool = False) -> None:
        """Settle packages, several at a time; `again` as for `settle`.

        One that cannot be settled, for whatever reason, does not keep the others from it.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        waiting = list(dict.fromkeys(ids))

        async def drain() -> None:
            while waiting:
                id = waiting.pop(0)
                await self._supervisor.once(
                    "packages.settle",
                    partial(self.settle, id, again=again),
                    step=id,
                    passing=(StoreUnavailable,),
                )

        await asyncio.gather(*(drain() for _ in range(min(16, len(waiting)))))

    async def settle(
        self, id: str, *, actor: str = "", extra: Sequence[Operation] = (), again: bool = False
    ) -> Package | None:
        """Bring one package into line and return the view of it, or None if no record is known.

        Args:
            id: Package id.
            actor: Who changed the record, when it was changed here.
            extra: Operations to do in the same write.
            again: Whether a transfer that stopped is begun anew now; else it goes on when its job does.
        """
        lock = self._locks.setdefault(id, asyncio.Lock())
        async with lock:
            for attempt in range(_TRIES):
                try:
                    return await self._settle(id, actor, extra, again)
                except StaleRevision:
                    if attempt == _TRIES - 1:
                        raise
                    await self._catalogue.load()
        return None

    async def _settle(self, id: str, actor: str, extra: Sequence[Operation], again: bool) -> Package | None:
        about = await self._records.about(id)
        record = about.package.record
        if record is None:
            if extra:
                await self._store.batch(extra)
            return None
        body = package_body(record)
        old = self._catalogue.by_id(id)
        transfer = await self._store.get("transfers", transfer_id(id, body.sha256))
        situation = await self._situation(record, about, body, old, transfer)
        decision = decide(situation)
        view = view_of(record, body, old, decision)
        if decision.action is Action.ADOPT or (old and view.held_filename not in {"", old.held_filename}):
            await self._files.run(partial(self._blobs.publish, view.held_sha256, view.held_filename))
        stopped = bool(situation.trouble)
        operations = [*self._operations(old, view, about, decision, actor, stopped=stopped), *extra]
        due = again or self._due(old, situation, transfer)
        if decision.action is Action.FETCH and due and not put_off(transfer, self._now()):
            operations.extend(self._fetch(view, transfer, self._now()))
        if operations:
            stored = await self._store.batch(operations)
            for operation, doc in zip(operations, stored, strict=True):
                if isinstance(operation, Replace) and operation.collection == "packages" and doc is not None:
                    self._catalogue.take(doc)
            if any(isinstance(op, Replace) and op.collection == "records" for op in operations):
                self.on_written()
        await self._let_go(old, view, decision)
        return self._catalogue.by_id(id)

    async def _situation(
        self, record: Record, about: About, body: PackageBody, old: Package | None, transfer: Doc | None
    ) -> Situation:
        held = old.held_sha256 if old else ""
        others = [
            replica
            for replica in map(replica_body, about.living())
            if replica.node != self._node_id
            and replica.node in self._nodes
            and replica.sha256 == body.sha256
            and replica.presence == Presence.HELD
        ]
        near = self._sources.usable_sources(replica.node for replica in others)
        on_disk = False
        if held != body.sha256:
            on_disk = await self.on_disk(body)
            on_disk = on_disk and await self.manifest(body) is not None
        return Situation(
            withdrawn=record.deleted,
            admission=self._own_admission(body, here=on_disk or held == body.sha256),
            held_current=held == body.sha256,
            held_old=held not in {"", body.sha256},
            on_disk=on_disk,
            damaged=old is not None and old.presence is Presence.DAMAGED,
            cancelled=transfer is not None and transfer["state"] == TransferState.CANCELLED,
            trouble=transfer["error"] if transfer is not None and transfer["state"] in STOPPED else "",
            sources=[self._name(node) for node in near],
            out_of_reach=[self._name(replica.node) for replica in others if replica.node not in near],
            safe_elsewhere=any(
                self._admission(self._nodes[replica.node], body).admitted for replica in others
            ),
        )

    def _admission(self, node: NodeBody, body: PackageBody) -> Admission:
        return admit(
            stages=self._stages,
            node_stage=node.stage,
            take=node.tags_take,
            refuse=node.tags_refuse,
            package_stage=body.stage,
            tags=body.tags,
        )

    def _own_admission(self, body: PackageBody, *, here: bool) -> Admission:
        """As `_admission` for this node, which takes no file that is too large, but keeps one that is here."""
        if body.size > self._max_size and not here:
            return Admission(
                admitted=False,
                reason=f"its {body.size:,} bytes are more than this node takes "
                f"(uploads.max_size: {self._max_size:,})",
            )
        return self._admission(self._own, body)

    def _name(self, node: str) -> str:
        known = self._nodes.get(node)
        return known.name if known else node[:8]

    def _operations(
        self,
        old: Package | None,
        view: Package,
        about: About,
        decision: Decision,
        actor: str,
        *,
        stopped: bool,
    ) -> list[Operation]:
        now = self._now()
        operations: list[Operation] = []
        if view != old:
            rev = self._catalogue.rev(view.id)
            operations.append(Replace("packages", package_doc(view, now), rev))
            operations.extend(events_of(old, view, decision, actor=actor, at=now))
            operations.extend(self._replica(view, about, stopped=stopped))
            if lost_to_another(old, view.body) and old is not None:
                operations.append(Replace("superseded", _superseded_doc(old, now)))
        return operations

    def _replica(self, view: Package, about: About, *, stopped: bool = False) -> list[Operation]:
        """The record that tells the network; a transfer that just began has nothing to correct, and says nothing."""
        id = replica_id(view.id, self._node_id)
        known = about.replicas.get(self._node_id, Known(record=None, rev=0))
        before = replica_body(known.record) if known.record and not known.record.deleted else None
        body = ReplicaBody(
            package=view.id,
            node=self._node_id,
            sha256=view.body.sha256,
            presence=str(view.presence),
            reason=view.reason[:REASON_LENGTH],
        )
        if before == body or (before is None and view.withdrawn):
            return []
        if view.presence is Presence.ARRIVING and not stopped:
            wrong = before is not None and before.sha256 == body.sha256 and view.body.size >= SAID_FROM
            if not wrong:
                return []
        _, operation = self._records.write(RecordKind.REPLICA, id, body, known, deleted=view.withdrawn)
        return [operation]

    def _due(self, old: Package | None, situation: Situation, transfer: Doc | None) -> bool:
        """Whether to begin a transfer now. One that stopped goes on when its job does, or at once for a new source."""
        if transfer is None or transfer["state"] not in STOPPED:
            return True
        if old is None or old.presence is not Presence.ARRIVING:
            return True
        if set(situation.sources) - {source["name"] for source in transfer["sources"]}:
            return True
        if transfer.get("retry_at", 0):
            return True  # that time has come: see `put_off`
        gave_up = transfer["state"] == TransferState.FAILED
        return gave_up and bool(self._now() - transfer["updated_at"] > RESTART_MS)

    @staticmethod
    def _fetch(view: Package, transfer: Doc | None, now: int) -> list[Operation]:
        if transfer is not None and transfer["state"] in _UNDER_WAY:
            return []
        doc = new_transfer_doc(view, now)
        doc["retry_at"] = transfer.get("retry_at", 0) if transfer is not None else 0
        return [Replace("transfers", doc), Enqueue(fetch_job(view, now))]

    async def _let_go(self, old: Package | None, view: Package, decision: Decision) -> None:
        """Remove files that the store no longer mentions."""
        if old is not None and old.held_filename and old.held_filename != view.held_filename:
            await asyncio.to_thread(self._blobs.unpublish, old.held_filename)
        if old is not None and old.held_sha256 and old.held_sha256 != view.held_sha256:
            await self.free(old.held_sha256)
        if decision.action is Action.RELEASE:
            await self.free(view.body.sha256)

    async def free(self, sha256: str) -> None:
        """Remove a blob that no package here is served from and that no superseded file keeps."""
        if self._catalogue.holders(sha256) or await self._store.count("superseded", {"sha256": sha256}):
            return
        await asyncio.to_thread(self._blobs.remove, sha256)

    async def lost(self, id: str, reason: str) -> None:
        """Note that the file of a held package is damaged or missing, set it aside, and fetch it again.

        Args:
            id: Package id.
            reason: What was found, for the event.
        """
        lock = self._locks.setdefault(id, asyncio.Lock())
        async with lock:
            package = self._catalogue.by_id(id)
            if package is None or not package.held_sha256:
                return
            await asyncio.to_thread(self._blobs.unpublish, package.held_filename)
            await asyncio.to_thread(self._blobs.quarantine, package.held_sha256)
            now = self._now()
            view = replace(
                package, presence=Presence.DAMAGED, reason=reason, held_sha256="", held_filename=""
            )
            event = entry(
                EventType.PACKAGE_DAMAGED,
                at=now,
                actor=SYSTEM,
                subject=id,
                filename=package.body.filename,
                sha256=package.held_sha256,
                reason=reason,
            )
            operation = Replace("packages", package_doc(view, now), self._catalogue.rev(id))
            stored = await self._store.batch([operation, event])
            if stored[0] is not None:
                self._catalogue.take(stored[0])
            log.error(
                "a held file is damaged", extra={"action": "package_damaged", "package": id, "reason": reason}
            )
        await self.settle(id)


def _superseded_doc(old: Package, now: int) -> Doc:
    return {
        "_id": f"{old.id}:{old.held_sha256}",
        "package": old.id,
        "sha256": old.held_sha256,
        "filename": old.held_filename,
        "revision": old.revision,
        "author": old.author,
        "at": now,
    }
