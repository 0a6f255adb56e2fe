"""The network: nodes as a drawing and a table, invites, and which node holds what."""

from typing import Any

from appliance.api.app import App
from appliance.api.models import PackagesQuery
from appliance.api.packages import list_packages
from appliance.domain.package import Package, Presence
from appliance.peering.records import replica_body
from appliance.service.accounts import Role

from .drawing import draw
from .neighbours import others, peer_view
from .pages import PageHandler

ROWS = 25


class NetworkPage(PageHandler):
    """`/ui/network`."""

    title = "Nodes"
    section = "/ui/network"

    async def get(self) -> None:
        """Every node, how the registered ones are doing, and invites."""
        app = self.app
        may = bool(self.principal and self.principal.role >= Role.ADMIN)
        self.page(
            "network.html",
            drawing=draw(app),
            peers=[peer_view(peer, app) for peer in app.peers.all()],
            others=others(app),
            own_url=app.node_url,
            invites=await app.registrations.invites() if may else [],
        )


class ReplicationPage(PageHandler):
    """`/ui/replication`."""

    title = "Replication"
    section = "/ui/replication"

    async def get(self) -> None:
        """Packages and nodes: who holds what."""
        app = self.app
        query = self.query_as(PackagesQuery).model_copy(update={"limit": ROWS, "withdrawn": False})
        found = list_packages(app.catalogue.all(), query)
        records = await app.records.replicas_of([package.id for package in found.items])
        nodes = sorted(
            app.holdings.nodes.items(), key=lambda item: (item[0] != app.identity.node_id, item[1].name)
        )
        rows = []
        for package in found.items:
            bodies = {body.node: body for body in map(replica_body, records[package.id])}
            cells = [_cell(package, bodies.get(id), id == app.identity.node_id, app) for id, _ in nodes]
            rows.append(
                {"package": package, "cells": cells, "held": sum(cell["word"] == "held" for cell in cells)}
            )
        kept = f"&q={query.q}" if query.q else ""
        self.page(
            "replication.html",
            rows=rows,
            nodes=[node for _, node in nodes],
            query=query,
            total=found.total,
            next=f"/ui/replication?cursor={found.next}{kept}" if found.next else "",
        )


def _cell(package: Package, body: Any, here: bool, app: App) -> dict[str, Any]:
    """One square of the matrix: word, kind of badge, why, and percent while it arrives here."""
    if here:
        live = app.transfers.progress(package.id)
        percent = None
        if live and package.body.size:
            percent = int(100 * live.progress.bytes_done / package.body.size)
        return {"word": str(package.presence), "why": package.reason, "percent": percent}
    if body is None:
        return {"word": "", "why": "The node has not said anything about this package yet.", "percent": None}
    if body.sha256 != package.body.sha256 and body.presence == Presence.HELD:
        return {"word": "older", "why": "It still holds earlier bytes of this name.", "percent": None}
    return {"word": body.presence, "why": body.reason, "percent": None}
