"""What every metadata store does with jobs."""

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from appliance.domain.errors import DuplicateKey, InvalidTransition, JobUnknown, LeaseLost
from appliance.domain.job import Job
from appliance.domain.states import JobState
from appliance.store.ports import Done, Enqueue, Failed, Insert, Retry, Store

from .conftest import Place

NOW = 1_790_000_000_000


def job(id: str = "j", **more: Any) -> Job:
    fields: dict[str, Any] = {
        "queue": "hash",
        "name": "work",
        "run_at": NOW,
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Job(id=id, **{**fields, **more})


async def claim_one(store: Store, now: int = NOW, worker: str = "w") -> Job:
    (taken,) = await store.claim("hash", worker, now=now, lease_ms=1000)
    return taken


async def stored(store: Store, id: str = "j") -> Job:
    found = await store.get_job(id)
    assert found is not None
    return found


def test_a_job_survives_the_round_trip(place: Place) -> None:
    async def test(store: Store) -> None:
        given = job(args={"a": [1, {"b": None}], "size": 2**40}, key="k", priority=-5)
        assert await store.enqueue(given)
        assert await stored(store) == given
        assert isinstance((await stored(store)).state, JobState)
        assert await store.get_job("nobody") is None
        with pytest.raises(DuplicateKey):
            await store.enqueue(job())
        with pytest.raises(ValueError):  # noqa: PT011
            await store.enqueue(job("x", args={"bad": object()}))

    place.run(test)


def test_claim(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job("late", run_at=NOW + 1, priority=99))
        await store.enqueue(job("other", queue="default"))
        await store.enqueue(job("b", run_at=NOW - 5))
        await store.enqueue(job("a", run_at=NOW - 5))
        await store.enqueue(job("first", run_at=NOW - 9))
        await store.enqueue(job("urgent", priority=1))
        taken = await store.claim("hash", "w1", now=NOW, lease_ms=1000, limit=3)
        assert [each.id for each in taken] == ["urgent", "first", "a"]
        assert taken[0] == replace(
            job("urgent", priority=1), state=JobState.DOING, worker="w1", lease_until=NOW + 1000,
            attempts=1, token=1, updated_at=NOW,
        )  # fmt: skip
        assert await stored(store, "urgent") == taken[0]
        assert [each.id for each in await store.claim("hash", "w2", now=NOW, lease_ms=1000, limit=9)] == ["b"]
        assert await store.claim("hash", "w2", now=NOW, lease_ms=1000) == []
        assert [each.id for each in await store.claim("hash", "w2", now=NOW + 1, lease_ms=9)] == ["late"]
        assert await store.count("jobs", {"state": "doing"}) == 5

    place.run(test)


def test_an_ended_lease_is_claimed_again(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job())
        first = await claim_one(store)
        assert await store.claim("hash", "w2", now=NOW + 999, lease_ms=1000) == []
        second = await claim_one(store, NOW + 1000, "w2")
        assert (second.attempts, second.token, second.worker) == (2, 2, "w2")
        for outcome in (Done(), Failed(error="x"), Retry(run_at=NOW)):
            with pytest.raises(LeaseLost):
                await store.settle(first, outcome, now=NOW + 1001)
        assert await store.extend([first, second], until=NOW + 9000) == ["j"]
        assert await stored(store) == replace(second, lease_until=NOW + 9000)
        assert (await store.settle(second, Done(), now=NOW + 1002)).state is JobState.DONE
        with pytest.raises(LeaseLost):
            await store.settle(second, Done(), now=NOW + 1003)

    place.run(test)


def test_an_ended_lease_that_nobody_took_still_settles(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job())
        taken = await claim_one(store)
        assert (await store.settle(taken, Done(), now=NOW + 5000)).state is JobState.DONE

    place.run(test)


def test_extend(place: Place) -> None:
    async def test(store: Store) -> None:
        for number in range(3):
            await store.enqueue(job(f"j{number}"))
        taken = await store.claim("hash", "w", now=NOW, lease_ms=1000, limit=3)
        await store.cancel_job("j1", now=NOW + 1)
        assert await store.extend([*taken, job("nobody")], until=NOW + 7000) == ["j1", "nobody"]
        assert await store.claim("hash", "w2", now=NOW + 6999, lease_ms=1, limit=9) == []
        assert len(await store.claim("hash", "w2", now=NOW + 7000, lease_ms=1, limit=9)) == 2
        assert await store.extend([], until=NOW) == []

    place.run(test)


@pytest.mark.parametrize(
    ("outcome", "changes"),
    [
        (Done(), {"state": JobState.DONE}),
        (Failed(error="no"), {"state": JobState.FAILED, "error": "no"}),
        (
            Retry(run_at=NOW + 50, error="later"),
            {"state": JobState.TODO, "run_at": NOW + 50, "error": "later"},
        ),
        (Retry(run_at=NOW + 50, count=False), {"state": JobState.TODO, "run_at": NOW + 50, "attempts": 0}),
    ],
    ids=str,
)
def test_settle(place: Place, outcome: Any, changes: dict[str, Any]) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job(key="k"))
        taken = await claim_one(store)
        settled = await store.settle(taken, outcome, now=NOW + 7)
        assert settled == replace(taken, worker="", lease_until=0, updated_at=NOW + 7, **changes)
        assert await stored(store) == settled
        # The key is free exactly when the job has ended.
        assert await store.enqueue(job("next", key="k")) is (settled.state is not JobState.TODO)

    place.run(test)


