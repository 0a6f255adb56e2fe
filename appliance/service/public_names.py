"""Lets the public name of a package show the bytes that it is served from.

A name is given before the database says so and taken away after, so whoever does may have been overtaken: the write
that was to follow is refused since the package was replaced, or another process did both in between. So everybody who
touched a name asks here, as the last thing: what the store says then is what the name shows, whoever was faster.
"""

import asyncio
import logging
from collections.abc import Mapping

from appliance.domain.errors import OUTAGES, BlobMissing, StorageError
from appliance.store.blobs import BlobStore

from .catalogue import Catalogue

log = logging.getLogger(__name__)

_TRIES = 8


async def show(
    catalogue: Catalogue, blobs: BlobStore, id: str, *, given: str = "", again: bool = False
) -> None:
    """Let the public name of a package show what the store says, whoever changes either meanwhile.

    A name that cannot be given or taken away is logged, and left to the next look or sweep.

    Args:
        catalogue: The packages of this node.
        blobs: The bytes.
        id: Package id. One that is unknown or not held has no name; a name without bytes is found by others.
        given: A name that it was given before a write that failed.
        again: Whether its name is given anew though it seems to show the bytes: it may be a copy of others.

    Raises:
        StoreUnavailable: The database does not answer.
        StorageFull: The disk has no room.
    """
    try:
        await _show(catalogue, blobs, id, given, again)
    except OUTAGES:
        raise
    except StorageError as exc:
        log.warning(exc.message, extra={"action": "name_not_made", "package": id})


async def _show(catalogue: Catalogue, blobs: BlobStore, id: str, given: str, again: bool) -> None:
    shown: tuple[str, str] | None = None
    for _ in range(_TRIES):
        package = await catalogue.refresh(id)
        held = (package.held_filename, package.held_sha256) if package is not None else ("", "")
        if given not in {"", held[0]}:
            await asyncio.to_thread(blobs.unpublish, given)
            given = ""
            continue  # it may be held under that name by now
        if not held[0] or shown == held:
            return
        if not again and await asyncio.to_thread(blobs.shows, held[1], held[0]):
            return
        again, shown, given = False, held, held[0]
        try:
            await asyncio.to_thread(blobs.publish, held[1], held[0])
        except BlobMissing:
            given = ""


async def show_changed(catalogue: Catalogue, blobs: BlobStore, given: Mapping[str, str]) -> None:
    """As `show` for all whose names or bytes changed while names were given; `given` has their SHA-256s by name."""
    await catalogue.load()
    for package in catalogue.all():
        if package.held_filename and given.get(package.held_filename) != package.held_sha256:
            await show(catalogue, blobs, package.id)
    for filename in given.keys() - catalogue.held_names().keys():
        if (gone := catalogue.named(filename)) is not None:
            await show(catalogue, blobs, gone.id, given=filename)
