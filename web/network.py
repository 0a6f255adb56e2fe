"""The network: nodes as a drawing and a table, invites, and which node holds what."""

import math
from dataclasses import dataclass
from typing import Any

from appliance.api.app import App
from appliance.api.models import PackagesQuery
from appliance.api.packages import list_packages
from appliance.domain.package import Package, Presence
from appliance.domain.states import PeerState
from appliance.peering.records import replica_body
from appliance.service.accounts import Role
from appliance.service.peers import Peer

from .pages import PageHandler

ROWS = 25
WIDTH, HEIGHT = 900, 440
_RING = 12  #: up to so many registered nodes are drawn on one ring


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A node in the drawing."""

    x: float
    y: float
    name: str
    under: str  #: a word below the name
    kind: str  #: "self", "good", "warn", "bad" or "far"
    link: str  #: how the line from here looks: "busy", "good", "warn", "bad", "far", or "" for none


class NetworkPage(PageHandler):
    """`/ui/network`."""

    title = "Nodes"
    section = "/ui/network"

    async def get(self) -> None:
        """Every node, how the registered ones are doing, and invites."""
        app = self.app
        may = bool(self.principal and self.principal.role >= Role.ADMIN)
        spots = draw(app)
        self.page(
            "network.html",
            spots=spots,
            width=WIDTH,
            height=HEIGHT,
            drawn=len(spots) <= 1 + 4 * _RING,
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


def peer_view(peer: Peer, app: App) -> dict[str, Any]:
    """A registered node with its health in a word."""
    node = app.holdings.nodes.get(peer.id)
    word, kind = _health(peer, app.now())
    return {
        "peer": peer,
        "stage": node.stage if node else "",
        "version": node.version if node else "",
        "word": word,
        "kind": kind,
    }


def _health(peer: Peer, now: int) -> tuple[str, str]:
    if peer.state is PeerState.LEAVING:
        return "leaving", "warn"
    if peer.state is PeerState.PENDING:
        return "not confirmed", "warn"
    if peer.down:
        return "down", "bad"
    if peer.quarantined_until > now:
        return "set aside", "warn"
    if peer.failures:
        return "unsteady", "warn"
    return "healthy", "good"


def others(app: App) -> list[Any]:
    """Nodes that are in the network and not registered with this one."""
    known = {peer.id for peer in app.peers.all()} | {app.identity.node_id}
    found = [node for id, node in app.holdings.nodes.items() if id not in known]
    return sorted(found, key=lambda node: node.name)


def draw(app: App) -> list[Spot]:
    """This node in the middle, registered ones around it, the rest farther out."""
    middle = (WIDTH / 2, HEIGHT / 2)
    own = app.holdings.nodes.get(app.identity.node_id)
    spots = [
        Spot(
            x=middle[0], y=middle[1], name=app.node_name, under=own.stage if own else "", kind="self", link=""
        )
    ]
    busy = {
        source.node
        for package in app.catalogue.all()
        if package.presence is Presence.ARRIVING and (live := app.transfers.progress(package.id))
        for source in live.progress.sources
    }
    peers, far = app.peers.all(), others(app)
    inner, outer = (0.62, 1.0) if far else (0.9, 1.0)
    for index, peer in enumerate(peers):
        view = peer_view(peer, app)
        x, y = _around(middle, index, len(peers), inner, turn=0.0)
        link = "busy" if peer.id in busy and view["kind"] == "good" else view["kind"]
        spots.append(
            Spot(
                x=x,
                y=y,
                name=peer.name,
                under=view["word"],
                kind=view["kind"],
                link=link,
            )
        )
    for index, node in enumerate(far):
        x, y = _around(middle, index, len(far), outer, turn=0.5 / max(1, len(peers)))
        spots.append(Spot(x=x, y=y, name=node.name, under="through others", kind="far", link=""))
    return spots


def _around(
    middle: tuple[float, float], index: int, count: int, part: float, *, turn: float
) -> tuple[float, float]:
    angle = 2 * math.pi * (index / max(1, count) + turn)
    across, up = WIDTH / 2 - 80, HEIGHT / 2 - 52
    return round(middle[0] + across * part * math.cos(angle), 1), round(
        middle[1] + up * part * math.sin(angle), 1
    )
