"""The job that brings one MDM server and this network into line: list, take in, mirror out, distribution points.

Each part fails alone: a privilege that is missing for one does not stop the others. What could not be done is done by
the next run; nothing is kept but rows and links that say how far things are.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from appliance.domain.job import Job
from appliance.domain.mdm_errors import MdmError, MdmNeedsAttention, ServerUnknown
from appliance.jobs.context import JobContext
from appliance.store.ports import Store

from .driver import Driver, RemotePackage
from .intake.comparing import Intake
from .jobs import sync_job
from .mirror.mirroring import Mirror, MirrorSummary
from .points.points import Points, PointsSummary
from .servers.server import Server, ServerState
from .servers.servers import Servers

log = logging.getLogger(__name__)

ATTENTION_S = (
    300.0  #: between two tries, at most, of a server that a person has to mend: it may be mended over there
)
ASK_AGAIN_S = (
    60.0  #: after a first refusal, doubled by each: it may have been a proxy, a restart, or one mistake
)
PATIENT = 10  #: so many times a missing ability is asked for again within a minute, then less and less often
EMPTY_MS = 15_000  #: an empty list of a server is believed when it was empty twice, so far apart
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
        caught_up: Callable[[], Awaitable[None]],
        now: Callable[[], int],
    ) -> None:
        """Make it; `caught_up` returns when what peers know was read after a start.

        A node that was restored from a backup must not take what the MDM has for newer than what its peers know.
        """
        self._caught_up = caught_up
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
        await self._caught_up()
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
        asked = await self._servers.asked(server.id)
        try:
            driver = await self._servers.driver(server.id)
        except MdmNeedsAttention:  # noted already; a changed configuration queues the next sync
            await self._servers.note(server.id, next_poll_at=self._at(ATTENTION_S))
            return
        before = driver.requests_made
        found: dict[str, Any] = {"refusals": 0}
        try:
            if "probe" in asked.what:
                await driver.probe()
            next_s, noted, mirrored = await self._listed(server, driver, verify="verify" in asked.what)
            found |= noted
            await self._servers.fulfilled(server.id, asked, "probe", *(["verify"] if mirrored else []))
        except MdmNeedsAttention as exc:
            found["refusals"] = refusals = int(server.health.get("refusals", 0)) + 1
            found["partial"] = None
            next_s = min(ATTENTION_S, ASK_AGAIN_S * 2 ** min(refusals - 1, 10))
            await self._servers.attention(server.id, exc)
        except MdmError as exc:
            next_s = server.config.intake.poll_s
            await self._servers.unreachable(server.id, exc)
        requests = driver.requests_made - before
        await self._servers.note(
            server.id, **found, tried_at=self._now(), next_poll_at=self._at(next_s), requests=requests
        )

    def _at(self, seconds: float) -> int:
        """So many seconds from now, in UTC milliseconds."""
        return self._now() + round(seconds * 1000)

    async def _listed(
        self, server: Server, driver: Driver, *, verify: bool
    ) -> tuple[float, dict[str, Any], bool]:
        """Do all parts; return the seconds until the next look, what to note, and whether packages were mirrored."""
        began = self._now()
        remote = await driver.list_packages()
        found: dict[str, Any] = {"own_account": await driver.own_account(), "packages": len(remote)}
        capabilities = await driver.capabilities()
        taken = await self._intake.run(
            server, remote, find=driver.find_package, can_open=capabilities.open_package
        )
        remote = [taken.corrected.get(package.id, package) for package in remote]
        found |= {"listed": True, "last_poll_at": self._now(), "pending": taken.pending}
        found |= {"looked_at": began, "last_id": _last_id(server, remote), "missing": taken.missing}
        found["notes"] = list(capabilities.notes)
        found["empty_at"] = None if remote else server.health.get("empty_at", began)
        whole = not taken.missing and (bool(remote) or began - found["empty_at"] >= EMPTY_MS)
        mirrored, points = MirrorSummary(), PointsSummary()

        async def mirror() -> None:
            nonlocal mirrored
            mirrored = await self._mirror.run(server, driver, remote, verify=verify, whole=whole)

        async def keep_points() -> None:
            nonlocal points
            points = await self._points.run(server, driver)

        async def register() -> None:
            await self._register_webhooks(server)

        parts: list[tuple[bool, Callable[[], Awaitable[None]]]] = [
            (server.config.mirror.enabled, mirror),
            (server.config.points.enabled, keep_points),
            (_hooks_missing(server), register),
        ]
        faults: list[MdmError] = []
        failed: list[Callable[[], Awaitable[None]]] = []
        for wanted, part in parts:
            try:
                if wanted:
                    await part()
            except MdmError as exc:
                faults.append(exc)
                failed.append(part)
        missing = capabilities.missing if server.config.intake.enabled else ""
        if missing and capabilities.privilege_missing and not faults:
            await self._servers.attention(server.id, MdmNeedsAttention(missing))
        elif not faults:
            await self._servers.recovered(server.id, missing)
        refused = False
        for fault in faults:
            if isinstance(fault, MdmNeedsAttention):
                refused = True
                await self._servers.attention(server.id, fault)
            else:
                log.warning(fault.message, extra={"action": "mdm_part_failed", "mdm": server.id})
        found["partial"] = True if missing and not refused else None
        unsure = taken.missing + mirrored.missing + points.missing + (not whole)
        next_s = self._next_s(server, found, pending=taken.pending + unsure, missing=bool(missing))
        return next_s, found, mirror not in failed

    @staticmethod
    def _next_s(server: Server, found: dict[str, Any], *, pending: int, missing: bool) -> float:
        """Soon while the MDM works on an upload or a listing is in doubt, less and less often; else as set.

        What the MDM refused is asked for again within a minute, at first.
        """
        poll_s = server.config.intake.poll_s
        looks = found["looks"] = int(server.health.get("looks", 0)) + 1 if pending else 0
        lacks = found["lacks"] = int(server.health.get("lacks", 0)) + 1 if missing else 0
        waits = [poll_s]
        if pending:
            waits.append(FIRST_LOOK_S * 2 ** min(looks - 1, 10))
        if missing:
            longest = ASK_AGAIN_S * 2 ** max(0, min(lacks - PATIENT, 10))
            waits.append(min(longest, FIRST_LOOK_S * 2 ** min(lacks - 1, 20)))
        return min(waits)


def _last_id(server: Server, remote: Sequence[RemotePackage]) -> int:
    """The largest id that was ever listed; 0 if ids are no numbers."""
    ids = [int(package.id) for package in remote if package.id.isdecimal()]
    return max([int(server.health.get("last_id", 0)), *ids])


def _hooks_missing(server: Server) -> bool:
    """Whether our webhooks are wanted and were not registered since the configuration changed."""
    options = server.config.webhooks
    return bool(options.enabled and options.register_at and server.health.get("hooks_of") != server.rev)
