"""A copy goes only when another node proves that it has the file: who is believed, who is asked, what is a copy."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.errors import (
    BlobMissing,
    PackageArriving,
    PeerBusy,
    PeerError,
    PeerNotFound,
    ProofPending,
)
from appliance.domain.holding import Proof
from appliance.domain.job import Job
from appliance.domain.package import Package, Presence
from appliance.domain.states import PeerState
from appliance.service.holdings import RELEASE_CHECK_JOB
from appliance.service.peers import Peer, Peers
from appliance.service.release_check import ReleaseCheck
from appliance.service.verified_blobs import VerifiedBlobs
from appliance.service.verify_jobs import VERIFY_BLOB_JOB
from appliance.service.verifying import PROOF_MS, Verifying
from appliance.store.ports import Store
from tests.builders import MIB

from .test_other_holders import World

CHUNKS = 10
DATA = os.urandom(CHUNKS * MIB)
HOUR_MS = 3_600_000


class Prover(World):
    """A node that asks others for proofs, and gives some; what others would answer is up to the test."""

    def __init__(self, store: Store, root: Path) -> None:
        super().__init__(store, root)
        self.verified = VerifiedBlobs(store=store, blobs=self.blobs, catalogue=self.catalogue, now=self.clock)
        self.holdings._verified = self.verified
        self.verifying = Verifying(
            store=store, catalogue=self.catalogue, blobs=self.blobs, holdings=self.holdings, verified=self.verified,
            trash=self.trash, now=self.clock, keep_damaged_ms=7 * 24 * HOUR_MS,
        )  # fmt: skip
        self.peers = Peers(
            store=store, identity=self.identity, ca_file="", now=self.clock, jitter=lambda: 0.5
        )
        self.answer: Callable[[str, int, str], bytes] = lambda _peer, chunk, _holder: chunk_of(DATA, chunk)
        self.asked: list[tuple[str, int]] = []
        self.told: list[str] = []
        cast(Any, self.peers).client = self._client
        self.check = ReleaseCheck(
            catalogue=self.catalogue, holdings=self.holdings, blobs=self.blobs, peers=self.peers,
            verifying=self.verifying, calls=ThreadPoolExecutor(1), node_id=self.identity.node_id,
        )  # fmt: skip

    def _client(self, peer: str) -> Any:
        def proof(_package: str, _sha256: str, chunk: int, holder: str) -> bytes:
            self.asked.append((peer, chunk))
            return self.answer(peer, chunk, holder)

        return SimpleNamespace(proof=proof, complain=lambda *_: self.told.append(peer))

    async def publish(self, name: str = "A.pkg", data: bytes = DATA, **more: Any) -> Package:
        """Put a file in, and verify it."""
        package = await super().publish(name, data, **more)
        await self.verify(package.body.sha256)
        return self.package(name)

    async def join(self, id: str) -> None:
        """Register a node."""
        await self.peers.put(Peer(id=id, key=b"k", url="http://x", name=id, state=PeerState.ACTIVE), [])

    async def refused(self) -> tuple[Package, str]:
        """A package that this node holds and does not take any more, and the node that says that it has it."""
        package = await self.publish(data=DATA)
        other = await self.other_holder(package, registered=True)
        await self.packages.change(package.id, stage="dev", actor="jo")
        return package, other

    async def prove(self, job: str = "") -> None:
        """One try of the job that asks for a proof; of another job, if one is given."""
        [found] = await self.store.find_jobs({"name": RELEASE_CHECK_JOB}, limit=1)
        tried = replace(found, id=job) if job else found
        await self.check.run(tried, cast(Any, SimpleNamespace(check=lambda: None)))

    async def wrong(self) -> str:
        """Why a try proved nothing."""
        with pytest.raises(PeerError) as caught:
            await self.prove()
        assert self.package().presence is Presence.HELD
        return caught.value.message

    async def verify(self, sha256: str) -> None:
        """What the job that verifies a blob does."""
        loop = asyncio.get_running_loop()
        context = SimpleNamespace(
            check=lambda: None, wait=lambda step: asyncio.run_coroutine_threadsafe(step, loop).result()
        )
        job = Job(id="v", queue="hash", name="blob.verify", args={"sha256": sha256})
        await asyncio.to_thread(self.verifying.run_blob, job, cast(Any, context))

    def lies_here(self, sha256: str) -> bool:
        return self.blobs.path(sha256).exists()


def chunk_of(data: bytes, chunk: int) -> bytes:
    return data[chunk * MIB : (chunk + 1) * MIB]


Test = Callable[[Prover], Awaitable[None]]


@pytest.fixture
def run(with_store: Any, tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test with a node, on SQLite and on MongoDB."""
    return lambda test: with_store(lambda store: test(Prover(store, tmp_path)))


