"""What was mirrored to an MDM server of each package: one link for each, written only when something changed.

A link is written before a record is created (`creating`, with the fact that no record of that file name was listed)
and again when it was, so that a run that was killed between the two neither forgets nor doubles a record.
"""

from enum import StrEnum
from typing import Any

from appliance.domain.errors import StaleRevision
from appliance.domain.package import Package
from appliance.store.paging import every
from appliance.store.ports import Doc, Operation, Replace, Store

COLLECTION = "mdm_links"
_TRIES = 5


class LinkState(StrEnum):
    """How far a package is mirrored."""

    WAITING = "waiting"  #: for bytes, hashes, an upload, or the MDM
    CREATING = "creating"  #: a record is about to be created, or was and the answer is not known
    MIRRORED = "mirrored"  #: the MDM has a record that says what it should
    CONFLICT = "conflict"  #: the MDM has other bytes of this name, and was left alone
    FAILED = "failed"  #: the MDM refused it; tried again when the package changes or after a growing wait
    WITHDRAWN = "withdrawn"  #: the package was withdrawn, and the record left, marked or deleted as set


class UploadState(StrEnum):
    """How far the bytes are that are uploaded to the MDM's own storage."""

    QUEUED = "queued"  #: the job `mdm.upload` is queued or runs
    PENDING = "pending"  #: sent; the MDM has not stated our hash yet
    DONE = "done"
    FAILED = "failed"


def link_id(server: str, package: str) -> str:
    """The id of a package's link."""
    return f"{server}:{package}"


def new_link(server: str, package: Package) -> Doc:
    """The link of a package of which nothing was mirrored yet."""
    return {
        "_id": link_id(server, package.id),
        "server": server,
        "package": package.id,
        "file_name": package.body.filename,
        "state": str(LinkState.WAITING),
        "remote_id": "",
        "ours": False,  #: whether we created the record
        "absent": False,  #: no record of this name was listed when its creation was begun
        "misses": 0,  #: listings in a row that lacked the record, and could be believed
        "revision": 0,  #: of the package, when it was last mirrored
        "written_at": 0,  #: the time in that revision of the package: two nodes may write one revision
        "sha256": "",  #: of the bytes that were last mirrored
        "templates": "",  #: a digest of the templates that were used
        "sent": {},  #: the fields that are ours, as last written
        "difference": "",  #: which difference the conflict is about
        "error": "",  #: why it waits, differs or failed
        "attempts": 0,
        "retry_at": 0,  #: UTC milliseconds
        "tried": "",  #: what was refused: the package's SHA-256 and revision
        "upload": None,  #: of the bytes, if set: "sha256", "state", "attempts", "at", "error", "over": the mark of
        #: what it is to replace, and "mark" when done
        "at": 0,  #: UTC milliseconds of the last change of state
    }


async def links_of(store: Store, server: str) -> dict[str, Doc]:
    """Every link of a server by package id."""
    return {doc["package"]: doc async for doc in every(store, COLLECTION, {"server": server})}


def link_write(link: Doc) -> Replace:
    """The operation that writes a link, if nobody wrote it since it was read."""
    return Replace(
        COLLECTION, {name: value for name, value in link.items() if name != "_rev"}, link.get("_rev", 0)
    )


async def write_link(store: Store, link: Doc, *more: Operation) -> Doc:
    """Write a link and do `more` in the same operation; return the link as stored.

    Raises:
        StaleRevision: Somebody wrote it since it was read.
    """
    stored = await store.batch([link_write(link), *more])
    assert stored[0] is not None
    return stored[0]


async def finish_link(store: Store, link: Doc, *more: Operation) -> Doc:
    """As `write_link`, after a call: what the call did is written even if the upload job wrote the link meanwhile."""
    for _ in range(_TRIES):
        try:
            return await write_link(store, link, *more)
        except StaleRevision:
            current = await store.get(COLLECTION, link["_id"])
            if current is None:
                break  # the server was removed
            link = {**link, "upload": current["upload"], "_rev": current["_rev"]}
    return link


def changed(link: Doc, now: int, **values: Any) -> Doc:
    """A link with other values; `at` is when it last changed its state or its reason."""
    after = {**link, **{name: str(value) if name == "state" else value for name, value in values.items()}}
    if (after["state"], after["error"]) != (link["state"], link["error"]) or not link["at"]:
        after["at"] = now
    return after
