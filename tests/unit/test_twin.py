"""How a twin is told from an earlier life of the node."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from appliance.domain.errors import StoreUnavailable, TwinRunning
from appliance.domain.event import EventType
from appliance.domain.node import NodeBody
from appliance.domain.record import Record, RecordKind
from appliance.peering.identity import Identity
from appliance.peering.records import sign_record
from appliance.service.journal import SYSTEM, entry
from appliance.service.replication import Replication
from appliance.service.twin import SEEN, Run, TwinGuard
from appliance.store.opening import open_store
from appliance.store.ports import Store

ME, OTHER = Identity.generate(), Identity.generate()


def record(run: Run, *, author: Identity = ME, deleted: bool = False, url: str = "http://copy") -> Record:
    body = asdict(NodeBody(name="b", url=url, stage="prod", version="1"))
    fields = run.fields() if run.id else {}
    return sign_record(
        author,
        kind=RecordKind.NODE,
        id=ME.node_id,
        revision=1,
        at=1,
        deleted=deleted,
        body={**body, **fields},
    )


def guard(store: Store) -> TwinGuard:
    return TwinGuard(store=store, node_id=ME.node_id, now=lambda: 1)


async def noted(guard: TwinGuard) -> bool:
    event = entry(EventType.NODE_ROLLED_BACK, at=1, actor=SYSTEM, subject="x")
    return await guard.note_once("notice", event)


Test = Callable[[Store, Store], Awaitable[None]]


def with_stores(tmp_path: Path, test: Test) -> None:
    async def run() -> None:
        stores = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            stores.append(await open_store("", tmp_path / name))
        try:
            await test(*stores)
        finally:
            for store in stores:
                await store.close()

    asyncio.run(run())


async def started(store: Store, *, serving: bool = True) -> TwinGuard:
    made = guard(store)
    await made.start(serving=serving)
    return made


def test_a_copy_and_its_original_notice_each_other(tmp_path: Path) -> None:
    async def test(one: Store, two: Store) -> None:
        original = await started(one)
        first = record(original.run_after(None))
        copy = await started(two)  # its database has the original's record
        second = record(copy.run_after(first))
        assert await original.proven_by(second), "it names our run, so it was written after we began"
        assert not await copy.proven_by(first), "that may be an earlier life"
        third = record(original.run_after(second))
        assert await copy.proven_by(third)
        await original.found(second)
        await copy.found(third)
        for twin in (original, copy):
            assert not twin.writing
            with pytest.raises(TwinRunning, match=r"at http://copy.*Stop one"):
                twin.check()
        assert await one.count("events", {"type": "node.twin_detected"}) == 1
        # The copy is ended, the original restarted.
        original = await started(one)
        assert original.writing
        assert not await original.proven_by(third)
        assert not await original.proven_by(second)
        fourth = record(original.run_after(third))
        assert await copy.proven_by(fourth), "the copy, if it still ran, would notice"

    with_stores(tmp_path, test)


def test_what_cannot_be_written_down_is_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that proves a twin comes once: the node writes nothing, also if the database was away then."""

    async def test(one: Store, two: Store) -> None:
        original = await started(one)
        copy = await started(two)
        second = record(copy.run_after(record(original.run_after(None))))

        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(one, "renew_feed", away)
            with pytest.raises(StoreUnavailable):
                await original.found(second)
        assert await noted(original), "another notice, which wakes those who follow them"
        await original._look()
        assert not original.writing

    with_stores(tmp_path, test)


def test_what_a_worker_passes_on_is_looked_at_until_that_is_done(tmp_path: Path) -> None:
    async def test(one: Store, _two: Store) -> None:
        serving = await started(one)
        worker = await started(one, serving=False)
        asked = 0

        async def passed_on() -> None:
            nonlocal asked
            asked += 1
            if asked == 1:
                raise StoreUnavailable

        serving.on_passed_on = passed_on
        await worker.pass_on()
        follow = asyncio.create_task(serving.follow())
        try:
            async with asyncio.timeout(30):
                while asked < 2:
                    await asyncio.sleep(0.05)
        finally:
            follow.cancel()

    with_stores(tmp_path, test)


def test_two_copies_of_an_original_that_is_gone(tmp_path: Path) -> None:
    async def test(one: Store, two: Store) -> None:
        gone = record(Run(id="w"))
        x, y = await started(one), await started(two)
        of_y = record(y.run_after(gone))
        assert not await x.proven_by(of_y), "y may have ended before x began"
        answer = record(x.run_after(of_y))
        assert await y.proven_by(answer)
        assert await x.proven_by(record(y.run_after(answer)))

    with_stores(tmp_path, test)


