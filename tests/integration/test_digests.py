"""Further digests through the job runner: computed once in the network, never of damaged bytes, nobody's change."""

import asyncio
import base64
import hashlib
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import InvalidDigest
from appliance.domain.holding import SetAside
from appliance.domain.job import Job, RetryPolicy
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import Package, Presence
from appliance.domain.record import RecordKind
from appliance.domain.states import JobState
from appliance.domain.trash import Keeping
from appliance.jobs.runner import Runner
from appliance.jobs.supervisor import Supervisor
from appliance.peering.identity import Identity
from appliance.peering.records import record_json
from appliance.service.catalogue import Catalogue
from appliance.service.digests import DIGEST_JOB, Digests
from appliance.service.holdings import Holdings
from appliance.service.intake import Intake
from appliance.service.packages import Packages
from appliance.service.records import Records
from appliance.service.trash import Trash
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout
from appliance.store.opening import open_store
from appliance.store.ports import Doc, Store
from tests.builders import manifest_of

STAGES = ("dev", "prod")
DATA = b"0123456789abcdef" * 500_000  #: 8 MB, several reads
FURTHER = {kind: hashlib.new(kind, DATA).hexdigest() for kind in ("md5", "sha512", "sha3_512")}


class Clock:
    """UTC milliseconds that go on by one with each look."""

    def __init__(self) -> None:
        self.ms = 1_900_000_000_000

    def __call__(self) -> int:
        self.ms += 1
        return self.ms


class Alone:
    """No peer can be reached."""

    def usable_sources(self, ids: Any, package: str) -> list[str]:
        """As `Sources.usable_sources`."""
        return []

    def set_aside(self, ids: Any, package: str) -> list[SetAside]:
        """As `Sources.set_aside`."""
        return []


class Node:
    """The services of one node, without its doors; of the node that has an identity, if one is given."""

    def __init__(self, store: Store, root: Path, clock: Clock, identity: Identity | None = None) -> None:
        self.store, self.clock = store, clock
        self.wrong_ms = 0  #: how far the wall clock is ahead of the one that nobody sets
        self.identity = identity or Identity.generate()
        node_id = self.identity.node_id
        self.layout = Layout(root / "data")
        self.blobs = BlobStore(self.layout, floor_bytes=0)
        self.catalogue = Catalogue(store)
        self.records = Records(store, self.identity, clock)
        own = NodeBody(name="n", url="https://n.example.com", stage="prod", version="1")
        self.trash = Trash(
            store=store,
            catalogue=self.catalogue,
            blobs=self.blobs,
            keeping=Keeping(days=7, versions=2),
            now=clock,
            monotonic=lambda: clock() - self.wrong_ms,
        )
        self.holdings = Holdings(
            store=store, records=self.records, catalogue=self.catalogue, blobs=self.blobs, trash=self.trash,
            sources=Alone(),
            stages=STAGES, node_id=node_id, own=own, now=clock, files=ThreadPoolExecutor(1),
            max_size=2**40, supervisor=Supervisor(now=clock),
        )  # fmt: skip
        self.packages = Packages(
            store=store, records=self.records, catalogue=self.catalogue, holdings=self.holdings, trash=self.trash,
            stages=STAGES, node_id=node_id, now=clock,
        )  # fmt: skip
        self.digests = Digests(
            store=store, catalogue=self.catalogue, blobs=self.blobs, holdings=self.holdings,
            packages=self.packages, now=clock,
        )  # fmt: skip

        async def strike(_peer: str, reason: str) -> None:
            raise AssertionError(reason)

        self.intake = Intake(
            store=store, records=self.records, holdings=self.holdings, trash=self.trash, node_id=node_id,
            strike=strike, refused=lambda _code, _count: None, now=clock,
        )  # fmt: skip
        self.runner = Runner(
            store, worker_id="w", transfer_slots=1, hash_slots=1, default_slots=1, lease_s=30.0, now=clock,
            jitter=lambda: 0.5, poll_s=0.02,
        )  # fmt: skip
        self.runner.register(DIGEST_JOB, self.digests.run, queue="hash", policy=RetryPolicy(attempts=1))

    async def publish(self, name: str = "A.pkg", data: bytes = DATA, **more: Any) -> Package:
        """Put a file in."""
        self.layout.partial("x").parent.mkdir(parents=True, exist_ok=True)
        self.layout.partial("x").write_bytes(data)
        manifest = manifest_of(data)
        self.blobs.commit(self.layout.partial("x"), manifest.sha256)
        fields = {"stage": "prod", "tags": (), "notes": "", "metadata": {}, "actor": "me", "replace": False}
        package, _ = await self.packages.publish(manifest=manifest, filename=name, **{**fields, **more})
        return package

    def package(self, name: str = "A.pkg") -> Package:
        """As the catalogue has it."""
        found = self.catalogue.by_id(package_id(name))
        assert found is not None
        return found

    async def job_ends(self) -> Job:
        """Wait until the digest job has ended."""
        async with asyncio.timeout(30):
            while True:
                jobs = await self.store.find_jobs({"name": DIGEST_JOB})
                if jobs and jobs[0].state in {JobState.DONE, JobState.FAILED}:
                    return jobs[0]
                await asyncio.sleep(0.01)

    async def events(self) -> list[str]:
        """What the log says."""
        docs: list[Doc] = await self.store.find("events", order="seq", limit=500)
        return [doc["type"] for doc in docs]

    async def hear(self, other: "Node") -> None:
        """Take in every package record of another node."""
        docs = await other.store.find("records", {"kind": str(RecordKind.PACKAGE)})
        await self.intake.take(other.identity.node_id, [doc["record"] for doc in docs])


