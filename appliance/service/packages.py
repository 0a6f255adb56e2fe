"""What people and programs do with packages: publish, replace, change, withdraw, restore, verify, look."""

import base64
import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from appliance.domain.errors import (
    OUTAGES,
    BlobMissing,
    Conflict,
    InvalidInput,
    NotSettled,
    PackageExists,
    PackageUnknown,
    PackageWithdrawn,
    PermissionDenied,
    PreconditionFailed,
    StaleRevision,
    StorageError,
    StorageFull,
    StoreUnavailable,
    TwinRunning,
)
from appliance.domain.event import EventType
from appliance.domain.job import Job
from appliance.domain.manifest import Manifest, check_digest
from appliance.domain.names import check_filename, package_id
from appliance.domain.node import check_stage, check_within
from appliance.domain.package import (
    LISTED,
    Effect,
    Package,
    PackageBody,
    Presence,
    check_tags,
    version_of,
)
from appliance.domain.precondition import Precondition
from appliance.domain.reach import cut_off
from appliance.domain.record import FAR_MS, Record, RecordKind
from appliance.domain.trash import Version, Why
from appliance.jobs.run import describe
from appliance.peering.records import package_body, replica_body
from appliance.store.blobs import Committed
from appliance.store.ports import Insert, Operation, Replace, Store

from .catalogue import Catalogue
from .holdings import Holdings, manifest_doc
from .installer_facts import replace_installer
from .journal import entry
from .records import Known, Records
from .trash import Trash
from .verified_blobs import VerifiedBlobs
from .verify_jobs import verify_job

INLINE_CHUNKS = 64  #: up to so many chunks the record itself carries their list
FURTHER_DIGESTS = ("md5", "sha512", "sha3_512")  #: what a package record may carry beside SHA-1 and SHA-256
_TRIES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaView:
    """What one node says of its replica of a package."""

    node: str  #: node id
    name: str  #: the node's name
    presence: str
    reason: str
    sha256: str
    current: bool  #: whether it speaks of the package's newest bytes
    at: int  #: UTC milliseconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far a package can go."""

    admitting: list[str] = field(default_factory=list)  #: names of the nodes that admit it
    cut_off: list[str] = field(default_factory=list)  #: names of those that no path leads it to
    nowhere: str = ""  #: what to do if no node admits it


