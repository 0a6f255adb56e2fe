"""Rows that are deleted when they are old, and those that stay."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.job import Job
from appliance.domain.package import Package, Presence
from appliance.domain.record import RecordKind
from appliance.domain.states import JobState, TransferState
from appliance.service.catalogue import package_doc
from appliance.service.fetch_jobs import new_transfer_doc
from appliance.service.maintenance import DAY_MS, Maintenance
from appliance.store.ports import Done, Failed, Store
from tests.builders import package_body

from .test_digests import Clock, Node


class World(Node):
    """A node that is cleaned."""

    def __init__(self, store: Store, root: Path) -> None:
        super().__init__(store, root, Clock())

        async def nothing() -> None: ...

        self.maintenance = Maintenance(
            store=store, records=self.records, catalogue=self.catalogue, trash=self.trash, blobs=self.blobs,
            holdings=self.holdings, uploads=cast(Any, SimpleNamespace(expire=nothing)), now=self.clock,
        )  # fmt: skip

    async def transfer(self, name: str, presence: Presence, **fields: Any) -> Package:
        """A package and how a transfer of it ended."""
        view = Package(
            id=name, revision=1, author="n", at=self.clock.ms, withdrawn=False, presence=presence,
            body=package_body(f"{name}.pkg", name.encode()), reason="",
        )  # fmt: skip
        self.catalogue.take(await self.store.replace("packages", package_doc(view, self.clock.ms)))
        doc = new_transfer_doc(view, self.clock.ms)
        await self.store.replace("transfers", {**doc, "state": str(TransferState.CANCELLED), **fields})
        return view

    async def ended(self, id: str, outcome: Done | Failed) -> None:
        """A job that ended."""
        await self.store.enqueue(Job(id=id, queue="duty", name="x", run_at=1, created_at=1))
        [job] = await self.store.claim("duty", "w", now=self.clock.ms, lease_ms=1000)
        await self.store.settle(job, outcome, now=self.clock.ms)

    async def transfers(self) -> list[str]:
        """The packages whose transfers are there."""
        return sorted(doc["package"] for doc in await self.store.find("transfers", limit=2000))


@pytest.fixture
def run(with_store: Any, tmp_path: Path) -> Any:
    """Runs a test with a node, on SQLite and on MongoDB."""
    return lambda test: with_store(lambda store: test(World(store, tmp_path)))


def test_a_cancel_of_a_person_stays_while_its_bytes_are_wanted(run: Any) -> None:
    async def test(node: World) -> None:
        await node.transfer("by-jo", Presence.WAITING, cancelled_by="jo")
        await node.transfer("before", Presence.WAITING, error="cancelled by jo")
        await node.transfer("here", Presence.HELD, cancelled_by="jo")
        old = await node.transfer("replaced", Presence.WAITING, cancelled_by="jo")
        new = replace(old, body=package_body("replaced.pkg", b"other bytes"))
        node.catalogue.take(await node.store.replace("packages", package_doc(new, node.clock.ms)))
        await node.transfer("unwanted", Presence.WAITING, error="no longer wanted")
        for number in range(600):
            await node.store.replace(
                "transfers",
                {
                    "_id": f"{number}", "package": "done", "sha256": "", "state": "done", "error": "",
                    "updated_at": node.clock.ms,
                },
            )  # fmt: skip
        await node.maintenance.purge()
        assert len(await node.transfers()) == 605
        node.clock.ms += 31 * DAY_MS
        await node.maintenance.purge()
        assert await node.transfers() == ["before", "by-jo"]

    run(test)


def test_jobs_that_ended_go_after_a_week_also_those_that_failed(run: Any) -> None:
    async def test(node: World) -> None:
        await node.ended("d", Done())
        await node.ended("f", Failed(error="no"))
        node.clock.ms += 6 * DAY_MS
        await node.maintenance.purge()
        assert {job.state for job in await node.store.find_jobs()} == {JobState.DONE, JobState.FAILED}
        node.clock.ms += DAY_MS
        await node.store.enqueue(Job(id="w", queue="duty", name="x", run_at=1))
        await node.maintenance.purge()
        assert [job.id for job in await node.store.find_jobs()] == ["w"]

    run(test)


def test_a_clock_that_is_ahead_for_a_while_buries_no_tombstone(run: Any) -> None:
    async def test(node: World) -> None:
        gone = await node.publish("Gone.pkg")
        await node.packages.withdraw(gone.id, actor="me")

        async def known() -> bool:
            return (await node.records.known(RecordKind.PACKAGE, gone.id)).record is not None

        await node.maintenance.purge()
        for moved in (100 * DAY_MS, -100 * DAY_MS):
            node.clock.ms += moved
            node.wrong_ms += moved
            await node.maintenance.purge()
            assert await known()
            assert node.package("Gone.pkg").withdrawn
        for _ in range(90):
            assert await known()
            node.clock.ms += DAY_MS
            await node.maintenance.purge()
        node.clock.ms += DAY_MS
        await node.maintenance.purge()
        assert not await known()
        assert node.catalogue.by_id(gone.id) is None
        notes = await node.store.get("node", "tombstones")
        assert notes is not None
        assert len(notes["days"]) <= 92

    run(test)


def test_a_tombstone_that_came_late_stays_as_long(run: Any) -> None:
    async def test(node: World) -> None:
        for _ in range(95):
            await node.maintenance.purge()
            node.clock.ms += DAY_MS
        gone = await node.publish("Gone.pkg")
        await node.packages.withdraw(gone.id, actor="me")
        node.clock.ms += 91 * DAY_MS
        node.wrong_ms += 91 * DAY_MS
        await node.maintenance.purge()
        assert (await node.records.known(RecordKind.PACKAGE, gone.id)).record is not None

    run(test)