def with_nodes(root: Path, count: int, test: Callable[..., Awaitable[None]]) -> None:
    """Run a test with nodes; the runner of the first one runs."""

    async def go() -> None:
        async with AsyncExitStack() as stack:
            nodes, clock = [], Clock()
            for number in range(count):
                place = root / str(number)
                place.mkdir()
                store = await open_store("", place)
                stack.push_async_callback(store.close)
                nodes.append(Node(store, place, clock))
            await nodes[0].runner.start()
            stack.push_async_callback(nodes[0].runner.stop, 5.0)
            await test(*nodes)

    asyncio.run(go())


def test_they_are_computed_once_and_reach_the_other_nodes(tmp_path: Path) -> None:
    async def test(here: Node, there: Node) -> None:
        await here.publish(tags=("a",), notes="n", metadata={"k": 1})
        before = here.package()
        assert not await here.digests.ensure(before)
        assert (await here.job_ends()).state is JobState.DONE
        after = here.package()
        assert dict(after.body.hashes) == FURTHER
        assert after.revision > before.revision
        assert after.presence is Presence.HELD
        assert await here.digests.ensure(after)
        assert await here.events() == ["package.published"], "it is nobody's change"
        await there.hear(here)
        assert dict(there.package().body.hashes) == FURTHER
        assert await there.digests.ensure(there.package())
        assert there.package().body == after.body
        again = await here.packages.add_hashes(after.id, after.body.sha256, FURTHER, actor="x")
        assert again is None
        assert here.package().revision == after.revision

    with_nodes(tmp_path, 2, test)


def test_nothing_else_of_the_record_changes(tmp_path: Path) -> None:
    async def test(here: Node) -> None:
        published = await here.publish(data=b"small", tags=("a",), notes="n", metadata={"k": 1})
        await here.digests.ensure(published)
        await here.job_ends()
        body = here.package().body
        for name in PACKAGE_FIELDS - {"hashes"}:
            assert getattr(body, name) == getattr(published.body, name), name
        assert base64.b64decode(body.chunks), "peers still find the chunk list in the record"

    with_nodes(tmp_path, 1, test)


PACKAGE_FIELDS = {
    "filename", "size", "sha1", "sha256", "manifest", "stage", "tags", "notes", "metadata", "hashes", "uploaded_at",
    "uploaded_by", "origin", "chunks", "replaces",
}  # fmt: skip