class Packages:
    """The use cases of packages."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        catalogue: Catalogue,
        holdings: Holdings,
        trash: Trash,
        stages: Sequence[str],
        node_id: str,
        now: Callable[[], int],
        verified: VerifiedBlobs | None = None,
    ) -> None:
        self._store = store
        self._records = records
        self._verified = verified
        self._catalogue = catalogue
        self._holdings = holdings
        self._trash = trash
        self._stages = stages
        self._node_id = node_id
        self._now = now

    def check_publishable(
        self, filename: str, *, replace: bool, size: int | None = None, sha1: str = "", sha256: str = ""
    ) -> str:
        """Return the name in NFC if a file may be put in under it.

        A file that has the name's very bytes may; unless size or digests rule that out, only its bytes can tell.

        Args:
            filename: The name.
            replace: Whether it may replace a package of this name.
            size: Bytes of the file, if they are known.
            sha1: Of the file in hex, if it is known.
            sha256: Of the file in hex, if it is known.

        Raises:
            InvalidName: The name breaks a rule.
            PackageExists: Another file has this name and `replace` is not asked for.
            TwinRunning: Another copy of this node is running.
        """
        self._records.check_writing()
        name = check_filename(filename)
        package = self._catalogue.by_id(package_id(name))
        if package is not None and not package.withdrawn and not replace:
            body = package.body
            same = (
                body.filename == name
                and size in {None, body.size}
                and sha1 in {"", body.sha1}
                and sha256 in {"", body.sha256}
            )
            if not same:
                raise _exists(package.id, body, name)
        return name

    async def check_precondition(self, filename: str, condition: Precondition) -> None:
        """Let a file be put in under a name if what is there is as it has to be; `publish` looks again.

        Raises:
            PreconditionFailed: It is not.
        """
        known = await self._records.known(RecordKind.PACKAGE, package_id(filename))
        _check_condition(condition, known, filename)

    def replaced_by(self, filename: str) -> PackageBody | None:
        """What a file put in under this name would replace, if anything."""
        package = self._catalogue.by_id(package_id(filename)) if filename else None
        return package.body if package is not None and not package.withdrawn else None

    async def publish(
        self,
        *,
        manifest: Manifest,
        filename: str,
        stage: str,
        tags: Sequence[str],
        notes: str,
        metadata: dict[str, Any],
        actor: str,
        replace: bool,
        hashes: Mapping[str, str] | None = None,
        within: Sequence[str] = (),
        given: Collection[str] = ("stage", "tags", "notes", "metadata"),
        condition: Precondition | None = None,
        resumed: bool = False,
        committed: Committed | None = None,
    ) -> tuple[Package, Effect]:
        """Publish a file whose blob is committed.

        Bytes that have this name already are a success and make no new revision. If stage, tags or notes are given
        and differ, they are changed with `replace`, and without it the file is refused.

        Args:
            manifest: What the file is.
            filename: Its name.
            stage: Its stage.
            tags: Its tags.
            notes: Free text.
            metadata: What other systems add.
            actor: Who puts it in.
            replace: Whether it may replace a package of this name.
            hashes: Further digests of the bytes, if they are known: "md5", "sha512", "sha3_512".
            within: The stages that the actor is limited to; none: all. Both the package that is replaced and the new
                one have to be of them.
            given: Which of "stage", "tags", "notes" and "metadata" somebody asked for; the others stay as they are when
                a package is replaced, whoever changed them while the bytes arrived.
            condition: What has to be so of the package that is there.
            resumed: The file was perhaps published before, and only the note about it was lost: then the condition
                was met by what it has replaced.
            committed: How its bytes became a blob a moment ago, if they did.

        Returns:
            The package, and what was done.

        Raises:
            InvalidInput: Name, stage or tags break a rule.
            PackageExists: Another file has the name and `replace` is not asked for.
            PermissionDenied: A stage is not one of `within`.
            PreconditionFailed: The condition does not hold for the newest record.
            NotSettled: It is published; this node could not serve it yet.
        """
        name = check_filename(filename)
        check_within(stage, within)
        id = package_id(name)
        inline = _inline(manifest)
        body = PackageBody(
            filename=name,
            size=manifest.size,
            sha1=manifest.sha1,
            sha256=manifest.sha256,
            manifest=manifest.digest,
            stage=check_stage(stage, self._stages),
            tags=check_tags(tags),
            notes=notes,
            metadata=metadata,
            hashes=dict(hashes or {}),
            uploaded_at=self._now(),
            uploaded_by=actor,
            origin=self._node_id,
            chunks=inline,
        )
        extra: list[Operation] = []
        if manifest.size and not inline:
            extra.append(Replace("manifests", manifest_doc(manifest)))
        if committed is not None and self._verified is not None:
            extra.append(self._verified.remember(manifest.sha256, committed.stamp))
        same_bytes = await self._same_bytes(id, manifest.sha256)
        asked = {field: getattr(body, field) for field in ("stage", "tags", "notes") if field in given}
        effect = Effect.CREATED

        def next_body(known: Known) -> PackageBody | None:
            nonlocal effect
            before = package_body(known.record) if known.record else None
            living = known.record is not None and not known.record.deleted
            same = living and before is not None and before.sha256 == body.sha256
            if condition is not None and not (resumed and same):
                _check_condition(condition, known, name)
            if before is None or not living:
                effect = Effect.CREATED
                return body if before is None else _with_history(body, before)
            check_within(before.stage, within)
            if same:
                wanted = dataclasses.replace(before, filename=name, **asked)
                if wanted != before and not replace:
                    raise _exists(id, before, name, same=True)
                effect = same_bytes if wanted == before else Effect.CHANGED
                wanted = dataclasses.replace(wanted, hashes={**body.hashes, **before.hashes})
                return None if wanted == before else wanted
            if not replace:
                raise _exists(id, before, name)
            effect = Effect.REPLACED
            kept: dict[str, Any] = {"stage": before.stage, "tags": before.tags, "notes": before.notes}
            if "metadata" not in given:
                kept["metadata"] = replace_installer(before.metadata, metadata)
            return _with_history(dataclasses.replace(body, **{**kept, **asked}), before)

        try:
            written = await self._write(id, next_body, extra=extra)
        except (PackageExists, PermissionDenied, PreconditionFailed, TwinRunning, StorageFull) as exc:
            if exc.details.get("sha256") == manifest.sha256:  # what was damaged here may be whole again
                await self._store.batch(extra)
                await self._holdings.settle(id)
            await self._relink(manifest.sha256, committed)
            await self._holdings.free(manifest.sha256)
            raise
        if not written and extra:  # the bytes are here now, and with them what is known of their chunks
            await self._store.batch(extra)
        package = await self.settled(
            id, actor if written else "", new=committed and (manifest.sha256, committed)
        )
        return package, effect

    async def _same_bytes(self, id: str, sha256: str) -> Effect:
        """What it does to put in bytes that a package has already."""
        package = self._catalogue.by_id(id)
        whole = package is not None and package.held_sha256 == sha256
        damaged = not whole and await self._holdings.is_damaged(sha256)
        return Effect.REPAIRED if damaged else Effect.UNCHANGED

    async def _relink(self, sha256: str, committed: Committed | None) -> None:
        """Let the names of other packages show bytes that took the place of a file here."""
        if committed is not None and committed.replaced and self._verified is not None:
            await self._verified.relink(sha256)

    async def change(
        self,
        id: str,
        *,
        stage: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        metadata: dict[str, Any] | None = None,
        expect_revision: int | None = None,
        condition: Precondition | None = None,
        actor: str,
        within: Sequence[str] = (),
    ) -> Package:
        """Change what is given, and leave the rest; `within` and `condition` as for `publish`.

        Raises:
            PackageUnknown: There is no such package.
            PackageWithdrawn: It was withdrawn.
            StaleRevision: `expect_revision` is given and somebody changed the package since.
            InvalidInput: Stage or tags break a rule, or nothing is given.
            PermissionDenied: The stage that it has or is to have is not one of `within`.
            PreconditionFailed: The condition does not hold for the newest record.
        """
        changes: dict[str, Any] = {"notes": notes, "metadata": metadata}
        changes["stage"] = None if stage is None else check_stage(stage, self._stages)
        changes["tags"] = None if tags is None else check_tags(tags)
        changes = {name: value for name, value in changes.items() if value is not None}

        def next_body(known: Known) -> PackageBody:
            record = self._living(id, known)
            if not changes:
                raise InvalidInput("Say what to change: stage, tags, notes or metadata.")
            check_within(package_body(record).stage, within)
            check_within(changes.get("stage", package_body(record).stage), within)
            if condition is not None:
                _check_condition(condition, known, package_body(record).filename)
            if expect_revision is not None and record.revision != expect_revision:
                raise _Changed(
                    f"The package is at revision {record.revision}, not {expect_revision}; read it again.",
                    revision=record.revision,
                )
            return dataclasses.replace(package_body(record), **changes)

        await self._write(id, next_body)
        return await self.settled(id, actor)

    async def add_hashes(
        self, id: str, sha256: str, hashes: Mapping[str, str], *, actor: str
    ) -> Package | None:
        """Write further digests into the record of a package that lacks them; nothing else of it changes.

        Args:
            id: Package id.
            sha256: The bytes that they are of; a package that has other bytes by now is left.
            hashes: The digests in hex by kind: "md5", "sha512", "sha3_512".
            actor: Who computed them.

        Returns:
            The package, or None if there was nothing to add: it has them, has other bytes, or is gone.

        Raises:
            InvalidDigest: A digest is not hexadecimal of the right length.
        """
        found = {kind: check_digest(kind, hashes[kind]) for kind in FURTHER_DIGESTS if kind in hashes}
        written = False

        def next_body(known: Known) -> PackageBody | None:
            nonlocal written
            record = known.record
            body = package_body(record) if record and not record.deleted else None
            if body is None or body.sha256 != sha256 or found.keys() <= body.hashes.keys():
                written = False
                return None
            written = True
            return dataclasses.replace(body, hashes={**found, **body.hashes})

        await self._write(id, next_body)
        return await self.settled(id, actor) if written else None

    async def withdraw(
        self, id: str, *, condition: Precondition | None = None, actor: str, within: Sequence[str] = ()
    ) -> Package:
        """Withdraw a package from every node; `within` and `condition` as for `publish`.

        Raises:
            PackageUnknown: There is no such package.
            PackageWithdrawn: It was withdrawn before.
            PermissionDenied: Its stage is not one of `within`.
            PreconditionFailed: The condition does not hold for the newest record.
        """

        def next_body(known: Known) -> PackageBody:
            body = package_body(self._living(id, known))
            check_within(body.stage, within)
            if condition is not None:
                _check_condition(condition, known, body.filename)
            return dataclasses.replace(body, chunks="")

        await self._write(id, next_body, deleted=True)
        return await self.settled(id, actor)

    async def state(self, id: str) -> str:
        """A word for what the network knows of a package now; digests that are added later do not change it."""
        return _state((await self._records.known(RecordKind.PACKAGE, id)).record)

    async def was_restored(self, id: str, sha256: str, *, expected: str, actor: str) -> bool:
        """Whether a version was published again since that was asked for; if so, this node is brought into line.

        What published it may have been cut off right after, as by an outage.

        Args:
            id: The package's id.
            sha256: The version's bytes.
            expected: The package's `state` when it was asked for; "" if that is not known.
            actor: Who asked.
        """
        record = (await self._records.known(RecordKind.PACKAGE, id)).record
        if record is None or record.deleted or expected in {"", _state(record)}:
            return False
        body = package_body(record)
        if (body.sha256, body.uploaded_by, body.origin) != (sha256, actor, self._node_id):
            return False
        await self.settled(id, actor)
        return True

    async def restore(
        self,
        version: Version,
        manifest: Manifest,
        *,
        expected: str = "",
        actor: str,
        within: Sequence[str] = (),
        address: str = "",
    ) -> Package:
        """Publish an earlier version again, whose blob is here and was verified; `within` as for `publish`.

        Args:
            version: What to restore. Stage, tags, notes and metadata are those that it had.
            manifest: What its file is.
            expected: The package's `state` when it was asked for; "" if that is not known.
            actor: Who restores it.
            within: The stages that they are limited to; none: all.
            address: Where they are, for the event.

        Raises:
            PackageUnknown: The package was forgotten meanwhile.
            Conflict: It has these bytes now, or changed since it was asked for.
            InvalidInput: The network has no longer the stage that it had.
            PermissionDenied: A stage is not one of `within`.
        """
        operations: list[Operation] = []

        def next_body(known: Known) -> PackageBody:
            if known.record is None:
                raise PackageUnknown(f"There is no package {version.package} here.")
            before = package_body(known.record)
            if not known.record.deleted:
                check_within(before.stage, within)
                if before.sha256 == manifest.sha256:
                    raise Conflict(f'There is nothing to restore: "{before.filename}" has this version now.')
            if expected and _state(known.record) != expected:
                raise Conflict(
                    f"{before.filename} changed while the version was verified; look at it and restore again."
                )
            body = self._restored(version, manifest, before, actor)
            check_within(body.stage, within)
            operations[:] = [self._restoring(known.record, before, body, actor, address)]
            if manifest.size and not body.chunks:
                operations.append(Replace("manifests", manifest_doc(manifest)))
            return _with_history(body, before)

        await self._write(version.package, next_body, extra=operations)
        return await self.settled(version.package, actor)

    def _restored(self, version: Version, manifest: Manifest, before: PackageBody, actor: str) -> PackageBody:
        """The body of a restored version; what is not known of it is that of the record before."""
        known = version.body or before
        return dataclasses.replace(
            known,
            filename=version.filename,
            size=manifest.size,
            sha1=manifest.sha1,
            sha256=manifest.sha256,
            manifest=manifest.digest,
            stage=check_stage(known.stage, self._stages),
            hashes=version.body.hashes if version.body else {},
            uploaded_at=self._now(),
            uploaded_by=actor,
            origin=self._node_id,
            chunks=_inline(manifest),
        )

    def _restoring(
        self, record: Record, before: PackageBody, body: PackageBody, actor: str, address: str
    ) -> Insert:
        where = {"address": address} if address else {}
        return entry(
            EventType.PACKAGE_RESTORED,
            at=self._now(),
            actor=actor,
            subject=record.id,
            filename=body.filename,
            sha256=body.sha256,
            size=body.size,
            before="" if record.deleted else before.sha256,
            **where,
        )

    async def verify(self, id: str, *, actor: str) -> Job:
        """Enqueue the check of a held package's file against its hashes.

        Raises:
            PackageUnknown: There is no such package, or its bytes are not held here.
        """
        package = self._catalogue.resolve(id)
        if not package.held_sha256:
            raise PackageUnknown(f'"{package.body.filename}" is not held here: {package.reason}.')
        job = verify_job(package.id, actor, self._now())
        if not await self._store.enqueue(job):
            active = await self._store.find_jobs({"active_key": job.key}, limit=1)
            return active[0] if active else job
        return job

    async def manifest(self, sha256: str) -> Manifest | None:
        """The manifest of these bytes, if a package here has or had them."""
        for package in self._catalogue.all():
            if package.body.sha256 == sha256:
                return await self._holdings.manifest(package.body)
        return None

    async def replicas(self, id: str) -> list[ReplicaView]:
        """What every node of the network says of its replica."""
        package = self._catalogue.resolve(id)
        views = []
        for record in await self._records.replicas(package.id):
            body = replica_body(record)
            node = self._holdings.nodes.get(body.node)
            if node is None:
                continue  # it left the network
            views.append(
                ReplicaView(
                    node=body.node,
                    name=node.name,
                    presence=body.presence,
                    reason=body.reason,
                    sha256=body.sha256,
                    current=body.sha256 == package.body.sha256,
                    at=record.at,
                )
            )
        return sorted(views, key=lambda view: view.name)

    async def spread(self, id: str) -> Spread:
        """Which nodes admit a package, and which of them no path of registrations leads it to.

        Raises:
            PackageUnknown: There is none.
        """
        package, nodes = self._catalogue.resolve(id), self._holdings.nodes
        if package.withdrawn:
            return Spread()
        holders = {
            body.node
            for body in map(replica_body, await self._records.replicas(package.id))
            if body.sha256 == package.body.sha256 and body.presence == Presence.HELD
        }
        admitting = {
            id for id, node in nodes.items() if self._holdings.admission(node, package.body).admitted
        }
        return Spread(
            admitting=sorted(nodes[id].name for id in admitting),
            cut_off=[nodes[id].name for id in cut_off(nodes, holders, admitting)],
            nowhere="" if admitting or not nodes else self._nowhere(package),
        )

    def nowhere(self, package: Package) -> str:
        """What to do about a package that lies here and that no node admits; else ""."""
        if package.presence is not Presence.HELD or self._holdings.admits(package.body):
            return ""
        nodes = self._holdings.nodes.values()
        admitted = any(self._holdings.admission(node, package.body).admitted for node in nodes)
        return "" if admitted or not nodes else self._nowhere(package)

    def _nowhere(self, package: Package) -> str:
        where = "only here" if package.presence is Presence.HELD else "only where it is now"
        promoted = dataclasses.replace(package.body, stage=self._stages[-1])
        if any(self._holdings.admission(node, promoted).admitted for node in self._holdings.nodes.values()):
            return f"No node admits a {package.body.stage} package: it stays {where} until it is promoted."
        return f"No node admits this package: it stays {where} until its stage, its tags or a node's settings change."

    async def superseded(self, id: str) -> list[Version]:
        """Files that lost the name of this package to another one and are kept here."""
        return [version for version in await self._trash.versions(id) if version.why is Why.SUPERSEDED]

    async def _write(
        self,
        id: str,
        next_body: Callable[[Known], PackageBody | None],
        *,
        deleted: bool = False,
        extra: Sequence[Operation] = (),
    ) -> bool:
        """Write the next revision, and say whether there was one to write."""
        for attempt in range(_TRIES):
            known = await self._records.known(RecordKind.PACKAGE, id)
            body = next_body(known)
            if body is None:
                return False
            record, operation = self._records.write(RecordKind.PACKAGE, id, body, known, deleted=deleted)
            kept = await self._trash.passed_over(known.record, record)
            try:
                await self._store.batch([*extra, *kept, operation])
            except StaleRevision:
                if attempt == _TRIES - 1:
                    raise
                continue
            self._holdings.on_written()
            return True
        return False

    async def settled(self, id: str, actor: str, *, new: tuple[str, Committed] | None = None) -> Package:
        """Bring this node into line with the record of a package; the package as it is then.

        Args:
            id: Package id.
            actor: Who changed the record, "" for nobody.
            new: Bytes that became a blob a moment ago, and how.

        Raises:
            PackageUnknown: It is gone.
            NotSettled: It could not be; the record stands, and every reconciliation tries again.
        """
        try:
            package = await self._holdings.settle(id, actor=actor)
            if new is not None:
                await self._relink(*new)
        except StoreUnavailable:
            raise
        except (StorageError, StaleRevision, BlobMissing) as exc:
            with contextlib.suppress(*OUTAGES):  # that the view is old is found without a note too
                await self._holdings.note_unsettled(id, describe(exc))
            raise NotSettled(
                f"It is recorded, and other nodes learn of it; this node could not carry it out yet: {exc.message} "
                "Nothing is lost, and it is tried again every replication.reconcile_s."
            ) from exc
        if package is None:
            raise PackageUnknown(f"The package {id} disappeared while it was changed.")
        return package

    @staticmethod
    def _living(id: str, known: Known) -> Record:
        if known.record is None:
            raise PackageUnknown(f"There is no package {id} here.")
        if known.record.deleted:
            raise PackageWithdrawn(f'"{package_body(known.record).filename}" was withdrawn.')
        return known.record


def _state(record: Record | None) -> str:
    if record is None:
        return "unknown"
    body = {name: value for name, value in record.body.items() if name != "hashes"}
    return hashlib.sha256(json.dumps([record.deleted, body], sort_keys=True).encode()).hexdigest()


class _Changed(StaleRevision):
    """The caller's revision is old: not to be tried again by us."""


