"""Nodes that are gone for good: an administrator says so on any node, and the whole network takes them off its lists.

What says so is a tombstone of the node's record. A node that still runs outranks it, so a mistake mends itself as
long as one peer still knows the node.
"""

import logging
from collections.abc import Callable

from appliance.domain.errors import Conflict, NodeUnknown
from appliance.domain.event import EventType
from appliance.domain.record import RecordKind
from appliance.store.ports import Store

from .holdings import Holdings
from .journal import entry
from .peers import Peers
from .records import Records

log = logging.getLogger(__name__)


class Departures:
    """Removes nodes from the network."""

    def __init__(
        self,
        *,
        store: Store,
        records: Records,
        holdings: Holdings,
        peers: Peers,
        node_id: str,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._records = records
        self._holdings = holdings
        self._peers = peers
        self._node_id = node_id
        self._now = now

    def resolve(self, text: str) -> str:
        """The id of a node of the network, by id, beginning of the id, or name.

        Raises:
            NodeUnknown: None fits, or several do.
        """
        nodes = self._holdings.nodes
        fits = [id for id, node in nodes.items() if text in {id, node.name}]
        fits = fits or [id for id in nodes if len(text) >= 6 and id.startswith(text)]
        if len(fits) != 1:
            why = f"Several nodes fit; give the id: {', '.join(fits)}." if fits else "There is no such node."
            raise NodeUnknown(f'"{text}": {why}')
        return fits[0]

    async def remove(self, id: str, *, actor: str) -> None:
        """Tell the network that a node is gone, and end the registration with it if there is one.

        Args:
            id: The node's id.
            actor: Who says so.

        Raises:
            NodeUnknown: There is no such node.
            Conflict: It is this node, or one that is registered here and not down.
        """
        if id == self._node_id:
            raise Conflict("A node does not remove itself: say it on a node that stays.")
        peer = self._peers.find(id)
        if peer is not None and not peer.down:
            raise Conflict(
                f"{peer.name} is registered with this node and not down. End the registration first "
                f"(ods peer remove {peer.name}), and stop the node: one that runs comes back by itself."
            )
        known = await self._records.known(RecordKind.NODE, id)
        if known.record is None or known.record.deleted:
            raise NodeUnknown("There is no such node.")
        body = known.record.body
        _, gone = self._records.write(RecordKind.NODE, id, body, known, deleted=True)
        names = {"name": body["name"], "url": body["url"]}
        event = entry(EventType.NODE_REMOVED, at=self._now(), actor=actor, subject=id, **names)
        await self._store.batch([gone, event])
        await self._peers.drop(id, [])
        await self._holdings.refresh_nodes()
        self._holdings.on_written()
        log.info(
            "a node was removed", extra={"action": "node_removed", "peer": id, "peer_name": body["name"]}
        )
