"""MDM servers: connect, check, sync, and see how they are doing."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import BaseModel

from appliance.domain.errors import NotFound
from appliance.domain.package import Package
from appliance.service.accounts import Role
from appliance.service.mdm import MdmPort, Report, Shown

from .base import BaseHandler
from .cursors import decode, encode
from .models import (
    MdmPackagesQuery,
    MdmPause,
    MdmServerChange,
    MdmServerDraft,
    MdmServerInput,
    MdmSync,
)
from .views import iso, job_json


def bridge_of(handler: BaseHandler) -> MdmPort:
    """The MDM bridge.

    Raises:
        NotFound: This node runs without one.
    """
    if handler.app.mdm is None:
        raise NotFound("This node has no MDM bridge.")
    return handler.app.mdm


class MdmHandler(BaseHandler):
    """Everybody with an account may look; changes are for administrators."""

    roles: ClassVar[Mapping[str, Role]] = {"POST": Role.ADMIN, "PATCH": Role.ADMIN, "DELETE": Role.ADMIN}

    @property
    def mdm(self) -> MdmPort:
        """The MDM bridge."""
        return bridge_of(self)

    def write_list(self, items: list[Any], following: str | None = None) -> None:
        """Answer with a page."""
        self.write_json({"items": items, "next": following})

    def write_report(self, report: Report) -> None:
        """Answer with what a check found."""
        self.write_json({"ok": report.ok, "lines": [asdict(line) for line in report.lines]})


class KindsHandler(MdmHandler):
    """`/api/v1/mdm/kinds`."""

    async def get(self) -> None:
        """The kinds of server that can be connected, and what an admin sets for each."""
        self.write_list([dict(kind) for kind in self.mdm.kinds()])


class CheckHandler(MdmHandler):
    """`/api/v1/mdm/check`."""

    async def post(self) -> None:
        """Try a configuration that is not saved."""
        self.write_report(await self.mdm.check(sent(self.body_as(MdmServerInput))))


class ServersHandler(MdmHandler):
    """`/api/v1/mdm/servers`."""

    async def get(self) -> None:
        """Every configured server, without its secrets."""
        self.write_list([server_json(server) for server in await self.mdm.servers()])

    async def post(self) -> None:
        """Add a server."""
        added = await self.mdm.add(sent(self.body_as(MdmServerInput)), actor=self.actor)
        self.write_json(server_json(added), 201)


class ServerHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}`."""

    conditional = frozenset({"PATCH", "DELETE"})

    async def get(self, name: str) -> None:
        """One server, without its secrets."""
        server = await self.mdm.server(name)
        self.version = str(server["revision"])
        self.write_json(server_json(server))

    async def patch(self, name: str) -> None:
        """Change some fields."""
        fields = sent(self.body_as(MdmServerChange))
        server = await self.mdm.server(name)
        revision = self.expected(server["name"], server["revision"], fields.pop("revision", None))
        changed = await self.mdm.change(name, fields, actor=self.actor, expect_revision=revision)
        self.write_json(server_json(changed))

    async def delete(self, name: str) -> None:
        """Forget it; in the MDM nothing changes."""
        server = await self.mdm.server(name)
        expected = self.expected(server["name"], server["revision"])
        await self.mdm.remove(server["id"], expect_revision=expected, actor=self.actor)
        self.set_status(204)
        self.finish()


class ServerCheckHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/check`."""

    async def post(self, name: str) -> None:
        """Try the saved configuration, or what it would be with some fields changed."""
        self.write_report(await self.mdm.check(sent(self.body_as(MdmServerDraft)), name=name))


class SyncHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/sync`."""

    async def post(self, name: str) -> None:
        """Queue a sync."""
        job = await self.mdm.sync(name, verify=self.body_as(MdmSync).verify)
        self.write_json({"job": job_json(job)}, 202)


class PauseHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/pause`."""

    async def post(self, name: str) -> None:
        """Ask nothing of it for a while."""
        paused = await self.mdm.pause(name, seconds=self.body_as(MdmPause).seconds, actor=self.actor)
        self.write_json(server_json(paused))


class ResumeHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/resume`."""

    async def post(self, name: str) -> None:
        """End a pause."""
        self.write_json(server_json(await self.mdm.resume(name, actor=self.actor)))


class PackagesHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/packages`."""

    query = MdmPackagesQuery

    async def get(self, name: str) -> None:
        """What came in from package records, then what was mirrored to them."""
        query = self.query_as(MdmPackagesQuery)
        place = decode(query.cursor, str) if query.cursor else None
        rows = await self.mdm.packages(
            name,
            direction=query.direction,
            state=query.state,
            limit=query.limit,
            after=(place[0], place[1]) if place else None,
        )
        self.write_list(
            [{**row, "at": iso(row["at"])} for row in rows.items],
            encode(list(rows.next)) if rows.next else None,
        )


class PackageRecordsHandler(MdmHandler):
    """`/api/v1/packages/{id or filename}/mdm`."""

    async def get(self, name: str) -> None:
        """What the MDM servers know of one package."""
        self.write_list(await package_records(self, self.app.catalogue.resolve(name)))


class PointsHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/points`."""

    async def get(self, name: str) -> None:
        """The nodes' distribution point records."""
        self.write_list([{**row, "at": iso(row["at"])} for row in await self.mdm.points(name)])


class SegmentsHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/segments`."""

    async def get(self, name: str) -> None:
        """Network segments, with suggestions; nothing is written."""
        self.write_list([dict(row) for row in await self.mdm.segments(name)])


class WebhooksHandler(MdmHandler):
    """`/api/v1/mdm/servers/{id or name}/webhooks`."""

    async def post(self, name: str) -> None:
        """Create or mend our webhooks in the MDM now."""
        self.write_report(await self.mdm.register_webhooks(name, actor=self.actor))

    async def delete(self, name: str) -> None:
        """Delete our webhooks in the MDM."""
        self.write_json({"removed": await self.mdm.remove_webhooks(name, actor=self.actor)})


async def package_records(handler: BaseHandler, package: Package) -> list[dict[str, Any]]:
    """The records of a package in every MDM server; none without a bridge."""
    mdm = handler.app.mdm
    rows = await mdm.records_of(package.id, package.body.filename) if mdm is not None else []
    return [{**row, "at": iso(row["at"])} for row in rows]


def sent(body: BaseModel) -> dict[str, Any]:
    """The fields that were sent, null ones included."""
    return body.model_dump(exclude_unset=True)


def server_json(server: Shown) -> dict[str, Any]:
    """A server; the times of its health in ISO 8601."""
    health = {
        name: iso(value) if name.endswith(("_at", "_until")) and isinstance(value, int) else value
        for name, value in server["health"].items()
    }
    return {**server, "health": health}


_SERVER = r"/api/v1/mdm/servers/([^/]+)"

ROUTES: list[tuple[str, type[BaseHandler]]] = [
    (r"/api/v1/mdm/kinds", KindsHandler),
    (r"/api/v1/mdm/check", CheckHandler),
    (r"/api/v1/mdm/servers", ServersHandler),
    (_SERVER, ServerHandler),
    (_SERVER + r"/check", ServerCheckHandler),
    (_SERVER + r"/sync", SyncHandler),
    (_SERVER + r"/pause", PauseHandler),
    (_SERVER + r"/resume", ResumeHandler),
    (_SERVER + r"/packages", PackagesHandler),
    (r"/api/v1/packages/([^/]+)/mdm", PackageRecordsHandler),
    (_SERVER + r"/points", PointsHandler),
    (_SERVER + r"/segments", SegmentsHandler),
    (_SERVER + r"/webhooks", WebhooksHandler),
]
