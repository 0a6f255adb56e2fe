"""The job that brings one MDM server and this network into line: list, take in, mirror out, distribution points.

Each part fails alone: a privilege that is missing for one does not stop the others. What could not be done is done by
the next run; nothing is kept but rows and links that say how far things are.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

from appliance.domain.job import Job
from appliance.domain.mdm_errors import MdmError, MdmNeedsAttention, ServerUnknown
from appliance.jobs.context import JobContext
from appliance.store.ports import Store

from .driver import Driver
from .intake.comparing import Intake
from .jobs import sync_job
from .mirror.mirroring import Mirror
from .points.points import Points
from .servers.server import Server, ServerState
from .servers.servers import Servers

log = logging.getLogger(__name__)

ATTENTION_S = 300.0  #: between two tries of a server that a person has to mend: it may be mended over there
FIRST_LOOK_S = (
    5.0  #: after this the MDM is asked again about uploads that it still works on, then after longer
)


class Syncing:
    """Runs the job `mdm.sync`."""

    def __init__(
        self,
        *,
        store: Store,
        servers: Servers,
        intake: Intake,
        mirror: Mirror,
        points: Points,
        register_webhooks: Callable[[Server], Awaitable[object]],
        gather_hints: Callable[[str], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._servers = servers
        self._intake = intake
        self._mirror = mirror
        self._points = points
        self._register_webhooks = register_webhooks
        self._gather_hints = gather_hints
        self._now = now

    async def take_hint(self, job: Job, _context: JobContext) -> None:
        """Runs the job `mdm.hint`: webhooks asked for a sync, and it begins when the last of them is in."""
        await self._gather_hints(job.args["server"])
        await self._store.enqueue(sync_job(job.args["server"], self._now(), reason=job.args["reason"]))

    async def run(self, job: Job, _context: JobContext) -> None:
        """Bring everything into line once."""
        try:
            server = await self._servers.get(job.args["server"])
        except ServerUnknown:
            return
        if not server.config.enabled or server.state is ServerState.DISABLED:
            return
        if server.state is ServerState.PAUSED and server.health.get("paused_until", 0) > self._now():
            return
        # Noted first: whatever goes wrong, the server is not asked again at once.
        await self._servers.note(server.id, next_poll_at=self._at(server.config.intake.poll_s))
        asked = await self._servers.take_asked(server.id)
        try:
            driver = await self._servers.driver(server.id)
        except MdmNeedsAttention:  # noted already; a changed configuration queues the next sync
            await self._servers.note(server.id, next_poll_at=self._at(ATTENTION_S))
            return
        if "probe" in asked:
            await driver.probe()
        before = driver.requests_made
        try:
            next_s, found = await self._listed(server, driver, verify="verify" in asked)
        except MdmNeedsAttention as exc:
            next_s, found = ATTENTION_S, {}
            await self._servers.attention(server.id, exc)
            await self._servers.ask(server.id, *asked)
        except MdmError as exc:
            await self._servers.ask(server.id, *asked)
            next_s, found = server.config.intake.poll_s, {}
            await self._servers.unreachable(server.id, exc)
        requests = driver.requests_made - before
        await self._servers.note(
            server.id, **found, tried_at=self._now(), next_poll_at=self._at(next_s), requests=requests
        )

    def _at(self, seconds: float) -> int:
        """So many seconds from now, in UTC milliseconds."""
        return self._now() + round(seconds * 1000)

    async def _listed(self, server: Server, driver: Driver, *, verify: bool) -> tuple[float, dict[str, Any]]:
        """Do all parts; return the seconds until the next look, and what to note."""
        remote = await driver.list_packages()
        found: dict[str, Any] = {"own_account": await driver.own_account(), "packages": len(remote)}
        capabilities = await driver.capabilities()
        taken = await self._intake.run(server, remote, can_open=capabilities.open_package)
        found |= {"listed": True, "last_poll_at": self._now(), "pending": taken.pending}
        found["notes"] = list(capabilities.notes)
        parts: list[tuple[bool, Callable[[], Awaitable[object]]]] = [
            (server.config.mirror.enabled, lambda: self._mirror.run(server, driver, remote, verify=verify)),
            (server.config.points.enabled, lambda: self._points.run(server, driver)),
            (_hooks_missing(server), lambda: self._register_webhooks(server)),
        ]
        faults: list[MdmError] = []
        for wanted, part in parts:
            try:
                if wanted:
                    await part()
            except MdmError as exc:
                faults.append(exc)
        if not faults:
            await self._servers.recovered(server.id)
        for fault in faults:
            if isinstance(fault, MdmNeedsAttention):
                await self._servers.attention(server.id, fault)
            else:
                log.warning(fault.message, extra={"action": "mdm_part_failed", "mdm": server.id})
        return self._next_s(server, found, pending=taken.pending), found

    @staticmethod
    def _next_s(server: Server, found: dict[str, Any], *, pending: int) -> float:
        """Soon while the MDM works on an upload, less and less often; else at the steady interval."""
        poll_s = server.config.intake.poll_s
        looks = int(server.health.get("looks", 0)) + 1 if pending else 0
        found["looks"] = looks
        return min(poll_s, FIRST_LOOK_S * 2 ** min(looks - 1, 10)) if pending else poll_s


def _hooks_missing(server: Server) -> bool:
    """Whether our webhooks are wanted and were not registered since the configuration changed."""
    options = server.config.webhooks
    return bool(options.enabled and options.register_at and server.health.get("hooks_of") != server.rev)
