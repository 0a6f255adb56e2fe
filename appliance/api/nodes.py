"""Nodes: every one of the network, registered here or not; and what was one, removed."""

from collections.abc import Mapping
from typing import Any, ClassVar

from appliance.domain.node import NodeBody
from appliance.domain.reach import neighbours
from appliance.service.accounts import Role

from .app import App
from .base import BaseHandler
from .views import iso


class _NodeJson(BaseHandler):
    def shown(self, id: str, node: NodeBody) -> dict[str, Any]:
        """A node as JSON."""
        health, since = silence(self.app, id)
        return {
            "id": id,
            "name": node.name,
            "url": node.url,
            "stage": node.stage,
            "version": node.version,
            "tags_take": list(node.tags_take),
            "tags_refuse": list(node.tags_refuse),
            "self": id == self.app.identity.node_id,
            "registered": self.app.peers.is_active(id),
            "health": health,
            "failing_since": iso(since),
        }


def silence(app: App, id: str) -> tuple[str, int]:
    """Why a node does not answer, "" if nothing says so; and since when, UTC milliseconds, 0 if that is not known.

    One that is not registered here is silent if each node that it is registered with is, or says that of it.
    """
    health = app.peers.health(id)
    if health is not None or id == app.identity.node_id:
        return (health.word, health.since) if health is not None else ("", 0)
    app.neighbourhood.look()
    ways = []
    for gate in neighbours(app.holdings.nodes, id):
        health, sight = app.peers.health(gate), app.neighbourhood.sight(gate)
        if health is not None and health.word:
            why = health.word
        elif sight is not None and sight.peers.get(id) is False:
            why = "it does not reach it"
        else:
            return "", 0
        ways.append(f"{app.holdings.nodes[gate].name} ({why})")
    return f"reached only through {' or '.join(ways)}" if ways else "", 0


class NodesHandler(_NodeJson):
    """`/api/v1/nodes`."""

    async def get(self) -> None:
        """Every node of the network that this one has heard of."""
        nodes = sorted(self.app.holdings.nodes.items(), key=lambda item: item[1].name)
        self.write_json({"items": [self.shown(id, node) for id, node in nodes], "next": None})


class NodeHandler(_NodeJson):
    """`/api/v1/nodes/{id or name}`."""

    roles: ClassVar[Mapping[str, Role]] = {"DELETE": Role.ADMIN}

    async def get(self, name: str) -> None:
        """One node."""
        id = self.app.departures.resolve(name)
        self.write_json(self.shown(id, self.app.holdings.nodes[id]))

    async def delete(self, name: str) -> None:
        """Tell the network that a node is gone for good."""
        id = self.app.departures.resolve(name)
        await self.app.departures.remove(id, actor=self.actor)
        self.app.metrics.forget_peer(id)
        self.set_status(204)
        self.finish()
