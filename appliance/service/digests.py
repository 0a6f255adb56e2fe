"""Further digests of a package's bytes: MD5, SHA-512 and SHA3-512, which MDMs state and compare.

They are computed once in the network: a node that holds the bytes reads them in one pass, checks that their SHA-256
still is the record's, and writes the digests into the package record, which replicates. Nobody is told digests of
damaged bytes.

SHA3-512 costs as much as MD5, SHA-512 and SHA-256 together, so two threads halve the time (measured on two cores).
"""

import hashlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from appliance.domain.errors import BlobMissing
from appliance.domain.job import Job
from appliance.domain.manifest import CHUNK_SIZE, Hash
from appliance.domain.package import Package
from appliance.jobs.context import JobContext
from appliance.jobs.new import new_job
from appliance.store.blobs import BlobStore
from appliance.store.filesystem import open_regular, read_at
from appliance.store.ports import Store

from .blob_check import verify
from .catalogue import Catalogue
from .hashing import BLOCK
from .holdings import Holdings
from .journal import SYSTEM
from .packages import FURTHER_DIGESTS, Packages

log = logging.getLogger(__name__)

DIGEST_JOB = "package.digest"
_READ = 4 * CHUNK_SIZE
_ASK_AGAIN_MS = 15 * 60_000  #: a job that failed for good is queued again after this, if somebody still asks


class FurtherDigests:
    """MD5, SHA-512 and SHA3-512 of bytes, fed in order. Not for two threads at once."""

    def __init__(self) -> None:
        self._hashes: dict[str, Hash] = {
            "md5": hashlib.md5(usedforsecurity=False),
            "sha512": hashlib.sha512(),
            "sha3_512": hashlib.sha3_512(),
        }

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Feed the next bytes."""
        view = memoryview(data)
        for start in range(0, len(view), BLOCK):
            for hash in self._hashes.values():
                hash.update(view[start : start + BLOCK])

    def file(self, path: Path, length: int) -> None:
        """Feed the first `length` bytes of a file, or all if it is shorter.

        Raises:
            OSError: There is no such file, it cannot be read, or it is no regular file.
        """
        buffer = memoryview(bytearray(CHUNK_SIZE))
        with path.open("rb", buffering=0) as file:
            while length > 0 and (count := file.readinto(buffer[: min(len(buffer), length)])):
                self.update(buffer[:count])
                length -= count

    def hexdigests(self) -> dict[str, str]:
        """The digests in hex by kind: "md5", "sha512" and "sha3_512"."""
        return {kind: hash.hexdigest() for kind, hash in self._hashes.items()}


def digest_file(path: Path, check: Callable[[], None] = lambda: None) -> dict[str, str]:
    """SHA-256, MD5, SHA-512 and SHA3-512 of a file in one pass, in two threads and 8 MiB of memory.

    Args:
        path: The file.
        check: Called every few MiB; what it raises ends it.

    Returns:
        "sha256", "md5", "sha512" and "sha3_512" to hex.

    Raises:
        FileNotFoundError: There is no such file.
    """
    slow: Hash = hashlib.sha3_512()
    rest: dict[str, Hash] = {
        "sha256": hashlib.sha256(),
        "md5": hashlib.md5(usedforsecurity=False),
        "sha512": hashlib.sha512(),
    }
    descriptor = open_regular(path)
    try:
        with ThreadPoolExecutor(1, thread_name_prefix="sha3") as helper:
            _feed(descriptor, [slow], list(rest.values()), helper, check)
    finally:
        os.close(descriptor)
    return {**{kind: hash.hexdigest() for kind, hash in rest.items()}, "sha3_512": slow.hexdigest()}


def _feed(
    descriptor: int,
    there: list[Hash],
    here: list[Hash],
    helper: ThreadPoolExecutor,
    check: Callable[[], None],
) -> None:
    """Feed a whole file to the hashes `there` in the helper's thread, and to those `here` in this one."""
    buffers = [memoryview(bytearray(_READ)), memoryview(bytearray(_READ))]
    other: Future[None] | None = None
    done = turn = 0
    while True:
        check()
        buffer = buffers[turn]
        count = read_at(descriptor, buffer, done)
        if other is not None:
            other.result()
        if not count:
            return
        other = helper.submit(_update, there, buffer[:count])
        _update(here, buffer[:count])
        done += count
        turn ^= 1


def _update(hashes: list[Hash], data: memoryview) -> None:
    for start in range(0, len(data), BLOCK):
        for hash in hashes:
            hash.update(data[start : start + BLOCK])


class Digests:
    """Has the further digests of packages computed; runs the job `package.digest`."""

    def __init__(
        self,
        *,
        store: Store,
        catalogue: Catalogue,
        blobs: BlobStore,
        holdings: Holdings,
        packages: Packages,
        now: Callable[[], int],
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._blobs = blobs
        self._holdings = holdings
        self._packages = packages
        self._now = now
        self._asked: dict[str, int] = {}

    async def ensure(self, package: Package) -> bool:
        """Whether a package's further digests are there; if not, and its bytes are held here, they are computed.

        Asking again and again is cheap: the job is queued once.
        """
        key = f"digest:{package.id}:{package.body.sha256[:16]}"
        if complete(package):
            self._asked.pop(key, None)
            return True
        now = self._now()
        if package.held_sha256 != package.body.sha256 or now - self._asked.get(key, 0) < _ASK_AGAIN_MS:
            return False
        job = new_job(
            "hash", DIGEST_JOB, now, key=key, args={"package": package.id, "sha256": package.body.sha256}
        )
        await self._store.enqueue(job)
        self._asked[key] = now
        return False

    def run(self, job: Job, context: JobContext) -> None:
        """Read the file once and write its digests into the package record. A bad file is set aside and fetched again.

        Raises:
            BlobMissing: The file is gone or its bytes are wrong; the message says what was found.
        """
        package = context.wait(self._catalogue.refresh(job.args["package"]))
        sha256 = job.args["sha256"]
        if package is None or complete(package) or package.body.sha256 != sha256:
            return
        if package.held_sha256 != sha256:
            context.wait(self._holdings.check_damage(package))
            return
        try:
            found = digest_file(self._blobs.path(sha256), context.check)
        except OSError:
            found = {}
        if found.get("sha256") == sha256:
            hashes = {kind: found[kind] for kind in FURTHER_DIGESTS}
            context.wait(self._packages.add_hashes(package.id, sha256, hashes, actor=SYSTEM))
            log.info("a package's digests were computed", extra={"action": "digested", "package": package.id})
            return
        finding = verify(self._blobs, sha256, check=context.check)
        current = self._catalogue.by_id(package.id)
        if finding.right or current is None or current.held_sha256 != sha256:
            return  # it was replaced or withdrawn while it was read
        context.wait(self._holdings.lost_blob(sha256, finding.fault, finding.stamp))
        raise BlobMissing(f'"{package.body.filename}": {finding.fault}; it is fetched again.')


def complete(package: Package) -> bool:
    """Whether a package's record has all further digests."""
    return all(kind in package.body.hashes for kind in FURTHER_DIGESTS)
