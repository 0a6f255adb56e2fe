"""The MDM bridge of a node: everything in this room, made and tied together."""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence

from appliance.domain.errors import InvalidTransition, JobUnknown
from appliance.domain.job import ONCE, Job, RetryPolicy
from appliance.jobs.runner import Runner
from appliance.jobs.supervisor import Supervisor
from appliance.service.catalogue import Catalogue
from appliance.service.digests import DIGEST_JOB, Digests
from appliance.service.holdings import Holdings
from appliance.service.journal import SYSTEM
from appliance.service.packages import Packages
from appliance.service.secrets import SecretBox
from appliance.service.uploads import UploadService
from appliance.store.blobs import BlobStore
from appliance.store.ports import Doc, Store

from .catching_up import CatchingUp
from .hooks.door import HookDoor
from .intake.comparing import Intake
from .intake.pulling import PULL_JOB, Pulling, pull_key
from .jobs import HINT_JOB, SYNC_JOB
from .mirror.mirroring import Mirror
from .mirror.uploading import UPLOAD_JOB, Uploading
from .points.points import Points
from .servers.admin import ServerAdmin
from .servers.registry import Registry
from .servers.server import Server
from .servers.servers import Servers
from .syncing import Syncing
from .watching import Watching

PULLING = RetryPolicy(attempts=40, base_s=2.0, cap_s=300.0)


class Bridge(ServerAdmin):
    """What the admin API, the hooks, the jobs and the timers of the node call; implements `service.mdm.MdmPort`."""

    def __init__(
        self,
        *,
        store: Store,
        box: SecretBox,
        catalogue: Catalogue,
        holdings: Holdings,
        packages: Packages,
        blobs: BlobStore,
        uploads: UploadService,
        stages: Sequence[str],
        reading_peers: Callable[[], bool],
        now: Callable[[], int],
    ) -> None:
        """Make it; `reading_peers` says whether a peer's feed is being read."""
        caught_up = CatchingUp(reading_peers).wait
        registry = Registry()
        servers = Servers(store, box, now, registry, stages=stages)
        digests = Digests(
            store=store, catalogue=catalogue, blobs=blobs, holdings=holdings, packages=packages, now=now
        )
        points = Points(store=store, holdings=holdings, now=now)
        super().__init__(
            store=store,
            servers=servers,
            registry=registry,
            now=now,
            file_name=lambda id: package.body.filename if (package := catalogue.by_id(id)) else "",
            node_name=lambda id: node.name if (node := holdings.nodes.get(id)) else "",
            suggest=points.suggest_segments,
        )
        self._digests = digests
        self._door = HookDoor(store=store, servers=servers, now=now)
        self._uploading = Uploading(
            store=store, servers=servers, catalogue=catalogue, blobs=blobs, caught_up=caught_up, now=now
        )
        self._pulling = Pulling(
            store=store, servers=servers, uploads=uploads, catalogue=catalogue, caught_up=caught_up, now=now
        )
        self._syncing = Syncing(
            store=store,
            servers=servers,
            intake=Intake(store=store, catalogue=catalogue, ensure_hashes=digests.ensure, now=now),
            mirror=Mirror(store=store, catalogue=catalogue, digests=digests, blobs=blobs, now=now),
            points=points,
            register_webhooks=self._register_hooks,
            gather_hints=self._door.gather,
            caught_up=caught_up,
            now=now,
        )
        self._watching = Watching(
            store=store, servers=servers, catalogue=catalogue, holdings=holdings, now=now
        )
        self._task: asyncio.Task[None] | None = None

    def register(self, runner: Runner) -> None:
        """Say what the bridge's jobs do; before the runner starts."""
        runner.register(HINT_JOB, self._syncing.take_hint, queue="default", policy=ONCE)
        runner.register(SYNC_JOB, self._syncing.run, queue="default", policy=ONCE)
        runner.register(
            PULL_JOB, self._pulling.run, queue="transfer", policy=PULLING, on_failed=self._pulling.gave_up
        )
        runner.register(
            UPLOAD_JOB,
            self._uploading.run,
            queue="transfer",
            policy=PULLING,
            on_failed=self._uploading.gave_up,
        )
        runner.register(DIGEST_JOB, self._digests.run, queue="hash", policy=ONCE)

    def start(self, supervisor: Supervisor) -> None:
        """Begin to watch the clock and this node."""
        self._task = supervisor.start("mdm", self._watching.run)

    async def stop(self) -> None:
        """Sign out everywhere and let go."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self._door.close()
        await self._servers.close()

    async def _register_hooks(self, server: Server) -> None:
        await self.register_webhooks(server.id, actor=SYSTEM)
        await self._servers.note(server.id, hooks_of=server.rev)

    # Webhooks that come in

    async def admit_hook(
        self, server_id: str, *, path_secret: str, headers: Mapping[str, str], address: str
    ) -> int:
        """As `MdmPort.admit_hook`."""
        return await self._door.admit(server_id, path_secret=path_secret, headers=headers, address=address)

    async def take_hook(self, server_id: str, *, content_type: str, body: bytes) -> int:
        """As `MdmPort.take_hook`."""
        return await self._door.take(server_id, content_type=content_type, body=body)

    # Transfers that are pulls: `service.transfers.Pulls`

    async def retry(self, doc: Doc) -> None:
        """Start a pull again, now."""
        await self._pulling.want_again(doc["pull"]["server"], doc["pull"]["remote"])

    def job_key(self, doc: Doc) -> str:
        """The key of a pull's job."""
        return pull_key(doc["pull"]["server"], doc["pull"]["remote"])

    async def job_cancelled(self, job: Job) -> None:
        """As `Pulls.job_cancelled`."""
        if job.name == PULL_JOB:
            await self._pulling.cancel(job.args["server"], job.args["remote"])

    async def job_retried(self, job: Job) -> None:
        """As `Pulls.job_retried`."""
        if job.name == PULL_JOB:
            await self._pulling.job_retried(job.args["server"], job.args["remote"])

    async def transfer_of(self, job: Job) -> str:
        """As `Pulls.transfer_of`."""
        if job.name != PULL_JOB:
            return ""
        return await self._pulling.transfer_of(job.args["server"], job.args["remote"])

    async def cancel(self, doc: Doc) -> None:
        """Remember that a person cancelled a pull, and end its job; one that runs sees it in its document, too."""
        await self._pulling.cancel(doc["pull"]["server"], doc["pull"]["remote"], doc["_id"])
        for job in await self._store.find_jobs({"active_key": self.job_key(doc)}, limit=1):
            with contextlib.suppress(InvalidTransition, JobUnknown):
                await self._store.cancel_job(job.id, now=self._now())
