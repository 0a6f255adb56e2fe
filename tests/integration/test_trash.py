"""The trash of one node over real stores and a real disk: what it keeps, what it lets go, and what it gives back."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import (
    BlobMissing,
    Conflict,
    DigestMismatch,
    PermissionDenied,
    StaleRevision,
    StorageError,
    StorageFull,
    StoreUnavailable,
    VersionUnknown,
)
from appliance.domain.job import RetryPolicy
from appliance.domain.package import Presence
from appliance.domain.record import AHEAD_MS
from appliance.domain.states import JobState, TransferState
from appliance.domain.trash import DAY_MS, Keeping, Why
from appliance.jobs.context import JobContext
from appliance.jobs.new import new_job
from appliance.peering.records import parse_record
from appliance.service import packages as packages_module
from appliance.service import trash_clock
from appliance.service.damaged import damaged_words
from appliance.service.fetch_jobs import new_transfer_doc
from appliance.service.fsck import Fsck
from appliance.service.maintenance import Maintenance
from appliance.service.restore import RESTORE_JOB, Restore
from appliance.service.trash import Usage, mentioned
from appliance.service.verified_blobs import VerifiedBlobs
from appliance.service.verify_jobs import VERIFY_BLOB_JOB
from appliance.service.verifying import Verifying
from appliance.store.archive import export_archive, import_archive
from appliance.store.opening import open_store
from appliance.store.ports import Store
from tests.builders import manifest_of

from .test_digests import Clock, Node

ONE, TWO, THREE, FOUR = (bytes([number]) * 3_000_000 for number in range(1, 5))
NAME = "A.pkg"


def sha(data: bytes) -> str:
    return manifest_of(data).sha256


class World(Node):
    """One node, with jobs that restore."""

    def __init__(self, store: Store, root: Path, clock: Clock) -> None:
        super().__init__(store, root, clock)
        self.free_bytes = 10**12
        self.blobs._free = lambda _: (
            self.free_bytes
            - sum(path.stat().st_size for path in self.layout.blobs.rglob("*") if path.is_file())
        )
        self.restore = Restore(
            store=store, catalogue=self.catalogue, blobs=self.blobs, holdings=self.holdings,
            packages=self.packages, trash=self.trash, now=clock,
        )  # fmt: skip
        self.runner.register(RESTORE_JOB, self.restore.run, queue="hash", policy=RetryPolicy(attempts=1))

        self.verified = VerifiedBlobs(store=store, blobs=self.blobs, catalogue=self.catalogue, now=clock)
        self.verifying = Verifying(
            store=store, catalogue=self.catalogue, blobs=self.blobs, holdings=self.holdings,
            verified=self.verified,
            trash=self.trash, now=clock, keep_damaged_ms=DAY_MS,
        )  # fmt: skip
        self.runner.register(VERIFY_BLOB_JOB, self.verifying.run_blob, queue="hash")
        self.maintenance = self.started()

    def started(self) -> Maintenance:
        """As a process that starts now has it."""
        return Maintenance(
            store=self.store, records=self.records, catalogue=self.catalogue, holdings=self.holdings,
            trash=self.trash, uploads=None, blobs=self.blobs, now=self.clock,  # type: ignore[arg-type]
        )  # fmt: skip

    def lay(self, data: bytes) -> None:
        """Let a blob lie here that nothing names."""
        path = self.layout.partial("lay")
        path.write_bytes(data)
        self.blobs.commit(path, sha(data))

    async def put(self, data: bytes, name: str = NAME, **more: Any) -> None:
        await self.publish(name, data, **{"replace": True, **more})

    def here(self) -> set[str]:
        """The blobs on the disk."""
        return {path.name for path in self.layout.blobs.rglob("*") if path.is_file()}

    async def kept(self, name: str = NAME) -> list[tuple[str, Why]]:
        return [(each.sha256, each.why) for each in await self.trash.versions(self.package(name).id)]

    async def restores(self, wanted: str = "", **more: Any) -> Any:
        """Restore a version, and wait for the job."""
        _, job = await self.restore.request(NAME, wanted, **{"actor": "jo", **more})
        async with asyncio.timeout(30):
            while (found := await self.store.get_job(job.id)) is None or found.state in {
                JobState.TODO, JobState.DOING,
            }:  # fmt: skip
                await asyncio.sleep(0.01)
        return found


async def hear_of(node: World, directory: Path, data: bytes, name: str) -> None:
    """Let a node take the record of a package in from a peer, which is gone then."""
    directory.mkdir()
    store = await open_store("", directory)
    try:
        peer = World(store, directory, node.clock)
        await peer.put(data, name)
        await node.hear(peer)
    finally:
        await store.close()


Test = Callable[[World], Awaitable[None]]


@asynccontextmanager
async def peer_of(node: World, tmp_path: Path) -> AsyncIterator[World]:
    """Another node, by the same clock."""
    root = tmp_path / "peer"
    root.mkdir()
    store = await open_store("", root)
    try:
        yield World(store, root, node.clock)
    finally:
        await store.close()


@pytest.fixture
def run(store_url: str, tmp_path: Path) -> Callable[[Test], None]:
    """Runs a test with a node, on SQLite and on MongoDB."""

    @asynccontextmanager
    async def world() -> AsyncIterator[World]:
        store = await open_store(store_url, tmp_path)
        made = World(store, tmp_path, Clock())
        await made.runner.start()
        try:
            yield made
        finally:
            await made.runner.stop(5)
            await store.close()

    def go(test: Test) -> None:
        async def inside() -> None:
            async with world() as made:
                await test(made)

        asyncio.run(inside())

    return go


def test_replaced_and_withdrawn_bytes_stay_for_a_while(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO, notes="two")
        assert node.here() == {sha(ONE), sha(TWO)}
        assert await node.kept() == [(sha(ONE), Why.REPLACED)]
        await node.packages.withdraw(node.package().id, actor="jo")
        assert await node.kept() == [(sha(TWO), Why.WITHDRAWN), (sha(ONE), Why.REPLACED)]
        assert not list(node.layout.packages.iterdir())
        assert node.here() == {sha(ONE), sha(TWO)} == await mentioned(node.store, node.catalogue.all())
        assert await node.trash.usage() == Usage(versions=2, bytes=len(ONE) + len(TWO))
        node.clock.ms += 7 * DAY_MS - 60_000
        await node.trash.purge()
        assert node.here() == {sha(ONE), sha(TWO)}
        node.clock.ms += 120_000
        await node.trash.purge()
        assert node.here() == set()
        assert await node.kept() == []
        assert await node.trash.usage() == Usage()

    run(test)


def test_the_newest_two_of_each_package_are_kept(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        for data in (ONE, TWO, THREE, FOUR):
            await node.put(data)
        assert [version for version, _ in await node.kept()] == [sha(THREE), sha(TWO)]
        assert node.here() == {sha(TWO), sha(THREE), sha(FOUR)}

    run(test)


@pytest.mark.parametrize("keeping", [Keeping(days=0, versions=2), Keeping(days=7, versions=0)])
def test_nothing_is_kept_when_it_is_off_and_what_was_goes(
    run: Callable[[Test], None], keeping: Keeping
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        node.trash.keeping = keeping
        await node.put(THREE)
        assert node.here() == {sha(THREE)}, "with the first step that touches the package"
        await node.packages.withdraw(node.package().id, actor="jo")
        await node.trash.purge()
        assert node.here() == set()
        assert await node.kept() == []

    run(test)


def test_bytes_that_something_else_needs_stay(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE, "A.pkg")
        await node.put(ONE, "B.pkg")
        await node.put(TWO, "A.pkg")
        assert await node.trash.usage() == Usage(versions=1, bytes=0), "emptying it would free nothing"
        node.clock.ms += 8 * DAY_MS
        await node.trash.purge()
        assert await node.kept("A.pkg") == []
        assert node.here() == {sha(ONE), sha(TWO)}, "B is served from it"
        await node.put(THREE, "B.pkg")
        await node.put(ONE, "C.pkg")
        await node.packages.withdraw(node.package("C.pkg").id, actor="jo")
        assert await node.kept("B.pkg") == [(sha(ONE), Why.REPLACED)]
        await node.trash.free(sha(ONE))
        assert sha(ONE) in node.here(), "two versions mention it"

    run(test)


def test_the_oldest_go_when_the_disk_needs_room_and_only_if_that_helps(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        node.blobs.make_room = node.trash.ask_for_room(asyncio.get_running_loop())
        for name in ("A.pkg", "B.pkg", "C.pkg"):
            await node.put(name.encode() * 500_000, name)
            await node.put(b"x" + name.encode(), name)
        size, small = 2_500_000, 18
        assert len(node.here()) == 6
        node.free_bytes = 3 * size + small + 1_000_000  # so much is free beside what is here

        def check(needed: int) -> None:
            node.blobs.check_space(needed)

        await asyncio.to_thread(check, 1_000_000)
        assert len(node.here()) == 6
        with pytest.raises(StorageFull):
            await asyncio.to_thread(check, 3 * size + 1_000_001)
        assert len(node.here()) == 6, "emptying the trash would not have helped"
        await asyncio.to_thread(check, 1_000_001)
        assert await node.kept("A.pkg") == [], "the oldest"
        assert len(await node.kept("B.pkg")) == len(await node.kept("C.pkg")) == 1
        await asyncio.to_thread(check, 3 * size + 1_000_000)
        assert len(node.here()) == 3

    run(test)


def test_space_below_the_floor_empties_the_trash_as_far_as_needed(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        for data in (ONE, TWO, THREE):
            await node.put(data)
        node.blobs._floor = 1_000_000
        node.free_bytes = 9_500_000
        await node.trash.purge()
        assert [version for version, _ in await node.kept()] == [sha(TWO)]
        node.free_bytes = 1_000_000  # others filled the disk
        await node.trash.make_room(0)
        assert node.here() == {sha(THREE)}

    run(test)


def test_a_restored_version_is_a_new_record_with_its_own_words(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(
            ONE, notes="one", stage="dev", tags=("a",), metadata={"k": 1}, hashes={"md5": "0" * 32}
        )
        first = node.package()
        await node.put(TWO, notes="two")
        before = node.package()
        job = await node.restores(sha(ONE)[:8])
        assert (job.state, job.error) == (JobState.DONE, "")
        now = node.package()
        assert (now.body.sha256, now.held_sha256, now.presence) == (sha(ONE), sha(ONE), Presence.HELD)
        assert now.revision > before.revision
        assert (now.author, now.body.origin) == (node.identity.node_id,) * 2
        assert now.body.uploaded_by == "jo"
        assert now.body.replaces == (sha(TWO),)
        same = (
            "stage",
            "tags",
            "notes",
            "metadata",
            "hashes",
            "filename",
            "size",
            "sha1",
            "manifest",
            "chunks",
        )
        assert {name: getattr(now.body, name) for name in same} == {
            name: getattr(first.body, name) for name in same
        }
        assert await node.kept() == [(sha(TWO), Why.REPLACED)], "what was current can be restored in turn"
        assert (node.layout.packages / NAME).read_bytes() == ONE
        [event] = await node.store.find("events", {"type": "package.restored"})
        assert (event["actor"], event["subject"], event["data"]["before"]) == ("jo", now.id, sha(TWO))
        assert (await node.restores()).state is JobState.DONE
        assert node.package().body.sha256 == sha(TWO)
        assert node.package().body.notes == "two"

    run(test)


def test_a_withdrawn_package_comes_back(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.packages.withdraw(node.package().id, actor="jo")
        assert (await node.restores()).state is JobState.DONE
        assert (node.package().withdrawn, node.package().presence) == (False, Presence.HELD)
        assert node.package().body.replaces == ()
        assert await node.kept() == []
        with pytest.raises(Conflict, match="nothing to restore"):
            await node.restore.request(NAME, sha(ONE), actor="jo")
        with pytest.raises(VersionUnknown):
            await node.restore.request(NAME, "", actor="jo")

    run(test)


def test_rotten_bytes_are_never_published(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        with node.blobs.path(sha(ONE)).open("r+b") as file:
            file.seek(1_500_000)
            file.write(b"\xff")
        job = await node.restores()
        assert job.state is JobState.FAILED
        assert job.error.startswith(DigestMismatch.__name__)
        assert "upload the file again" in job.error
        assert node.package().body.sha256 == sha(TWO)
        assert await node.kept() == []
        assert node.here() == {sha(TWO)}
        assert node.layout.damaged(sha(ONE)).exists()

    run(test)


def test_a_package_that_is_served_from_a_damaged_version_is_fetched_again(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        await node.put(ONE, "other.pkg")
        with node.blobs.path(sha(ONE)).open("r+b") as file:
            file.write(b"\xff")
        assert (await node.restores()).state is JobState.FAILED
        other = node.package("other.pkg")
        assert (other.held_sha256, other.presence is Presence.HELD) == ("", False)
        assert not (node.layout.packages / "other.pkg").exists()
        assert await node.store.count("events", {"type": "package.damaged"}) == 1

    run(test)


def test_versions_that_stay_keep_no_other_from_expiring(run: Callable[[Test], None]) -> None:
    """Those of an older program stay for longer, and may be many."""

    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        [version] = await node.store.find("superseded")
        for number in range(600):
            old = {**version, "_id": f"old:{number:03}", "package": f"old{number}", "body": None}
            await node.store.insert("superseded", {**old, "at": version["at"] - 1, "why": "superseded"})
        node.clock.ms += 8 * DAY_MS
        await node.trash.purge()
        assert await node.kept() == []
        assert await node.store.count("superseded") == 600

    run(test)


def test_a_cancellation_that_the_worker_had_not_seen_stays(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        node.blobs.path(sha(ONE)).unlink()
        await node.holdings.lost_blob(sha(ONE), "the file is missing")
        package = node.package()
        transfer = new_transfer_doc(package, node.clock())
        cancelled = {**transfer, "state": str(TransferState.CANCELLED), "cancelled_by": "jo"}
        await node.store.replace("transfers", cancelled)
        await node.holdings.settle(package.id, transfer={**transfer, "state": str(TransferState.STALLED)})
        found = await node.store.get("transfers", transfer["_id"])
        assert found is not None
        assert (found["state"], found["cancelled_by"]) == ("cancelled", "jo")

    run(test)


@pytest.mark.parametrize("how", ["gone before", "gone after", "short", "touched"])
def test_a_version_whose_file_is_lost_is_not_promised_any_more(run: Callable[[Test], None], how: str) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        path = node.blobs.path(sha(ONE))
        if how == "gone before":
            path.unlink()
        await node.put(TWO)
        if how == "gone before":
            assert await node.kept() == []
            return
        assert [sha256 for sha256, _ in await node.kept()] == [sha(ONE)]
        verifying = node.verifying
        await verifying.look()
        assert [sha256 for sha256, _ in await node.kept()] == [sha(ONE)]
        if how == "gone after":
            path.unlink()
        elif how == "short":
            os.truncate(path, 5)
        else:
            path.write_bytes(FOUR)
        await verifying.look(wait_s=5)
        assert await node.kept() == []
        assert node.package().held_sha256 == sha(TWO)

    run(test)


def test_a_version_whose_bytes_a_package_waits_for_stays(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        await node.put(ONE, "other.pkg")
        node.blobs.path(sha(ONE)).unlink()
        await node.holdings.lost_blob(sha(ONE), "the file is missing")
        assert node.package("other.pkg").held_sha256 == ""
        assert [sha256 for sha256, _ in await node.kept()] == [sha(ONE)]

    run(test)


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_took_the_place_of_a_version_is_damage(
    run: Callable[[Test], None], make: Callable[[Path], None]
) -> None:
    """A pipe would hold up who reads it, and a directory end the job with words of the system."""

    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        path = node.blobs.path(sha(ONE))
        path.unlink()
        make(path)
        report = await Fsck(store=node.store, layout=node.layout, blobs=node.blobs, now=node.clock).run(
            read_data=True
        )
        assert [str(each.kind) for each in report.problems] == ["version_lost"]
        job = await node.restores()
        assert job.state is JobState.FAILED
        assert job.error.startswith(DigestMismatch.__name__)
        assert await node.kept() == []
        assert node.here() == {sha(TWO)}
        assert node.package().body.sha256 == sha(TWO)

    run(test)


def test_a_version_whose_file_is_gone_or_that_expired_meanwhile_says_what_to_do(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        node.blobs.path(sha(ONE)).unlink()
        job = await node.restores()
        assert job.state is JobState.FAILED
        assert "another node that keeps it, or upload" in job.error
        assert await node.kept() == []
        await node.put(THREE)
        gone = replace(job, args={**job.args, "sha256": sha(FOUR)})  # expired between the request and the job
        context = JobContext(gone, asyncio.get_running_loop())
        with pytest.raises(VersionUnknown, match="no longer keeps"):
            await asyncio.to_thread(node.restore.run, gone, context)

    run(test)


def test_stage_limits_hold_for_both_versions(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE, stage="dev")
        await node.put(TWO, stage="prod")
        for within in (["dev"], ["prod"]):
            with pytest.raises(PermissionDenied):
                await node.restore.request(NAME, "", actor="jo", within=within)
        await node.packages.withdraw(node.package().id, actor="jo")
        with pytest.raises(PermissionDenied):
            await node.restore.request(NAME, sha(TWO), actor="jo", within=["dev"])
        assert (await node.restores(sha(ONE), within=["dev"])).state is JobState.DONE

    run(test)


async def through_outages(node: World, wanted: Awaitable[Any]) -> Any:
    """Let jobs that wait for the end of an outage run at once."""
    task = asyncio.ensure_future(wanted)
    while not task.done():
        waiting = await node.store.find_jobs({"state": str(JobState.TODO)})
        node.clock.ms = max([node.clock.ms, *(job.run_at for job in waiting if job.error)])
        await asyncio.sleep(0.01)
    return await task


def once(owner: Any, name: str, error: Exception) -> None:
    """Let a method fail once, in the place of what it does."""
    real = getattr(owner, name)

    def fails(*args: Any, **kwargs: Any) -> Any:
        setattr(owner, name, real)
        raise error

    setattr(owner, name, fails)


@pytest.mark.parametrize("cut", ["before the node follows", "the disk is full", "after the row is gone"])
@pytest.mark.parametrize("before", ["replaced", "withdrawn"])
def test_a_restore_that_an_outage_cuts_off_is_carried_out_once(
    run: Callable[[Test], None], cut: str, before: str
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        if before == "withdrawn":
            await node.packages.withdraw(node.package().id, actor="jo")
        if cut == "before the node follows":
            once(node.holdings, "settle", StoreUnavailable())
        elif cut == "the disk is full":
            once(node.blobs, "publish", StorageFull())
        else:
            once(node.holdings, "_let_go", StoreUnavailable())
        job = await through_outages(node, node.restores(sha(ONE)))
        assert (job.state, job.error) == (JobState.DONE, "")
        assert (node.package().presence, node.package().held_sha256) == (Presence.HELD, sha(ONE))
        assert (await node.events()).count("package.restored") == 1
        assert sha(ONE) not in {version for version, _ in await node.kept()}

    run(test)


def test_a_version_that_somebody_else_published_meanwhile_is_not_called_restored(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        state, id = await node.packages.state(node.package().id), node.package().id
        assert not await node.packages.was_restored(id, sha(TWO), expected=state, actor="me")
        await node.put(ONE)
        assert not await node.packages.was_restored(id, sha(ONE), expected=state, actor="jo")
        assert not await node.packages.was_restored(id, sha(ONE), expected="", actor="me")
        assert await node.packages.was_restored(id, sha(ONE), expected=state, actor="me")

    run(test)


@pytest.mark.parametrize("stage", ["prod", "dev"])
@pytest.mark.parametrize("wrong", ["bytes", "size"])
@pytest.mark.parametrize("cut", [False, True])
def test_a_file_that_an_older_database_does_not_know_and_that_is_damaged_is_told(
    run: Callable[[Test], None], tmp_path: Path, stage: str, wrong: str, cut: bool
) -> None:
    """Its record comes back from a peer, which has no copy; a node that does not admit it kept the last one."""

    async def test(node: World) -> None:
        (tmp_path / "other").mkdir()
        store = await open_store("", tmp_path / "other")
        other = Node(store, tmp_path / "other", node.clock)
        await other.publish(NAME, ONE, stage=stage)
        node.holdings._verified = node.packages._verified = node.verifying._verified
        node.lay(ONE)
        path = node.blobs.path(sha(ONE))
        path.chmod(0o600)
        path.write_bytes(TWO if wrong == "bytes" else ONE[:1000])
        real = node.blobs.quarantine

        def cut_off(sha256: str) -> None:
            node.blobs.quarantine = real  # type: ignore[method-assign]
            real(sha256)
            once(node.holdings, "settle", StoreUnavailable())

        if cut:
            node.blobs.quarantine = cut_off  # type: ignore[method-assign]
        await node.hear(other)
        await store.close()

        async def becomes(presence: Presence) -> None:
            async with asyncio.timeout(30):
                while node.package().presence is not presence:
                    await asyncio.sleep(0.01)

        await through_outages(node, becomes(Presence.DAMAGED))
        assert "Upload the same file again" in node.package().reason
        assert damaged_words(node.catalogue).startswith(NAME)
        assert await node.store.count("damaged", {"repaired_at": 0}) == 1
        assert (await node.events()).count("package.damaged") == 1
        report = await Fsck(store=node.store, layout=node.layout, blobs=node.blobs, now=node.clock).run()
        assert ("set_aside", NAME) in [(str(each.kind), each.subject) for each in report.problems]
        await node.verifying.look()
        assert [name for name, _ in node.blobs.quarantined()] == [sha(ONE)]
        await node.put(ONE, stage=stage)
        await becomes(Presence.HELD)
        await node.verifying.notice_repairs()
        assert (await node.events()).count("package.repaired") == 1
        assert damaged_words(node.catalogue) == ""

    run(test)


def test_a_check_that_an_outage_cuts_off_says_all_the_same_that_the_file_is_damaged(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        path = node.blobs.path(sha(ONE))
        path.chmod(0o600)
        path.write_bytes(TWO)
        job = new_job("hash", "package.verify", node.clock(), args={"package": node.package().id})
        context = JobContext(job, asyncio.get_running_loop())
        once(node.holdings, "settle", StoreUnavailable())
        with pytest.raises(StoreUnavailable):
            await asyncio.to_thread(node.verifying.run, job, context)
        with pytest.raises(BlobMissing, match="damaged here"):
            await asyncio.to_thread(node.verifying.run, job, context)
        assert "Upload the same file again" in node.package().reason
        job = replace(job, args={**job.args, "sha256": sha(ONE)})
        with pytest.raises(BlobMissing, match="damaged here"):
            await asyncio.to_thread(node.digests.run, job, context)

    run(test)


@pytest.mark.parametrize("change", ["replaced", "withdrawn", "changed", "hashed"])
def test_what_was_changed_while_the_version_was_verified_stays(
    run: Callable[[Test], None], change: str
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        id, verified, go_on = node.package().id, threading.Event(), threading.Event()
        verify = node.restore._manifest

        def slowly(*args: Any) -> Any:
            verified.set()
            assert go_on.wait(30)
            return verify(*args)

        node.restore._manifest = slowly  # type: ignore[method-assign]
        restoring = asyncio.create_task(node.restores())
        assert await asyncio.to_thread(verified.wait, 30)
        if change == "replaced":
            await node.put(THREE)
        elif change == "withdrawn":
            await node.packages.withdraw(id, actor="jo")
        elif change == "changed":
            await node.packages.change(id, tags=("new",), actor="jo")
        else:
            assert await node.packages.add_hashes(id, sha(TWO), {"md5": "0" * 32}, actor="jo")
        go_on.set()
        job = await restoring
        if change == "hashed":
            assert (job.state, node.package().body.sha256) == (JobState.DONE, sha(ONE))
            return
        assert job.state is JobState.FAILED
        assert f"{NAME} changed while the version was verified; look at it and restore again." in job.error
        now = node.package()
        assert (now.withdrawn, now.body.sha256) == (
            change == "withdrawn",
            sha(THREE if change == "replaced" else TWO),
        )

    run(test)


@pytest.mark.parametrize("wrong_days", [-30, 30])
def test_a_wrong_clock_while_a_version_leaves_costs_no_day(
    run: Callable[[Test], None], wrong_days: int
) -> None:
    async def test(node: World) -> None:
        def set_clock(days: int) -> None:
            node.clock.ms += days * DAY_MS
            node.wrong_ms += days * DAY_MS

        await node.put(ONE)
        await node.trash.purge()
        set_clock(wrong_days)
        await node.put(TWO)
        set_clock(-wrong_days)
        for _ in range(6):
            node.clock.ms += DAY_MS
            await node.trash.purge()
        [version] = await node.trash.versions(node.package().id)
        left = node.trash.keeping.until(version) - node.clock.ms
        assert DAY_MS - 60_000 < left <= DAY_MS, "what people are told is neither past nor far away"
        assert node.here() == {sha(ONE), sha(TWO)}
        node.clock.ms += DAY_MS
        await node.trash.purge()
        assert node.here() == {sha(TWO)}

    run(test)


@pytest.mark.parametrize("wrong_days", [-10, 10, 400])
def test_a_start_with_a_wrong_clock_empties_no_trash(run: Callable[[Test], None], wrong_days: int) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        node.clock.ms += wrong_days * DAY_MS
        node.wrong_ms += wrong_days * DAY_MS
        await node.trash.purge()
        [version] = await node.trash.versions(node.package().id)
        assert node.trash.keeping.until(version) > node.clock.ms
        assert node.here() == {sha(ONE), sha(TWO)}
        node.clock.ms += 8 * DAY_MS
        await node.trash.purge()
        assert node.here() == {sha(TWO)}, "it goes in its time, by a wrong clock too"

    run(test)


def test_another_start_of_the_machine_takes_no_time_away(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its clock that nobody sets begins anew, or is another machine's; all days before are remembered."""

    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        node.clock.ms += 5 * DAY_MS
        await node.trash.purge()
        monkeypatch.setattr(trash_clock, "boot_id", lambda: "another")
        node.wrong_ms = -300 * DAY_MS
        await node.put(THREE)
        await node.trash.purge()
        node.clock.ms += DAY_MS
        await node.trash.purge()
        assert node.here() == {sha(ONE), sha(TWO), sha(THREE)}
        node.clock.ms += DAY_MS
        await node.trash.purge()
        assert node.here() == {sha(TWO), sha(THREE)}

    run(test)


