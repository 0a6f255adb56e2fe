"""Brings what this node holds into line with the record of a package.

`settle` is the one place where that happens. Uploads, replacements, promotions and withdrawals write a record and
settle; records from peers are taken in and settled; a finished transfer settles. It reads the newest record and
who holds what, asks `domain.holding.decide`, and carries the decision out in an order that survives a crash at
any point: files are linked before the store says so, and removed after. Settling twice is settling once.
"""

import asyncio
import base64
import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Protocol
from weakref import WeakValueDictionary

from appliance.domain.errors import (
    OUTAGES,
    BlobMissing,
    InvalidInput,
    StaleRevision,
    StorageError,
    TwinRunning,
)
from appliance.domain.event import EventType
from appliance.domain.holding import Action, Decision, Proof, SetAside, Situation, decide
from appliance.domain.job import Job
from appliance.domain.manifest import Manifest
from appliance.domain.node import Admission, NodeBody, admit
from appliance.domain.package import WANTED, Package, PackageBody, Presence, ReplicaBody
from appliance.domain.record import Record, RecordKind, replica_id
from appliance.domain.sizes import human_size
from appliance.domain.states import TransferState
from appliance.jobs.new import new_job
from appliance.jobs.run import describe
from appliance.jobs.supervisor import Supervisor
from appliance.peering.records import node_body, package_body, replica_body
from appliance.store.blobs import BlobStore, Stamp
from appliance.store.ports import Doc, Enqueue, Operation, Replace, Store
from appliance.store.rounds import Rounds

from .catalogue import Catalogue, package_doc
from .consequences import events_of, view_of
from .fetch_jobs import (
    STOPPED,
    cancelled_by_person,
    fetch_job,
    fetch_key,
    follow,
    needs_job,
    retry_time,
    transfer_id,
)
from .journal import SYSTEM, entry
from .public_names import show
from .records import About, Known, Records
from .trash import Trash, needed_by
from .undone import falls_to, together
from .unsettled import Unsettled, read_unsettled
from .verified_blobs import VerifiedBlobs, damage, damage_noted
from .verify_jobs import verify_blob_job

log = logging.getLogger(__name__)

FILE_THREADS = 4
_TRIES = 8
_MANY = 10_000
SAID_FROM = 64 * 1024 * 1024  #: bytes; a smaller package is here almost before a record says that it arrives
REASON_LENGTH = 1000  #: characters of a reason that a record tells others


RELEASE_CHECK_JOB = "package.release_check"  #: asks another node for a chunk, see `release_check`