def test_who_gave_a_wrong_chunk_is_told_and_not_believed_for_an_hour(run: Callable[[Test], None]) -> None:
    async def test(world: Prover) -> None:
        _, other = await world.refused()
        await world.join(other)
        world.answer = lambda *_: b"rotten"
        assert "does not match" in await world.wrong()
        assert (world.told, len(world.asked)) == ([other], 1)
        world.answer = lambda _peer, chunk, _holder: chunk_of(DATA, chunk)
        await world.peers.load()
        for number in range(5):
            with pytest.raises(PeerError, match="not believed for now: Chunk"):
                await world.prove(job=f"job {number}")
        assert len(world.asked) == 1
        world.clock.ms += HOUR_MS
        await world.prove()
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)


def test_every_try_asks_for_the_same_chunk(run: Callable[[Test], None]) -> None:
    """One that is wrong keeps the copy here, also when a node between cannot say whose fault it was."""

    async def test(world: Prover) -> None:
        package, other = await world.refused()
        relay = await world.other_holder(package, registered=True)
        await world.store.delete("records", {"_id": f"replica:{package.id}.{relay}"})
        await world.join(relay)
        world.answer = lambda _peer, _chunk, holder: b"rotten" if holder == other else b""
        for _ in range(6):
            await world.wrong()
        assert len({chunk for _, chunk in world.asked}) == 1
        assert world.told == []
        asked = [world.asked[0]]
        for number in range(20):
            world.asked.clear()
            with pytest.raises(PeerError):
                await world.prove(job=f"job {number}")
            asked.extend(world.asked)
        assert len({chunk for _, chunk in asked}) > 3, "another job asks for another one"

    run(test)


async def verify_queued(world: Prover) -> list[str]:
    """Do the jobs that verify blobs; the SHA-256 of each."""
    jobs = await world.store.find_jobs({"name": VERIFY_BLOB_JOB, "state": "todo"})
    for job in jobs:
        await world.verify(job.args["sha256"])
        await world.store.delete("jobs", {"_id": job.id})
    return [job.args["sha256"] for job in jobs]


def rot(path: Path) -> None:
    """Change bytes, as a disk does that decays: size, times and inode stay."""
    times = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(5 * MIB)
        file.write(b"ROTTEN")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("since", ["a while", "a start", "a clock that was set back"])
def test_a_proof_is_given_only_of_a_file_that_was_read_as_a_whole_lately(
    run: Callable[[Test], None], since: str
) -> None:
    async def test(world: Prover) -> None:
        package = await world.publish(data=DATA)
        me = world.identity.node_id
        assert await world.check.answer(package, 3, me) == chunk_of(DATA, 3)
        if since == "a while":
            world.clock.ms += PROOF_MS
        elif since == "a start":
            world.verifying._since = world.clock()
        else:
            world.clock.ms -= 24 * HOUR_MS
        for _ in range(2):
            with pytest.raises(ProofPending, match=r"whole file .* again in 2 s") as caught:
                await world.check.answer(package, 3, me)
        assert caught.value.details == {"retry_after": 2}
        assert await verify_queued(world) == [package.body.sha256], "it is read once for all who ask"
        assert await world.check.answer(package, 3, me) == chunk_of(DATA, 3)

    run(test)


