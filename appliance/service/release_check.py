"""Asks another node for a random chunk before a copy of a package is released because of a stage or tag.

That a node says that it holds a package may be wrong: its disk may have been lost since, or its stage changed. So the
copy stays until a node has given a chunk that fits the manifest. A node gives one only for a package that it admits
itself, by its settings of now: of several that release at the same time, none proves anything to the others. A node
that is no direct peer is asked through a peer of both; where there is none, nothing can be proven and the copy stays.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from appliance.domain.errors import (
    BlobMissing,
    Conflict,
    IntegrityFailure,
    InvalidInput,
    PackageArriving,
    PeerBackingOff,
    PeerError,
    PeerMisbehaved,
    PeerNotFound,
    PeerUnreachable,
)
from appliance.domain.holding import Proof
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.manifest import CHUNK_SIZE, Manifest, chunk_count
from appliance.domain.package import Package
from appliance.jobs.context import JobContext
from appliance.store.blobs import BlobStore

from .catalogue import Catalogue
from .holdings import Holdings
from .neighbourhood import Neighbourhood
from .peers import Peers

T = TypeVar("T")

UNTIL_PROVEN = RetryPolicy(attempts=1_000_000, cap_s=600)  #: soon, for who was away a moment, then less often
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
        neighbourhood: Neighbourhood,
        calls: Executor,
        node_id: str,
        pick: Callable[[int], int],
    ) -> None:
        """Make it.

        Args:
            catalogue: The packages of this node.
            holdings: What this node holds.
            blobs: The bytes.
            peers: Whom to ask.
            neighbourhood: Who is registered with whom.
            calls: Threads for requests to peers.
            node_id: This node's id.
            pick: A random number below another one.
        """
        self._catalogue = catalogue
        self._holdings = holdings
        self._blobs = blobs
        self._peers = peers
        self._neighbourhood = neighbourhood
        self._calls = calls
        self._node_id = node_id
        self._pick = pick

    async def run(self, job: Job, context: JobContext) -> None:
        """Find a node that proves that it has the package, and release the copy here.

        Raises:
            PeerError: None did; the message says why, and the job comes again.
        """
        package = await self._catalogue.refresh(job.args["package"])
        if (
            package is None
            or package.held_sha256 != package.body.sha256
            or self._holdings.admits(package.body)
        ):
            return
        manifest = await self._holdings.manifest(package.body)
        if manifest is None:
            raise PeerError("The hashes of its chunks are missing here.")
        reasons: list[str] = []
        for node in await self._holdings.keepers(package):
            context.check()
            try:
                await self._prove(package.id, manifest, node)
            except PeerError as exc:
                reasons.append(f"{self._holdings.name_of(node)}: {exc.message}")
            else:
                proof = Proof(node=node, sha256=manifest.sha256)
                await self._holdings.settle(package.id, proof=proof)
                return
        if reasons:
            raise PeerError(" ".join(reasons))

    async def _prove(self, package: str, manifest: Manifest, node: str) -> None:
        """Have a node give a random chunk.

        Raises:
            PeerError: It did not, or the chunk was wrong.
        """
        index = self._pick(max(1, manifest.count))
        if not self._peers.is_active(node):
            await self._prove_through_another(package, manifest, node, index)
            return
        if not self._peers.usable_sources([node], package):
            raise PeerError("It gave wrong data lately and is not asked for now.")
        try:
            data = await self._ask(
                node, self._peers.client(node).proof, package, manifest.sha256, index, node
            )
            _verify(manifest, index, data)
        except (IntegrityFailure, PeerMisbehaved) as exc:
            await self._peers.strike(node, exc.message, package=package)
            raise PeerError(exc.message) from exc

    async def _prove_through_another(self, package: str, manifest: Manifest, node: str, index: int) -> None:
        for relay in self._relays(node):
            try:
                data = await self._call(
                    self._peers.client(relay).proof, package, manifest.sha256, index, node
                )
                _verify(manifest, index, data)
            except (PeerError, PeerNotFound, IntegrityFailure):
                continue  # which of the two is to blame cannot be told
            return
        raise PeerError(
            "It is no direct peer, and no peer of both could have it prove that. Join the two nodes."
        )

    def _relays(self, node: str) -> list[str]:
        """Direct peers that may be registered with a node, those first that said so."""
        found = [peer for peer in self._peers.active_ids() if not self._peers.backing_off(peer)]

        def unlikely(peer: str) -> bool:
            sight = self._neighbourhood.sight(peer)
            return sight is None or node not in sight.peers

        return sorted(found, key=unlikely)[:RELAYS]

    async def answer(self, package: Package, index: int, holder: str) -> bytes:
        """A chunk of a package's newest bytes: from here, or fetched from the direct peer that is to prove it.

        Raises:
            InvalidInput: There is no such chunk.
            PackageArriving, BlobMissing: This node is asked and cannot give it.
            Conflict: This node is asked and does not admit the package: it may be about to release it too.
            PeerNotFound: The holder is no direct peer.
            PeerError: It did not give it.
        """
        if not 0 <= index < max(1, chunk_count(package.body.size)):
            raise InvalidInput("There is no such chunk.")
        if holder != self._node_id:
            client = self._peers.client(holder)
            return bytes(
                await self._ask(holder, client.proof, package.id, package.body.sha256, index, holder)
            )
        if not self._holdings.admits(package.body):
            raise Conflict("This node does not take the package any more and may release it.")
        if package.held_sha256 != package.body.sha256:
            raise PackageArriving(f"This node does not hold the bytes: {package.reason}.", retry_after=30)
        return await asyncio.to_thread(self._read, package, index)

    def _read(self, package: Package, index: int) -> bytes:
        try:
            with os.fdopen(self._blobs.open(package.held_sha256), "rb") as file:
                file.seek(index * CHUNK_SIZE)
                return file.read(CHUNK_SIZE)
        except OSError as exc:
            raise BlobMissing() from exc

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
            if not self._peers.backing_off(node):  # those that asked it at the same time are one failure
                await self._peers.record_failure(node, exc)
            raise

    async def _call(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, function, *arguments)


def _verify(manifest: Manifest, index: int, data: bytes) -> None:
    """Check a chunk; an empty file has none, and is proven by the answer alone.

    Raises:
        IntegrityFailure: The bytes are not those of the manifest.
    """
    if manifest.count:
        manifest.verify_chunk(index, data)
