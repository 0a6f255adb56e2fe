"""Messages of the peer protocol are read strictly."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from appliance.domain.errors import WireInvalid
from appliance.peering.wire import (
    ANNOUNCED_LIMIT,
    PAGE_LIMIT,
    Announcement,
    Changes,
    NodeInfo,
    Registered,
    Registration,
    manifest_json,
    parse,
    parse_manifest,
)
from tests.builders import manifest_of

NODE = {"id": "a" * 52, "version": "1", "time": 5, "record": {}}
CHANGES = {"feed": "f", "next": 3, "more": False, "records": []}
REGISTRATION = {"invite": "i", "record": {}, "nonce": "n" * 16, "mac": "m"}
SAID = {"kind": "package", "id": "p", "revision": 1}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (NodeInfo, NODE),
        (Changes, CHANGES),
        (Registration, REGISTRATION),
        (Registered, {"record": {}, "mac": "m"}),
        (Announcement, {"records": [SAID]}),
    ],
)
def test_every_field_is_needed_and_more_are_no_harm(model: type[BaseModel], data: dict[str, Any]) -> None:
    parse(model, data)
    assert parse(model, {**data, "later": 1}) == parse(model, data)
    for name in data:
        with pytest.raises(WireInvalid, match=name):
            parse(model, {key: value for key, value in data.items() if key != name})


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (NodeInfo, {**NODE, "id": "A" * 52}),
        (NodeInfo, {**NODE, "id": "a" * 51}),
        (NodeInfo, {**NODE, "id": "a" * 52 + "\n"}),
        (NodeInfo, {**NODE, "time": "soon"}),
        (NodeInfo, {**NODE, "record": []}),
        (Changes, {**CHANGES, "next": -1}),
        (Changes, {**CHANGES, "feed": ""}),
        (Changes, {**CHANGES, "feed": "f" * 65}),
        (Changes, {**CHANGES, "records": [{}] * (PAGE_LIMIT + 1)}),
        (Changes, {**CHANGES, "records": {}}),
        (Changes, {**CHANGES, "next": float("inf")}),
        (Registration, {**REGISTRATION, "nonce": "n" * 15}),
        (Registration, {**REGISTRATION, "nonce": "n" * 65}),
        (Announcement, {"records": [SAID] * (ANNOUNCED_LIMIT + 1)}),
        (Announcement, {"records": [{}]}),
        (Announcement, []),
        (Announcement, None),
        (Announcement, "records"),
    ],
)
def test_other_shapes_are_refused(model: type[BaseModel], data: Any) -> None:
    with pytest.raises(WireInvalid, match=model.__name__):
        parse(model, data)


@given(json_values)
def test_nothing_else_is_raised(data: Any) -> None:
    for model in (NodeInfo, Changes, Registration, Registered, Announcement):
        with pytest.raises(WireInvalid):
            parse(model, data)
    with pytest.raises(WireInvalid):
        parse_manifest(data)


@pytest.mark.parametrize("size", [0, 1, 1_048_576, 3_000_000])
def test_a_manifest_survives_the_wire(size: int) -> None:
    manifest = manifest_of(bytes(size))
    assert parse_manifest(manifest_json(manifest)) == manifest


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": 2_000_000},
        {"size": 10**30},
        {"chunks": "!"},
        {"chunks": "ä"},
        {"chunks": ""},
        {"chunks": "AAAA"},
        {"sha1": "x"},
        {"sha256": ""},
        {"sha256": None},
    ],
    ids=str,
)
def test_manifests_that_contradict_themselves(change: dict[str, Any]) -> None:
    with pytest.raises(WireInvalid):
        parse_manifest({**manifest_json(manifest_of(b"x")), **change})