def test_what_an_older_program_kept_begins_its_time_now_in_its_order(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        for data in (ONE, TWO, THREE):
            await node.put(data)
        for doc in await node.store.find("superseded"):
            at = doc["at"] - 30 * DAY_MS
            old = {name: value for name, value in doc.items() if name != "clock"}
            await node.store.replace("superseded", {**old, "at": at})
        await node.trash.purge()
        assert [sha256 for sha256, _ in await node.kept()] == [sha(TWO), sha(ONE)]
        node.trash.keeping = Keeping(days=7, versions=1)
        await node.trash.purge()
        assert [sha256 for sha256, _ in await node.kept()] == [sha(TWO)]
        node.clock.ms += 7 * DAY_MS
        await node.trash.purge()
        assert await node.kept() == []

    run(test)


def test_a_full_disk_stops_no_purge(run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        await node.trash.purge()

        async def full(*_: Any, **__: Any) -> None:
            raise StorageFull("The disk is full.")

        monkeypatch.setattr(node.store, "replace", full)
        node.clock.ms += 8 * DAY_MS
        await node.trash.purge()
        assert node.here() == {sha(TWO)}

    run(test)


def test_an_older_data_directory_opens_and_what_it_kept_can_be_restored(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE, notes="one")
        await node.put(TWO, notes="two")
        [version] = await node.trash.versions(node.package().id)
        old = {
            "_id": version.id, "package": version.package, "sha256": version.sha256, "filename": version.filename,
            "revision": version.revision, "author": version.author, "at": version.at,
        }  # fmt: skip
        await node.store.replace("superseded", old)
        await node.store.delete("manifests", {"_id": sha(ONE)})
        [version] = await node.trash.versions(node.package().id)
        assert (version.why, version.size, version.body) == (Why.SUPERSEDED, None, None)
        node.clock.ms += 89 * DAY_MS
        await node.trash.purge()
        assert sha(ONE) in node.here(), "it was promised to stay 90 days"
        assert (await node.restores()).state is JobState.DONE
        assert (node.package().body.sha256, node.package().body.size) == (sha(ONE), len(ONE))
        assert node.package().body.notes == "two", "what it had is not known"
        assert await node.holdings.manifest(node.package().body) is not None

    run(test)


def test_a_blob_that_is_needed_again_while_it_is_deleted_stays(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        [version] = await node.trash.versions(node.package().id)
        await node.store.delete("superseded", {"_id": version.id})
        real, asked = node.trash.needs, []

        async def needs(sha256: str) -> bool:
            asked.append(sha256)
            if len(asked) == 2:  # another process publishes it right now: it finds no blob, and puts its own
                assert not node.blobs.path(sha256).exists()
                return True
            return await real(sha256)

        monkeypatch.setattr(node.trash, "needs", needs)
        assert not await node.trash.free(sha(ONE))
        assert node.blobs.path(sha(ONE)).read_bytes() == ONE

        async def away(sha256: str) -> bool:
            asked.append(sha256)
            if len(asked) == 4:
                raise StoreUnavailable
            return False

        monkeypatch.setattr(node.trash, "needs", away)
        with pytest.raises(StoreUnavailable):
            await node.trash.free(sha(ONE))
        assert node.here() == {sha(ONE), sha(TWO)}

    run(test)


@pytest.mark.parametrize("needed", [True, False])
def test_a_start_decides_about_a_deletion_that_a_crash_left_begun(
    run: Callable[[Test], None], needed: bool
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        if not needed:
            await node.store.delete("superseded", {"sha256": sha(ONE)})
        assert node.blobs.begin_delete(sha(ONE)) is not None
        assert sha(ONE) not in node.here()
        kept = await mentioned(node.store, node.catalogue.all())
        node.blobs.adopt_or_clean(
            believed=True, names={NAME: sha(TWO)}, blobs=kept, partials=set(), uploads=set()
        )
        assert node.here() == ({sha(ONE), sha(TWO)} if needed else {sha(TWO)})

    run(test)


def test_a_version_that_is_served_until_its_successor_is_here_begins_to_expire_then(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        old = node.package()
        manifest = manifest_of(TWO)
        body = replace(
            old.body, sha256=manifest.sha256, sha1=manifest.sha1, size=manifest.size, manifest=manifest.digest,
            chunks="", replaces=(old.body.sha256,),
        )  # fmt: skip
        coming = replace(old, body=body, presence=Presence.ARRIVING, revision=2)
        await node.store.batch(await node.trash.step(old, coming))
        node.clock.ms += 6 * DAY_MS
        [first] = await node.trash.versions(old.id)
        here = replace(coming, held_sha256=manifest.sha256, presence=Presence.HELD)
        await node.store.batch(await node.trash.step(coming, here))
        [second] = await node.trash.versions(old.id)
        assert second.at >= first.at + 6 * DAY_MS
        assert (second.body, second.why) == (first.body, Why.REPLACED)
        # Without the row, as after an update of the program in between, what is known is kept.
        await node.store.delete("superseded", {"_id": second.id})
        await node.store.batch(await node.trash.step(coming, here))
        [third] = await node.trash.versions(old.id)
        assert (third.sha256, third.size) == (sha(ONE), None)

    run(test)


def test_fsck_knows_the_trash_and_says_what_of_it_is_lost(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    async def test(node: World) -> None:
        async def check(**options: Any) -> list[tuple[str, bool]]:
            fsck = Fsck(store=node.store, layout=node.layout, blobs=node.blobs, now=node.clock)
            report = await fsck.run(**options)
            return [(str(each.kind), bool(each.repaired)) for each in report.problems]

        for data in (ONE, TWO, THREE):
            await node.put(data)
        assert await check(read_data=True) == []
        with node.blobs.path(sha(ONE)).open("r+b") as file:
            file.write(b"\xff")
        node.blobs.path(sha(TWO)).unlink()
        assert await check() == [("version_lost", False)]
        assert await check(read_data=True) == [("version_lost", False)] * 2
        assert await check(read_data=True, repair=True) == [("version_lost", True)] * 2
        assert await check(read_data=True) == []
        assert await node.kept() == []
        assert node.layout.damaged(sha(ONE)).exists()

    run(test)


def test_an_export_carries_the_trash(run: Callable[[Test], None], tmp_path: Path) -> None:
    async def test(node: World) -> None:
        await node.put(ONE, notes="one")
        await node.put(TWO)
        before = await node.trash.versions(node.package().id)
        await export_archive(node.store, tmp_path / "site.tar")
        (tmp_path / "other").mkdir()
        other = await open_store("", tmp_path / "other")
        try:
            await import_archive(other, tmp_path / "site.tar")
            moved = World(other, tmp_path / "elsewhere", Clock())
            assert await moved.trash.versions(before[0].package) == before
        finally:
            await other.close()

    run(test)


def test_making_room_never_waits_for_its_own_loop(tmp_path: Path) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        try:
            node = World(store, tmp_path, Clock())
            node.blobs.make_room = node.trash.ask_for_room(asyncio.get_running_loop())
            node.free_bytes = 1
            with pytest.raises(StorageFull):
                node.blobs.check_space(2)
        finally:
            await store.close()

    asyncio.run(asyncio.wait_for(go(), 20))


@pytest.mark.parametrize("when", ["start", "sweep", "fsck"])
def test_a_file_that_a_database_older_than_it_does_not_name_stays_for_a_while(
    run: Callable[[Test], None], when: str
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        node.lay(FOUR)
        (node.layout.packages / "four.pkg").write_bytes(FOUR)
        os.utime(node.blobs.path(sha(FOUR)), (1, 1))
        if when == "start":
            await node.started().clean_files()
            assert [path.name for path in node.layout.packages.iterdir()] == [NAME]
        elif when == "sweep":
            await node.started().sweep(-1)
        else:
            fsck = Fsck(store=node.store, layout=node.layout, blobs=node.blobs, now=node.clock)
            assert (await fsck.run(repair=True)).ok
        await node.trash.purge()  # its days begin with the first purge that sees it
        for _ in range(2):
            node.clock.ms += 3 * DAY_MS
            await node.trash.purge()
            await node.maintenance.sweep(-1)
            await node.started().clean_files()
            assert node.here() == {sha(ONE), sha(FOUR)}
        node.clock.ms += 2 * DAY_MS
        await node.trash.purge()
        assert node.here() == {sha(ONE)}

    run(test)


def test_a_file_that_came_after_the_start_and_that_nothing_names_goes_soon(
    run: Callable[[Test], None],
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.maintenance.clean_files()
        node.lay(FOUR)
        await node.maintenance.sweep(60)
        assert node.here() == {sha(ONE), sha(FOUR)}
        await node.maintenance.sweep(-1)
        assert node.here() == {sha(ONE)}

    run(test)


@pytest.mark.parametrize("days", [0, 7])
def test_a_disk_without_room_keeps_what_nothing_names_for_a_day(
    run: Callable[[Test], None], days: float
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        node.trash.keeping = Keeping(days=days, versions=2)
        node.lay(FOUR)
        node.free_bytes = 2 * len(ONE) - 1
        node.blobs._floor = 1
        await node.started().clean_files()
        node.clock.ms += DAY_MS - 60_000
        await node.trash.purge()
        assert node.here() == {sha(ONE), sha(FOUR)}
        node.clock.ms += 60_000
        await node.trash.purge()
        assert node.here() == {sha(ONE)}

    run(test)


@pytest.mark.parametrize("inline", [True, False])
def test_what_nothing_named_is_served_when_its_record_comes(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inline: bool
) -> None:
    """Also a large package, whose list of chunks the older database lacks and nobody else has."""

    async def test(node: World) -> None:
        await node.put(ONE)
        node.lay(FOUR)
        await node.started().clean_files()
        if not inline:
            monkeypatch.setattr(packages_module, "INLINE_CHUNKS", 0)
        await hear_of(node, tmp_path / "peer", FOUR, "four.pkg")
        async with asyncio.timeout(30):
            while node.package("four.pkg").presence is not Presence.HELD:
                await asyncio.sleep(0.02)
        assert (node.layout.packages / "four.pkg").read_bytes() == FOUR
        assert await node.holdings.manifest(node.package("four.pkg").body) is not None
        await node.trash.purge()
        assert await node.trash.usage() == Usage(), "it has a name again"
        assert node.here() == {sha(ONE), sha(FOUR)}

    run(test)


def test_what_was_about_to_be_served_is_kept_when_it_is_replaced(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database is a restored copy, the file is here and not verified yet, and somebody replaces the package."""

    async def not_yet(_body: Any) -> tuple[bool, bool]:
        return False, False

    async def test(node: World) -> None:
        node.lay(FOUR)
        with monkeypatch.context() as context:
            context.setattr(node.holdings, "_blob_here", not_yet)
            await hear_of(node, tmp_path / "peer", FOUR, "four.pkg")
        assert node.package("four.pkg").presence is Presence.WAITING
        await node.put(ONE, "four.pkg")
        assert await node.kept("four.pkg") == [(sha(FOUR), Why.REPLACED)]
        await hear_of(node, tmp_path / "other", TWO, "two.pkg")
        await node.put(THREE, "two.pkg")
        assert await node.kept("two.pkg") == [], "those bytes never came"
        await node.maintenance.sweep(-1)
        assert node.here() == {sha(ONE), sha(THREE), sha(FOUR)}

    run(test)


def test_what_came_while_an_earlier_version_was_served_is_kept_too(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file came, and the disk had no room to write that down."""

    async def not_yet(_body: Any) -> tuple[bool, bool]:
        return False, False

    async def test(node: World) -> None:
        await node.put(ONE)
        async with peer_of(node, tmp_path) as peer:
            await peer.hear(node)
            await peer.put(TWO)
            node.lay(TWO)
            with monkeypatch.context() as context:
                context.setattr(node.holdings, "_blob_here", not_yet)
                await node.hear(peer)
        assert node.package().held_sha256 == sha(ONE)
        await node.put(THREE)
        assert await node.kept() == [(sha(TWO), Why.REPLACED), (sha(ONE), Why.REPLACED)]
        await node.maintenance.sweep(-1)
        assert node.here() == {sha(ONE), sha(TWO), sha(THREE)}

    run(test)


@pytest.mark.parametrize(
    "how", ["replaced here", "replaced there", "withdrawn there", "lost to another there"]
)
def test_the_bytes_of_a_record_that_was_never_carried_out_are_kept_too(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The database was put back, so that this node has yet to look at every package."""

    async def later(_ids: Any) -> None:
        pass

    async def test(node: World) -> None:
        node.lay(FOUR)
        async with peer_of(node, tmp_path) as peer:
            await peer.put(FOUR)
            with monkeypatch.context() as context:
                context.setattr(node.holdings, "settle_many", later)
                await node.hear(peer)
            if how == "replaced here":
                await node.put(ONE)
            elif how == "replaced there":
                await peer.put(ONE)
            elif how == "withdrawn there":
                await peer.packages.withdraw(peer.package().id, actor="jo")
            else:
                (tmp_path / "third").mkdir()
                third = World(await open_store("", tmp_path / "third"), tmp_path / "third", node.clock)
                node.clock.ms += 1000
                await third.put(ONE)
                await peer.hear(third)
                await third.store.close()
            await node.hear(peer)
        why = {"withdrawn there": Why.WITHDRAWN, "lost to another there": Why.SUPERSEDED}.get(
            how, Why.REPLACED
        )
        assert await node.kept() == [(sha(FOUR), why)]
        await node.maintenance.sweep(-1)
        assert sha(FOUR) in node.here()
        assert (await node.restores(sha(FOUR))).state is JobState.DONE
        assert (node.layout.packages / NAME).read_bytes() == FOUR

    run(test)


def test_a_name_that_was_given_for_nothing_is_taken_back(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package is put back to what is served between the name and the write, which is refused then."""

    async def test(node: World) -> None:
        await node.put(ONE)
        batch = node.store.batch
        async with peer_of(node, tmp_path) as peer:
            await peer.hear(node)
            await peer.put(TWO)
            node.lay(TWO)

            async def overtaken(operations: Any) -> Any:
                if any(getattr(each, "collection", "") == "packages" for each in operations):
                    monkeypatch.setattr(node.store, "batch", batch)
                    await peer.put(ONE)
                    docs = await peer.store.find("records", {"kind": "package"})
                    await node.intake._keep([parse_record(doc["record"]) for doc in docs])
                    raise StaleRevision("Somebody was faster.")
                return await batch(operations)

            monkeypatch.setattr(node.store, "batch", overtaken)
            await node.hear(peer)
        assert node.package().body.sha256 == node.package().held_sha256 == sha(ONE)
        assert (node.layout.packages / NAME).read_bytes() == ONE

    run(test)


@pytest.mark.parametrize("how", ["look", "start", "relink"])
def test_who_gives_names_again_never_undoes_a_replacement(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Another process replaces the package between what is read of it and the name that it is given."""

    async def test(node: World) -> None:
        loop = asyncio.get_running_loop()
        await node.put(ONE)
        publish = node.blobs.publish

        def overtaken(sha256: str, filename: str) -> None:
            monkeypatch.setattr(node.blobs, "publish", publish)
            asyncio.run_coroutine_threadsafe(node.put(TWO), loop).result(20)
            publish(sha256, filename)

        (node.layout.packages / NAME).unlink()
        monkeypatch.setattr(node.blobs, "publish", overtaken)
        if how == "look":
            await node.verifying.load()
            await node.verifying.look()
        elif how == "start":
            await node.started().clean_files()
        else:
            await node.verified.relink(sha(ONE))
        assert node.package().held_sha256 == sha(TWO)
        assert (node.layout.packages / NAME).read_bytes() == TWO

    run(test)


def test_bytes_that_come_a_moment_too_late_leave_at_once(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        node.lay(FOUR)
        package = node.package()
        late = new_transfer_doc(replace(package, body=replace(package.body, sha256=sha(FOUR))), node.clock())
        await node.holdings.settle(package.id, transfer={**late, "state": "done"})
        assert node.here() == {sha(ONE)}

    run(test)


def test_a_file_that_is_verified_at_once_is_served_at_once(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job may end before whoever asked for it goes on: it must find the package that waits for the file."""

    async def test(node: World) -> None:
        node.lay(FOUR)
        enqueue = node.store.enqueue

        async def then_done(job: Any) -> bool:
            added = await enqueue(job)
            async with asyncio.timeout(10):
                while await node.store.find_jobs({"active_key": job.key}):
                    await asyncio.sleep(0.02)
            return added

        monkeypatch.setattr(node.store, "enqueue", then_done)
        monkeypatch.setattr(packages_module, "INLINE_CHUNKS", 0)
        await hear_of(node, tmp_path / "peer", FOUR, "four.pkg")
        async with asyncio.timeout(10):
            while node.package("four.pkg").presence is not Presence.HELD:
                await asyncio.sleep(0.02)

    run(test)


def test_damaged_bytes_that_nothing_names_are_no_lost_version(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        node.lay(FOUR)
        await node.started().clean_files()
        await node.verifying.look()
        assert node.verifying._verified.get(sha(FOUR)) is None, "nobody has verified it"
        assert await node.holdings.lost_blob(sha(FOUR), "wrong bytes", node.blobs.stamp(sha(FOUR))) == []
        assert await node.store.count("superseded") == 0

    run(test)


def test_the_last_copy_on_a_node_that_does_not_admit_it_is_not_swept(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO, "dev.pkg", stage="dev")
        assert node.package("dev.pkg").presence is Presence.HELD
        doc = await node.store.get("packages", node.package("dev.pkg").id)
        assert doc is not None
        gone = {"presence": "not_admitted", "held_sha256": "", "held_filename": ""}
        await node.store.replace("packages", {**doc, **gone})
        await node.catalogue.refresh(doc["_id"])
        await node.maintenance.sweep(-1)
        assert node.here() == {sha(ONE), sha(TWO)}
        assert node.package("dev.pkg").held_sha256 == sha(TWO)

    run(test)


@pytest.mark.parametrize("how", ["expired", "no room"])
def test_what_is_renewed_or_restored_while_it_is_to_be_deleted_stays(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        real = node.trash._all

        async def then_renew(now: int) -> list[Any]:
            found = await real(now)
            node.clock.ms += 1
            await node.trash.renew(node.package().id, sha(ONE))
            return found

        async def delete() -> None:
            if how == "no room":
                node.blobs._floor, node.free_bytes = 1, 1
                await node.trash.make_room(0)
            else:
                node.clock.ms += 8 * DAY_MS
                await node.trash.purge()

        with monkeypatch.context() as patch:
            patch.setattr(node.trash, "_all", then_renew)
            await delete()
        assert node.here() == {sha(ONE), sha(TWO)}
        await node.runner.stop(5)
        _, job = await node.restore.request(NAME, "", actor="jo")
        await delete()
        assert node.here() == {sha(ONE), sha(TWO)}, "a job is about to publish it"
        await node.store.cancel_job(job.id, now=node.clock())
        await delete()
        assert node.here() == {sha(TWO)}

    run(test)


def test_a_public_name_that_could_not_be_taken_away_goes_later(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO, "other.pkg")

        def fail(_name: str) -> None:
            raise StorageError("The disk does not work.")

        with monkeypatch.context() as patch:
            patch.setattr(node.blobs, "unpublish", fail)
            with pytest.raises(StorageError):
                await node.packages.withdraw(node.package().id, actor="jo")
        assert (node.layout.packages / NAME).exists()
        await node.maintenance.sweep(60)
        assert (node.layout.packages / NAME).exists(), "it is too young"
        await node.maintenance.sweep(-1)
        assert [path.name for path in node.layout.packages.iterdir()] == ["other.pkg"]

    run(test)


def test_a_withdrawn_package_that_comes_back_while_it_is_forgotten_stays(run: Callable[[Test], None]) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.packages.withdraw(node.package().id, actor="jo")
        doc = await node.store.get("packages", node.package().id)
        assert doc is not None
        await node.store.replace("packages", {**doc, "reason": "written by another process"})
        node.clock.ms += 100 * DAY_MS

        class NoUploads:
            async def expire(self) -> None:
                """There are none."""

        node.maintenance._uploads = NoUploads()  # type: ignore[assignment]
        await node.maintenance.purge()
        assert await node.store.get("packages", doc["_id"]) is not None

    run(test)


@pytest.mark.parametrize("how", ["expired", "no room"])
@pytest.mark.parametrize("kept_as", ["unclaimed", "version"])
def test_bytes_that_a_record_names_which_cannot_be_followed_yet_outlive_their_time(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, kept_as: str
) -> None:
    """The disk refuses the name: there is no view of the package, and this may be the only copy."""

    async def test(node: World) -> None:
        await node.put(FOUR if kept_as == "version" else ONE)
        await node.put(TWO)
        if kept_as == "unclaimed":
            node.lay(FOUR)
        await node.started().clean_files()
        publish = node.blobs.publish

        def refuse(sha256: str, filename: str) -> None:
            if filename == "four.pkg":
                raise StorageError("The disk refuses the name.")
            publish(sha256, filename)

        with monkeypatch.context() as patch:
            patch.setattr(node.blobs, "publish", refuse)
            async with peer_of(node, tmp_path) as peer:
                await peer.put(FOUR, "four.pkg")
                await node.hear(peer)
            if how == "no room":
                node.blobs._floor, node.free_bytes = 1, 1
            node.clock.ms += 8 * DAY_MS
            for _ in range(2):
                await node.holdings.settle_noted()
                await node.trash.purge()
                await node.maintenance.sweep(-1)
            assert sha(FOUR) in node.here()
        node.blobs._floor, node.free_bytes = 0, 10**12
        async with asyncio.timeout(30):
            while sha(FOUR) not in node.catalogue.held_names().values():
                await node.holdings.settle_noted()
                await asyncio.sleep(0.02)
        assert (node.layout.packages / "four.pkg").read_bytes() == FOUR
        await node.trash.purge()
        assert await node.store.count("superseded", {"package": ""}) == 0, "it has a name again"

    run(test)


def test_what_lies_under_a_database_that_is_not_believed_has_its_days_once_it_is(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    """Whatever the clock says, and even if something gave the files another time meanwhile."""

    async def test(node: World) -> None:
        node.lay(FOUR)
        node.blobs._floor, node.free_bytes = 1, 1  # and it would like room
        for _ in range(2):
            await node.started().clean_files()
            node.clock.ms += 30 * DAY_MS
            await node.trash.purge()
            await node.maintenance.sweep(-1)
            assert node.here() == {sha(FOUR)}
        node.blobs._floor, node.free_bytes = 0, 10**12
        node.blobs.path(sha(FOUR)).chmod(0o640)  # it changed after the process began
        async with peer_of(node, tmp_path) as peer:
            await peer.put(ONE)
            await node.hear(peer)
        for _ in range(2):
            await node.trash.purge()
            await node.maintenance.sweep(-1)
            assert node.here() == {sha(FOUR)}
            node.clock.ms += 6 * DAY_MS
        node.clock.ms -= 5 * DAY_MS
        await node.trash.purge()
        assert node.here() == set()

    run(test)


def test_what_a_process_found_at_its_start_is_no_leftover_of_its_own(run: Callable[[Test], None]) -> None:
    """Its times do not count: the clock may have been wrong, or something touched the file since."""

    async def test(node: World) -> None:
        await node.put(ONE)
        node.lay(FOUR)
        await node.maintenance.clean_files()
        await node.store.delete("superseded", {"package": ""})  # as if a record had named it until now
        node.blobs.path(sha(FOUR)).chmod(0o640)
        await node.maintenance.sweep(-1)
        assert node.here() == {sha(ONE), sha(FOUR)}

    run(test)


def test_a_clock_that_is_set_while_the_trash_is_purged_ends_no_days(
    run: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        await node.put(TWO)
        node.lay(FOUR)
        await node.started().clean_files()
        for looks in range(4):  # it is set behind so many looks at it
            left = [looks]

            def now(left: list[int] = left) -> int:
                left[0] -= 1
                return node.clock() + (3650 * DAY_MS if left[0] < 0 else 0)

            with monkeypatch.context() as patch:
                patch.setattr(node.trash, "_now", now)
                await node.trash.purge()
                await node.trash.trim(node.package().id)
            assert node.here() == {sha(ONE), sha(TWO), sha(FOUR)}

    run(test)


def test_fsck_leaves_the_file_of_a_record_that_it_removes(
    run: Callable[[Test], None], tmp_path: Path
) -> None:
    """The record is a peer's, and right: the clock here is behind. It comes back, and nobody else has the bytes."""

    async def test(node: World) -> None:
        await node.put(ONE)
        node.lay(FOUR)
        async with peer_of(node, tmp_path) as peer:
            await peer.put(FOUR, "four.pkg")
            await node.hear(peer)
            async with asyncio.timeout(30):
                while node.package("four.pkg").presence is not Presence.HELD:
                    await asyncio.sleep(0.02)
            id = node.package("four.pkg").id
            node.clock.ms -= 5 * AHEAD_MS
            fsck = Fsck(
                store=node.store, layout=node.layout, blobs=node.blobs, now=node.clock, identity=node.identity
            )
            report = await fsck.run(repair=True)
            assert [each.repaired for each in report.problems if each.subject == f"package:{id}"] == [
                "removed; the node keeps its file for packages.keep_days, in case a peer has its record, "
                "and then deletes it"
            ]
            assert report.ok
            assert node.here() == {sha(ONE), sha(FOUR)}
            assert [path.name for path in node.layout.packages.iterdir()] == [NAME]
            node.clock.ms += 5 * AHEAD_MS
            await node.catalogue.load()
            await node.started().clean_files()
            await node.hear(peer)
        async with asyncio.timeout(30):
            while node.package("four.pkg").presence is not Presence.HELD:
                await asyncio.sleep(0.02)
        assert node.blobs.quarantined() == []
        assert (node.layout.packages / "four.pkg").read_bytes() == FOUR

    run(test)


@pytest.mark.parametrize("database", ["empty", "older"])
def test_what_is_set_aside_has_its_days_from_when_this_database_sees_it(
    run: Callable[[Test], None], database: str
) -> None:
    """A file from long ago may be the last copy of a package whose record comes from a peer in a moment."""

    async def test(node: World) -> None:
        if database == "older":
            await node.put(ONE)
        node.layout.damaged(sha(FOUR)).write_bytes(FOUR[:-1])
        note = node.layout.quarantine / "note.txt"
        note.write_text("look at this")
        node.clock.ms += 10_000 * DAY_MS  # by this clock it lies there for years
        node.wrong_ms += 10_000 * DAY_MS
        await node.verifying.look()
        assert len(node.blobs.quarantined()) == 1
        node.clock.ms += 20 * 3_600_000
        await node.verifying.look()
        assert len(node.blobs.quarantined()) == 1
        node.layout.damaged(sha(FOUR)).chmod(0o600)  # another one, or it is moved: its days begin anew
        await node.verifying.look()
        node.clock.ms += 20 * 3_600_000
        await node.verifying.look()
        assert len(node.blobs.quarantined()) == 1
        node.clock.ms += 20 * 3_600_000
        await node.verifying.look()
        assert len(node.blobs.quarantined()) == (database == "empty")
        assert note.exists(), "somebody put it there"

    run(test)


def test_what_is_set_aside_stays_while_a_record_names_it_that_cannot_be_followed(
    run: Callable[[Test], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: World) -> None:
        await node.put(ONE)
        node.layout.damaged(sha(FOUR)).write_bytes(FOUR[:-1])
        await node.verifying.look()

        async def refuse(*_: Any, **__: Any) -> None:
            raise StorageError("The disk fails.")

        with monkeypatch.context() as patch:
            patch.setattr(node.holdings, "_situation", refuse)
            async with peer_of(node, tmp_path) as peer:
                await peer.put(FOUR, "four.pkg")
                await node.hear(peer)
        node.clock.ms += 2 * DAY_MS
        await node.verifying.look()
        assert len(node.blobs.quarantined()) == 1

    run(test)
