"""What every metadata store does with documents."""

import asyncio
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.domain.errors import DuplicateKey, StaleRevision
from appliance.domain.job import Job
from appliance.store.documents import decode, encode
from appliance.store.ports import Doc, Enqueue, Insert, Operation, Remove, Replace, Store

from .conftest import Place


def package(id: str, **more: Any) -> Doc:
    return {"_id": id, "filename": f"{id}.pkg", "stage": "prod", "withdrawn": False, "changed_at": 5, **more}


def test_types_survive(place: Place) -> None:
    moment = datetime(2026, 3, 1, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
    doc = {
        "_id": "a b/ü😀\x01",
        "text": "naïve 日本 \x00 end",
        "empty": "",
        "none": None,
        "true": True,
        "small": 5,
        "long": 2**40,
        "int64": Int64(7),
        "negative": -(2**63),
        "float": 0.1,
        "whole": 1.0,
        "infinite": float("inf"),
        "moment": moment,
        "old": datetime(1901, 1, 1, tzinfo=UTC),
        "bytes": b"\x00\xff",
        "binary": Binary(b"x", 128),
        "oid": ObjectId("0123456789abcdef01234567"),
        "uuid": uuid.UUID(int=5),
        "decimal": Decimal128("1.10"),
        "nested": {"$set": 1, "a.b": {"": [1, "x", None, {"deep": [[]]}]}},
        "tuple": (1, 2),
        "list": [],
        "dict": {},
    }

    async def test(store: Store) -> None:
        written = await store.insert("manifests", doc)
        found = await store.get("manifests", doc["_id"])
        assert written == found
        assert found is not None
        assert found.pop("_rev") == 1
        assert found["moment"] == datetime(2026, 3, 1, 10, 30, 15, 123000, tzinfo=UTC)
        assert found["moment"].utcoffset() == timedelta(0)
        assert found["tuple"] == [1, 2]
        assert found == {**doc, "moment": found["moment"], "tuple": [1, 2]}
        for name, value in {**doc, "tuple": [1, 2], "long": Int64(1), "negative": Int64(1)}.items():
            assert type(found[name]) is type(value), name
        # Replacing takes another way through MongoDB and must keep everything as well.
        assert await store.replace("manifests", doc) == {**found, "_rev": 2}
        assert await store.get("manifests", doc["_id"]) == {**found, "_rev": 2}
        assert await store.replace("manifests", doc, expect=2) == {**found, "_rev": 3}
        assert await store.find("manifests") == [{**found, "_rev": 3}]

    place.run(test)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8", exclude_characters="\0")), inner, max_size=3)
    ),
    max_leaves=10,
)


@given(VALUES)
@settings(deadline=None, max_examples=200)
def test_what_is_encoded_is_decoded(value: Any) -> None:
    assert decode(encode({"_id": "x", "value": value})) == {"_id": "x", "value": value}


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"_id": 5},
        {"_id": None},
        {"_id": "x", "$set": 1},
        {"_id": "x", "at": datetime(2026, 1, 1)},  # noqa: DTZ001
        {"_id": "x", "a": [{"at": datetime(2026, 1, 1)}]},  # noqa: DTZ001
        {"_id": "x", "a": {1, 2}},
        {"_id": "x", "a": ...},
        {"_id": "x", "a": 2**64},
        {"_id": "x", "a": "\ud800"},
        {"_id": "x", "a": {5: 6}},
        {"_id": "x", "a": {"b\0": 6}},
        {"_id": "x", "filename": 5},
        {"_id": "x", "changed_at": "5"},
        {"_id": "x", "changed_at": True},
        {"_id": "x", "changed_at": 1.5},
        {"_id": "x", "changed_at": 2**63},
        {"_id": "x", "withdrawn": 1},
        {"_id": "x", "a": b"." * 17_000_000},
    ],
    ids=lambda bad: str(bad)[:40],
)
def test_what_cannot_be_stored_is_refused(place: Place, bad: Doc) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(ValueError):  # noqa: PT011
            await store.insert("packages", bad)
        with pytest.raises(ValueError):  # noqa: PT011
            await store.replace("packages", bad)
        with pytest.raises(ValueError):  # noqa: PT011
            await store.batch([Insert("packages", package("good")), Insert("packages", bad)])
        assert await store.count("packages") == 0

    place.run(test)


def test_large_documents(place: Place) -> None:
    async def test(store: Store) -> None:
        blob = bytes(range(256)) * 4 * 1024 * 15
        await store.insert("manifests", {"_id": "m", "chunks": blob})
        await store.replace("manifests", {"_id": "m", "chunks": blob, "more": 1})
        found = await store.get("manifests", "m")
        assert found is not None
        assert found["chunks"] == blob

    place.run(test)