class Sources(Protocol):
    """What `Holdings` asks about peers."""

    def usable_sources(self, ids: Iterable[str], package: str) -> list[str]:
        """Those of the nodes that are registered, active and not set aside, as a whole or for this package."""

    def set_aside(self, ids: Iterable[str], package: str) -> list[SetAside]:
        """Those of the nodes that are registered and active, and set aside."""


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
        trash: Trash,
        sources: Sources,
        stages: Sequence[str],
        max_size: int,
        node_id: str,
        own: NodeBody,
        now: Callable[[], int],
        files: Executor,
        supervisor: Supervisor,
        verified: VerifiedBlobs | None = None,
    ) -> None:
        """Make one.

        Args:
            store: Where what is held is written.
            records: What the network agrees on.
            catalogue: The view of packages in memory.
            blobs: The bytes.
            trash: What is no longer served and can be restored.
            sources: Who may be asked for bytes.
            stages: All stages, in their order.
            max_size: Larger packages are not admitted, in bytes.
            node_id: This node's id.
            own: This node's own record.
            now: UTC milliseconds.
            files: Threads in which files are looked at and linked.
            supervisor: Counts and shows packages that cannot be settled.
            verified: Which blobs were verified here; without it, those of the right size count.
        """
        self._files = Rounds(files, FILE_THREADS)
        self._supervisor = supervisor
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._blobs = blobs
        self._trash = trash
        self._sources = sources
        self._stages = stages
        self._max_size = max_size
        self._node_id = node_id
        self._own = own
        self._now = now
        self._unsettled = Unsettled(store, now)
        self._verified = verified
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._nodes: dict[str, NodeBody] = {}
        self._nodes_seq = 0
        self._reading_nodes = asyncio.Lock()  #: so that an older list never takes the place of a newer one
        self._given: dict[str, str] = {}  #: public names, by package, that the store does not know of yet
        self.on_written: Callable[[], None] = lambda: (
            None
        )  #: called when records were written that peers should see

    async def refresh_nodes(self) -> None:
        """Read again which nodes the network has."""
        async with self._reading_nodes:
            seq, records = await self._store.last_sequence("records"), await self._records.nodes()
            self._nodes, self._nodes_seq = {record.id: node_body(record) for record in records}, seq

    async def follow_nodes(self) -> None:
        """Read again which nodes the network has, if another process of this node may have written one since."""
        where = {"kind": str(RecordKind.NODE), "seq": {"gt": self._nodes_seq}}
        if await self._store.find("records", where, order="seq", limit=1):
            await self.refresh_nodes()

    async def left(self, ids: Iterable[str]) -> set[str]:
        """Those of the nodes of which the network says that they left. One that is not among `nodes` may be there."""
        return await self._records.left(list(ids))

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
        """Whether the bytes of a package are a blob here that this node has verified; else it is verified soon."""
        here, unverified = await self._blob_here(body)
        if unverified:
            await self._store.enqueue(verify_blob_job(body.sha256, self._now()))
        return here

    async def _blob_here(self, body: PackageBody) -> tuple[bool, bool]:
        """Whether the bytes of a package are a blob here that was verified, and whether one is to be verified first."""
        try:
            stamp = await self._files.run(partial(self._blobs.stamp, body.sha256))
        except OSError:
            return False, False
        if stamp is None:
            return False, False
        if self._verified is None or await self._verified.trusted(body.sha256, stamp):
            return stamp.size == body.size, False
        return False, not self._verified.known_bad(body.sha256, stamp)  # of another size too: that is damage

    def cares_for_replicas_of(self, id: str, node: str = "") -> bool:
        """Whether it matters here that another node, or the one that is given, holds a package.

        It is wanted, or may be let go. While it arrives, only a further source matters.
        """
        package = self._catalogue.by_id(id)
        if package is not None and package.presence is Presence.ARRIVING and node:
            return bool(self._sources.usable_sources([node], id))
        if package is None or package.presence in WANTED:
            return True
        return package.presence is Presence.HELD and not self.admission(self._own, package.body).admitted

    async def settle_many(self, ids: Iterable[str], *, again: bool = False) -> set[str]:
        """Settle packages, several at a time; `again` as for `settle`.

        One that fails by itself keeps no other from it: it is noted, with why, and settled again by `settle_noted`.

        Returns:
            The ids of those that failed.

        Raises:
            StoreUnavailable: The database does not answer; the rest is not settled.
            StorageFull: Its disk, or that of the files, is full; the rest is not settled.
        """
        waiting = list(dict.fromkeys(ids))
        failed: set[str] = set()

        async def drain() -> None:
            while waiting:
                id = waiting.pop(0)
                reason = await self._settle_safely(id, again=again)
                if reason:
                    failed.add(id)
                    await self.note_unsettled(id, reason)

        await asyncio.gather(*(drain() for _ in range(min(16, len(waiting)))))
        return failed

    async def _settle_safely(self, id: str, *, again: bool) -> str:
        """Settle a package; why that failed, or "" if it did not."""
        reason = ""

        async def step() -> None:
            nonlocal reason
            try:
                await self.settle(id, again=again)
            except BaseException as exc:
                reason = describe(exc)
                raise

        await self._supervisor.once("packages.settle", step, step=id, passing=OUTAGES)
        return reason

    async def note_unsettled(self, id: str, reason: str) -> None:
        """Note that a package could not be settled, so that it is settled again and people learn of it."""
        record = (await self._records.known(RecordKind.PACKAGE, id)).record
        filename = package_body(record).filename if record is not None else id
        await self._unsettled.note(id, filename, reason)

    async def settle_noted(self) -> None:
        """Settle what could not be settled before.

        Raises:
            StoreUnavailable, StorageFull: As for `settle_many`.
        """
        noted = await read_unsettled(self._store)
        failed = await self.settle_many(doc["package"] for doc in noted)
        for doc in noted:
            if doc["package"] not in failed:
                await self._unsettled.remove(doc)

    async def settle(
        self,
        id: str,
        *,
        actor: str = "",
        extra: Sequence[Operation] = (),
        transfer: Doc | None = None,
        again: bool = False,
        proof: Proof | None = None,
    ) -> Package | None:
        """Bring one package into line and return the view of it, or None if no record is known.

        Args:
            id: Package id.
            actor: Who changed the record, when it was changed here.
            extra: Operations to do in the same write.
            transfer: How a transfer of it ended, to be written with what follows from that.
            again: Whether a transfer that stopped is begun anew now; else it goes on when its job does.
            proof: Another node has just proved that it has the bytes.
        """
        lock = self._locks.setdefault(id, asyncio.Lock())
        async with lock:
            for attempt in range(_TRIES):
                try:
                    package, heirs = await self._settle(id, actor, extra, transfer, again, proof)
                    break
                except (StaleRevision, BlobMissing):  # a blob may be deleted while it is about to be adopted
                    await self._show(id)
                    if attempt == _TRIES - 1:
                        raise
        if heirs:
            await self.settle_many(heirs)
        return package

    async def _settle(
        self,
        id: str,
        actor: str,
        extra: Sequence[Operation],
        ended: Doc | None,
        again: bool,
        proof: Proof | None,
    ) -> tuple[Package | None, list[str]]:
        """As `settle`; with the ids of packages to settle after it."""
        # Before the record, so that the view is never newer than it.
        old, rev = self._catalogue.by_id(id), self._catalogue.rev(id)
        about = await self._about(id)
        record = about.package.record
        if record is None:
            known = [*extra, *([Replace("transfers", ended)] if ended is not None else [])]
            if known:
                await self._store.batch(known)
            return None, []
        body = package_body(record)
        transfer = await self._store.get("transfers", transfer_id(id, body.sha256))
        transfer_rev = transfer["_rev"] if transfer is not None else 0
        if ended is not None and ended["_id"] == transfer_id(id, body.sha256):
            unseen = ended["state"] != TransferState.DONE and cancelled_by_person(transfer)
            transfer, ended = (transfer, None) if unseen else (ended, ended)
        situation = await self._situation(record, about, body, old, transfer, proof)
        decision = decide(situation)
        view = view_of(record, body, old, decision, at=self._now())
        if decision.action is Action.ADOPT or (old and view.held_filename not in {"", old.held_filename}):
            await self._give_name(view)
        stopped = bool(situation.trouble) or situation.damaged  # peers must not ask here for what is damaged
        operations = [*self._operations(old, view, about, decision, actor, stopped=stopped), *extra]
        if view != old:
            operations.extend(await self._trash.step(old, view))
        if situation.unverified:  # written with the view, by which the job finds whom to serve
            operations.append(Enqueue(verify_blob_job(body.sha256, self._now())))
        if decision.prove:
            operations.append(Enqueue(_release_check_job(id, self._now())))
        at_once = again or old is None or old.presence is not Presence.ARRIVING
        at_once = at_once or self._new_source(situation, transfer)
        operations.extend(
            await self._transfer_operations(decision, view, transfer, ended, transfer_rev, at_once=at_once)
        )
        await self._write(old, rev, view, operations)
        proven = body.sha256 if situation.proven_elsewhere else ""
        heirs = await self._let_go(old, view, decision, proven, ended)
        await self._check_name(old, view, decision)
        return self._catalogue.by_id(id), heirs

    async def _write(self, old: Package | None, rev: int, view: Package, operations: list[Operation]) -> None:
        """Write what was decided by a view of a package, and the new one, while the old one has this revision."""
        if view != old or any(not isinstance(operation, Enqueue) for operation in operations):
            # Also one that is as it was: if another process has written another one, nothing of this is right.
            operations = [*operations, Replace("packages", package_doc(view, self._now()), rev)]
        if not operations:
            return
        stored = await self._store.batch(operations)
        if self._given.get(view.id) == view.held_filename:
            del self._given[view.id]
        for operation, doc in zip(operations, stored, strict=True):
            if isinstance(operation, Replace) and operation.collection == "packages" and doc is not None:
                self._catalogue.take(doc)
        if any(isinstance(op, Replace) and op.collection == "records" for op in operations):
            self.on_written()

    async def _give_name(self, view: Package) -> None:
        """Let a package have its public name, before the store says so."""
        self._given[view.id] = view.held_filename
        await self._files.run(partial(self._blobs.publish, view.held_sha256, view.held_filename))

    async def _check_name(self, old: Package | None, view: Package, decision: Decision) -> None:
        """See to it, as the last thing, that the public name and the blob are one file, and the one that is served."""
        adopted = decision.action is Action.ADOPT
        if adopted:
            await self._files.run(partial(self._blobs.ensure, view.held_sha256, view.held_filename))
        if adopted or view != old or view.id in self._given:
            await self._show(view.id)

    async def _show(self, id: str) -> None:
        """Let the public name of a package show what is served, and take back one that it was given for nothing."""
        given = self._given.get(id, "")
        await show(self._catalogue, self._blobs, id, given=given, again=bool(given))
        self._given.pop(id, None)

    async def _about(self, id: str) -> About:
        about = await self._records.about(id)
        return await self._records.about(id) if await self._reinstate(id, about) else about

    async def _reinstate(self, id: str, about: About) -> bool:
        """Put a replacement above the record that undoes it, if that falls to this node; says whether it did.

        Before anything is done about that record, so that the bytes stay where they are. It is asked each time that the
        package is settled: a crash in between only puts it off.
        """
        record, lost = about.package.record, about.package.lost
        if record is None or lost is None:
            return False
        sha256 = package_body(lost).sha256
        said = ((node, each.record) for node, each in about.replicas.items())
        bodies = {node: replica_body(one) for node, one in said if one is not None and not one.deleted}
        holders = [
            node for node, one in bodies.items() if one.sha256 == sha256 and one.presence == Presence.HELD
        ]
        if not falls_to(record, lost, holders, self._node_id):
            return False
        body = together(record, lost, about.package.before)
        try:
            _, operation = self._records.write(RecordKind.PACKAGE, id, body, about.package)
        except TwinRunning:
            return False  # it is written at the next start
        except InvalidInput as exc:  # both together are too large for a record
            log.error(exc.message, extra={"action": "not_reinstated", "package": id})
            return False
        event = entry(
            EventType.PACKAGE_REINSTATED,
            at=self._now(),
            actor=SYSTEM,
            subject=id,
            filename=body.filename,
            sha256=sha256,
            undone_by=self.name_of(record.author),
            undone=package_body(record).sha256,
            withdrawn=record.deleted,
        )
        await self._store.batch([operation, event])
        self.on_written()
        return True

    async def _transfer_operations(
        self,
        decision: Decision,
        view: Package,
        transfer: Doc | None,
        ended: Doc | None,
        rev: int,
        *,
        at_once: bool,
    ) -> list[Operation]:
        """What is written about the transfer of a package, and that of other bytes of it that just ended.

        The first holds only while that transfer has the revision `rev`: a person may cancel it meanwhile.
        """
        job = None
        if needs_job(decision, transfer) and transfer is not None:
            active = await self._store.find_jobs({"active_key": fetch_key(transfer["_id"])}, limit=1)
            job = active[0] if active else None
        now = self._now()
        step = follow(decision, view, transfer, job, at_once=at_once, now=now)
        documents = {doc["_id"]: doc for doc in (ended, step.transfer) if doc is not None}
        own = transfer_id(view.id, view.body.sha256)
        operations: list[Operation] = [
            Replace("transfers", doc, rev if id == own else None) for id, doc in documents.items()
        ]
        return [*operations, *([Enqueue(fetch_job(view, now))] if step.enqueue else [])]

    async def _situation(
        self,
        record: Record,
        about: About,
        body: PackageBody,
        old: Package | None,
        transfer: Doc | None,
        proof: Proof | None,
    ) -> Situation:
        held = old.held_sha256 if old else ""
        others = self._holders(about, body)
        keepers = self._keepers(others, body)
        proven = proof is not None and proof.sha256 == body.sha256 and proof.node in keepers
        holders = [replica.node for replica in others]
        near = self._sources.usable_sources(holders, record.id)
        away = self._sources.set_aside(holders, record.id)
        on_disk = unverified = False
        if held != body.sha256:
            on_disk, unverified = await self._blob_here(body)
            if on_disk and await self.manifest(body) is None:
                on_disk = False
                unverified = await self._store.get("manifests", body.sha256) is None  # verifying makes it
        damaged = held != body.sha256 and await self.is_damaged(body.sha256)
        check = None
        if (held == body.sha256 or on_disk or damaged) and keepers and not proven and not self.admits(body):
            check = await self._release_check(record.id)
        return Situation(
            withdrawn=record.deleted,
            admission=self._own_admission(body, here=on_disk or held == body.sha256),
            held_current=held == body.sha256,
            held_old=held not in {"", body.sha256},
            on_disk=on_disk,
            shared=on_disk and self._needed_by_others(record.id, body.sha256),
            unverified=unverified,
            damaged=damaged,
            given_up=_gave_up(old, body),
            cancelled=cancelled_by_person(transfer),
            trouble=transfer["error"] if transfer is not None and transfer["state"] in STOPPED else "",
            retry_at=retry_time(transfer),
            set_aside=away,
            damaged_at=self._damaged_at(about, body),
            sources=[self.name_of(node) for node in near],
            out_of_reach=[self.name_of(replica.node) for replica in others if replica.node not in near],
            safe_elsewhere=bool(keepers),
            proven_elsewhere=proven,
            keeper_names=[self.name_of(node) for node in keepers],
            asking=check is not None,
            unproven=check.error.partition(": ")[2]
            if check
            else "",  # `describe` puts the kind of error before
        )

    def _holders(self, about: About, body: PackageBody) -> list[ReplicaBody]:
        """What other nodes of the network say that hold the newest bytes."""
        return [
            replica
            for replica in map(replica_body, about.living())
            if replica.node != self._node_id
            and replica.node in self._nodes
            and replica.sha256 == body.sha256
            and replica.presence == Presence.HELD
        ]

    async def is_damaged(self, sha256: str) -> bool:
        """Whether a blob was found damaged or missing here and is not whole again."""
        doc = await self._store.get("damaged", sha256)
        return doc is not None and not doc["repaired_at"]

    def _damaged_at(self, about: About, body: PackageBody) -> list[str]:
        """The names of other nodes of the network that say that their file of the newest bytes is damaged."""
        return [
            self.name_of(replica.node)
            for replica in map(replica_body, about.living())
            if replica.node != self._node_id
            and replica.node in self._nodes
            and replica.sha256 == body.sha256
            and replica.presence == Presence.DAMAGED
        ]

    def _keepers(self, holders: Iterable[ReplicaBody], body: PackageBody) -> list[str]:
        """The holders that admit the package: they will not release it as this node does."""
        return [
            replica.node for replica in holders if self.admission(self._nodes[replica.node], body).admitted
        ]

    async def _release_check(self, id: str) -> Job | None:
        """The job that asks other nodes for a chunk before the bytes here are released."""
        jobs = await self._store.find_jobs({"active_key": f"release:{id}"}, limit=1)
        return jobs[0] if jobs else None

    async def keepers(self, package: Package) -> list[str]:
        """The ids of other nodes that admit a package and say that they hold its newest bytes."""
        about = await self._records.about(package.id)
        return self._keepers(self._holders(about, package.body), package.body)

    def admits(self, body: PackageBody) -> bool:
        """Whether this node takes packages of this stage with these tags."""
        return self.admission(self._own, body).admitted

    def admission(self, node: NodeBody, body: PackageBody) -> Admission:
        """Whether a node admits a package, and why."""
        return admit(
            stages=self._stages,
            node_stage=node.stage,
            take=node.tags_take,
            refuse=node.tags_refuse,
            package_stage=body.stage,
            tags=body.tags,
        )

    def _own_admission(self, body: PackageBody, *, here: bool) -> Admission:
        """As `admission` for this node, which takes no file that is too large, but keeps one that is here."""
        if body.size > self._max_size and not here:
            return Admission(
                admitted=False,
                reason=f"it has {human_size(body.size)}, more than this node takes "
                f"(uploads.max_size: {human_size(self._max_size)})",
            )
        return self.admission(self._own, body)

    def name_of(self, node: str) -> str:
        """What a node is called; the beginning of its id if it is not known any more."""
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
        operations: list[Operation] = []
        if view != old:
            operations.extend(events_of(old, view, decision, actor=actor, at=self._now()))
        # Also where nothing changed: the record may be gone, or was not written while a twin was running.
        operations.extend(self._replica(view, about, stopped=stopped))
        return operations

    def _replica(self, view: Package, about: About, *, stopped: bool = False) -> list[Operation]:
        """The record that tells the network; a transfer that just began says nothing, unless others count on a copy."""
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
            wrong = (
                before is not None
                and before.sha256 == body.sha256
                and (before.presence == Presence.HELD or view.body.size >= SAID_FROM)
            )
            if not wrong:
                return []
        try:
            _, operation = self._records.write(RecordKind.REPLICA, id, body, known, deleted=view.withdrawn)
        except TwinRunning:
            return []  # it is written at the next start
        return [operation]

    @staticmethod
    def _new_source(situation: Situation, transfer: Doc | None) -> bool:
        """Whether somebody holds the bytes who was not asked when the transfer stopped."""
        asked = {source["name"] for source in transfer["sources"]} if transfer is not None else set()
        return bool(set(situation.sources) - asked)

    async def _let_go(
        self, old: Package | None, view: Package, decision: Decision, proven: str, ended: Doc | None
    ) -> list[str]:
        """Remove files that the store no longer mentions.

        Bytes that no other node has just proved to have (`proven`) stay while a package that is refused here has the
        same: nobody asked for a proof on its behalf while they were here for this one.

        Returns:
            The ids of these packages, to be settled.
        """
        gone: list[str] = []
        if old is not None and old.held_filename and old.held_filename != view.held_filename:
            await asyncio.to_thread(self._blobs.unpublish, old.held_filename)
        if old is not None and old.held_sha256 and old.held_sha256 != view.held_sha256:
            await self._trash.trim(view.id)
            gone.append(old.held_sha256)
        if decision.action is Action.RELEASE and (view.withdrawn or proven):
            gone.append(view.body.sha256)
        if ended is not None and ended["state"] == TransferState.DONE and ended["sha256"] != view.body.sha256:
            gone.append(ended["sha256"])  # they came a moment too late
        heirs: list[str] = []
        for sha256 in dict.fromkeys(gone):
            found = self._refused(sha256) if sha256 != proven else []
            if not found:
                await self.free(sha256)
            heirs.extend(found)
        return heirs

    def _needed_by_others(self, id: str, sha256: str) -> bool:
        """Whether another package is served from bytes here, or waits for them."""
        return any(sha256 in needed_by(other) for other in self._catalogue.all() if other.id != id)

    def _refused(self, sha256: str) -> list[str]:
        """The ids of packages whose newest bytes are these, and which are not admitted and not served here."""
        return [
            package.id
            for package in self._catalogue.all()
            if package.body.sha256 == sha256 and package.presence is Presence.NOT_ADMITTED
        ]

    async def free(self, sha256: str) -> None:
        """Delete a blob that nothing on this node needs."""
        await self._trash.free(sha256)

    async def lost_blob(self, sha256: str, reason: str, seen: Stamp | None = None) -> list[str]:
        """Note that a blob is damaged or missing: set it aside, and fetch every package that it held again.

        Of a file that is there and wrong, this is noted too for packages that were about to be served from it: it may
        have been the last copy.

        Args:
            sha256: Its hash.
            reason: What was found, for the events.
            seen: The file of which that was found, if there was one. If another is there now, nothing is done.

        Returns:
            The ids of the packages that were served from it or about to be, and of those that could be put back to it.
        """
        with contextlib.suppress(*OUTAGES):  # another process may serve more from it
            for doc in await self._store.find("packages", {"held_sha256": sha256}, limit=_MANY):
                if doc["_rev"] > self._catalogue.rev(doc["_id"]):
                    await self._catalogue.refresh(doc["_id"])
        waiting: list[str] = []
        if seen is not None and not self._catalogue.holders(sha256):
            waiting = await self._note_damage(
                sha256, reason
            )  # first: once it is set aside, nobody finds it again
        try:
            if not await asyncio.to_thread(self._blobs.quarantine_found, sha256, seen):
                return []
        except StorageError as exc:  # it is served no more all the same
            log.error(
                "a damaged file cannot be set aside",
                extra={"action": "quarantine_failed", "sha256": sha256, "reason": exc.message},
            )
            if self._verified is not None and seen is not None:
                self._verified.remember_bad(sha256, seen)
        if self._verified is not None:
            self._verified.forget(sha256)
        found = [id for id in self._catalogue.holders(sha256) if await self._lost(id, sha256, reason)]
        if not found:
            await self._store.delete("verified", {"_id": sha256})
        found += waiting
        for id in found:
            await self.settle(id)
        return found + await self._trash.lost(sha256, reason)

    async def _note_damage(self, sha256: str, reason: str) -> list[str]:
        """Note that a file is damaged that nothing is served from; the ids of the packages that it matters to."""
        packages = [
            package
            for package in self._catalogue.all()
            if package.body.sha256 == sha256
            and not package.withdrawn
            and (package.presence in WANTED or not await self.keepers(package))
        ]
        if packages and not await self.is_damaged(sha256):
            await self._store.batch(damage_noted(packages, sha256, reason, self._now()))
            log.error(
                "a file is damaged that packages were about to be served from",
                extra={"action": "blob_damaged", "sha256": sha256, "reason": reason},
            )
        return [package.id for package in packages]

    async def check_damage(self, package: Package) -> None:
        """Go on with damage that was found before, if whoever found it was cut off.

        Raises:
            BlobMissing: The newest bytes of the package were damaged here, and are not whole again.
        """
        if await self.is_damaged(package.body.sha256):
            now = await self.settle(package.id) or package
            if now.held_sha256 != now.body.sha256:
                raise BlobMissing(f'The file of "{now.body.filename}" is damaged here: {now.reason}.')

    async def _lost(self, id: str, sha256: str, reason: str) -> bool:
        """Serve a package no more; says whether it was held from this blob."""
        async with self._locks.setdefault(id, asyncio.Lock()):
            for attempt in range(_TRIES):
                package, rev = self._catalogue.by_id(id), self._catalogue.rev(id)
                if package is None or package.held_sha256 != sha256:
                    return False
                try:
                    await asyncio.to_thread(self._blobs.unpublish, package.held_filename)
                except StorageError as exc:  # the sweep takes it away later
                    log.warning(exc.message, extra={"action": "name_left", "file": package.held_filename})
                operations = damage(package, rev, reason, self._now())
                try:
                    stored = await self._store.batch(operations)
                except StaleRevision:
                    await self._show(id)  # replaced meanwhile: it has a name all the same
                    if attempt == _TRIES - 1:
                        raise
                    continue
                if stored[0] is not None:
                    self._catalogue.take(stored[0])
                log.error(
                    "a held file is damaged",
                    extra={"action": "package_damaged", "package": id, "reason": reason},
                )
                return True
        return False


def _gave_up(old: Package | None, body: PackageBody) -> bool:
    """Whether the view of a package says that its newest bytes are refused and not missed here."""
    return old is not None and old.presence is Presence.NOT_ADMITTED and old.body.sha256 == body.sha256


def _release_check_job(id: str, now: int) -> Job:
    return new_job("release", RELEASE_CHECK_JOB, now, key=f"release:{id}", args={"package": id})