@pytest.mark.parametrize(
    ("outcome", "changes"),
    [
        (Done(), {"attempts": 0, "error": ""}),
        (Failed(error="no"), {"attempts": 0, "error": "no"}),
        (Retry(run_at=NOW + 50, error="later"), {"attempts": 1, "error": "later"}),
    ],
    ids=str,
)
def test_what_was_enqueued_while_it_ran_runs_again(
    place: Place, outcome: Any, changes: dict[str, Any]
) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job(key="k", args={"n": 1}))
        taken = await claim_one(store)
        assert not await store.enqueue(job("second", key="k", args={"n": 2}))
        assert not await store.enqueue(job("third", key="k"))
        assert await store.get_job("second") is None
        assert await stored(store) == replace(taken, again=True)
        assert await store.claim("hash", "w", now=NOW, lease_ms=1) == []
        settled = await store.settle(taken, outcome, now=NOW + 7)
        assert settled == replace(
            taken,
            state=JobState.TODO,
            worker="",
            lease_until=0,
            run_at=NOW + 7,
            updated_at=NOW + 7,
            **changes,
        )
        assert await stored(store) == settled
        again = await claim_one(store, NOW + 7)
        assert (again.token, again.again, again.args) == (2, False, {"n": 1})
        assert (await store.settle(again, Done(), now=NOW + 8)).state is JobState.DONE

    place.run(test)


def test_a_run_that_begins_later_sees_what_was_enqueued(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job(key="k"))
        await claim_one(store)
        assert not await store.enqueue(job("second", key="k"))
        taken = await claim_one(store, NOW + 1000, "w2")  # the first worker died
        assert not taken.again
        assert (await store.settle(taken, Done(), now=NOW + 1001)).state is JobState.DONE

    place.run(test)


def test_a_waiting_job_with_the_key_is_hurried(place: Place) -> None:
    async def test(store: Store) -> None:
        assert await store.enqueue(job(key="k", run_at=NOW + 100, priority=5))
        assert not await store.enqueue(job("x", key="k", run_at=NOW + 50, priority=1, updated_at=NOW + 1))
        assert not await store.enqueue(job("y", key="k", run_at=NOW + 80, priority=7))
        assert await stored(store) == job(key="k", run_at=NOW + 50, priority=7, updated_at=NOW + 1)
        assert await store.enqueue(job("unkeyed1"))
        assert await store.enqueue(job("unkeyed2"))
        (doc,) = await store.batch([Enqueue(job("z", key="k", run_at=NOW))])
        assert doc is not None
        assert (doc["_id"], doc["run_at"]) == ("j", NOW)
        assert await store.count("jobs") == 3

    place.run(test)


def test_many_enqueue_the_same_key_at_once(place: Place) -> None:
    async def test(store: Store) -> None:
        direct = [store.enqueue(job(f"d{number}", key="k")) for number in range(10)]
        batched = [
            store.batch([Insert("events", {"_id": f"e{number}"}), Enqueue(job(f"b{number}", key="k"))])
            for number in range(10)
        ]
        done = await asyncio.gather(*direct, *batched)
        assert sum(each is True for each in done[:10]) <= 1
        assert await store.count("jobs") == 1
        assert await store.last_sequence("events") == 10
        taken = await claim_one(store)
        await store.settle(taken, Done(), now=NOW)
        assert await store.enqueue(job("after", key="k"))

    place.run(test)