def test_rot_in_another_chunk_than_the_one_asked_for_is_found_before_the_proof(
    run: Callable[[Test], None],
) -> None:
    async def test(world: Prover) -> None:
        package = await world.publish(data=DATA)
        me = world.identity.node_id
        world.verifying._since = world.clock()
        rot(world.blobs.path(package.body.sha256))
        with pytest.raises(ProofPending):
            await world.check.answer(package, 3, me)
        await verify_queued(world)
        assert world.package().presence is not Presence.HELD
        assert not world.lies_here(package.body.sha256)
        with pytest.raises(PackageArriving) as caught:
            await world.check.answer(world.package(), 3, me)
        assert not isinstance(caught.value, ProofPending)

    run(test)


def test_a_copy_stays_while_the_other_node_reads_its_file(run: Callable[[Test], None]) -> None:
    """An older one gives its chunk at once, and is believed."""

    async def test(world: Prover) -> None:
        _, other = await world.refused()
        await world.join(other)

        def answer(_peer: str, chunk: int, _holder: str) -> bytes:
            if len(world.asked) < 3:
                raise PeerBusy("It answered 503 (proof_pending): It reads its whole file.", retry_after=2)
            return chunk_of(DATA, chunk)

        world.answer = answer
        for _ in range(2):
            assert "reads its whole file" in await world.wrong()
        assert not world.peers.get(other).failures
        assert not world.told
        await world.prove()
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)


@pytest.mark.parametrize("fault", ["cut", "changed", "gone"])
def test_a_file_that_changed_proves_nothing(run: Callable[[Test], None], fault: str) -> None:
    async def test(world: Prover) -> None:
        package = await world.publish(data=DATA)
        sha256 = package.body.sha256
        await world.verify(sha256)
        me = world.identity.node_id
        assert await world.check.answer(package, 3, me) == chunk_of(DATA, 3)
        path = world.blobs.path(sha256)
        path.chmod(0o644)
        if fault == "cut":
            os.truncate(path, 5 * MIB)
        elif fault == "changed":
            with path.open("r+b") as file:
                file.seek(7 * MIB)
                file.write(b"rot")
        else:
            path.unlink()
        with pytest.raises(BlobMissing):
            await world.check.answer(package, 3, me)
        assert world.package().presence is Presence.DAMAGED, "what was found is noted"

    run(test)


def test_a_relay_strikes_who_gives_it_a_wrong_chunk(run: Callable[[Test], None]) -> None:
    async def test(world: Prover) -> None:
        package, other = await world.refused()
        await world.join(other)
        world.answer = lambda *_: b"rotten"
        with pytest.raises(PeerError, match="does not match"):
            await world.check.answer(package, 2, other)
        world.answer = lambda _peer, chunk, _holder: chunk_of(DATA, chunk)
        with pytest.raises(PeerError, match="not believed"):
            await world.check.answer(package, 3, other)
        assert (world.told, world.peers.get(other).strikes) == ([other], 1)

    run(test)


def test_the_relay_is_the_peer_that_is_registered_with_the_holder(run: Callable[[Test], None]) -> None:
    """Also on a hub with many peers, while nobody looks at a page."""

    async def test(world: Prover) -> None:
        _, far = await world.refused()
        peers = [f"p{number}" for number in range(12)]
        for peer in peers:
            await world.join(peer)

        def answer(peer: str, chunk: int, _holder: str) -> bytes:
            if peer == peers[-1]:
                return chunk_of(DATA, chunk)
            raise PeerNotFound("There is no such peer.")

        world.answer = answer
        nodes = world.holdings.nodes
        nodes[peers[-1]] = replace(nodes[far], name="hub", peers=(far,))
        await world.prove()
        assert [peer for peer, _ in world.asked] == [peers[-1]]
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)


