"""The network: nodes as a drawing and a table, invites, and which node holds what."""

from dataclasses import asdict, dataclass
from urllib.parse import urlencode

from markupsafe import Markup

from appliance.api.models import PackagesQuery
from appliance.api.packages import list_packages
from appliance.domain.package import Package, Presence, ReplicaBody
from appliance.peering.records import replica_body
from appliance.service.accounts import Role
from appliance.service.neighbourhood import Sight

from .drawing import draw
from .flows import flows
from .neighbours import others, peer_view
from .pages import PageHandler
from .templating import render, share

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
            own=app.holdings.nodes.get(own),
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
        own = await app.neighbourhood.own()
        sights = {sight.node: sight for sight in app.neighbourhood.sights()}
        drawn: dict[Cell, Markup] = {}
        rows = []
        for package in found.items:
            bodies = {body.node: body for body in map(replica_body, records[package.id])}
            cells = [
                _own_cell(package, own) if id == own.node else _cell(package, bodies.get(id), sights.get(id))
                for id, _ in nodes
            ]
            for cell in cells:
                if cell not in drawn:
                    drawn[cell] = Markup(render("cell.html", asdict(cell)))  # noqa: S704  # it escapes
            rows.append(
                {
                    "package": package,
                    "cells": [drawn[cell] for cell in cells],
                    "held": sum(cell.word == "held" for cell in cells),
                }
            )
        following = {"cursor": found.next, **({"q": query.q} if query.q else {})}
        self.page(
            "replication.html",
            rows=rows,
            nodes=[node for _, node in nodes],
            query=query,
            total=found.total,
            next=f"/ui/replication?{urlencode(following)}" if found.next else "",
        )


@dataclass(frozen=True, slots=True)
class Cell:
    """One square of the matrix."""

    word: str  #: a presence, "older", or "" while the node said nothing
    why: str
    percent: int | None = None  #: while the package arrives there


def _own_cell(package: Package, own: Sight) -> Cell:
    """What this node has of a package."""
    moving = own.of(package.id, package.body.sha256)
    percent = share(moving.done, package.body.size) if moving else None
    return Cell(str(package.presence), package.reason, percent)


def _cell(package: Package, body: ReplicaBody | None, sight: Sight | None) -> Cell:
    """What another node has of a package, by its record and by what it said lately."""
    held = body is not None and body.presence == Presence.HELD
    if body is not None and held and body.sha256 == package.body.sha256:
        return Cell("held", body.reason)
    moving = sight.of(package.id, package.body.sha256) if sight is not None else None
    if moving is not None:
        return Cell("arriving", "", share(moving.done, package.body.size))
    if body is None:
        return Cell("", "No status from this node yet.")
    if held:
        return Cell("older", "It still holds earlier bytes of this name.")
    return Cell(str(body.presence), body.reason)
