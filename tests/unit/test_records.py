"""Signed records."""

import base64
import hashlib
import json
from dataclasses import asdict, fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.domain.errors import InvalidInput, SignatureRefused
from appliance.domain.names import package_id
from appliance.domain.node import NodeBody
from appliance.domain.package import PackageBody, ReplicaBody
from appliance.domain.record import Record, RecordKind, replica_id
from appliance.peering.identity import Identity
from appliance.peering.record_bodies import _Node, _Package, _Replica
from appliance.peering.records import package_body, parse_record, record_json, sign_record, verify_record

alice, mallory = Identity.generate(), Identity.generate()
CHUNKS = hashlib.sha1(b"x", usedforsecurity=False).digest()
BODY = PackageBody(
    filename="Größe.pkg",
    size=1,
    sha1="0" * 40,
    sha256="0" * 64,
    manifest=hashlib.sha256(CHUNKS).hexdigest(),
    stage="prod",
    tags=("a", "b"),
    chunks=base64.b64encode(CHUNKS).decode(),
)


def package(
    body: PackageBody = BODY, *, by: Identity = alice, id: str = "", revision: int = 1, **more: Any
) -> Record:
    return sign_record(
        by,
        kind=RecordKind.PACKAGE,
        id=id or package_id(body.filename),
        revision=revision,
        at=5,
        deleted=False,
        body={**asdict(body), **more},
    )


def travelled(record: Record) -> Record:
    return parse_record(json.loads(json.dumps(record_json(record))))


def test_a_record_survives_the_wire() -> None:
    record = travelled(package())
    verify_record(record)
    assert package_body(record) == BODY


def test_fields_of_later_versions_are_kept_and_signed() -> None:
    record = travelled(package(colour="blue"))
    verify_record(record)
    assert record.body["colour"] == "blue"
    with pytest.raises(SignatureRefused):
        verify_record(replace(record, body={**record.body, "colour": "red"}))


@pytest.mark.parametrize(
    "change",
    [
        {"revision": 2},
        {"deleted": True},
        {"at": 6},
        {"id": package_id("Other.pkg")},
        {"kind": RecordKind.NODE},
        {"author": mallory.node_id},
        {"key": mallory.public_key_b64},
        {"author": mallory.node_id, "key": mallory.public_key_b64},
        {"signature": base64.b64encode(bytes(64)).decode()},
        {"signature": "not base64!"},
        {"body": {**asdict(BODY), "stage": "dev"}},
    ],
    ids="+".join,
)
def test_no_field_can_be_changed(change: dict[str, Any]) -> None:
    with pytest.raises((SignatureRefused, InvalidInput)):
        verify_record(replace(package(), **change))


P = package_id("p")


def replica(node: str, *, id: str = "") -> Record:
    body = ReplicaBody(package=P, node=node, sha256="0" * 64, presence="held")
    return sign_record(
        alice,
        kind=RecordKind.REPLICA,
        id=id or replica_id(P, node),
        revision=1,
        at=1,
        deleted=False,
        body=asdict(body),
    )


def test_a_node_speaks_only_for_itself() -> None:
    verify_record(replica(alice.node_id))
    with pytest.raises(InvalidInput):
        verify_record(replica(mallory.node_id))
    with pytest.raises(InvalidInput):
        verify_record(replica(alice.node_id, id=replica_id(package_id("q"), alice.node_id)))
    body = NodeBody(name="m", url="http://m", stage="prod", version="1")
    forged = sign_record(
        alice, kind=RecordKind.NODE, id=mallory.node_id, revision=9, at=1, deleted=False, body=asdict(body)
    )
    with pytest.raises(InvalidInput):
        verify_record(forged)
    gone = sign_record(
        alice, kind=RecordKind.NODE, id=mallory.node_id, revision=9, at=1, deleted=True, body=asdict(body)
    )
    verify_record(gone)  # that a node is gone may be said by another


@pytest.mark.parametrize(
    "body",
    [
        replace(BODY, filename="../x"),
        replace(BODY, filename="a\u0308.pkg"),
        replace(BODY, sha256="zz"),
        replace(BODY, size=-1),
        replace(BODY, size=5_000_000),
        replace(BODY, manifest="0" * 64),
        replace(BODY, chunks="!"),
        replace(BODY, replaces=("x",)),
    ],
    ids=["path", "not NFC", "digest", "negative", "size and chunks", "list and digest", "base64", "history"],
)
def test_rules_hold_for_signed_records_too(body: PackageBody) -> None:
    with pytest.raises(InvalidInput):
        verify_record(package(body))


def test_the_id_follows_from_the_name() -> None:
    with pytest.raises(InvalidInput):
        verify_record(package(id=package_id("Other.pkg")))


def test_huge_records_are_refused() -> None:
    with pytest.raises(InvalidInput):
        verify_record(package(replace(BODY, notes="x" * 70_000)))


@pytest.mark.parametrize(
    "item",
    [
        None,
        [],
        "x",
        {},
        {**record_json(package()), "more": 1},
        {**record_json(package()), "revision": "1"},
        {**record_json(package()), "revision": True},
        {**record_json(package()), "revision": 2**60},
        {**record_json(package()), "at": -1},
        {**record_json(package()), "kind": "bogus"},
        {**record_json(package()), "body": []},
        {**record_json(package()), "deleted": 0},
    ],
)
def test_shapes(item: Any) -> None:
    with pytest.raises(InvalidInput):
        parse_record(item)


@given(
    st.permutations(
        [package(revision=r, by=by, notes=str(n)) for r in (1, 2) for by in (alice, mallory) for n in (1, 2)]
    )
)
def test_the_same_record_wins_in_every_order(records: list[Record]) -> None:
    winner: Record | None = None
    for record in records:
        if record.outranks(winner):
            winner = record
    assert winner == max(records, key=lambda record: record.rank)


@pytest.mark.parametrize("field", ["key", "signature"])
def test_fields_that_are_not_even_ascii(field: str) -> None:
    with pytest.raises(SignatureRefused):
        verify_record(replace(package(), **{field: "ä" * 44}))
    with pytest.raises(InvalidInput):
        verify_record(package(replace(BODY, chunks="ä")))


@pytest.mark.parametrize(
    "value",
    [2**60, float("inf"), "\ud800", "x" * 70_000, {"\ud800": 1}, json.loads("[" * 40 + "]" * 40)],
    ids=["integer", "float", "surrogate", "size", "name", "depth"],
)
def test_what_other_nodes_would_refuse_is_not_signed(value: Any) -> None:
    with pytest.raises(InvalidInput):
        package(replace(BODY, metadata={"key": value}))


@pytest.mark.parametrize(
    ("value", "parsed"), [(NodeBody, _Node), (PackageBody, _Package), (ReplicaBody, _Replica)]
)
def test_every_field_of_a_body_is_read_from_the_wire(value: type, parsed: type) -> None:
    assert {field.name for field in fields(value)} == set(parsed.__annotations__)
