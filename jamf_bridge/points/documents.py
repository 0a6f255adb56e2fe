"""What is kept of a node's distribution point record in an MDM: one row for each server and node."""

from enum import StrEnum

from appliance.store.paging import every
from appliance.store.ports import Doc, Insert, Remove, Replace, Store

COLLECTION = "mdm_points"


class PointState(StrEnum):
    """How a node's record is."""

    CREATING = "creating"  #: about to be created, or created and the answer is not known
    MIRRORED = "mirrored"
    CONFLICT = "conflict"  #: a record of this name is not ours and was left alone
    DELETED = (
        "deleted"  #: somebody deleted it in the MDM, again: it is made anew when node or settings change
    )
    LEFT = "left"  #: its node left the network, the record was left
    FAILED = "failed"  #: refused; tried again later


def new_point(server: str, node: str) -> Doc:
    """The row of a node that has no record yet."""
    return {
        "_id": f"{server}:{node}",
        "server": server,
        "node": node,
        "name": "",  #: of the record
        "remote_id": "",
        "ours": False,  #: whether we created it
        "absent": False,  #: no record of this name was listed when its creation was begun
        "state": str(PointState.CREATING),
        "sent": {},  #: the fields that are ours, as last written
        "remade": "",  #: a mark of what the record should say when a deleted one was made again
        "misses": 0,  #: lists in a row that lacked the record
        "error": "",
        "at": 0,  #: UTC milliseconds of the last change of state
    }


async def points_of(store: Store, server: str) -> dict[str, Doc]:
    """Every row of a server by node id."""
    return {doc["node"]: doc async for doc in every(store, COLLECTION, {"server": server})}


async def write_point(store: Store, before: Doc, after: Doc, now: int, *events: Insert) -> Doc:
    """Write a row if it changed, with events; return it as stored.

    Raises:
        StaleRevision: Somebody wrote it since it was read.
    """
    if after == before and "_rev" in before and not events:
        return before
    if (after["state"], after["error"]) != (before["state"], before["error"]) or not after["at"]:
        after = {**after, "at": now}
    doc = {name: value for name, value in after.items() if name != "_rev"}
    stored = await store.batch([Replace(COLLECTION, doc, before.get("_rev", 0)), *events])
    assert stored[0] is not None
    return stored[0]


async def remove_point(store: Store, row: Doc, *events: Insert) -> None:
    """Forget a row, with events."""
    await store.batch([Remove(COLLECTION, row["_id"]), *events])
