"""Asks another node for a random chunk before a copy of a package is released because of a stage or tag.

That a node says that it holds a package may be wrong: its disk may have been lost since, or its stage changed. So the
copy stays until a node has given a chunk that fits the manifest. A node gives one only for a package that it admits
itself, by its settings of now: of several that release at the same time, none proves anything to the others. It gives
one only of a file that it has read as a whole a short time ago: one chunk says nothing of the others, and a file can
rot without looking different. One that it has not, it reads, and is asked again. A node that is no direct peer is
asked through a peer of both; where there is none, nothing can be proven and the copy stays.

Each try of a job asks a node for the same chunk, so one that has a wrong chunk proves nothing by another one. A direct
peer that gave a wrong one is told, so that it verifies its file, and is not believed for a while.
"""

import asyncio
import contextlib
import hashlib
import os
import random
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from appliance.domain.errors import (
    BlobMissing,
    ChunkInvalid,
    Conflict,
    IntegrityFailure,
    InvalidInput,
    PackageArriving,
    PeerBackingOff,
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    PeerUnreachable,
    ProofPending,
)
from appliance.domain.holding import Proof
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.manifest import CHUNK_SIZE, Manifest, chunk_count
from appliance.domain.package import WANTED, Package
from appliance.domain.reach import neighbours
from appliance.jobs.context import JobContext
from appliance.store.blobs import BlobStore

from .catalogue import Catalogue
from .held_file import open_held
from .holdings import Holdings
from .peers import Peers
from .verifying import Verifying

T = TypeVar("T")

UNTIL_PROVEN = RetryPolicy(attempts=1_000_000, cap_s=600)  #: soon, for who was away a moment, then less often
_READ_RATE = 50_000_000  #: bytes a second: when to ask again for a proof of a file that is read first
_LONGEST_S = 600
RELAYS = 8  #: direct peers that are asked to pass a question on