def test_insert_and_get(place: Place) -> None:
    async def test(store: Store) -> None:
        assert await store.get("packages", "a") is None
        given = {**package("a"), "_rev": 77}
        assert await store.insert("packages", given) == {**package("a"), "_rev": 1}
        assert given["_rev"] == 77
        with pytest.raises(DuplicateKey) as caught:
            await store.insert("packages", package("a", stage="dev"))
        assert caught.value.details["field"] == "_id"
        assert await store.get("packages", "a") == {**package("a"), "_rev": 1}
        with pytest.raises(ValueError, match="nonsense"):
            await store.get("nonsense", "a")

    place.run(test)


def test_unique_fields(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.insert("jobs", {"_id": "a", "active_key": "k"})
        for number in range(3):
            await store.insert("jobs", {"_id": f"none{number}", "active_key": None})
            await store.insert("jobs", {"_id": f"missing{number}"})
        with pytest.raises(DuplicateKey) as caught:
            await store.insert("jobs", {"_id": "b", "active_key": "k"})
        assert caught.value.details["field"] == "active_key"
        with pytest.raises(DuplicateKey):
            await store.replace("jobs", {"_id": "none0", "active_key": "k"})
        with pytest.raises(DuplicateKey):
            await store.replace("jobs", {"_id": "none0", "active_key": "k"}, expect=1)
        with pytest.raises(DuplicateKey):
            await store.replace("jobs", {"_id": "new", "active_key": "k"}, expect=0)
        await store.replace("jobs", {"_id": "a", "active_key": "k", "more": 1})
        await store.insert("jobs", {"_id": "empty", "active_key": ""})
        with pytest.raises(DuplicateKey):
            await store.insert("jobs", {"_id": "empty2", "active_key": ""})
        await store.delete("jobs", {"_id": "a"})
        await store.insert("jobs", {"_id": "b", "active_key": "k"})

    place.run(test)


def test_replace_compares_and_sets(place: Place) -> None:
    async def test(store: Store) -> None:
        with pytest.raises(StaleRevision):
            await store.replace("packages", package("a"), expect=1)
        assert (await store.replace("packages", package("a"), expect=0))["_rev"] == 1
        with pytest.raises(StaleRevision):
            await store.replace("packages", package("a"), expect=0)
        assert (await store.replace("packages", package("a", stage="dev"), expect=1))["_rev"] == 2
        with pytest.raises(StaleRevision):
            await store.replace("packages", package("a", stage="test"), expect=1)
        assert await store.get("packages", "a") == {**package("a", stage="dev"), "_rev": 2}
        assert (await store.replace("packages", {"_id": "a"}))["_rev"] == 3
        assert await store.find("packages", {"stage": None}) == [{"_id": "a", "_rev": 3}]
        assert (await store.replace("packages", {"_id": "b"}))["_rev"] == 1

    place.run(test)


def test_of_racing_writers_one_wins_each_round(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.insert("packages", package("a", number=0))

        async def add() -> None:
            while True:
                doc = await store.get("packages", "a")
                assert doc is not None
                doc["number"] += 1
                try:
                    await store.replace("packages", doc, expect=doc["_rev"])
                except StaleRevision:
                    continue
                return

        await asyncio.gather(*(add() for _ in range(20)))
        doc = await store.get("packages", "a")
        assert doc is not None
        assert (doc["number"], doc["_rev"]) == (20, 21)
        await asyncio.gather(*(store.replace("packages", package("a")) for _ in range(20)))
        doc = await store.get("packages", "a")
        assert doc is not None
        assert doc["_rev"] == 41
        fresh = await asyncio.gather(*(store.replace("packages", package("n")) for _ in range(10)))
        assert sorted(each["_rev"] for each in fresh) == list(range(1, 11))

    place.run(test)


def test_a_document_is_removed_in_the_revision_that_is_expected(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.insert("packages", package("a"))
        changed = await store.replace("packages", package("a", stage="dev"), expect=1)
        for id, expect in (("a", 1), ("never", 1)):
            with pytest.raises(StaleRevision):
                await store.batch([Remove("packages", id, expect), Insert("packages", package("b"))])
        assert await store.find("packages") == [changed]
        await store.batch([Remove("packages", "a", 2)])
        assert await store.find("packages") == []

    place.run(test)


def test_batch_does_all(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.insert("packages", package("old"))
        await store.insert("packages", package("gone"))
        done = await store.batch(
            [
                Insert("packages", package("new")),
                Replace("packages", package("old", stage="dev"), expect=1),
                Replace("packages", package("other")),
                Remove("packages", "gone"),
                Remove("packages", "never"),
                Enqueue(Job(id="j", queue="q", name="n")),
                Insert("events", {"_id": "e1", "type": "t"}),
                Insert("events", {"_id": "e2", "type": "t"}),
                Replace("packages", package("new", stage="test"), expect=1),
            ]
        )
        assert [each and (each["_id"], each["_rev"]) for each in done] == [
            ("new", 1), ("old", 2), ("other", 1), None, None, ("j", 1), ("e1", 1), ("e2", 1), ("new", 2),
        ]  # fmt: skip
        assert [done[6], done[7]] == await store.find("events", order="seq")
        assert [doc["seq"] for doc in done[6:8] if doc] == [1, 2]
        assert [doc["_id"] for doc in await store.find("packages")] == ["new", "old", "other"]
        assert await store.get_job("j") is not None
        assert await store.batch([]) == []

    place.run(test)


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (Insert("packages", package("old")), DuplicateKey),
        (Insert("packages", package("new")), DuplicateKey),
        (Replace("packages", package("old"), expect=7), StaleRevision),
        (Replace("packages", package("nobody"), expect=1), StaleRevision),
        (Replace("packages", package("old"), expect=0), StaleRevision),
        (Enqueue(Job(id="old", queue="q", name="n")), DuplicateKey),
    ],
    ids=str,
)
def test_batch_does_nothing_when_one_fails(place: Place, bad: Operation, error: type[Exception]) -> None:
    async def test(store: Store) -> None:
        await store.insert("packages", package("old"))
        await store.enqueue(Job(id="old", queue="q", name="n"))
        with pytest.raises(error):
            await store.batch(
                [
                    Insert("packages", package("new")),
                    Remove("packages", "old") if bad == Insert("packages", package("new")) else bad,
                    Insert("events", {"_id": "e"}),
                    Enqueue(Job(id="j", queue="q", name="n")),
                    bad,
                ]
            )
        assert await store.find("packages") == [{**package("old"), "_rev": 1}]
        assert await store.count("events") == 0
        assert await store.last_sequence("events") == 0
        assert await store.get_job("j") is None

    place.run(test)


def test_sequences_have_no_gaps(place: Place) -> None:
    async def test(store: Store) -> None:
        await store.insert("packages", package("taken"))
        assert await store.last_sequence("events") == 0

        async def good(number: int) -> None:
            await store.insert("events", {"_id": f"e{number}", "seq": 999})

        async def bad(number: int) -> None:
            with pytest.raises(DuplicateKey):
                await store.batch(
                    [Insert("events", {"_id": f"bad{number}"}), Insert("packages", package("taken"))]
                )

        async def twice(number: int) -> None:
            await store.batch(
                [Insert("events", {"_id": f"x{number}"}), Replace("records", {"_id": f"r{number % 3}"})]
            )

        calls = [call(number) for number in range(30) for call in (good, bad, twice)]
        await asyncio.gather(*calls)
        events = await store.find("events", order="seq", limit=500)
        assert [doc["seq"] for doc in events] == list(range(1, 61))
        assert await store.last_sequence("events") == 60
        assert await store.last_sequence("records") == 30
        # A replaced record moves to the end of the feed.
        records = await store.find("records", {"seq": {"gt": 0}}, order="seq")
        assert len(records) == 3
        assert records[-1]["seq"] == 30
        moved = await store.replace("records", records[0], expect=records[0]["_rev"])
        assert moved["seq"] == 31
        assert await store.get("records", moved["_id"]) == moved
        with pytest.raises(StaleRevision):
            await store.replace("records", records[0], expect=records[0]["_rev"])
        assert await store.last_sequence("records") == 31
        assert await store.delete("events", {"seq": {"lte": 60}}) == 60
        assert (await store.insert("events", {"_id": "next"}))["seq"] == 61

    place.run(test)


def test_purge(place: Place) -> None:
    async def test(store: Store) -> None:
        for number in range(4):
            await store.insert("nonces", {"_id": f"n{number}", "expires_at": number})
            await store.insert("invites", {"_id": f"i{number}", "expires_at": number})
        await store.insert("nonces", {"_id": "never"})
        await store.insert("uploads", {"_id": "u", "expires_at": 0})
        assert await store.purge(now=2) == 6
        assert [doc["_id"] for doc in await store.find("nonces")] == ["n3", "never"]
        assert await store.purge(now=2) == 0
        assert await store.count("uploads") == 1

    place.run(test)


def test_a_cancelled_caller_harms_nobody(place: Place) -> None:
    async def test(store: Store) -> None:
        calls = [asyncio.create_task(store.insert("events", {"_id": f"e{number}"})) for number in range(20)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(each, dict) for each in done) == 10
        await store.insert("events", {"_id": "last"})
        events = await store.find("events", order="seq")
        assert [doc["seq"] for doc in events] == list(range(1, len(events) + 1))
        assert {f"e{number}" for number in range(1, 20, 2)} <= {doc["_id"] for doc in events}

    place.run(test)


def test_documents_are_what_bson_makes_of_them() -> None:
    """The archive's streams are only restorable if a document is plain BSON."""
    assert bson.decode(encode({"_id": "x", "a": 1})) == {"_id": "x", "a": 1}
