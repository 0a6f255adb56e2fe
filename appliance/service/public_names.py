"""Lets the public name of a package show the bytes that it is served from.

A name is given before the database says so and taken away after, so whoever does may have been overtaken: the write
that was to follow is refused since the package was replaced, or another process did both in between. Whoever gives a
name outside of such a write, or whose write was refused, asks here.
"""

import asyncio
import contextlib
from collections.abc import Mapping

from appliance.domain.errors import BlobMissing
from appliance.store.blobs import BlobStore

from .catalogue import Catalogue

_TRIES = 8


async def show(catalogue: Catalogue, blobs: BlobStore, id: str, *, again: bool = False) -> None:
    """Let the public name of a package show what the store says, whoever changes either meanwhile.

    Args:
        catalogue: The packages of this node.
        blobs: The bytes.
        id: Package id. One that is unknown or not held has no name; a name without bytes is found by others.
        again: Whether the name is given anew although it shows the bytes: it may be a copy of a file that was damaged.

    Raises:
        StorageError: The disk is full or fails.
        StoreUnavailable: The database does not answer.
    """
    for _ in range(_TRIES):
        package = await catalogue.refresh(id)
        if package is None or not package.held_filename:
            return
        sha256, filename = package.held_sha256, package.held_filename
        if not again and await asyncio.to_thread(blobs.shows, sha256, filename):
            return
        again = False
        with contextlib.suppress(BlobMissing):
            await asyncio.to_thread(blobs.publish, sha256, filename)


async def show_changed(catalogue: Catalogue, blobs: BlobStore, given: Mapping[str, str]) -> None:
    """As `show` for packages that were replaced or came while names were given; `given` has their SHA-256s by name."""
    await catalogue.load()
    for package in catalogue.all():
        if package.held_filename and given.get(package.held_filename) != package.held_sha256:
            await show(catalogue, blobs, package.id)