class ReleaseCheck:
    """Runs the job `package.release_check`, and answers it for others."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        holdings: Holdings,
        blobs: BlobStore,
        peers: Peers,
        verifying: Verifying,
        calls: Executor,
        node_id: str,
    ) -> None:
        """Make it.

        Args:
            catalogue: The packages of this node.
            holdings: What this node holds.
            blobs: The bytes.
            peers: Whom to ask.
            verifying: Which files may be read.
            calls: Threads for requests to peers.
            node_id: This node's id.
        """
        self._catalogue = catalogue
        self._holdings = holdings
        self._blobs = blobs
        self._peers = peers
        self._verifying = verifying
        self._calls = calls
        self._node_id = node_id

    async def run(self, job: Job, context: JobContext) -> None:
        """Find a node that proves that it has the package, and release the copy here.

        Raises:
            PeerError: None did; the message says why, and the job comes again.
        """
        package = await self._catalogue.refresh(job.args["package"])
        if package is None or self._holdings.admits(package.body):
            return
        if package.held_sha256 != package.body.sha256 and package.presence not in WANTED:
            return  # neither here, nor damaged here and wanted back until another node proves it
        manifest = await self._holdings.manifest(package.body)
        if manifest is None:
            raise PeerError("The hashes of its chunks are missing here.")
        reasons: list[str] = []
        for node in await self._holdings.keepers(package):
            context.check()
            try:
                await self._prove(package, manifest, node, _index(job.id, node, manifest.count))
            except PeerError as exc:
                reasons.append(f"{self._holdings.name_of(node)}: {exc.message}")
            else:
                proof = Proof(node=node, sha256=manifest.sha256)
                await self._holdings.settle(package.id, proof=proof)
                return
        if reasons:
            raise PeerError(" ".join(reasons))

    async def _prove(self, package: Package, manifest: Manifest, node: str, index: int) -> None:
        """Have a node give a chunk.

        Raises:
            PeerError: It did not, or the chunk was wrong.
        """
        if self._peers.is_active(node):
            await self._ask_holder(node, package, index, manifest)
        else:
            await self._prove_through_another(package, manifest, node, index)

    async def _prove_through_another(
        self, package: Package, manifest: Manifest, node: str, index: int
    ) -> None:
        known, relays = self._relays(node)
        reasons = []
        for relay in relays:
            try:
                data = await self._call(
                    self._peers.client(relay).proof, package.id, manifest.sha256, index, node
                )
                _verify(manifest, index, data)
            except (PeerError, PeerNotFound, IntegrityFailure) as exc:  # who is to blame cannot be told
                if relay in known:
                    reasons.append(f"{self._holdings.name_of(relay)}: {exc.message}")
                continue
            return
        if reasons:
            raise PeerError(f"It is no direct peer. {' '.join(reasons)}")
        raise PeerError("It is no direct peer, and no peer of both can be asked. Join the two nodes.")

    def _relays(self, node: str) -> tuple[set[str], list[str]]:
        """The direct peers that are registered with a node, as signed records say, and those to ask, they first.

        A record may be old, so others are asked too, not the same ones each time.
        """
        able = [peer for peer in self._peers.active_ids() if not self._peers.backing_off(peer)]
        known = set(neighbours(self._holdings.nodes, node)).intersection(able)
        random.shuffle(able)
        return known, sorted(able, key=lambda peer: peer not in known)[:RELAYS]

    async def answer(self, package: Package, index: int, holder: str) -> bytes:
        """A chunk of a package's newest bytes: from here, or fetched from the direct peer that is to prove it.

        Raises:
            InvalidInput: There is no such chunk.
            PackageArriving, BlobMissing: This node is asked and cannot give it.
            ProofPending: This node is asked and reads the whole file first.
            Conflict: This node is asked and does not admit the package: it may be about to release it too.
            PeerNotFound: The holder is no direct peer.
            PeerError: It did not give it.
        """
        if not 0 <= index < max(1, chunk_count(package.body.size)):
            raise InvalidInput("There is no such chunk.")
        if holder != self._node_id:
            self._peers.get(holder)
            manifest = await self._holdings.manifest(package.body)
            return await self._ask_holder(holder, package, index, manifest)
        if not self._holdings.admits(package.body):
            raise Conflict("This node does not take the package any more and may release it.")
        if package.held_sha256 != package.body.sha256:
            raise PackageArriving(f"This node does not hold the bytes: {package.reason}.", retry_after=30)
        if not await self._verifying.read_lately(package.held_sha256):
            seconds = min(_LONGEST_S, 2 + package.body.size // _READ_RATE)
            raise ProofPending(
                f"It reads its whole file before it proves that it has it; ask again in {seconds} s.",
                retry_after=seconds,
            )
        descriptor = await open_held(self._blobs, self._verifying, package)
        try:
            return await asyncio.to_thread(_read, descriptor, index)
        except OSError as exc:
            self._verifying.suspect(package)
            raise BlobMissing() from exc

    async def _ask_holder(self, node: str, package: Package, index: int, manifest: Manifest | None) -> bytes:
        """A chunk from the direct peer that is to prove the package; checked, if its manifest is known.

        Raises:
            PeerError: It did not give it, the chunk was wrong, or one that it gave lately was.
        """
        doubt = self._peers.doubt(node, package.id)
        if doubt:
            raise PeerError(f"It gave wrong data lately and is not believed for now: {doubt}")
        client = self._peers.client(node)
        try:
            data = bytes(await self._ask(node, client.proof, package.id, package.body.sha256, index, node))
            if manifest is not None:
                _verify(manifest, index, data)
        except (IntegrityFailure, PeerMisbehaved) as exc:
            if isinstance(exc, ChunkInvalid):
                with contextlib.suppress(PeerError, PeerNotFound):  # an older node does not listen
                    await self._call(client.complain, package.id, package.body.sha256, index)
            await self._peers.strike(node, exc.message, package=package.id)
            raise PeerError(exc.message) from exc
        return data

    async def _ask(self, node: str, function: Callable[..., T], *arguments: object) -> T:
        """Call the direct peer that is to prove it, unless it did not answer lately: thousands may want to ask it.

        Raises:
            PeerError: It did not give it, or is left alone.
        """
        if self._peers.is_down(node) or self._peers.backing_off(node):
            raise PeerBackingOff("It does not answer and is left alone for now.")
        try:
            return await self._call(function, *arguments)
        except PeerUnreachable as exc:
            await self._peers.record_failure(node, exc)
            raise

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, function, *arguments)


def _index(job: str, node: str, count: int) -> int:
    """The random chunk that a node is asked for: the same at each try of a job, in every process."""
    return int.from_bytes(hashlib.sha256(f"{job} {node}".encode()).digest()) % max(1, count)


def _read(descriptor: int, index: int) -> bytes:
    """One chunk of an open file, which is closed. Blocks."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(index * CHUNK_SIZE)
        return file.read(CHUNK_SIZE)


def _verify(manifest: Manifest, index: int, data: bytes) -> None:
    """Check a chunk; an empty file has none, and is proven by the answer alone.

    Raises:
        IntegrityFailure: The bytes are not those of the manifest.
    """
    if manifest.count:
        manifest.verify_chunk(index, data)
