"""What other nodes say of themselves: which packages are on their way to them, and whom they are registered with.

For people who watch, and for nothing else: kept in memory, asked for only while somebody looks, a few seconds old.
A peer that is asked passes on what it has heard of its own peers, so that a page sees nodes two registrations away.
"""

import asyncio
import itertools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from appliance.domain.errors import PeerError, PeerNotFound
from appliance.domain.states import PeerState, TransferState
from appliance.jobs.supervisor import Supervisor
from appliance.peering.wire import MOVING_LIMIT, SIGHTS_LIMIT, SightWire
from appliance.store.ports import Doc

from .peers import Peers
from .transfers import Transfers

OFTEN_MS = 1_500  #: between two looks, while something moves
SELDOM_MS = 5_000
FRESH_MS = 15_000  #: what is older is not shown
_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Moving:
    """A package on its way to a node."""

    package: str
    sha256: str
    done: int  #: bytes
    rate: float  #: bytes a second
    sources: Mapping[str, float]  #: bytes a second by node


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What a node said of itself."""

    node: str
    at: int  #: UTC milliseconds
    peers: Mapping[str, bool]  #: registered nodes, and whether it reaches them
    moving: tuple[Moving, ...]

    def of(self, package: str, sha256: str) -> Moving | None:
        """How far certain bytes of a package are on their way to it."""
        wanted = (package, sha256)
        return next((one for one in self.moving if (one.package, one.sha256) == wanted), None)


class Neighbourhood:
    """Asks registered nodes how they are doing."""

    def __init__(
        self,
        *,
        peers: Peers,
        transfers: Transfers,
        node_id: str,
        calls: Executor,
        now: Callable[[], int],
        supervisor: Supervisor,
    ) -> None:
        self._peers = peers
        self._transfers = transfers
        self._node_id = node_id
        self._calls = calls
        self._now = now
        self._supervisor = supervisor
        self._sights: dict[str, Sight] = {}
        self._looked = 0
        self._task: asyncio.Task[bool] | None = None
        self.version = 0  #: grows when something new was heard

    def sights(self) -> list[Sight]:
        """What other nodes said lately."""
        oldest = self._now() - FRESH_MS
        return [sight for sight in self._sights.values() if sight.at >= oldest]

    def sight(self, node: str) -> Sight | None:
        """What another node said lately."""
        sight = self._sights.get(node)
        return sight if sight is not None and sight.at >= self._now() - FRESH_MS else None

    async def own(self) -> Sight:
        """What this node says of itself.

        Raises:
            StoreUnavailable: The database does not answer.
        """
        states = [str(TransferState.FETCHING), str(TransferState.VERIFYING)]
        docs = await self._transfers.page({"state": {"in": states}}, limit=MOVING_LIMIT)
        peers = {
            peer.id: peer.state is PeerState.ACTIVE and not peer.down
            for peer in itertools.islice(self._peers.all(), SIGHTS_LIMIT)
        }
        return Sight(
            node=self._node_id, at=self._now(), peers=peers, moving=tuple(_moving(doc) for doc in docs)
        )

    def look(self, *, hops: int = 1) -> None:
        """Ask the registered nodes soon, unless that was just done; returns at once.

        Args:
            hops: Whether they shall tell of their peers as well (1) or not (0).
        """
        if self._task is not None and not self._task.done():
            return
        pause = OFTEN_MS if any(sight.moving for sight in self.sights()) else SELDOM_MS
        if self._now() - self._looked >= pause:
            self._looked = self._now()
            ask = self._supervisor.once("nodes.status", lambda: self._ask_all(hops))
            self._task = asyncio.get_running_loop().create_task(ask)

    async def stop(self) -> None:
        """Ask no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask_all(self, hops: int) -> None:
        limit = asyncio.Semaphore(_AT_ONCE)

        async def ask(peer: str) -> None:
            async with limit:
                await self._ask(peer, hops)

        before = _said(self.sights())
        usable = [peer for peer in self._peers.active_ids() if not self._peers.backing_off(peer)]
        await asyncio.gather(*(ask(peer) for peer in usable))
        oldest = self._now() - FRESH_MS
        self._sights = {node: sight for node, sight in self._sights.items() if sight.at >= oldest}
        if _said(self.sights()) != before:
            self.version += 1

    async def _ask(self, peer: str, hops: int) -> None:
        try:
            client = self._peers.client(peer)
            answer = await asyncio.get_running_loop().run_in_executor(self._calls, client.status, hops)
        except (PeerError, PeerNotFound):
            return  # its health is judged by the calls that matter; an older node has no such address
        for told in answer.sights:
            self._hear(peer, told)

    def _hear(self, peer: str, told: SightWire) -> None:
        """Keep what a peer told of a node, if nothing newer is known; of itself it knows best."""
        at = self._now() - told.age_ms
        known = self._sights.get(told.node)
        if told.node == self._node_id or (told.node != peer and self._peers.is_active(told.node)):
            return
        if known is None or known.at <= at:
            moving = tuple(
                Moving(
                    package=one.package, sha256=one.sha256, done=one.done, rate=one.rate, sources=one.sources
                )
                for one in told.moving
            )
            self._sights[told.node] = Sight(node=told.node, at=at, peers=told.peers, moving=moving)


def _moving(doc: Doc) -> Moving:
    rate = float(doc.get("rate", 0.0))
    fetched = {source["node"]: source["bytes"] for source in doc["sources"] if source["bytes"]}
    whole = sum(fetched.values())
    return Moving(
        package=doc["package"],
        sha256=doc["sha256"],
        done=doc["bytes_done"],
        rate=rate,
        sources={node: round(rate * count / whole, 1) for node, count in fetched.items()},
    )


def _said(sights: Sequence[Sight]) -> set[tuple[object, ...]]:
    """What is worth to be shown anew."""
    return {
        (
            sight.node,
            *sorted(sight.peers.items()),
            *((one.package, one.done, one.rate) for one in sight.moving),
        )
        for sight in sights
    }
