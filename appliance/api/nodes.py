"""Nodes: every one of the network, registered here or not; and what was one, removed."""

from collections.abc import Mapping
from typing import Any, ClassVar

from appliance.domain.node import NodeBody
from appliance.service.accounts import Role

from .base import BaseHandler


class _NodeJson(BaseHandler):
    def shown(self, id: str, node: NodeBody) -> dict[str, Any]:
        """A node as JSON."""
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
        }


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
