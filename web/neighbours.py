"""Other nodes, as pages show them: how the registered ones are doing, and who else is there."""

from typing import Any

from appliance.api.app import App
from appliance.domain.node import NodeBody
from appliance.domain.states import PeerState
from appliance.service.peers import Peer


def peer_view(peer: Peer, app: App) -> dict[str, Any]:
    """A registered node with its health in a word."""
    node = app.holdings.nodes.get(peer.id)
    word, kind = _health(peer, app.now())
    return {
        "peer": peer,
        "node": node,
        "version": node.version if node else "",
        "word": word,
        "kind": kind,
        "set_aside_until": peer.quarantined_until if peer.quarantined_until > app.now() else 0,
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
        return "does not answer", "warn"
    return "healthy", "good"


def others(app: App) -> list[tuple[str, NodeBody]]:
    """Nodes that are in the network and not registered with this one, by name; with their ids."""
    known = {peer.id for peer in app.peers.all()} | {app.identity.node_id}
    found = [(id, node) for id, node in app.holdings.nodes.items() if id not in known]
    return sorted(found, key=lambda item: item[1].name)