def test_a_replacement_drops_them_and_late_ones_are_left_out(tmp_path: Path) -> None:
    async def test(here: Node) -> None:
        old = await here.publish()
        await here.digests.ensure(old)
        await here.job_ends()
        new = await here.publish(data=b"new bytes", replace=True)
        assert new.body.hashes == {}
        assert await here.packages.add_hashes(old.id, old.body.sha256, FURTHER, actor="x") is None
        assert here.package().body.hashes == {}
        await here.digests.ensure(here.package())
        async with asyncio.timeout(30):
            while not here.package().body.hashes:
                await asyncio.sleep(0.01)
        assert here.package().body.hashes["md5"] == hashlib.md5(b"new bytes").hexdigest()

    with_nodes(tmp_path, 1, test)


@pytest.mark.parametrize("damage", ["flipped", "gone", "pipe"])
def test_damaged_bytes_get_no_digests_and_are_fetched_again(tmp_path: Path, damage: str) -> None:
    async def test(here: Node) -> None:
        package = await here.publish()
        path = here.blobs.path(package.held_sha256)
        if damage == "gone":
            path.unlink()
        elif damage == "pipe":
            path.unlink()
            os.mkfifo(path)
        else:
            path.chmod(0o600)
            with path.open("r+b") as file:
                file.seek(len(DATA) // 2)
                file.write(b"X")
        await here.digests.ensure(package)
        job = await here.job_ends()
        assert job.state is JobState.FAILED
        assert "it is fetched again" in job.error
        assert here.package().body.hashes == {}
        assert here.package().held_sha256 == ""
        assert "package.damaged" in await here.events()
        assert not await here.digests.ensure(here.package())

    with_nodes(tmp_path, 1, test)


def test_a_package_that_was_withdrawn_meanwhile(tmp_path: Path) -> None:
    async def test(here: Node) -> None:
        package = await here.publish()
        await here.packages.withdraw(package.id, actor="me")
        assert await here.packages.add_hashes(package.id, package.body.sha256, FURTHER, actor="x") is None
        assert await here.packages.add_hashes("unknown", package.body.sha256, FURTHER, actor="x") is None
        await here.digests.ensure(package)
        assert (await here.job_ends()).state is JobState.DONE
        assert here.package().withdrawn

    with_nodes(tmp_path, 1, test)


def test_hashes_that_came_with_the_bytes(tmp_path: Path) -> None:
    async def test(here: Node) -> None:
        package = await here.publish(hashes=FURTHER)
        assert dict(package.body.hashes) == FURTHER
        assert await here.digests.ensure(package)
        assert await here.store.find_jobs({"name": DIGEST_JOB}) == []

    with_nodes(tmp_path, 1, test)


def test_wrong_digests_are_refused(tmp_path: Path) -> None:
    async def test(here: Node) -> None:
        package = await here.publish()
        with pytest.raises(InvalidDigest):
            await here.packages.add_hashes(package.id, package.body.sha256, {"md5": "xyz"}, actor="x")
        assert await here.packages.add_hashes(package.id, package.body.sha256, {}, actor="x") is None
        assert here.package().revision == package.revision

    with_nodes(tmp_path, 1, test)


def test_a_change_by_a_person_at_the_same_moment_is_kept(tmp_path: Path) -> None:
    async def test(here: Node) -> None:
        package = await here.publish()
        await asyncio.gather(
            here.packages.add_hashes(package.id, package.body.sha256, FURTHER, actor="system"),
            here.packages.change(package.id, notes="mine", actor="me"),
            here.packages.change(package.id, stage="dev", actor="me"),
        )
        body = here.package().body
        assert (dict(body.hashes), body.notes, body.stage) == (FURTHER, "mine", "dev")

    with_nodes(tmp_path, 1, test)


def test_the_record_is_signed_as_any_other(tmp_path: Path) -> None:
    async def test(here: Node, there: Node) -> None:
        package = await here.publish()
        await here.packages.add_hashes(package.id, package.body.sha256, FURTHER, actor="system")
        known = await here.records.known(RecordKind.PACKAGE, package.id)
        assert known.record is not None
        assert record_json(known.record)["body"]["hashes"] == FURTHER
        await there.hear(here)  # which verifies it
        assert dict(there.package().body.hashes) == FURTHER

    with_nodes(tmp_path, 2, test)
