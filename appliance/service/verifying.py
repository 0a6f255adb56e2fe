"""The job that checks a held file against its hashes, chunk by chunk and as a whole."""

import asyncio
import logging

from appliance.domain.errors import BlobMissing
from appliance.domain.job import Job
from appliance.jobs.context import JobContext
from appliance.store.blobs import BlobStore

from .catalogue import Catalogue
from .hashing import hash_file
from .holdings import Holdings

log = logging.getLogger(__name__)


class Verifying:
    """Runs the job `package.verify`."""

    def __init__(self, *, catalogue: Catalogue, blobs: BlobStore, holdings: Holdings) -> None:
        self._catalogue = catalogue
        self._blobs = blobs
        self._holdings = holdings

    def run(self, job: Job, context: JobContext) -> None:
        """Read the whole file. A bad one is set aside and fetched again.

        Raises:
            BlobMissing: The file is gone or its bytes are wrong; the message says what was found.
        """
        package = self._catalogue.by_id(job.args["package"])
        if package is None or not package.held_sha256:
            return
        try:
            found = hash_file(self._blobs.path(package.held_sha256), check=context.check)
        except FileNotFoundError:
            fault = "the file is missing"
        else:
            if found.sha256 == package.held_sha256:
                log.info(
                    "a package was verified", extra={"action": "package_verified", "package": package.id}
                )
                return
            fault = f"the file's SHA-256 is {found.sha256}, not {package.held_sha256}"
        context.wait(self._holdings.lost(package.id, fault))
        raise BlobMissing(f'"{package.body.filename}": {fault}; it was set aside and is fetched again.')

    async def missing(self, package_id: str) -> None:
        """A download found no file: look whether that is so, and fetch the package again."""
        package = self._catalogue.by_id(package_id)
        if package is None or not package.held_sha256:
            return
        size = package.body.size if package.held_sha256 == package.body.sha256 else None
        if size is None or not await asyncio.to_thread(self._blobs.exists, package.held_sha256, size):
            await self._holdings.lost(package_id, "the file is missing")
