"""The network as a drawing: where each node stands in an inline SVG, and how the lines look."""

import math
from dataclasses import dataclass, replace

from appliance.api.app import App
from appliance.domain.package import Presence

from .neighbours import others, peer_view

WIDTH, HEIGHT = 900, 440
MOST = 49  #: with more nodes a drawing shows nothing; there is a table as well
_LABELS = 66  #: height that a node's name needs above or below it


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A node in the drawing."""

    x: float
    y: float
    name: str
    under: str  #: a word below the name
    kind: str  #: "self", "good", "warn", "bad" or "far"
    link: str  #: how the line from here looks: "busy", "good", "warn", "bad", "far", or "" for none


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Nodes in a frame; the first is this one, in the middle."""

    width: float
    height: float
    spots: list[Spot]
    crowded: bool  #: too many to be drawn


def draw(app: App) -> Drawing:
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
    for index, (_, node) in enumerate(far):
        x, y = _around(middle, index, len(far), outer, turn=0.5 / max(1, len(peers)))
        spots.append(Spot(x=x, y=y, name=node.name, under="through others", kind="far", link=""))
    reach = max((abs(spot.y - middle[1]) for spot in spots), default=0.0) + _LABELS
    lifted = [replace(spot, y=round(spot.y - middle[1] + reach, 1)) for spot in spots]
    return Drawing(width=WIDTH, height=2 * reach, spots=lifted, crowded=len(spots) > MOST)


def _around(
    middle: tuple[float, float], index: int, count: int, part: float, *, turn: float
) -> tuple[float, float]:
    angle = 2 * math.pi * (index / max(1, count) + turn)
    across, up = WIDTH / 2 - 80, HEIGHT / 2 - 52
    return round(middle[0] + across * part * math.cos(angle), 1), round(
        middle[1] + up * part * math.sin(angle), 1
    )