def test_retry_by_hand(place: Place) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(JobUnknown):
            await store.retry_job("j", now=NOW)
        await store.enqueue(job(key="k"))
        taken = await claim_one(store)
        assert await store.retry_job("j", now=NOW) == taken
        await store.settle(taken, Failed(error="no"), now=NOW)
        retried = await store.retry_job("j", now=NOW + 5)
        assert (retried.state, retried.attempts, retried.run_at) == (JobState.TODO, 0, NOW + 5)
        assert await stored(store) == retried
        taken = await claim_one(store, NOW + 5)
        assert taken.token == 2
        await store.settle(taken, Retry(run_at=NOW + 999), now=NOW + 6)
        assert (await store.retry_job("j", now=NOW + 7)).run_at == NOW + 7
        await store.settle(await claim_one(store, NOW + 7), Done(), now=NOW + 8)
        with pytest.raises(InvalidTransition):
            await store.retry_job("j", now=NOW + 9)

    place.run(test)


def test_one_that_waits_can_go_first(place: Place) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(JobUnknown):
            await store.prioritize_job("j", now=NOW)
        for id in ("a", "b", "c"):
            await store.enqueue(job(id, run_at=NOW + 60_000 if id == "c" else NOW))
        await store.prioritize_job("b", now=NOW)
        await store.prioritize_job("c", now=NOW + 1)
        taken = await store.claim("hash", "w", now=NOW + 1, lease_ms=1000, limit=3)
        assert [one.id for one in taken] == ["c", "b", "a"], "the last that was put first is the first"
        with pytest.raises(InvalidTransition):
            await store.prioritize_job("a", now=NOW + 2)

    place.run(test)


def test_what_was_put_off_while_the_clock_was_ahead_waits_from_now(place: Place) -> None:
    async def test(store: Store) -> None:
        ahead = NOW + 7_200_000
        with pytest.raises(JobUnknown):
            await store.put_off_again("j", now=NOW, lease_ms=1000)
        await store.enqueue(job("late", run_at=ahead + 300, updated_at=ahead))
        await store.enqueue(job("due", run_at=NOW - 5, updated_at=ahead))
        for id in ("late", "due"):
            await store.put_off_again(id, now=NOW, lease_ms=1000)
        assert [(await stored(store, id)).run_at for id in ("late", "due")] == [NOW + 300, NOW - 5]
        assert (await stored(store, "late")).updated_at == NOW
        taken = await claim_one(store, ahead)
        assert taken.id == "due"
        assert (await store.put_off_again("due", now=NOW, lease_ms=1000)).lease_until == NOW + 1000
        assert await store.extend([taken], until=NOW + 2000) == [], "who holds it holds it still"
        await store.settle(taken, Done(), now=NOW)
        done = await stored(store, "due")
        assert await store.put_off_again("due", now=NOW + 1, lease_ms=1000) == done

    place.run(test)


