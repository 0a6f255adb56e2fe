"""MDM servers: connect them, see what a check finds, and what was taken in and mirrored."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode

from appliance.api.cursors import decode, encode
from appliance.api.mdm import bridge_of, server_json
from appliance.api.models import MdmPackagesQuery, NoQuery
from appliance.api.views import iso

from .pages import PageHandler
from .schema_fields import FormField, form_fields

PAGE = 50
SECTIONS = ("settings", "intake", "mirror", "points", "webhooks")
STATES = ("pulled", "pending", "mirrored", "waiting", "conflict", "quarantined", "failed", "withdrawn")


class MdmPage(PageHandler):
    """`/ui/mdm`."""

    title = "MDM servers"
    section = "/ui/mdm"

    async def get(self) -> None:
        """Every server, and a form that connects another."""
        self.query_as(NoQuery)
        mdm = bridge_of(self)
        kinds = [
            {
                "kind": kind["kind"],
                "name": kind_name(kind["kind"]),
                "fields": form_fields(kind["settings"], "settings", {}),
            }
            for kind in mdm.kinds()
        ]
        self.page("mdm.html", items=[shown(server) for server in await mdm.servers()], kinds=kinds)


class MdmServerPage(PageHandler):
    """`/ui/mdm/{id or name}`."""

    section = "/ui/mdm"

    async def get(self, name: str) -> None:
        """One server: how it does, its records, its settings."""
        query = self.query_as(MdmPackagesQuery)
        mdm = bridge_of(self)
        server = shown(await mdm.server(name))
        place = decode(query.cursor, str) if query.cursor else None
        rows = await mdm.packages(
            server["id"],
            direction=query.direction,
            state=query.state,
            limit=PAGE,
            after=(place[0], place[1]) if place else None,
        )
        where = {"direction": query.direction, "state": query.state}
        cursor = encode(list(rows.next)) if rows.next else ""
        path = f"/ui/mdm/{quote(server['id'])}"
        self.title = server["name"]
        self.page(
            "mdm_server.html",
            server=server,
            path=path,
            query=query,
            states=STATES,
            rows=[{**row, "at": iso(row["at"])} for row in rows.items],
            next=f"{path}?{urlencode({**where, 'cursor': cursor})}" if cursor else "",
            points=[{**row, "at": iso(row["at"])} for row in await mdm.points(server["id"])],
            parts=self._parts(server),
            hook=f"{self.app.node_url}{server['hook_path']}",
        )

    def _parts(self, server: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The fields of each part of the configuration, with their values."""
        kind = next((kind for kind in bridge_of(self).kinds() if kind["kind"] == server["kind"]), None)
        if kind is None:
            return []
        parts = {"settings": kind["settings"]}
        for name in SECTIONS[1:]:
            reference = kind["config"]["properties"][name]["$ref"].rpartition("/")[2]
            parts[name] = kind["config"]["$defs"][reference]
        fields: dict[str, list[FormField]] = {
            name: form_fields(schema, name, server[name]) for name, schema in parts.items()
        }
        return [
            {"name": name, "about": parts[name]["description"], "fields": fields[name]} for name in SECTIONS
        ]


def shown(server: Mapping[str, Any]) -> dict[str, Any]:
    """A server as the pages show it."""
    return {**server_json(server), "kind_name": kind_name(server["kind"])}


def kind_name(kind: str) -> str:
    """What people call a kind of server."""
    return {"jamf": "Jamf Pro"}.get(kind, kind)
