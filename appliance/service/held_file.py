"""Opens the file of a held package for whoever asks for its bytes: only if it is the file that was verified."""

import os

from appliance.domain.package import Package
from appliance.store.blobs import BlobStore, Stamp

from .verifying import Verifying


async def open_held(blobs: BlobStore, verifying: Verifying, package: Package) -> int:
    """Open the file of a package; the descriptor is the caller's to close.

    One that changed since it was verified is verified first. A damaged one is set aside and fetched again.

    Raises:
        BlobMissing: It is missing or damaged, or not verified yet.
        StorageError: It cannot be opened now.
    """
    try:
        descriptor = blobs.open(package.held_sha256)
    except OSError as exc:
        raise await verifying.unreadable(package, exc) from exc
    try:
        await verifying.check(package, Stamp.of(os.fstat(descriptor)))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor
