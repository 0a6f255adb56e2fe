"""Other nodes, as pages show them: how the registered ones are doing, and who else is there."""

from dataclasses import dataclass
from typing import Any

from appliance.api.app import App
from appliance.domain.node import NodeBody
from appliance.domain.reach import neighbours
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
        "set_aside_until": peer.set_aside_until(app.now()),
    }


def _health(peer: Peer, now: int) -> tuple[str, str]:
    if peer.state is PeerState.LEAVING:
        return "leaving", "warn"
    if peer.state is PeerState.PENDING:
        return "not confirmed", "warn"
    if peer.down:
        return "down", "bad"
    if peer.set_aside_until(now):
        return "set aside", "warn"
    if peer.failures:
        return "does not answer", "warn"
    return "healthy", "good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Why little may be heard of a node."""

    down: bool
    text: str
    since: int = 0  #: when it was heard of last, UTC milliseconds; 0: not known


def reach(app: App) -> dict[str, Reach]:
    """By node id, the nodes that are down or are not registered with this one."""
    peers = {peer.id: peer for peer in app.peers.all()}
    found = {
        id: Reach(down=True, text=f"{peer.name} is down: {peer.last_error}", since=peer.last_seen)
        for id, peer in peers.items()
        if peer.down
    }
    for id, node in others(app):
        gates = [peers[other] for other in neighbours(app.holdings.nodes, id) if other in peers]
        ways = " or ".join(peer.name for peer in gates[:3])
        if gates and all(peer.down for peer in gates):
            text = f"{node.name} is reached only through {ways}, which is down."
            found[id] = Reach(down=False, text=text, since=max(peer.last_seen for peer in gates))
        elif gates:
            found[id] = Reach(down=False, text=f"{node.name} is reached only through {ways}.")
    return found


def others(app: App) -> list[tuple[str, NodeBody]]:
    """Nodes that are in the network and not registered with this one, by name; with their ids."""
    known = {peer.id for peer in app.peers.all()} | {app.identity.node_id}
    found = [(id, node) for id, node in app.holdings.nodes.items() if id not in known]
    return sorted(found, key=lambda item: item[1].name)
