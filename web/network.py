"""The network: nodes as a drawing and a table, invites, and which node holds what."""

from typing import Any

from appliance.api.app import App
from appliance.api.models import PackagesQuery
from appliance.api.packages import list_packages
from appliance.domain.package import Package, Presence
from appliance.peering.records import replica_body
from appliance.service.accounts import Role

from .drawing import draw
from .flows import flows
from .neighbours import others, peer_view
from .pages import PageHandler
from .templating import share

ROWS = 25


class NetworkPage(PageHandler):
    """`/ui/network`."""

    title = "Nodes"
    section = "/ui/network"

    async def get(self) -> None:
        """Every node, how the registered ones are doing, and invites."""
        app = self.app
        app.neighbourhood.look()
        own, moving = app.identity.node_id, await flows(app)
        may = bool(self.principal and self.principal.role >= Role.ADMIN)
        self.page(
            "network.html",
            drawing=await draw(app),
            peers=[
                {
                    **peer_view(peer, app),
                    "incoming": moving.get((peer.id, own), 0.0),
                    "outgoing": moving.get((own, peer.id), 0.0),
                }
                for peer in app.peers.all()
            ],
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
        app.neighbourhood.look()
        nodes = sorted(
            app.holdings.nodes.items(), key=lambda item: (item[0] != app.identity.node_id, item[1].name)
        )
        rows = []
        for package in found.items:
            bodies = {body.node: body for body in map(replica_body, records[package.id])}
            cells = [_cell(package, bodies.get(id), id, app) for id, _ in nodes]
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


def _cell(package: Package, body: Any, node: str, app: App) -> dict[str, Any]:
    """One square of the matrix: word, why, and percent while the package arrives there."""
    if node == app.identity.node_id:
        live = app.transfers.progress(package.id)
        percent = share(live.progress.bytes_done, package.body.size) if live else None
        return {"word": str(package.presence), "why": package.reason, "percent": percent}
    held = body is not None and body.presence == Presence.HELD
    if held and body.sha256 == package.body.sha256:
        return {"word": "held", "why": body.reason, "percent": None}
    moving = app.neighbourhood.moving(node, package.id, package.body.sha256)
    if moving is not None:
        return {"word": "arriving", "why": "", "percent": share(moving.done, package.body.size)}
    if held:
        return {"word": "older", "why": "It still holds earlier bytes of this name.", "percent": None}
    if body is None:
        return {"word": "", "why": "The node has not said anything about this package yet.", "percent": None}
    return {"word": body.presence, "why": body.reason, "percent": None}
