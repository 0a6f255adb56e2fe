"""The network as a drawing: where each node stands in an inline SVG, and what goes along the lines between them."""

import math
from dataclasses import dataclass, replace

from appliance.api.app import App

from .flows import Flows, Lines, flows, lines
from .neighbours import others, peer_view

WIDTH, HEIGHT = 900, 440
MOST = 49  #: with more nodes a drawing shows nothing; there is a table as well
_LABELS = 66  #: height that a node's name needs above or below it
_FEW = 8  #: so many stand beside the node that they are behind
_STEP = 0.09  #: of a turn, between two of those
_GAP = 26  #: between the middle of a node and the end of a line


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A node in the drawing."""

    x: float
    y: float
    name: str
    under: str  #: a word below the name
    kind: str  #: "self", "good", "warn", "bad" or "far"


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A registration; if bytes go along it, it leads from their source to where they go."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str  #: "good", "warn", "bad" or "far"; with " flow" if something moves
    rate: float = 0.0  #: bytes a second

    @property
    def middle(self) -> tuple[float, float]:
        """Where the rate is written."""
        return round((self.x1 + self.x2) / 2, 1), round((self.y1 + self.y2) / 2 - 7, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """Nodes in a frame; the first is this one, in the middle of the others."""

    left: float
    width: float
    height: float
    spots: list[Spot]
    lines: list[Line]
    crowded: bool  #: too many to be drawn


async def draw(app: App) -> Drawing:
    """This node in the middle, registered ones around it, the rest farther out."""
    middle = (WIDTH / 2, HEIGHT / 2)
    own = app.holdings.nodes.get(app.identity.node_id)
    spots = {
        app.identity.node_id: Spot(
            x=middle[0], y=middle[1], name=app.node_name, under=own.stage if own else "", kind="self"
        )
    }
    peers, far = app.peers.all(), others(app)
    inner, outer = (0.62, 1.0) if far else (0.9, 1.0)
    for index, peer in enumerate(peers):
        view = peer_view(peer, app)
        x, y = _around(middle, index, len(peers), inner, turn=0.0)
        spots[peer.id] = Spot(x=x, y=y, name=peer.name, under=view["word"], kind=view["kind"])
    registrations = lines(app)
    turns = _turns([id for id, _ in far], [peer.id for peer in peers], registrations)
    for id, node in far:
        x, y = _around(middle, 0, 1, outer, turn=turns[id])
        spots[id] = Spot(x=x, y=y, name=node.name, under="through others", kind="far")
    reach = max((abs(spot.y - middle[1]) for spot in spots.values()), default=0.0) + _LABELS
    lifted = {id: replace(spot, y=round(spot.y - middle[1] + reach, 1)) for id, spot in spots.items()}
    across = [spot.x for spot in lifted.values()]
    return Drawing(
        left=round((min(across) + max(across) - WIDTH) / 2, 1),
        width=WIDTH,
        height=2 * reach,
        spots=list(lifted.values()),
        lines=_lines(lifted, registrations, await flows(app)) if len(spots) <= MOST else [],
        crowded=len(spots) > MOST,
    )


def _turns(far: list[str], peers: list[str], registrations: Lines) -> dict[str, float]:
    """Where nodes beyond the registered ones stand, as parts of a whole turn: near the one that they are behind."""
    behind: dict[str, list[str]] = {}
    for id in far:
        gate = next((peer for peer in peers if frozenset((id, peer)) in registrations), "")
        behind.setdefault(gate, []).append(id)
    if len(far) > _FEW:  # they fill the circle anyway
        order = [id for gate in (*peers, "") for id in behind.get(gate, ())]
        return {id: index / len(order) for index, id in enumerate(order)}
    found = {}
    for gate, ids in behind.items():
        turn = peers.index(gate) / len(peers) if gate else 0.5 / max(1, len(peers))
        for index, id in enumerate(ids):
            found[id] = turn + (index - (len(ids) - 1) / 2) * _STEP
    return found


def _lines(spots: dict[str, Spot], registrations: Lines, moving: Flows) -> list[Line]:
    """The quiet ones first, so that nothing covers what moves."""
    quiet, busy = [], []
    for pair, kind in registrations.items():
        ends = [spots[id] for id in sorted(pair) if id in spots]
        if len(ends) != 2:
            continue
        one, other = sorted(pair)
        ways = [way for way in ((one, other), (other, one)) if moving.get(way)]
        if ways:
            source, target = max(ways, key=lambda way: moving[way])
            rate = sum(moving[way] for way in ways)
            busy.append(_line(spots[source], spots[target], f"{kind} flow", rate))
        else:
            quiet.append(_line(ends[0], ends[1], kind, 0.0))
    return quiet + busy


def _line(source: Spot, target: Spot, kind: str, rate: float) -> Line:
    length = math.hypot(target.x - source.x, target.y - source.y) or 1.0
    part = min(0.4, _GAP / length)
    dx, dy = (target.x - source.x) * part, (target.y - source.y) * part
    return Line(
        x1=round(source.x + dx, 1), y1=round(source.y + dy, 1),
        x2=round(target.x - dx, 1), y2=round(target.y - dy, 1), kind=kind, rate=rate,
    )  # fmt: skip


def _around(
    middle: tuple[float, float], index: int, count: int, part: float, *, turn: float
) -> tuple[float, float]:
    angle = 2 * math.pi * (index / max(1, count) + turn)
    across, up = WIDTH / 2 - 80, HEIGHT / 2 - 52
    return round(middle[0] + across * part * math.cos(angle), 1), round(
        middle[1] + up * part * math.sin(angle), 1
    )
