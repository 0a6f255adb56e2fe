"""What moves between nodes, and which nodes are registered with each other, as this one knows it."""

from collections import defaultdict
from collections.abc import Mapping

from appliance.api.app import App

from .neighbours import peer_view

Flows = Mapping[tuple[str, str], float]  #: bytes a second from a node to another
Lines = Mapping[
    frozenset[str], str
]  #: two nodes that are registered with each other: "good", "warn", "bad", "far"


async def flows(app: App) -> Flows:
    """What moves now. What comes here is known here, what goes elsewhere by those that it comes to."""
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for sight in (await app.neighbourhood.own(), *app.neighbourhood.sights()):
        for moving in sight.moving:
            for source, rate in moving.sources.items():
                found[source, sight.node] += rate
    return found


def lines(app: App) -> Lines:
    """This node's registrations, and those that others told of."""
    own = app.identity.node_id
    found = {frozenset((own, peer.id)): str(peer_view(peer, app)["kind"]) for peer in app.peers.all()}
    for sight in app.neighbourhood.sights():
        for other, reached in sight.peers.items():
            pair = frozenset((sight.node, other))
            if own not in pair and len(pair) == 2 and found.get(pair) != "bad":
                found[pair] = "far" if reached else "bad"
    return found