def test_without_a_record_that_says_who_knows_the_holder_all_are_asked_in_time(
    run: Callable[[Test], None],
) -> None:
    async def test(world: Prover) -> None:
        await world.refused()
        peers = [f"p{number}" for number in range(12)]
        for peer in peers:
            await world.join(peer)

        def answer(_peer: str, _chunk: int, _holder: str) -> bytes:
            raise PeerNotFound("There is no such peer.")

        world.answer = answer
        for _ in range(40):
            assert "Join the two nodes" in await world.wrong()
        assert {peer for peer, _ in world.asked} == set(peers)

    run(test)


def test_a_peer_of_both_that_fails_is_named(run: Callable[[Test], None]) -> None:
    async def test(world: Prover) -> None:
        _, far = await world.refused()
        await world.join("hub")

        def answer(_peer: str, _chunk: int, _holder: str) -> bytes:
            raise PeerError("It answered 409.")

        world.answer = answer
        nodes = world.holdings.nodes
        nodes["hub"] = replace(nodes[far], name="hub", peers=(far,))
        reason = await world.wrong()
        assert "hub: It answered 409." in reason
        assert "Join" not in reason

    run(test)


def test_a_file_that_only_the_disk_knows_stays_until_another_node_proves_that_it_has_it(
    run: Callable[[Test], None],
) -> None:
    """The database was lost or is older; that another node says that it holds the file is not enough."""

    async def test(world: Prover) -> None:
        package, other = await world.refused()
        sha256 = package.body.sha256
        await world.store.delete("packages", {"_id": package.id})
        await world.store.delete("manifests", {"_id": sha256})
        await world.store.delete("verified", {"_id": sha256})
        await world.store.delete("jobs", {})
        world.verified._known.clear()
        world.catalogue._by_id.clear()
        await world.holdings.settle(package.id)
        await world.verify(sha256)
        assert world.lies_here(sha256)
        assert world.package().presence is Presence.HELD
        assert "proves that it has the file" in world.package().reason
        assert await world.asks()
        await world.holdings.settle(package.id, proof=Proof(node=other, sha256=sha256))
        assert world.package().presence is Presence.NOT_ADMITTED
        assert not world.lies_here(sha256)
        await world.holdings.settle(package.id)
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)


def test_bytes_of_another_package_are_published_under_a_refused_name_only_when_that_one_goes(
    run: Callable[[Test], None],
) -> None:
    async def test(world: Prover) -> None:
        package, other = await world.refused()
        sha256 = package.body.sha256
        await world.holdings.settle(package.id, proof=Proof(node=other, sha256=sha256))
        twin = await world.publish("B.pkg", DATA)
        await world.verify(sha256)
        for _ in range(2):
            await world.holdings.settle(package.id)
            assert world.package().presence is Presence.NOT_ADMITTED
        await world.packages.withdraw(twin.id, actor="jo")
        assert world.package().presence is Presence.HELD, "nobody has proved yet that it has this file"
        await world.holdings.settle(package.id, proof=Proof(node=other, sha256=sha256))
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)


def test_a_damaged_copy_is_given_up_when_another_node_proves_that_it_has_the_file(
    run: Callable[[Test], None],
) -> None:
    async def test(world: Prover) -> None:
        package, other = await world.refused()
        world.near.ids.clear()
        await world.join(other)
        world.blobs.path(package.body.sha256).unlink()
        await world.holdings.lost_blob(package.body.sha256, "the file is missing")
        assert world.package().presence is Presence.DAMAGED
        await world.holdings.settle(package.id)
        assert world.package().presence is Presence.DAMAGED
        await world.prove()
        assert world.package().presence is Presence.NOT_ADMITTED
        await world.holdings.settle(package.id)
        assert world.package().presence is Presence.NOT_ADMITTED

    run(test)
