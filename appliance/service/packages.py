"""What people and programs do with packages: publish, replace, change, withdraw, verify, look."""

import base64
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from appliance.domain.errors import (
    PackageExists,
    PackageUnknown,
    PackageWithdrawn,
    PermissionDenied,
    StaleRevision,
    TwinRunning,
)
from appliance.domain.job import Job
from appliance.domain.manifest import Manifest, check_digest
from appliance.domain.names import check_filename, package_id
from appliance.domain.node import check_stage, check_within
from appliance.domain.package import Package, PackageBody, check_tags
from appliance.domain.record import Record, RecordKind
from appliance.peering.records import package_body, replica_body
from appliance.store.ports import Doc, Operation, Replace, Store

from .catalogue import Catalogue
from .holdings import Holdings
from .records import Known, Records

INLINE_CHUNKS = 64  #: up to so many chunks the record itself carries their list
VERIFY_JOB = "package.verify"
FURTHER_DIGESTS = ("md5", "sha512", "sha3_512")  #: what a package record may carry beside SHA-1 and SHA-256
_HISTORY = 16
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


class Packages:
    """The use cases of packages."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        catalogue: Catalogue,
        holdings: Holdings,
        stages: Sequence[str],
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._records = records
        self._catalogue = catalogue
        self._holdings = holdings
        self._stages = stages
        self._node_id = node_id
        self._now = now

    def check_publishable(self, filename: str, *, replace: bool) -> str:
        """Return the name in NFC if a file may be put in under it.

        Raises:
            InvalidName: The name breaks a rule.
            PackageExists: A package of this name is here and `replace` is not asked for.
            TwinRunning: Another copy of this node is running.
        """
        self._records.check_writing()
        name = check_filename(filename)
        package = self._catalogue.by_id(package_id(name))
        if package is not None and not package.withdrawn and not replace:
            raise _exists(package.id, package.body)
        return name

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
    ) -> tuple[Package, bool]:
        """Publish a file whose blob is committed.

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

        Returns:
            The package, and whether its name is new (else it replaced another file).

        Raises:
            InvalidInput: Name, stage or tags break a rule.
            PackageExists: The name is taken and `replace` is not asked for.
            PermissionDenied: A stage is not one of `within`.
        """
        name = check_filename(filename)
        check_within(stage, within)
        id = package_id(name)
        inline = base64.b64encode(manifest.chunks).decode() if manifest.count <= INLINE_CHUNKS else ""
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
        extra = [] if inline or not manifest.size else [Replace("manifests", manifest_doc(manifest))]
        fresh = True

        def next_body(known: Known) -> PackageBody:
            nonlocal fresh
            before = package_body(known.record) if known.record else None
            fresh = known.record is None or known.record.deleted
            if before is None:
                return body
            if not fresh and not replace:
                raise _exists(id, before)
            if not fresh:
                check_within(before.stage, within)
            return _with_history(body, before)

        try:
            await self._write(id, next_body, extra=extra)
        except (PackageExists, PermissionDenied, TwinRunning):
            await self._holdings.free(manifest.sha256)
            raise
        return await self._settled(id, actor), fresh

    async def change(
        self,
        id: str,
        *,
        stage: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        metadata: dict[str, Any] | None = None,
        expect_revision: int | None = None,
        actor: str,
        within: Sequence[str] = (),
    ) -> Package:
        """Change what is given, and leave the rest; `within` as for `publish`.

        Raises:
            PackageUnknown: There is no such package.
            PackageWithdrawn: It was withdrawn.
            StaleRevision: `expect_revision` is given and somebody changed the package since.
            InvalidInput: Stage or tags break a rule.
            PermissionDenied: The stage that it has or is to have is not one of `within`.
        """
        changes: dict[str, Any] = {"notes": notes, "metadata": metadata}
        changes["stage"] = None if stage is None else check_stage(stage, self._stages)
        changes["tags"] = None if tags is None else check_tags(tags)
        changes = {name: value for name, value in changes.items() if value is not None}

        def next_body(known: Known) -> PackageBody:
            record = self._living(id, known)
            check_within(package_body(record).stage, within)
            check_within(changes.get("stage", package_body(record).stage), within)
            if expect_revision is not None and record.revision != expect_revision:
                raise _Changed(
                    f"The package is at revision {record.revision}, not {expect_revision}; read it again.",
                    revision=record.revision,
                )
            return replace(package_body(record), **changes)

        await self._write(id, next_body)
        return await self._settled(id, actor)

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
            return replace(body, hashes={**found, **body.hashes})

        await self._write(id, next_body)
        return await self._settled(id, actor) if written else None

    async def withdraw(self, id: str, *, actor: str, within: Sequence[str] = ()) -> Package:
        """Withdraw a package from every node; `within` as for `publish`.

        Raises:
            PackageUnknown: There is no such package.
            PackageWithdrawn: It was withdrawn before.
            PermissionDenied: Its stage is not one of `within`.
        """

        def next_body(known: Known) -> PackageBody:
            body = package_body(self._living(id, known))
            check_within(body.stage, within)
            return replace(body, chunks="")

        await self._write(id, next_body, deleted=True)
        return await self._settled(id, actor)

    async def verify(self, id: str, *, actor: str) -> Job:
        """Enqueue the check of a held package's file against its hashes.

        Raises:
            PackageUnknown: There is no such package, or its bytes are not held here.
        """
        package = self._catalogue.resolve(id)
        if not package.held_sha256:
            raise PackageUnknown(f'"{package.body.filename}" is not held here: {package.reason}.')
        now = self._now()
        job = Job(
            id=secrets.token_hex(12),
            queue="hash",
            name=VERIFY_JOB,
            args={"package": package.id, "actor": actor},
            key=f"verify:{package.id}",
            run_at=now,
            created_at=now,
        )
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

    async def superseded(self, id: str) -> list[Doc]:
        """Files that lost the name of this package to another one and are kept here: SHA-256, name, when."""
        return await self._store.find("superseded", {"package": id}, limit=500)

    async def _write(
        self,
        id: str,
        next_body: Callable[[Known], PackageBody | None],
        *,
        deleted: bool = False,
        extra: Sequence[Operation] = (),
    ) -> None:
        for attempt in range(_TRIES):
            known = await self._records.known(RecordKind.PACKAGE, id)
            body = next_body(known)
            if body is None:
                return
            _, operation = self._records.write(RecordKind.PACKAGE, id, body, known, deleted=deleted)
            try:
                await self._store.batch([*extra, operation])
            except StaleRevision:
                if attempt == _TRIES - 1:
                    raise
                continue
            self._holdings.on_written()
            return

    async def _settled(self, id: str, actor: str) -> Package:
        package = await self._holdings.settle(id, actor=actor)
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


class _Changed(StaleRevision):
    """The caller's revision is old: not to be tried again by us."""


def manifest_doc(manifest: Manifest) -> dict[str, Any]:
    """The document that keeps a manifest."""
    return {
        "_id": manifest.sha256,
        "size": manifest.size,
        "sha1": manifest.sha1,
        "chunks": manifest.chunks,
    }


def _exists(id: str, body: PackageBody) -> PackageExists:
    return PackageExists(
        f'"{body.filename}" is already here with the SHA-256 {body.sha256}; use replace to put other bytes '
        "under this name.",
        id=id,
        filename=body.filename,
        size=body.size,
        sha1=body.sha1,
        sha256=body.sha256,
    )


def _with_history(body: PackageBody, before: PackageBody) -> PackageBody:
    past = dict.fromkeys((before.sha256, *before.replaces))
    return replace(body, replaces=tuple(sha for sha in past if sha != body.sha256)[:_HISTORY])
