"""What an admin does with MDM servers: all of `MdmPort` but the webhooks that come in."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from appliance.domain.errors import InvalidInput, InvalidTransition
from appliance.domain.job import Job
from appliance.domain.mdm_errors import MdmNeedsAttention
from appliance.service.mdm import Line, Report, Rows, Shown
from appliance.store.ports import Store

from ..driver import CheckLine, Driver
from ..hooks.rules import wanted_events
from ..jobs import sync_job, sync_key
from .config import ServerConfig
from .registry import Registry
from .rows import package_rows, point_rows, rows_of_package
from .server import Server, ServerState
from .servers import Servers

CHECK_S = 90.0  #: for all lines of a check
FOREVER_MS = 253_402_300_799_000  #: the end of the year 9999

Suggest = Callable[[Server, Driver], Awaitable[Sequence[Mapping[str, Any]]]]


class ServerAdmin:
    """Serves the admin API."""

    def __init__(
        self,
        *,
        store: Store,
        servers: Servers,
        registry: Registry,
        now: Callable[[], int],
        file_name: Callable[[str], str],
        node_name: Callable[[str], str],
        suggest: Suggest,
    ) -> None:
        """Make it.

        Args:
            store: Where jobs and rows are.
            servers: The configured servers.
            registry: The drivers that are installed.
            now: UTC milliseconds.
            file_name: The name of a package by its id, "" if it is not known.
            node_name: The name of a node by its id, "" if it is not known.
            suggest: Network segments with suggestions, such as `Points.suggest_segments`.
        """
        self._store = store
        self._servers = servers
        self._registry = registry
        self._now = now
        self._file_name = file_name
        self._node_name = node_name
        self._suggest = suggest

    def kinds(self) -> list[Shown]:
        """As `MdmPort.kinds`."""
        config = ServerConfig.model_json_schema()
        return [{**kind, "config": config} for kind in self._registry.describe()]

    async def servers(self) -> list[Shown]:
        """As `MdmPort.servers`."""
        return [self._servers.shown(server) for server in await self._servers.all()]

    async def server(self, name: str) -> Shown:
        """As `MdmPort.server`."""
        return self._servers.shown(await self._servers.resolve(name))

    async def add(self, fields: Mapping[str, Any], *, actor: str) -> Shown:
        """As `MdmPort.add`."""
        return self._servers.shown(await self._servers.add(fields, actor=actor))

    async def change(
        self, name: str, fields: Mapping[str, Any], *, actor: str, expect_revision: int | None
    ) -> Shown:
        """As `MdmPort.change`."""
        server = await self._servers.resolve(name)
        changed = await self._servers.change(server.id, fields, actor=actor, expect_revision=expect_revision)
        return self._servers.shown(changed)

    async def remove(self, name: str, *, expect_revision: int | None = None, actor: str) -> None:
        """As `MdmPort.remove`."""
        server = await self._servers.resolve(name)
        await self._servers.remove(server.id, expect_revision=expect_revision, actor=actor)

    async def check(self, fields: Mapping[str, Any], *, name: str = "") -> Report:
        """As `MdmPort.check`."""
        base = await self._servers.resolve(name) if name else None
        draft = self._servers.draft(fields, base)
        if base is not None:
            # What was found out before is found out anew, by a sync right now.
            await self._servers.ask(base.id, "probe")
            await self._store.enqueue(sync_job(base.id, self._now(), reason="checked"))
        return Report(lines=tuple(_line(line, draft.config) for line in await self._checked(draft)))

    async def _checked(self, draft: Server) -> list[CheckLine]:
        try:
            driver = self._servers.fresh_driver(draft)
        except MdmNeedsAttention as exc:
            return [CheckLine(what="Settings", ok=False, detail=exc.message)]
        try:
            async with asyncio.timeout(CHECK_S):
                return await driver.check()
        except TimeoutError:
            detail = f"The server did not answer everything within {CHECK_S:.0f} seconds."
            return [CheckLine(what="Answers in time", ok=False, detail=detail)]
        finally:
            await driver.close()

    async def sync(self, name: str, *, verify: bool) -> Job:
        """As `MdmPort.sync`."""
        server = await self._servers.resolve(name)
        if server.state in {ServerState.DISABLED, ServerState.PAUSED}:
            raise InvalidTransition(
                f"{server.config.name} is {server.state}: {server.reason} Switch it on or resume it first."
            )
        await self._servers.ask(server.id, "probe", *(["verify"] if verify else []))
        job = sync_job(server.id, self._now(), reason="verify" if verify else "asked for")
        await self._store.enqueue(job)
        active = await self._store.find_jobs({"active_key": sync_key(server.id)}, limit=1)
        return active[0] if active else await self._store.get_job(job.id) or job

    async def pause(self, name: str, *, seconds: int | None, actor: str) -> Shown:
        """As `MdmPort.pause`."""
        server = await self._servers.resolve(name)
        until = FOREVER_MS if seconds is None else self._now() + seconds * 1000
        await self._servers.pause(server.id, until, f"It was paused by {actor}.", actor=actor)
        return await self.server(server.id)

    async def resume(self, name: str, *, actor: str) -> Shown:
        """As `MdmPort.resume`."""
        server = await self._servers.resolve(name)
        await self._servers.resume(server.id, actor=actor)
        return await self.server(server.id)

    async def packages(
        self, name: str, *, direction: str, state: str, limit: int, after: tuple[str, str] | None
    ) -> Rows:
        """As `MdmPort.packages`."""
        server = await self._servers.resolve(name)
        return await package_rows(
            self._store, server.id, direction=direction, state=state, limit=limit, after=after,
            file_name=self._file_name,
        )  # fmt: skip

    async def records_of(self, package: str, file_name: str) -> list[Shown]:
        """As `MdmPort.records_of`."""
        return [
            {"server": server.id, "server_name": server.config.name, **row}
            for server in await self._servers.all()
            for row in await rows_of_package(self._store, server.id, package, file_name)
        ]

    async def points(self, name: str) -> list[Shown]:
        """As `MdmPort.points`."""
        server = await self._servers.resolve(name)
        return await point_rows(self._store, server.id, self._node_name)

    async def segments(self, name: str) -> list[Shown]:
        """As `MdmPort.segments`."""
        server = await self._servers.resolve(name)
        found = await self._suggest(server, await self._servers.driver(server.id))
        names = ("name", "start", "end", "distribution_point", "suggestion")
        return [{name: str(segment.get(name) or "") for name in names} for segment in found]

    async def register_webhooks(self, name: str, *, actor: str) -> Report:
        """As `MdmPort.register_webhooks`."""
        server = await self._servers.resolve(name)
        url = _hook_url(server)
        driver = await self._servers.driver(server.id)
        events = wanted_events(server.config.kind, server.config.webhooks.rules)
        found = await driver.register_webhooks(url, events=events, secret=server.hook_secret)
        kept = [{key: hook.get(key) for key in ("event", "authentication", "ok", "detail")} for hook in found]
        await self._servers.note(
            server.id, webhooks=kept, webhooks_registered_at=self._now(), webhooks_registered_by=actor
        )
        return Report(lines=tuple(_hook_line(hook) for hook in found))

    async def remove_webhooks(self, name: str, *, actor: str) -> int:
        """As `MdmPort.remove_webhooks`."""
        server = await self._servers.resolve(name)
        driver = await self._servers.driver(server.id)
        removed = await driver.remove_webhooks(_hook_url(server))
        await self._servers.note(
            server.id, webhooks=None, webhooks_registered_at=None, webhooks_registered_by=None
        )
        return removed


def _hook_url(server: Server) -> str:
    base = server.config.webhooks.register_at.rstrip("/")
    if not base:
        raise InvalidInput(
            "webhooks.register_at: set the URL under which the MDM reaches this node, such as https://ods.example.com."
        )
    return f"{base}/hooks/{server.id}"


def _line(line: CheckLine, config: ServerConfig) -> Line:
    """A line, and whether the configuration needs it.

    A line that belongs to no part and asks for no privilege, such as signing in, is always needed.
    """
    parts = {
        "in": config.intake.enabled,
        "out": config.mirror.enabled,
        "points": config.points.enabled,
        "webhooks": config.webhooks.enabled and bool(config.webhooks.register_at),
    }
    needed = parts.get(line.needed_for, False) if line.needed_for else not line.privilege
    return Line(
        what=line.what, ok=line.ok, detail=line.detail, privilege=line.privilege, needed_for=line.needed_for,
        needed=needed,
    )  # fmt: skip


def _hook_line(hook: Mapping[str, Any]) -> Line:
    way, detail = str(hook.get("authentication", "")), str(hook.get("detail", ""))
    said = "; ".join(filter(None, (f"proven by {way}" if way else "", detail)))
    return Line(
        what=f"Webhook {hook.get('event', '')}",
        ok=bool(hook.get("ok")),
        detail=said,
        needed_for="webhooks",
        needed=True,
    )
