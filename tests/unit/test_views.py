"""How things look in JSON: what the description of the API says, and never an error of their own."""

import datetime
import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.api.accounts import token_json, user_json
from appliance.api.schemas import SCHEMAS
from appliance.api.views import (
    current_version_json,
    iso,
    job_json,
    manifest_json,
    package_detail_json,
    package_json,
    peer_json,
    transfer_json,
    upload_json,
    version_json,
)
from appliance.domain.holding import SetAside
from appliance.domain.job import Job
from appliance.domain.manifest import CHUNK_SIZE, Manifest, chunk_count
from appliance.domain.package import Package, PackageBody, Presence
from appliance.domain.trash import Keeping, Version, Why
from appliance.service.packages import ReplicaView, Spread
from appliance.service.peers import Peer
from appliance.service.uploads import Upload
from appliance.store.blobs import BlobStore
from appliance.store.layout import Layout

AT = 1_700_000_000_123
STAMP = "2023-11-14T22:13:20.123Z"


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, None),
        (1, "1970-01-01T00:00:00.001Z"),
        (1000, "1970-01-01T00:00:01.000Z"),
        (AT, STAMP),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (253_402_300_800_000, "9999-12-31T23:59:59.999Z"),
        (2**53 - 1, "9999-12-31T23:59:59.999Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
        (-(2**53), "0001-01-01T00:00:00.000Z"),
    ],
)
def test_times(ms: int, text: str | None) -> None:
    assert iso(ms) == text


@given(st.integers(-(2**63), 2**63))
def test_any_time_that_a_record_can_carry_has_a_form(ms: int) -> None:
    text = iso(ms)
    if ms:
        assert text is not None
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)


@given(st.integers(1, 253_402_300_799_999))
def test_times_lose_nothing(ms: int) -> None:
    text = iso(ms)
    assert text is not None
    moment = datetime.datetime.fromisoformat(text)
    epoch = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    assert (moment - epoch) // datetime.timedelta(milliseconds=1) == ms


def package(filename: str = "Some App+#1 ü.pkg", at: int = AT) -> Package:
    body = PackageBody(
        filename=filename, size=5, sha1="1" * 40, sha256="2" * 64, manifest="3" * 64, stage="prod",
        tags=("a",), uploaded_at=at, uploaded_by="admin", origin="n" * 52,
    )  # fmt: skip
    return Package(
        id="p" * 32, revision=2, author="n" * 52, at=at, withdrawn=False, body=body, presence=Presence.HELD,
    )  # fmt: skip


def described(name: str, shown: dict[str, Any]) -> None:
    """Check that an answer has exactly what the description says, and is JSON."""
    assert set(shown) == set(SCHEMAS[name]["properties"])
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown


def test_a_package() -> None:
    shown = package_json(package(), "https://ods.example/x")
    described("Package", shown)
    assert shown["changed_at"] == shown["uploaded_at"] == STAMP
    assert shown["url"] == "https://ods.example/x/Packages/Some%20App%2B%231%20%C3%BC.pkg"
    assert shown["presence"] == "held"


def test_a_package_in_full() -> None:
    replica = ReplicaView(
        node="n" * 52, name="x", presence="held", reason="", sha256="2" * 64, current=True, at=AT
    )
    old = version(why=Why.SUPERSEDED)
    shown = package_detail_json(package(), "", [replica], [old], {}, Spread(cut_off=["c"]), [], AT)
    described("PackageDetail", shown)
    described("Replica", shown["replicas"][0])
    assert shown["superseded"] == [{"sha256": "4" * 64, "filename": "old.pkg", "at": STAMP}]
    assert shown["manifest"]["count"] == 1


def version(**changes: Any) -> Version:
    fields_: dict[str, Any] = {
        "package": "p" * 32, "sha256": "4" * 64, "filename": "old.pkg", "size": 5, "revision": 1, "author": "n" * 52,
        "why": Why.REPLACED, "at": AT, "body": package().body,
    }  # fmt: skip
    return Version(**{**fields_, **changes})


