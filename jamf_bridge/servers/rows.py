"""What is known of records in an MDM, as rows for the admin: what came in, then what was mirrored out."""

from collections.abc import Callable, Mapping
from typing import Any

from appliance.domain.errors import InvalidInput
from appliance.service.mdm import Rows
from appliance.store.paging import every
from appliance.store.ports import Doc, Store

from ..intake.remote import RowState
from ..mirror.links import LinkState
from ..names import forms

_PARTS = {"in": "mdm_remote", "out": "mdm_links"}
#: states of rows that the admin knows by another word
_SHOWN = {"in": {"taken": "pulled"}, "out": {"mirrored": "mirrored"}}
#: what the admin may filter by
_STATES = sorted(
    {_SHOWN["in"].get(state, str(state)) for state in RowState}
    | {_SHOWN["out"].get(state, str(state)) for state in LinkState}
)


async def package_rows(
    store: Store,
    server_id: str,
    *,
    direction: str,
    state: str,
    limit: int,
    after: tuple[str, str] | None,
    file_name: Callable[[str], str],
) -> Rows:
    """A page of package rows; see `MdmPort.packages`.

    Args:
        store: Where they are.
        server_id: The server.
        direction: "in", "out" or "" for both.
        state: Only this state, in the admin's words; "" for all.
        limit: At most so many.
        after: The part and the id behind which it begins.
        file_name: The name of a package, by its id.

    Raises:
        InvalidInput: The place is none of ours, or there is no such state.
    """
    if state and state not in _STATES:
        reason = f'there is no "{state}"; there are: {", ".join(_STATES)}'
        raise InvalidInput(f"state: {reason}.", fields={"state": reason})
    parts = [part for part in _PARTS if direction in ("", part)]
    if after is not None:
        if after[0] not in parts:
            raise InvalidInput("The cursor belongs to another list; begin without one.")
        parts = parts[parts.index(after[0]) :]
    found: list[tuple[str, Doc]] = []
    for part in parts:
        where = {"server": server_id, **({"state": _stored(part, state)} if state else {})}
        place = (after[1], after[1]) if after is not None and after[0] == part else None
        docs = await store.find(_PARTS[part], where, limit=limit + 1 - len(found), after=place)
        found += [(part, doc) for doc in docs]
        if len(found) > limit:
            break
    page = found[:limit]
    following = (page[-1][0], str(page[-1][1]["_id"])) if len(found) > limit else None
    return Rows(items=[_package(part, doc, file_name) for part, doc in page], next=following)


async def rows_of_package(
    store: Store, server_id: str, package: str, file_name: str
) -> list[Mapping[str, Any]]:
    """The rows of one package; see `MdmPort.records_of`."""
    found: list[Mapping[str, Any]] = []
    for part, where in (("in", {"file_name": {"in": forms(file_name)}}), ("out", {"package": package})):
        docs = await store.find(_PARTS[part], {"server": server_id, **where}, limit=20)
        found += [_package(part, doc, lambda _: file_name) for doc in docs]
    return found


def _stored(part: str, state: str) -> str:
    return next((own for own, shown in _SHOWN[part].items() if shown == state), state)


def _package(part: str, doc: Doc, file_name: Callable[[str], str]) -> Mapping[str, Any]:
    package = str(doc.get("package", ""))
    return {
        "direction": part,
        "state": _SHOWN[part].get(doc["state"], doc["state"]),
        "file_name": doc.get("file_name") or file_name(package),
        "package": package,
        "remote": str(doc.get("remote") or doc.get("remote_id") or ""),
        "ours": bool(doc.get("ours", False)),
        "error": str(doc.get("error", "")),
        "at": int(doc.get("at", 0)),
    }


async def point_rows(
    store: Store, server_id: str, node_name: Callable[[str], str]
) -> list[Mapping[str, Any]]:
    """The nodes' distribution point records; see `MdmPort.points`."""
    return [_point(doc, node_name) async for doc in every(store, "mdm_points", {"server": server_id})]


def _point(doc: Doc, node_name: Callable[[str], str]) -> Mapping[str, Any]:
    node = str(doc["_id"]).partition(":")[2]
    return {
        "node": node,
        "name": node_name(node) or str(doc.get("name", "")),  # of a node that left, its record's
        "remote": str(doc.get("remote_id", "")),
        "ours": bool(doc.get("ours", False)),
        "state": str(doc.get("state", "")),
        "error": str(doc.get("error", "")),
        "at": int(doc.get("at", 0)),
    }
