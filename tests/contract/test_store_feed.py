"""The feed's id, and counting over an index: what other nodes rely on when they read records."""

import asyncio
import random

import pytest

from appliance.domain.fingerprint import LOW_BITS, fingerprint
from appliance.store.feed import KEPT, Feed
from appliance.store.migrations import fill_fingerprints
from appliance.store.ports import Replace, Store

from .conftest import Place


def test_a_new_feed_id_keeps_the_positions_before_it(place: Place) -> None:
    async def test(store: Store) -> None:
        old = await store.feed()
        await store.batch([Replace("records", {"_id": f"r{number}"}) for number in range(3)])
        new = await store.renew_feed()
        assert new.id != old.id
        assert await store.feed() == new
        await store.batch([Replace("records", {"_id": "later"})])
        assert [new.start(old.id, since) for since in (0, 3, 4)] == [0, 3, 0], "4 was never given under it"
        assert new.start(new.id, 4) == 4
        assert new.start("another", 2) == 0
        newer = await store.renew_feed()
        assert (newer.start(new.id, 4), newer.start(old.id, 3), newer.start(old.id, 4)) == (4, 3, 0)
        forgotten = await store.renew_feed(forget=True)
        assert [forgotten.start(each.id, 1) for each in (old, new, newer)] == [0, 0, 0]

    place.run(test)


def test_the_earlier_ids_are_bounded() -> None:
    feed = first = Feed()
    for last in range(1, KEPT + 2):
        feed = feed.renewed(last)
    assert len(feed.earlier) == KEPT
    assert feed.start(first.id, 1) == 0


def test_a_new_feed_id_is_seen_by_every_process(place: Place) -> None:
    async def test() -> None:
        first, second = await place.open(), await place.open()
        try:
            new = await first.renew_feed()
            assert await second.feed() == new
            # At once, several times: none is lost, each follows the one before.
            made = await asyncio.gather(*(store.renew_feed() for store in (first, second) * 3))
            last = await first.feed()
            assert await second.feed() == last
            assert {each.id for each in made} <= {last.id, *last.earlier}
        finally:
            await first.close()
            await second.close()

    asyncio.run(test())


def test_sums_and_values_of_a_field(place: Place) -> None:
    values = [random.Random(number).getrandbits(52) for number in range(300)]
    values += [5 << 40, (5 << 40) + 1, (6 << 40) - 1, 0]

    async def test(store: Store) -> None:
        await store.batch(
            [
                Replace("records", {"_id": f"r{number}", "fingerprint": value})
                for number, value in enumerate(values)
            ]
        )
        await store.batch([Replace("records", {"_id": "none"}), Replace("records", {"_id": "r0"})])
        del values[0]  # written again without it
        for low_bits in (40, 48, 0):
            wanted: dict[int, tuple[int, int]] = {}
            for value in values:
                count, total = wanted.get(value >> low_bits, (0, 0))
                wanted[value >> low_bits] = (count + 1, total + value % (1 << low_bits))
            assert await store.sums("records", "fingerprint", low_bits=low_bits) == wanted
        found = await store.values("records", "fingerprint", first=5 << 40, end=6 << 40, limit=1000)
        assert found == sorted(value for value in values if value >> 40 == 5)
        assert len(found) >= 3
        assert await store.values("records", "fingerprint", first=5 << 40, end=6 << 40, limit=2) == found[:2]
        assert await store.values("records", "fingerprint", first=1, end=1, limit=2) == []
        assert await store.sums("jobs", "run_at", low_bits=4) == {}
        for field in ("kind", "undeclared"):
            with pytest.raises(ValueError, match=field):
                await store.sums("records", field, low_bits=1)
            with pytest.raises(ValueError, match=field):
                await store.values("records", field, first=0, end=1, limit=1)

    place.run(test)


def test_documents_are_completed_without_becoming_news(place: Place) -> None:
    async def test(store: Store) -> None:
        old = [{"_id": f"node:{number}", "record": {"signature": f"s{number}"}} for number in range(5)]
        await store.batch([Replace("records", doc) for doc in [*old, {"_id": "broken"}]])
        before = await store.find("records")
        stale = before[1]
        await store.replace("records", {**stale, "fingerprint": 7})
        assert await store.rewrite("records", [{**stale, "fingerprint": 8}]) == 0, "it was written since"
        assert await fill_fingerprints(store) == 5
        assert await fill_fingerprints(store) == 0
        assert await store.last_sequence("records") == 7
        after = {doc["_id"]: doc for doc in await store.find("records")}
        assert after.pop(stale["_id"])["fingerprint"] == 7
        for doc in before:
            if doc["_id"] != stale["_id"]:
                key, signature = doc["_id"], doc.get("record", {}).get("signature", "")
                assert after[key] == {**doc, "fingerprint": fingerprint(key, signature)}
        assert sum(
            count
            for count, _ in (await store.sums("records", "fingerprint", low_bits=LOW_BITS)).values()
        ) == 6  # fmt: skip
        assert await store.rewrite("records", []) == 0

    place.run(test)
