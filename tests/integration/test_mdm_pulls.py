"""What is wanted from an MDM has a job or was cancelled by a person, whatever ended the job; the newest bytes win."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.domain.mdm_errors import MdmUnreachable
from appliance.jobs.context import JobContext
from appliance.service.transfers import Transfers
from appliance.store.ports import Doc, Done, Failed, Retry
from jamf_bridge.intake.pulling import PULL_JOB, Pulling
from jamf_bridge.jamf_driver import JamfDriver
from jamf_bridge.jobs import sync_job
from tests.conftest import DATABASES
from tests.fakes.jamf.state import Content
from tests.integration.test_jamf_both_sides import NEVER, Sides, both_sides

NAME = "Tool-00.pkg"
FIRST, SECOND, THIRD = b"first", b"the second", b"and the third"


class Bench(Sides):
    """The two sides, step by step."""

    def upload(self, data: bytes) -> None:
        """An admin uploads a file in Jamf, which has hashed it."""
        self.jamf.admin_upload(NAME, Content(data=data), pending_s=0)

    async def look(self) -> None:
        """A sync without the jobs that it queues."""
        self.clock.ms += 61_000
        await self.bridge._syncing.run(sync_job(self.server, self.clock()), cast(JobContext, None))

    async def row(self) -> Doc:
        """What is known of the record."""
        (row,) = await self.node.store.find("mdm_remote", {"file_name": NAME})
        return row

    async def state(self) -> tuple[str, str]:
        row = await self.row()
        return row["state"], row["error"]

    async def jobs(self) -> list[Any]:
        """The active pulls."""
        found = await self.node.store.find_jobs({"name": PULL_JOB})
        return [job for job in found if job.state in {"todo", "doing"}]

    async def transfer(self) -> str:
        """The id of the newest transfer."""
        docs = await self.node.store.find("transfers", {}, order="updated_at", descending=True, limit=1)
        return str(docs[0]["_id"])

    @property
    def transfers(self) -> Transfers:
        """As people use them."""
        node = self.node
        transfers = Transfers(
            store=node.store, records=node.records, catalogue=node.catalogue, holdings=node.holdings,
            peers=cast(Any, None), node_id="n", now=self.clock,
        )  # fmt: skip
        transfers.pulls = self.bridge
        return transfers

    async def cancel_job(self) -> str:
        """A person cancels the job, as the API does it."""
        (job,) = await self.jobs()
        await self.transfers.job_cancelled(job, actor="me")
        await self.node.store.cancel_job(job.id, now=self.clock())
        return str(job.id)


@pytest.fixture(params=DATABASES)
def bench(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[Bench], Awaitable[None]]], None]:
    """Runs a test with a node that is connected to a Jamf Pro, which has no package yet."""
    name = f"pulls{abs(hash(request.node.name)) % 10**8}"
    database = request.getfixturevalue("mongod").url(name) if request.param == "mongo" else ""
    monkeypatch.setattr("tests.integration.test_jamf_both_sides.Sides", Bench)

    def run(test: Callable[[Bench], Awaitable[None]]) -> None:
        async def go() -> None:
            async with both_sides(tmp_path, random.Random(0), database) as (sides, url):
                assert isinstance(sides, Bench)
                await sides.connect(url)
                await sides.look()
                await test(sides)

        asyncio.run(go())

    return run


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no byte come."""

    async def fails(_driver: JamfDriver, *_args: object) -> Any:
        raise MdmUnreachable("no answer")
        yield b""

    monkeypatch.setattr(JamfDriver, "open_package", fails)


@pytest.mark.parametrize("ended", ["done", "failed", "cancelled"])
def test_what_is_wanted_gets_a_job_however_the_last_one_ended(bench: Any, ended: str) -> None:
    """`gave_up` did not run, a worker was killed, or an operator ended the job in the store."""

    async def test(sides: Bench) -> None:
        store = sides.node.store
        sides.upload(FIRST)
        await sides.look()
        (job,) = await sides.jobs()
        if ended == "cancelled":
            await store.cancel_job(job.id, now=sides.clock())
        else:
            (job,) = await store.claim("transfer", "w", now=sides.clock(), lease_ms=1000)
            await store.settle(job, Done() if ended == "done" else Failed(error="x"), now=sides.clock())
        assert (await sides.jobs(), await sides.state()) == ([], ("wanted", ""))
        await sides.look()
        assert len(await sides.jobs()) == 1
        await sides.look()
        await sides.run_jobs()
        assert sides.here(NAME) == FIRST
        assert (await sides.state(), sides.done[PULL_JOB]) == (("taken", ""), 1)

    bench(test)


def test_new_bytes_are_fetched_at_once_where_a_pull_waits_for_its_retry(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sides: Bench) -> None:
        sides.upload(FIRST)
        await sides.look()
        with monkeypatch.context() as patch:
            unreachable(patch)
            await sides.run_jobs()
        (job,) = await sides.jobs()
        await sides.node.store.settle(
            (await sides.node.store.claim("transfer", "w", now=sides.clock() + 60_000, lease_ms=1000))[0],
            Retry(run_at=sides.clock() + 3_600_000, error="later"), now=sides.clock(),
        )  # fmt: skip
        sides.upload(SECOND)
        await sides.look()
        (again,) = await sides.jobs()
        assert (again.id, again.run_at <= sides.clock()) == (job.id, True)
        await sides.run_jobs()
        assert sides.here(NAME) == SECOND

    bench(test)