def test_an_earlier_life_is_no_twin(tmp_path: Path) -> None:
    """A database that was put back, whatever its clock says: the records of the life that is lost come back."""

    async def test(one: Store, _two: Store) -> None:
        lives = [await started(one) for _ in range(SEEN + 3)]
        records: list[Record] = []
        for life in lives:
            records.append(record(life.run_after(records[-1] if records else None)))
        now = await started(one)
        assert not any([await now.proven_by(each) for each in records])
        assert len(Run.of(records[-1]).seen) == SEEN
        for other in (
            record(Run()),  # of an older version
            record(Run(id="x", seen=("y",))),
            record(Run(id="x", seen=(now.run_after(None).id,)), author=OTHER, deleted=True),  # it was removed
        ):
            assert not await now.proven_by(other)

    with_stores(tmp_path, test)


def test_processes_of_one_node_are_no_twins(tmp_path: Path) -> None:
    async def test(one: Store, _two: Store) -> None:
        early = await started(one, serving=False)  # a worker that starts first
        before = record(early.run_after(None))
        serving = await started(one)
        worker = await started(one, serving=False)
        assert worker.run_after(None) == serving.run_after(None)
        written = record(serving.run_after(before))
        assert not await worker.proven_by(written)
        assert not await early.proven_by(written), "the serving process has just been restarted"
        follower = asyncio.create_task(early.follow())
        async with asyncio.timeout(10):
            # What one of them finds, all of them know.
            await worker.found(record(Run(id="x", seen=(serving.run_after(None).id,))))
            while early.writing:
                await asyncio.sleep(0.01)
            # What a worker takes in is looked at by the serving process.
            passed_on: list[str] = []

            async def look() -> None:
                passed_on.append("")

            early.on_passed_on = look
            await worker.pass_on()
            while not passed_on:
                await asyncio.sleep(0.01)
            again = await started(one)
            while not early.writing:
                await asyncio.sleep(0.01)
        follower.cancel()
        assert again.writing
        assert [await noted(again), await noted(early), await noted(again)] == [True, False, False]
        assert await noted(await started(one)), "once a start"

    with_stores(tmp_path, test)


@pytest.mark.parametrize("step", ["renew_feed", "batch"])
def test_it_is_written_down_once_the_database_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The record that proves a twin does not come again, and other processes of this node must stop too."""

    async def test(one: Store, two: Store) -> None:
        serving, worker = await started(one), await started(one, serving=False)
        copy = await started(two)
        second = record(copy.run_after(record(serving.run_after(None))))

        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(one, step, away)
            with pytest.raises(StoreUnavailable):
                await worker.found(second)
        async with asyncio.timeout(20):
            while serving.writing:
                await serving._look()
                await asyncio.sleep(0.02)
        await asyncio.sleep(0.6)
        assert await one.count("events", {"type": "node.twin_detected"}) == 1

    with_stores(tmp_path, test)


def test_what_was_found_before_a_restart_is_not_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(one: Store, two: Store) -> None:
        worker = await started(one, serving=False)
        copy = await started(two)
        second = record(copy.run_after(record(worker.run_after(None))))

        async def away(*_: object, **__: object) -> None:
            raise StoreUnavailable

        with monkeypatch.context() as patch:
            patch.setattr(one, "renew_feed", away)
            with pytest.raises(StoreUnavailable):
                await worker.found(second)
        again = await started(one)
        assert worker._writing_down is not None
        await asyncio.wait_for(worker._writing_down, 20)
        await again._look()
        assert again.writing

    with_stores(tmp_path, test)


def test_one_that_is_found_while_the_database_is_away_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """This node's answer cannot be written then; it writes nothing afterwards all the same."""

    async def test() -> None:
        found: list[Record] = []

        async def proven(_: Record) -> bool:
            return True

        async def note(record: Record) -> None:
            found.append(record)

        async def away() -> None:
            raise StoreUnavailable

        parts = dict.fromkeys(("records", "catalogue", "peers", "calls", "now", "store", "supervisor"))
        replication = Replication(
            **cast(Any, parts), holdings=cast(Any, SimpleNamespace()), intake=cast(Any, SimpleNamespace()),
            identity=ME, own=NodeBody(name="b", url="http://copy", stage="prod", version="1"),
            twins=cast(Any, SimpleNamespace(proven_by=proven, found=note)),
        )  # fmt: skip
        replication._speaks = True
        monkeypatch.setattr(replication, "own_record", away)
        second = record(Run(id="x"))
        with pytest.raises(StoreUnavailable):
            await replication._overtake(second)
        assert found == [second]

    asyncio.run(test())
