"""Records whose bytes lie in the MDM's own storage: never given hashes, conflicts shown once, uploads that converge."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.mdm_errors import MdmNeedsAttention, MdmRefused, MdmUnreachable
from appliance.domain.names import package_id
from appliance.domain.package import Presence
from appliance.jobs.context import JobContext
from appliance.store.ports import Done, Replace
from jamf_bridge.driver import Capabilities, CloudState, Driver, RemotePackage
from jamf_bridge.intake.remote import RowState, new_row
from jamf_bridge.mirror.mirroring import MirrorSummary
from jamf_bridge.mirror.upload_plan import BUDGET_MS, MAX_UPLOADS
from jamf_bridge.mirror.uploading import Uploading
from jamf_bridge.servers.server import Server, ServerState
from jamf_bridge.versions import LANDING_MS, note_sent
from tests.fakes.driver_d import FakeMdm, digests
from tests.unit.mirroring import DAY, Desk, package, with_desk


async def taken_in(
    desk: Desk, remote: RemotePackage, state: RowState = RowState.TAKEN, **values: Any
) -> None:
    """Intake has seen a record."""
    row = new_row("s1", remote)
    row |= {"state": str(state), "taken": remote.mark if state is RowState.TAKEN else "", **values}
    await desk.store.batch([Replace("mdm_remote", row)])


def ensured(desk: Desk) -> list[str]:
    return [call for call in desk.mdm.calls if call.startswith("ensure")]


def test_what_came_from_there_is_mirrored_without_a_request(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        record = desk.mdm.store("A.pkg", b"A.pkg")
        await desk.put(package("A.pkg"))
        for verify in (False, False, True):
            assert await desk.run(verify=verify) == MirrorSummary(unchanged=1)
        assert ensured(desk) == []
        link = await desk.link("A.pkg")
        assert (link["state"], link["remote_id"], link["ours"]) == ("mirrored", record.id, False)
        assert link["_rev"] == 1
        assert await desk.events("mdm.record_written") == []

    with_desk(tmp_path, test)


@pytest.mark.parametrize("kind", ["md5", "sha256", "sha3_512"])
def test_one_common_hash_is_enough(tmp_path: Path, kind: str) -> None:
    async def test(desk: Desk) -> None:
        desk.mdm.by_hand(
            "A.pkg", state=CloudState.READY, size=5, hashes={kind: digests(b"A.pkg")[kind].upper()}
        )
        await desk.put(package("A.pkg"))
        assert await desk.run() == MirrorSummary(unchanged=1)

    with_desk(tmp_path, test)


def test_hashes_are_computed_if_only_they_can_tell(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.mdm.by_hand("A.pkg", state=CloudState.READY, size=5, hashes={"md5": digests(b"A.pkg")["md5"]})
        await desk.put(package("A.pkg", hashes={}))
        assert await desk.run() == MirrorSummary(waiting=1)
        assert desk.digests.asked == [package_id("A.pkg")]
        await desk.put(package("A.pkg"), revision=2)
        assert await desk.run() == MirrorSummary(unchanged=1)

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    ("state", "size", "hashes"),
    [
        (CloudState.PENDING, None, {}),
        (CloudState.PENDING, 5, digests(b"other")),
        (CloudState.READY, 5, {}),
        (CloudState.READY, None, {"unknown": "x"}),
    ],
)
def test_what_cannot_be_told_yet_waits(
    tmp_path: Path, state: CloudState, size: int | None, hashes: dict[str, str]
) -> None:
    async def test(desk: Desk) -> None:
        desk.mdm.by_hand("A.pkg", state=state, size=size, hashes=hashes)
        await desk.put(package("A.pkg"))
        for _ in range(2):
            assert await desk.run() == MirrorSummary(waiting=1)
        assert ensured(desk) == []
        assert (await desk.link("A.pkg"))["_rev"] == 1

    with_desk(tmp_path, test)


def test_other_bytes_of_unknown_age_are_one_visible_conflict(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        record = desk.mdm.store("A.pkg", b"other")
        await desk.put(package("A.pkg"))
        for _ in range(3):
            assert await desk.run() == MirrorSummary(conflicts=1)
        (event,) = await desk.events("mdm.record_conflict")
        assert "cannot be told" in event["data"]["reason"]
        assert ensured(desk) == []
        assert desk.mdm.packages[record.id] == record, "nothing was written"
        desk.mdm.edit(record.id, hashes=digests(b"third"))
        await desk.run()
        assert len(await desk.events("mdm.record_conflict")) == 2, "another difference"
        desk.mdm.edit(record.id, hashes=digests(b"A.pkg"), size=5)
        assert await desk.run() == MirrorSummary(unchanged=1)
        desk.mdm.edit(record.id, hashes=digests(b"third"))
        await desk.run()
        assert len(await desk.events("mdm.record_conflict")) == 3, "it came again"

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    ("state", "values", "summary", "word"),
    [
        (RowState.WANTED, {}, MirrorSummary(waiting=1), "being taken in"),
        (RowState.PENDING, {}, MirrorSummary(waiting=1), "being taken in"),
        (RowState.TAKEN, {}, MirrorSummary(conflicts=1), "newer here"),
        (
            RowState.CONFLICT,
            {"error": "before the two were connected"},
            MirrorSummary(conflicts=1),
            "before the two",
        ),
        (RowState.QUARANTINED, {"error": "wrong bytes"}, MirrorSummary(conflicts=1), "wrong bytes"),
    ],
)
def test_who_is_newer_follows_from_what_was_taken_in(
    tmp_path: Path, state: RowState, values: dict[str, str], summary: MirrorSummary, word: str
) -> None:
    async def test(desk: Desk) -> None:
        record = desk.mdm.store("A.pkg", b"other")
        await taken_in(desk, record, state, **values)
        await desk.put(package("A.pkg"))
        assert await desk.run() == summary
        assert word in (await desk.link("A.pkg"))["error"]
        assert ensured(desk) == []

    with_desk(tmp_path, test)


def test_what_intake_leaves_out_is_not_waited_for(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        record = desk.mdm.store("A.pkg", b"other")
        await taken_in(desk, record, RowState.WANTED)
        await desk.put(package("A.pkg"))
        desk.configure("intake", enabled=False)
        assert await desk.run() == MirrorSummary(conflicts=1)

    with_desk(tmp_path, test)


# Uploads


class OneServer:
    """Stands for `Servers`."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.wrong: list[str] = []

    async def get(self, id: str) -> Server:
        """As `Servers.get`."""
        assert id == self.desk.server.id
        return self.desk.server

    async def driver(self, id: str) -> Driver:
        """As `Servers.driver`."""
        return self.desk.mdm

    async def attention(self, id: str, error: MdmNeedsAttention) -> None:
        """As `Servers.attention`."""
        self.wrong.append(error.message)