def test_versions(tmp_path: Path) -> None:
    blobs, keeping = BlobStore(Layout(tmp_path), floor_bytes=0), Keeping(days=1, versions=2)
    current = current_version_json(package())
    described("PackageVersion", current)
    assert (current["current"], current["why"], current["expires_at"]) == (True, "", None)
    shown = version_json(version(), keeping, blobs)
    described("PackageVersion", shown)
    assert (shown["current"], shown["here"], shown["why"]) == (False, False, "replaced")
    assert (shown["at"], shown["expires_at"]) == (STAMP, "2023-11-15T22:13:20.123Z")
    old = version_json(version(size=None, body=None), keeping, blobs)  # as an older program kept it
    described("PackageVersion", old)
    assert (old["size"], old["stage"], old["expires_at"]) == (None, "", "2024-02-12T22:13:20.123Z")
    blobs.path("4" * 64).parent.mkdir()
    blobs.path("4" * 64).write_bytes(b"12345")
    found = version_json(version(size=None, body=None), keeping, blobs)
    assert (found["size"], found["here"]) == (5, True)


def test_a_package_of_a_node_with_a_wrong_clock_does_not_break_the_list() -> None:
    shown = package_json(package(at=2**53 - 1), "")
    assert shown["changed_at"] == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("size", [0, 1, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE])
def test_a_manifest(size: int) -> None:
    digests = [bytes([number]) * 20 for number in range(chunk_count(size))]
    manifest = Manifest(size=size, sha1="1" * 40, sha256="2" * 64, chunks=b"".join(digests))
    shown = manifest_json(manifest)
    described("Manifest", shown)
    assert shown["chunks"] == [digest.hex() for digest in digests]


def test_an_upload_tells_no_more_than_it_should() -> None:
    upload = Upload(id="0" * 32, filename="x.pkg", size=None, stage="prod", actor="op", tus_metadata="secret")
    shown = upload_json(upload)
    described("Upload", shown)
    assert "secret" not in json.dumps(shown)


def test_a_peer_without_its_key() -> None:
    peer = Peer(id="n" * 52, key=b"k" * 32, url="https://x", name="x", clock_offset_ms=-1500)
    away = SetAside(name="x", until=AT, reason="Chunk 3 does not match.")
    shown = peer_json(
        peer, stage="prod", version="1", healthy=True, set_aside={"p" * 32: ("x.pkg", away)}, now=AT
    )
    described("Peer", shown)
    described("SetAside", shown["set_aside"][0])
    assert shown["set_aside"][0]["until"] == STAMP
    assert shown["clock_offset_s"] == -1.5
    assert shown["last_seen"] is None


def test_a_job() -> None:
    given_ = {"id": "0" * 24, "name": "package.verify", "queue": "hash", "args": {"id": "p"}}
    rest = {"created_at": AT, "updated_at": AT, "run_at": AT}
    known = {field.name for field in fields(Job)} & set(get_type_hints(Job))
    job = Job(**{name: value for name, value in {**given_, **rest}.items() if name in known})
    described("Job", job_json(job))


def test_a_transfer() -> None:
    source = {"node": "n", "name": "x", "bytes": 1, "chunks": 1, "strikes": 0}
    doc: dict[str, Any] = {
        "_id": "t", "_rev": 3, "package": "p", "filename": "x.pkg", "sha256": "2" * 64, "size": 5,
        "state": "fetching", "bytes_done": 1, "chunks_done": 1, "chunks": 1, "rate": 1.5, "sources": [source],
        "error": "", "attempts": 1, "started_at": AT, "updated_at": AT, "job": "inner",
    }  # fmt: skip
    shown = transfer_json(doc, AT)
    described("Transfer", shown)
    described("Source", shown["sources"][0])


def test_accounts_and_tokens_show_no_secret() -> None:
    user = {
        "_id": "op",
        "_rev": 1,
        "role": "viewer",
        "must_change": True,
        "created_at": AT,
        "changed_at": AT,
        "password": "$a",
    }
    described("User", user_json(user))
    token = {
        "_id": "abcdefgh", "name": "x", "account": "op", "role": "viewer", "digest": "d" * 64, "created_at": AT,
        "expires_at": AT, "used_at": 0, "used_from": "",
    }  # fmt: skip
    described("Token", token_json(token))
    assert "$a" not in json.dumps(user_json(user))
    assert "d" * 64 not in json.dumps(token_json(token))