def _check_condition(condition: Precondition, known: Known, filename: str) -> None:
    """Hold a precondition against the newest record: of it, an entity tag names the revision or the bytes."""
    record = known.record
    if record is None or record.deleted:
        condition.check(filename, ())
        return
    body = package_body(record)
    versions = (version_of(record.revision, record.author), str(record.revision), body.sha256)
    condition.check(body.filename, versions, record.at)


def _inline(manifest: Manifest) -> str:
    """The chunk list as a record carries it, "" if it is too long for that."""
    return base64.b64encode(manifest.chunks).decode() if manifest.count <= INLINE_CHUNKS else ""


def _exists(id: str, body: PackageBody, name: str, *, same: bool = False) -> PackageExists:
    message = f'A package named "{body.filename}" already exists (SHA-256 {body.sha256}).'
    if body.filename != name:
        message += f' "{name}" is the same name: upper and lower case are not told apart.'
    if same:
        message = (
            f"{message.removesuffix('.')}: it is this exact file, with another name, stage, tags or notes."
        )
        message += " Turn on Replace (--replace, ?replace=true) to change them."
    else:
        message += " Turn on Replace (--replace, ?replace=true) to overwrite it."
    return PackageExists(
        message, id=id, filename=body.filename, size=body.size, sha1=body.sha1, sha256=body.sha256
    )


def _with_history(body: PackageBody, before: PackageBody) -> PackageBody:
    """The body of new bytes that knows of those before, and is a later upload than they are, whatever a clock says."""
    past = dict.fromkeys((before.sha256, *before.replaces))
    at = body.uploaded_at
    if before.uploaded_at - at <= FAR_MS:  # else it is no time at all
        at = max(at, before.uploaded_at + 1)
    replaces = tuple(sha for sha in past if sha != body.sha256)[:LISTED]
    return dataclasses.replace(body, uploaded_at=at, replaces=replaces)