async def put_with_bytes(desk: Desk, name: str, data: bytes, **more: Any) -> None:
    made = package(name, data)
    path = desk.blobs.path(made.held_sha256)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    await desk.put(made, **more)


async def at_once() -> None:
    """Peers were read."""


async def work(desk: Desk, servers: OneServer | None = None) -> int:
    """Run the upload jobs that are queued; return how many."""
    uploading = Uploading(
        store=desk.store,
        servers=servers or OneServer(desk),
        catalogue=desk.catalogue,
        blobs=desk.blobs,
        caught_up=at_once,
        now=desk.clock,
    )
    jobs = await desk.store.claim("transfer", "w", now=desk.clock(), lease_ms=60_000, limit=10)
    for job in jobs:
        context = JobContext(job, asyncio.get_running_loop())
        await asyncio.to_thread(uploading.run, job, context)
        await desk.store.settle(job, Done(), now=desk.clock())
    return len(jobs)


def test_bytes_are_uploaded_and_done_when_the_mdm_states_our_hash(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()  # the record
        await desk.run()  # the upload is queued
        assert await work(desk) == 1
        assert desk.mdm.uploaded == ["A.pkg"]
        (record,) = desk.mdm.named("A.pkg")
        assert await desk.run() == MirrorSummary(waiting=1)
        assert (await desk.link("A.pkg"))["upload"]["state"] == "pending"
        desk.mdm.edit(record.id, state=CloudState.READY, size=5, hashes=digests(b"bytes"))
        assert await desk.run() == MirrorSummary(unchanged=1)
        link = await desk.link("A.pkg")
        assert (link["state"], link["upload"]["state"], link["ours"]) == ("mirrored", "done", True)
        desk.store.writes = 0
        await desk.run()
        assert desk.store.writes == 0
        assert await work(desk) == 0

    with_desk(tmp_path, test)


def test_a_newer_package_replaces_what_we_uploaded_before(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure("intake", enabled=False)
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        await work(desk)
        (record,) = desk.mdm.named("A.pkg")
        desk.mdm.edit(record.id, state=CloudState.READY, size=5, hashes=digests(b"bytes"))
        await desk.run()
        await put_with_bytes(desk, "A.pkg", b"newer bytes", revision=2)
        assert await desk.run() == MirrorSummary(waiting=1)
        await work(desk)
        assert desk.mdm.uploaded == ["A.pkg", "A.pkg"]
        # still computing: the hash is the previous one
        desk.mdm.edit(record.id, state=CloudState.READY, size=5, hashes=digests(b"bytes"))
        assert await desk.run() == MirrorSummary(waiting=1)
        desk.mdm.edit(record.id, state=CloudState.READY, size=11, hashes=digests(b"newer bytes"))
        assert await desk.run() == MirrorSummary(unchanged=1)
        assert await desk.events("mdm.record_conflict") == []

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    ("hashes", "size"),
    [({}, 6), ({"sha3_512": digests(b"theirs")["sha3_512"]}, None), ({"sha512": "f" * 128}, 6)],
)
def test_bytes_that_cannot_be_compared_are_not_replaced_by_an_upload(
    tmp_path: Path, hashes: dict[str, str], size: int | None
) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        theirs = desk.mdm.by_hand("A.pkg", state=CloudState.READY, size=size, hashes=hashes)
        made = package("A.pkg", b"bytes", hashes={})
        path = desk.blobs.path(made.held_sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"bytes")
        await desk.put(made)
        for _ in range(3):
            await desk.run()
            await work(desk)
        assert desk.mdm.uploaded == []
        assert desk.mdm.packages[theirs.id] == theirs

    with_desk(tmp_path, test)


async def queued(desk: Desk) -> str:
    """A package whose newer bytes wait to be uploaded over those that we uploaded before; the record's id."""
    desk.configure(upload=True)
    await put_with_bytes(desk, "A.pkg", b"bytes")
    await desk.run()
    await desk.run()
    await work(desk)
    (record,) = desk.mdm.named("A.pkg")
    desk.mdm.edit(record.id, state=CloudState.READY, size=5, hashes=digests(b"bytes"))
    await desk.run()
    await put_with_bytes(desk, "A.pkg", b"newer bytes", revision=2)
    await desk.run()
    return record.id


@pytest.mark.parametrize(
    "change",
    [
        {"size": 6, "hashes": digests(b"theirs")},
        {"file_name": "Else.pkg"},
        None,  # deleted
    ],
)
def test_an_upload_is_not_sent_over_what_came_up_since_it_was_decided(
    tmp_path: Path, change: dict[str, Any] | None
) -> None:
    async def test(desk: Desk) -> None:
        id = await queued(desk)
        if change is None:
            del desk.mdm.packages[id]
        else:
            desk.mdm.edit(id, **change)
        assert await work(desk) == 1
        assert desk.mdm.uploaded == ["A.pkg"], "the first one"
        assert (await desk.link("A.pkg"))["upload"]["sha256"] == "", "the next run decides anew"

    with_desk(tmp_path, test)


def test_an_upload_whose_answer_was_lost_is_not_sent_again(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        id = await queued(desk)
        desk.mdm.edit(id, size=11, hashes=digests(b"newer bytes"))
        assert await work(desk) == 1
        assert desk.mdm.uploaded == ["A.pkg"], "the first one"
        assert await desk.run() == MirrorSummary(unchanged=1)
        assert (await desk.link("A.pkg"))["upload"]["state"] == "done"

    with_desk(tmp_path, test)


def test_an_upload_waits_while_the_mdm_works_on_somebody_elses(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        id = await queued(desk)
        desk.mdm.edit(id, state=CloudState.PENDING)
        with pytest.raises(MdmUnreachable, match="still works"):
            await work(desk)
        assert desk.mdm.uploaded == ["A.pkg"]

    with_desk(tmp_path, test)


@pytest.mark.parametrize("late", [False, True])
def test_what_the_mdm_works_on_hours_after_an_upload_of_ours_is_somebody_elses(
    tmp_path: Path, late: bool
) -> None:
    async def test(desk: Desk) -> None:
        id = await queued(desk)
        newer = package("A.pkg", b"newer bytes")
        await note_sent(desk.store, "s1", newer, desk.clock())  # a try whose arrival was never seen
        desk.mdm.edit(id, state=CloudState.PENDING)
        desk.clock.ms += LANDING_MS - 1 + late
        if late:
            with pytest.raises(MdmUnreachable, match="still works"):
                await work(desk)
        else:
            await work(desk)
        assert desk.mdm.uploaded == ["A.pkg"] * (1 if late else 2)

    with_desk(tmp_path, test)


def test_a_refused_upload_is_tried_again_within_a_minute_and_five_times_at_most(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        desk.mdm.fault = refuse(MdmRefused("404: there is no such thing"))
        for _ in range(12):
            await work(desk)
            desk.clock.ms += 3_600_000
            await desk.run()
        assert len([call for call in desk.mdm.calls if call.startswith("upload")]) == MAX_UPLOADS
        await desk.run(verify=True)
        await desk.run()
        desk.mdm.fault = refuse(MdmRefused("404: there is no such thing"))
        await work(desk)
        desk.mdm.fault = lambda _call, _about: None
        desk.clock.ms += 60_000
        await desk.run()
        await work(desk)
        assert desk.mdm.uploaded == ["A.pkg"]

    with_desk(tmp_path, test)


def test_somebody_elses_bytes_are_never_replaced(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        desk.mdm.store("A.pkg", b"theirs")
        await put_with_bytes(desk, "A.pkg", b"bytes")
        for _ in range(2):
            assert await desk.run() == MirrorSummary(conflicts=1)
        assert await work(desk) == 0

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    "state", [RowState.CONFLICT, RowState.SKIPPED, RowState.FAILED, RowState.QUARANTINED]
)
def test_an_upload_over_which_other_bytes_came_up_is_a_conflict_and_not_awaited_for_ever(
    tmp_path: Path, state: RowState
) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        await work(desk)
        (record,) = desk.mdm.named("A.pkg")
        desk.mdm.edit(record.id, state=CloudState.READY, size=6, hashes=digests(b"theirs"))
        await taken_in(desk, desk.mdm.packages[record.id], state, error="it was not taken in")
        assert await desk.run() == MirrorSummary(waiting=1), "the MDM may still compute the hash of ours"
        desk.clock.ms += BUDGET_MS
        for _ in range(2):
            assert await desk.run() == MirrorSummary(conflicts=1)
        link = await desk.link("A.pkg")
        assert (link["state"], link["error"]) == ("conflict", "it was not taken in")
        assert len(await desk.events("mdm.record_conflict")) == 1
        assert await work(desk) == 0, "theirs are not replaced"
        desk.mdm.edit(record.id, size=5, hashes=digests(b"bytes"))
        assert await desk.run() == MirrorSummary(unchanged=1), "ours arrived after all"
        assert (await desk.link("A.pkg"))["upload"]["state"] == "done"

    with_desk(tmp_path, test)


@pytest.mark.parametrize(
    ("fields", "wait"),
    [
        ({"state": CloudState.ERROR, "size": None, "hashes": {}}, 0),
        ({"state": CloudState.READY, "size": 0, "hashes": {}}, 0),
        ({"state": CloudState.PENDING, "size": None, "hashes": {}}, BUDGET_MS),
    ],
)
def test_an_upload_that_never_lands_is_repeated_and_given_up(
    tmp_path: Path, fields: dict[str, Any], wait: int
) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        (record,) = desk.mdm.named("A.pkg")
        for _ in range(MAX_UPLOADS + 3):
            await desk.run()
            await work(desk)
            desk.mdm.edit(record.id, **fields)
            desk.clock.ms += wait
        assert len(desk.mdm.uploaded) == MAX_UPLOADS
        link = await desk.link("A.pkg")
        assert link["upload"]["state"] == "failed"
        assert "5 uploads" in link["upload"]["error"]
        await desk.run(verify=True)
        await desk.run()
        assert await work(desk) == 1, "a person may try again"

    with_desk(tmp_path, test)


def test_nothing_is_uploaded_where_there_is_no_storage_or_no_bytes(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.put(package("gone.pkg"))  # its file is not on the disk
        away = replace(package("B.pkg"), held_sha256="", held_filename="", presence=Presence.NOT_ADMITTED)
        await desk.put(away)
        desk.mdm.capability = Capabilities(package_records=True)
        for _ in range(2):
            await desk.run()
        assert await work(desk) == 0
        desk.mdm.capability = Capabilities(package_records=True, upload_package=True)
        await desk.run()
        assert await work(desk) == 1
        assert desk.mdm.uploaded == ["A.pkg"]

    with_desk(tmp_path, test)


def refuse(error: Exception) -> Callable[[str, str], None]:
    def fault(call: str, _about: str) -> None:
        if call == "upload":
            raise error

    return fault


def test_a_refused_upload_is_shown(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        desk.mdm.fault = refuse(MdmRefused("413: too large"))
        await work(desk)
        link = await desk.link("A.pkg")
        assert (link["upload"]["state"], link["error"]) == ("failed", "413: too large")
        await desk.run()
        assert await work(desk) == 0

    with_desk(tmp_path, test)


@pytest.mark.parametrize("error", [MdmUnreachable("away"), MdmNeedsAttention("no privilege")])
def test_an_upload_waits_for_the_server(tmp_path: Path, error: Exception) -> None:
    async def test(desk: Desk) -> None:
        servers = OneServer(desk)
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        desk.mdm.fault = refuse(error)
        with pytest.raises(MdmUnreachable):
            await work(desk, servers)
        assert servers.wrong == ([] if isinstance(error, MdmUnreachable) else ["no privilege"])
        assert (await desk.link("A.pkg"))["upload"]["state"] == "queued"

    with_desk(tmp_path, test)


def test_a_paused_server_gets_nothing(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        desk.server = replace(desk.server, state=ServerState.PAUSED)
        with pytest.raises(MdmUnreachable, match="not asked now"):
            await work(desk)
        assert desk.mdm.uploaded == []

    with_desk(tmp_path, test)


def test_an_upload_of_bytes_that_are_gone_ends(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        await put_with_bytes(desk, "A.pkg", b"newer", revision=2)
        await work(desk)
        assert desk.mdm.uploaded == []
        await desk.run()
        await desk.run()
        await work(desk)
        assert desk.mdm.uploaded == ["A.pkg"], "the newer bytes are uploaded"

    with_desk(tmp_path, test)


def test_a_run_and_an_upload_that_cross_lose_nothing(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()

        async def ensure(*args: Any, **kwargs: Any) -> Any:
            await work(desk)
            return await FakeMdm.ensure_package_record(desk.mdm, *args, **kwargs)

        made = package("A.pkg", b"bytes", notes="changed")
        await desk.put(made, revision=2)
        listed = await desk.mdm.list_packages()
        desk.mdm.ensure_package_record = ensure  # type: ignore[method-assign]
        await desk.run(listed)
        link = await desk.link("A.pkg")
        assert link["upload"]["state"] == "pending"

    with_desk(tmp_path, test)


def test_a_day_later_a_lost_upload_job_is_queued_again(tmp_path: Path) -> None:
    async def test(desk: Desk) -> None:
        desk.configure(upload=True)
        await put_with_bytes(desk, "A.pkg", b"bytes")
        await desk.run()
        await desk.run()
        (job,) = await desk.store.find_jobs({"name": "mdm.upload"})
        await desk.store.cancel_job(job.id, now=desk.clock())
        await desk.run()
        assert await work(desk) == 0
        desk.clock.ms += DAY + 1
        await desk.run()
        assert await work(desk) == 1

    with_desk(tmp_path, test)