def test_retry_by_hand_respects_the_key(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.enqueue(job("old", key="k"))
        await store.cancel_job("old", now=NOW)
        await store.enqueue(job("new", key="k"))
        with pytest.raises(InvalidTransition):
            await store.retry_job("old", now=NOW)
        assert (await stored(store, "old")).state is JobState.CANCELLED
        await store.cancel_job("new", now=NOW)
        assert (await store.retry_job("old", now=NOW)).state is JobState.TODO
        assert not await store.enqueue(job("newer", key="k"))

    place.run(test)


def test_cancel(place: Place) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(JobUnknown):
            await store.cancel_job("j", now=NOW)
        await store.enqueue(job(key="k"))
        taken = await claim_one(store)
        cancelled = await store.cancel_job("j", now=NOW + 3)
        assert cancelled == replace(
            taken, state=JobState.CANCELLED, worker="", lease_until=0, updated_at=NOW + 3
        )
        assert await stored(store) == cancelled
        assert await store.cancel_job("j", now=NOW + 4) == cancelled
        assert await store.extend([taken], until=NOW + 9999) == ["j"]
        with pytest.raises(LeaseLost):
            await store.settle(taken, Done(), now=NOW + 5)
        assert await store.claim("hash", "w", now=NOW + 9999, lease_ms=1) == []
        assert (await store.retry_job("j", now=NOW + 6)).state is JobState.TODO
        with pytest.raises(
            LeaseLost
        ):  # the run that was cancelled has not ended yet, and must not end the new one
            await store.settle(taken, Done(), now=NOW + 7)
        second = await claim_one(store, NOW + 7)
        with pytest.raises(LeaseLost):
            await store.settle(taken, Done(), now=NOW + 8)
        await store.settle(second, Done(), now=NOW + 9)
        with pytest.raises(InvalidTransition):
            await store.cancel_job("j", now=NOW + 10)

    place.run(test)


def test_find_jobs(place: Place) -> None:
    async def test(store: Store) -> None:
        for number in range(5):
            await store.enqueue(job(f"j{number}", updated_at=NOW + number // 2, queue="ab"[number % 2]))
        assert [each.id for each in await store.find_jobs()] == ["j4", "j3", "j2", "j1", "j0"]
        first = await store.find_jobs(limit=3)
        rest = await store.find_jobs(after=(first[-1].updated_at, first[-1].id))
        assert [each.id for each in rest] == ["j1", "j0"]
        assert [each.id for each in await store.find_jobs({"queue": "b", "state": "todo"})] == ["j3", "j1"]

    place.run(test)


def test_eight_claimers_over_two_stores_take_each_job_once(place: Place) -> None:
    total = 2000

    async def test(store: Store) -> None:
        other = await place.open()
        try:
            for start in range(0, total, 500):
                await store.batch([Enqueue(job(f"j{number}")) for number in range(start, start + 500)])
            taken: Counter[str] = Counter()

            async def work(mine: Store, name: str) -> None:
                while jobs := await mine.claim("hash", name, now=NOW, lease_ms=60_000, limit=4):
                    taken.update(each.id for each in jobs)
                    await asyncio.gather(*(mine.settle(each, Done(), now=NOW) for each in jobs))

            await asyncio.gather(*(work((store, other)[number % 2], f"w{number}") for number in range(8)))
            assert len(taken) == total
            assert set(taken.values()) == {1}
            assert await store.count("jobs", {"state": "done"}) == total
        finally:
            await other.close()

    place.run(test)


def test_a_change_wakes_who_waits(place: Place) -> None:
    async def test(store: Store) -> None:
        loop = asyncio.get_running_loop()
        seen = await store.changed("jobs", -1, timeout=5)
        records = await store.changed("records", -1, timeout=0)
        # Nothing happens: the time-out ends it. MongoDB's own housekeeping may look like a change.
        start = loop.time()
        assert await store.changed("records", records, timeout=0.2) == records
        assert loop.time() - start >= 0.19
        seen = await store.changed("jobs", seen, timeout=0)
        waiting = asyncio.create_task(store.changed("jobs", seen, timeout=30))
        await asyncio.sleep(0.05)
        start = loop.time()
        await store.enqueue(job())
        assert await asyncio.wait_for(waiting, 0.2) != seen
        # A change before the call is not missed.
        seen = await store.changed("events", 0, timeout=0)
        await store.insert("events", {"_id": "e"})
        assert await store.changed("events", seen, timeout=30) != seen
        # A failed write and an idle claim change nothing.
        seen = await store.changed("jobs", 0, timeout=0)
        assert await store.claim("transfer", "w", now=NOW, lease_ms=1) == []
        with pytest.raises(DuplicateKey):
            await store.enqueue(job())
        assert await store.changed("jobs", seen, timeout=0) == seen

    place.run(test)


@pytest.mark.parametrize("collection", ["jobs", "records", "peers"])
def test_a_change_by_another_process_is_seen_soon(place: Place, collection: str) -> None:
    async def test(store: Store) -> None:
        other = await place.open()
        try:
            loop = asyncio.get_running_loop()
            seen = await store.changed(collection, 0, timeout=0.5)
            for id_ in ("x", "y"):
                seen = await store.changed(collection, seen, timeout=0.6)
                waiting = asyncio.create_task(store.changed(collection, seen, timeout=30))
                await asyncio.sleep(0.1)
                start = loop.time()
                await other.insert(collection, {"_id": id_})
                assert await waiting != seen
                assert loop.time() - start < 1.0  # half a second, and what a busy machine adds
                seen = await store.changed(collection, 0, timeout=0)
            # Also while nobody waits, and when something is removed.
            await other.delete(collection, {"_id": "y"})
            start = loop.time()
            assert await store.changed(collection, seen, timeout=30) != seen
            assert loop.time() - start < 1.0
        finally:
            await other.close()

    place.run(test)