@pytest.mark.parametrize("how", ["transfer", "job", "job that has not begun"])
def test_a_persons_cancellation_holds_until_the_bytes_change(
    bench: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sides: Bench) -> None:
        sides.upload(FIRST)
        await sides.look()
        if how != "job that has not begun":
            with monkeypatch.context() as patch:
                unreachable(patch)
                await sides.run_jobs()
        if how == "transfer":
            await sides.transfers.cancel(await sides.transfer(), actor="me")
        else:
            await sides.cancel_job()
        assert await sides.state() == ("failed", "cancelled")
        for _ in range(3):
            await sides.look()
            await sides.run_jobs()
        assert (await sides.jobs(), await sides.state()) == ([], ("failed", "cancelled"))
        sides.jamf.admin_upload(
            NAME, Content(data=FIRST), pending_s=NEVER
        )  # it works on them, and they are the same
        await sides.look()
        assert (await sides.state())[0] == "pending"
        sides.upload(FIRST)
        await sides.look()
        assert await sides.state() == ("failed", "cancelled")
        assert sides.here(NAME) is None
        sides.upload(SECOND)
        await sides.look()
        await sides.run_jobs()
        assert sides.here(NAME) == SECOND
        sides.upload(FIRST)
        await sides.look()
        assert (await sides.state())[0] == "wanted", "they changed twice"

    bench(test)


@pytest.mark.parametrize("how", ["transfer", "job"])
def test_a_person_who_retries_is_obeyed(bench: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(sides: Bench) -> None:
        sides.upload(FIRST)
        await sides.look()
        with monkeypatch.context() as patch:
            unreachable(patch)
            await sides.run_jobs()
        id = await sides.cancel_job()
        await sides.look()
        assert (await sides.jobs(), await sides.state()) == ([], ("failed", "cancelled"))
        if how == "transfer":
            await sides.transfers.retry(await sides.transfer(), actor="me")
        else:
            await sides.transfers.job_retried(await sides.node.store.retry_job(id, now=sides.clock()))
        await sides.run_jobs()
        assert sides.here(NAME) == FIRST

    bench(test)


def test_a_cancelled_pull_is_not_published_by_a_job_that_did_not_notice(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sides: Bench) -> None:
        real = Pulling._check_new

        async def cancelled(self: Pulling, *args: Any) -> None:
            await real(self, *args)
            await sides.transfers.cancel(await sides.transfer(), actor="me")

        monkeypatch.setattr(Pulling, "_check_new", cancelled)
        sides.upload(FIRST)
        await sides.look()
        (job,) = await sides.node.store.claim("transfer", "w", now=sides.clock(), lease_ms=60_000)
        await sides.bridge._pulling._pull(job.args["server"], job.args["remote"])
        assert (sides.here(NAME), await sides.state()) == (None, ("failed", "cancelled"))

    bench(test)


@pytest.mark.parametrize("moment", ["_check_new", "complete", "killed"])
@pytest.mark.parametrize("before", [b"", b"from before"])
def test_of_two_uploads_during_one_pull_the_newest_arrives(
    bench: Any, moment: str, before: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look sees the second upload before the first is published, right after, or after a kill behind that."""

    class Killed(Exception):
        pass

    async def test(sides: Bench) -> None:
        if before:
            await sides.put_here(NAME, before)
            await sides.look()
        sides.upload(FIRST)
        await sides.look()
        (job,) = await sides.node.store.claim("transfer", "w", now=sides.clock(), lease_ms=60_000)
        uploads = sides.bridge._pulling._uploads
        at: tuple[Any, str] = (Pulling, moment) if moment == "_check_new" else (uploads, "complete")
        real = getattr(*at)

        async def and_then(*args: Any, **options: Any) -> Any:
            found = await real(*args, **options)
            sides.upload(SECOND)
            await sides.look()
            if moment == "killed":
                raise Killed
            return found

        with monkeypatch.context() as patch:
            patch.setattr(*at, and_then)
            try:
                await sides.bridge._pulling._pull(job.args["server"], job.args["remote"])
            except Killed:
                assert moment == "killed"
        assert sides.here(NAME) == (FIRST if moment != "_check_new" else before or None)
        await sides.node.store.settle(job, Done(), now=sides.clock())
        assert (await sides.state())[0] == "wanted"
        assert len(await sides.jobs()) == 1, "without a further look"
        await sides.run_jobs()
        assert (sides.here(NAME), await sides.state()) == (SECOND, ("taken", ""))
        await sides.look()
        await sides.run_jobs()
        assert (sides.here(NAME), sides.there(NAME), await sides.state()) == (SECOND, SECOND, ("taken", ""))

    bench(test)


def test_a_file_that_a_person_put_here_after_the_first_of_two_uploads_is_not_replaced(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(sides: Bench) -> None:
        sides.upload(FIRST)
        await sides.look()
        await sides.run_jobs()
        sides.upload(SECOND)
        await sides.look()
        await sides.put_here(NAME, THIRD)
        await sides.run_jobs()
        await sides.look()
        assert sides.here(NAME) == THIRD
        assert (await sides.state())[0] == "conflict"

    bench(test)
