"""How every metadata store filters, sorts and pages."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.store.filters import conditions
from appliance.store.ports import Doc, Insert, Store
from appliance.store.schema import PACKAGES

from .conftest import Place

ROWS: list[Doc] = [
    {"_id": "a", "filename": "alpha.pkg", "changed_at": 1, "withdrawn": False},
    {"_id": "b", "filename": "beta.pkg", "changed_at": 2, "withdrawn": True},
    {"_id": "c", "filename": "alphabet", "changed_at": 2, "withdrawn": False},
    {"_id": "d", "filename": "Ä.pkg", "changed_at": 2**41, "withdrawn": True},
    {"_id": "e", "filename": "al\U0010ffff", "changed_at": -3},
    {"_id": "f", "filename": None, "changed_at": None, "withdrawn": None},
    {"_id": "g"},
    {"_id": "h", "filename": "", "changed_at": 0},
]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        (None, "abcdefgh"),
        ({}, "abcdefgh"),
        ({"changed_at": 2}, "bc"),
        ({"changed_at": None}, "fg"),
        ({"filename": ""}, "h"),
        ({"withdrawn": True}, "bd"),
        ({"withdrawn": False}, "ac"),
        ({"withdrawn": None}, "efgh"),
        ({"withdrawn": {"ne": True}}, "acefgh"),
        ({"withdrawn": {"in": [True, None]}}, "bdefgh"),
        ({"withdrawn": {"lt": True}}, "ac"),
        ({"changed_at": {"ne": 2}}, "adefgh"),
        ({"changed_at": {"ne": None}}, "abcdeh"),
        ({"changed_at": {"in": [1, 2, 9]}}, "abc"),
        ({"changed_at": {"in": [1, None]}}, "afg"),
        ({"changed_at": {"in": []}}, ""),
        ({"changed_at": {"in": [None]}}, "fg"),
        ({"changed_at": {"lt": 2}}, "aeh"),
        ({"changed_at": {"lte": 2}}, "abceh"),
        ({"changed_at": {"gt": 2}}, "d"),
        ({"changed_at": {"gte": 2}}, "bcd"),
        ({"changed_at": {"gte": 0, "lt": 2}}, "ah"),
        ({"filename": {"prefix": "alpha"}}, "ac"),
        ({"filename": {"prefix": "al"}}, "ace"),
        ({"filename": {"prefix": ""}}, "abcdeh"),
        ({"filename": {"prefix": "al\U0010ffff"}}, "e"),
        ({"filename": {"prefix": "A"}}, ""),
        ({"filename": {"gt": "beta.pkg"}}, "d"),
        ({"filename": {"prefix": "al"}, "changed_at": {"gt": 1}}, "c"),
        ({"_id": "c"}, "c"),
        ({"_id": {"gte": "c", "ne": "e"}}, "cdfgh"),
        ({"_id": {"in": ["a", "z"]}}, "a"),
    ],
    ids=str,
)
def test_filters(place: Place, where: Doc | None, expected: str) -> None:
    async def test(store: Store) -> None:
        await store.batch([Insert("packages", row) for row in ROWS])
        assert "".join(doc["_id"] for doc in await store.find("packages", where)) == expected
        assert await store.count("packages", where) == len(expected)
        assert await store.delete("packages", where or {}) == len(expected)
        left = "".join(doc["_id"] for doc in await store.find("packages"))
        assert left == "".join(letter for letter in "abcdefgh" if letter not in expected)

    place.run(test)


@pytest.mark.parametrize(
    "where",
    [
        {"notes": "x"},
        {"_rev": 1},
        {"filename": 5},
        {"changed_at": "x"},
        {"changed_at": True},
        {"withdrawn": 1},
        {"changed_at": {"gt": None}},
        {"changed_at": {"prefix": 5}},
        {"changed_at": {"regex": "x"}},
        {"changed_at": {"$gt": 5}},
        {"changed_at": {}},
        {"changed_at": {"in": ["x"]}},
        {"changed_at": {"in": list(range(20_000))}},
    ],
    ids=lambda where: str(where)[:40],
)
def test_undeclared_filters_are_refused(place: Place, where: Doc) -> None:
    async def test(store: Store) -> None:
        for call in (store.find, store.count, store.delete):
            with pytest.raises(ValueError):  # noqa: PT011
                await call("packages", where)  # type: ignore[operator]
        with pytest.raises(ValueError, match="notes"):
            await store.find("packages", order="notes")

    place.run(test)


@pytest.mark.parametrize("order", ["_id", "filename", "changed_at", "withdrawn"])
@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("size", [1, 3, 100])
def test_pages(place: Place, order: str, descending: bool, size: int) -> None:
    def key(doc: Doc) -> Any:
        value = doc.get(order)
        return (value is not None, value.encode() if isinstance(value, str) else value or 0, doc["_id"])

    async def test(store: Store) -> None:
        await store.batch([Insert("packages", row) for row in ROWS])
        expected = [row["_id"] for row in sorted(ROWS, key=key, reverse=descending)]
        for where, wanted in (
            (None, expected),
            ({"withdrawn": {"ne": False}}, [id_ for id_ in expected if id_ not in "ac"]),
        ):
            seen: list[str] = []
            after: tuple[Any, str] | None = None
            while page := await store.find(
                "packages", where, order=order, descending=descending, limit=size, after=after
            ):
                assert len(page) <= size
                seen += [doc["_id"] for doc in page]
                after = (page[-1].get(order), page[-1]["_id"])
            assert seen == wanted
        assert await store.find("packages", limit=0) == []

    place.run(test)


LETTERS = st.text(st.sampled_from("ab\u00ff\ud7ff\ue000\U0010fffe\U0010ffff"), max_size=4)


@given(LETTERS, LETTERS)
@settings(deadline=None, max_examples=500)
def test_a_prefix_is_a_range(prefix: str, text: str) -> None:
    found = {each.operator: each.value for each in conditions(PACKAGES, {"filename": {"prefix": prefix}})}
    end = found.get("lt")
    inside = found["gte"].encode() <= text.encode() and (end is None or text.encode() < end.encode())
    assert inside == text.startswith(prefix)
