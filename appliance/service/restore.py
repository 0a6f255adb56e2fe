"""Restores an earlier version of a package: a job that verifies its file, and then publishes it as a new record."""

import contextlib
from collections.abc import Callable, Sequence

from appliance.domain.errors import DigestMismatch, StorageError, VersionUnknown
from appliance.domain.job import Job
from appliance.domain.manifest import Manifest
from appliance.domain.node import check_within
from appliance.domain.trash import Version, choose, restore_key
from appliance.jobs.context import JobContext
from appliance.jobs.new import new_job
from appliance.store.blobs import BlobStore
from appliance.store.ports import Store

from .blob_check import verify
from .catalogue import Catalogue
from .hashing import hash_file
from .holdings import Holdings
from .journal import remote_address
from .packages import Packages
from .trash import Trash

RESTORE_JOB = "package.restore"
_ELSEWHERE = "Restore it on another node that keeps it, or upload the file again."


class Restore:
    """Queues the jobs `package.restore`, and runs them."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        blobs: BlobStore,
        holdings: Holdings,
        packages: Packages,
        trash: Trash,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._blobs = blobs
        self._holdings = holdings
        self._packages = packages
        self._trash = trash
        self._now = now

    async def request(
        self, name: str, wanted: str, *, actor: str, within: Sequence[str] = ()
    ) -> tuple[Version, Job]:
        """Enqueue the restoring of a version.

        Args:
            name: The package's id or file name.
            wanted: A SHA-256, its beginning, or a revision; "" is the version that left last.
            actor: Who asks.
            within: The stages that they are limited to; none: all.

        Raises:
            PackageUnknown: There is no such package.
            VersionUnknown: This node does not keep the version.
            Conflict: It is the current version.
            PermissionDenied: Its stage, or that of what it replaces, is not one of `within`.
        """
        package = self._catalogue.resolve(name)
        version = choose(package, await self._trash.versions(package.id), wanted)
        for body in (version.body or package.body, *(() if package.withdrawn else (package.body,))):
            check_within(body.stage, within)
        now = self._now()
        job = new_job(
            "hash",
            RESTORE_JOB,
            now,
            key=restore_key(package.id, version.sha256),
            args={
                "package": package.id,
                "sha256": version.sha256,
                "state": await self._packages.state(package.id),
                "actor": actor,
                "within": list(within),
                "address": remote_address.get(),
            },
        )
        if not await self._store.enqueue(job):
            active = await self._store.find_jobs({"active_key": job.key}, limit=1)
            return version, active[0] if active else job
        return version, job

    def run(self, job: Job, context: JobContext) -> None:
        """Verify the version's file, and publish it, if an earlier try has not done so.

        Raises:
            VersionUnknown: It expired meanwhile, or its file is gone.
            DigestMismatch: Its bytes are damaged; they are quarantined.
            ApplianceError: As `Packages.restore`.
        """
        package, sha256, actor = job.args["package"], job.args["sha256"], job.args["actor"]
        expected = job.args.get("state", "")
        if context.wait(self._packages.was_restored(package, sha256, expected=expected, actor=actor)):
            return
        version = context.wait(self._trash.renew(package, sha256))
        if version is None:
            raise VersionUnknown(f"This node no longer keeps that version. {_ELSEWHERE}")
        manifest = self._manifest(sha256, context)
        context.wait(
            self._packages.restore(
                version,
                manifest,
                expected=expected,
                actor=actor,
                within=job.args["within"],
                address=job.args["address"],
            )
        )

    def _manifest(self, sha256: str, context: JobContext) -> Manifest:
        """The manifest of bytes that lie here and are right."""
        with contextlib.suppress(OSError):  # what it means is decided below
            manifest = hash_file(self._blobs.path(sha256), check=context.check)
            if manifest.sha256 == sha256:
                return manifest
        finding = verify(self._blobs, sha256, check=context.check)
        if finding.right:
            raise StorageError("The file of that version changed while it was read; it is read again.")
        context.wait(self._holdings.lost_blob(sha256, finding.fault, finding.stamp))
        if finding.missing:
            raise VersionUnknown(f"The file of that version is missing here. {_ELSEWHERE}")
        raise DigestMismatch(f"The file of that version is damaged here and was quarantined. {_ELSEWHERE}")
