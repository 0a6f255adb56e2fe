"""What is remembered of the package records of an MDM server: one row for each, compared at every poll.

A row's `mark` changes when the bytes in the MDM do; `taken` is the mark of the bytes that were last taken in, or that
were found to be the same as those here. As long as the two are equal there is nothing to do.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

from appliance.store.ports import Doc, Operation, Remove, Replace, Store

from ..driver import RemotePackage

_PAGE = 1000
_BATCH = 200


class RowState(StrEnum):
    """What the bridge does about a record's bytes."""

    NO_BYTES = "no_bytes"  #: a record without bytes in the MDM's storage
    PENDING = "pending"  #: the MDM still works on them
    WANTED = "wanted"  #: a pull is queued or running
    TAKEN = "taken"  #: they are here
    CONFLICT = "conflict"  #: other bytes of this name were here before; an upload decides
    QUARANTINED = "quarantined"  #: what came is not what the record states
    FAILED = "failed"  #: the upload in the MDM failed, or the pull did for good
    SKIPPED = "skipped"  #: the settings leave it out, or its name cannot be taken


def row_id(server: str, remote: str) -> str:
    """The id of a record's row."""
    return f"{server}:{remote}"


def new_row(server: str, package: RemotePackage) -> Doc:
    """The row of a record that was not seen before."""
    return {
        "_id": row_id(server, package.id),
        "server": server,
        "remote": package.id,
        "file_name": package.file_name,
        "mark": package.mark,
        "size": package.size,
        "hashes": dict(package.hashes),
        "first": package.mark,  #: the mark when it was first seen: bytes of before the server was connected
        "taken": "",
        "state": str(RowState.NO_BYTES),
        "error": "",
        "package": "",
        "noted": True,
        "at": 0,
    }


async def rows_of(store: Store, server: str) -> dict[str, Doc]:
    """Every row of a server by the id of its record."""
    found: dict[str, Doc] = {}
    after: tuple[Any, str] | None = None
    while True:
        docs = await store.find("mdm_remote", {"server": server}, limit=_PAGE, after=after)
        found.update({doc["remote"]: doc for doc in docs})
        if len(docs) < _PAGE:
            return found
        after = (docs[-1]["_id"], docs[-1]["_id"])


async def write_rows(store: Store, changed: Sequence[Doc], gone: Sequence[Doc] = ()) -> None:
    """Write rows; each only if nobody wrote it since it was read.

    Raises:
        StaleRevision: Somebody did; the next poll sees it.
    """
    operations: list[Operation] = [row_write(doc) for doc in changed]
    operations += [Remove("mdm_remote", doc["_id"]) for doc in gone]
    for start in range(0, len(operations), _BATCH):
        await store.batch(operations[start : start + _BATCH])


def row_write(row: Doc) -> Replace:
    """The operation that writes a row, if nobody wrote it since it was read."""
    return Replace(
        "mdm_remote", {name: value for name, value in row.items() if name != "_rev"}, row.get("_rev", 0)
    )
