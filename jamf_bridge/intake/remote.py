"""What is remembered of the package records of an MDM server: one row for each, compared at every poll.

A row's `mark` changes when the bytes in the MDM do; `taken` is the mark of the bytes that were last taken in, or that
were found to be the same as those here, or older. As long as the two are equal there is nothing to do.

A row outlives its record's absence: it is removed when two listings lacked the record and the MDM says of its id that
there is none.
"""

import contextlib
from collections.abc import Sequence
from enum import StrEnum

from appliance.domain.errors import StaleRevision
from appliance.domain.package import Package
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Replace, Store

from ..driver import RemotePackage

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


STUCK = frozenset({str(RowState.QUARANTINED), str(RowState.FAILED)})  #: not fetched again by itself


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
        "first": package.mark,  #: the mark of bytes of unknown age, such as those of before the server was connected
        "taken": "",
        "state": str(RowState.NO_BYTES),
        "error": "",
        "package": "",
        "noted": True,
        "mark_at": 0,  #: UTC milliseconds, when the mark was first seen
        "sure": None,  #: the mark, if it is certain: its bytes were fetched, uploaded by us, or are those here
        "before": None,  #: what the MDM certainly had before that: its "mark", and "at" when it was last seen
        "settled": None,  #: while the MDM works on the bytes: "mark" before it did, and "at" when that was last seen
        "back": None,  #: bytes of an earlier version that came up: "mark", "since", "looks", and "many" of them at once
        "over": None,  #: what was here when the bytes became wanted, to be replaced by them; see `place_of`
        "brought": "",  #: SHA-256 of what this record brought here since its bytes became wanted
        "tried": "",  #: the mark of bytes that are not fetched until a person retries, and why not:
        "verdict": None,  #: "state" and "error"
        "act": False,  #: the wanted bytes came up after what is here: somebody put them there since
        "misses": 0,  #: listings in a row that lacked the record
        "missed_at": 0,  #: UTC milliseconds, of the first of them
        "at": 0,
    }


def place_of(package: Package | None) -> str:
    """A word for what is under a name here: it changes with the bytes, and when they are withdrawn."""
    if package is None:
        return ""
    return f"withdrawn:{package.body.sha256}" if package.withdrawn else package.body.sha256


def is_place(row: Doc, here: Package | None) -> bool:
    """Whether what is here is what a row's bytes are to replace: an earlier upload of the same record is, too."""
    place = place_of(here)
    return bool(place == row["over"] or (place and place == row.get("brought")))


def same_mark(one: str, other: str) -> bool:
    """Whether two marks are of the same bytes: a listing may lack the size."""
    if not one or not other:
        return one == other
    sizes, digests = zip(*(mark.partition(":")[::2] for mark in (one, other)), strict=True)
    return digests[0] == digests[1] and (sizes[0] == sizes[1] or "None" in sizes)


async def rows_of(store: Store, server: str) -> dict[str, Doc]:
    """Every row of a server by the id of its record."""
    return {doc["remote"]: doc async for doc in every(store, "mdm_remote", {"server": server})}


async def write_changes(store: Store, changes: Sequence[Sequence[Operation]]) -> None:
    """Do many changes, each a document's write and what belongs to it, many in one operation.

    A change of a document that somebody wrote since it was read is left out: the next run sees it.
    """
    for start in range(0, len(changes), _BATCH):
        part = changes[start : start + _BATCH]
        try:
            await store.batch([operation for change in part for operation in change])
        except StaleRevision:
            for change in part:
                with contextlib.suppress(StaleRevision):
                    await store.batch(change)


def row_write(row: Doc) -> Replace:
    """The operation that writes a row, if nobody wrote it since it was read."""
    return Replace(
        "mdm_remote", {name: value for name, value in row.items() if name != "_rev"}, row.get("_rev", 0)
    )
