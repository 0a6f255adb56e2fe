"""Downloads as real clients ask for them."""

import hashlib
import os
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
import requests
import tornado.http1connection
import tornado.iostream

from tests.builders import MIB, File, make_file
from tests.harness import Network
from tests.harness.node import NodeProcess
from tests.harness.waiting import eventually

NAMES = [
    "Plain.pkg",
    "with space.pkg",
    "a+b.pkg",
    "c#d.pkg",
    "100%.pkg",
    "Größe äöü.pkg",
    "日本語.pkg",
    "a&b=c;d,e@f!.pkg",
]


@pytest.fixture(scope="module")
def file(one_node: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> File:
    made = make_file(tmp_path_factory.mktemp("files") / "Ranged.pkg", 3 * MIB + 17)
    one_node.publish(made.path)
    return made


def test_head_says_what_get_sends(one_node: NodeProcess, file: File) -> None:
    head, get = one_node.request("HEAD", "/Packages/Ranged.pkg"), one_node.download("Ranged.pkg")
    assert head.status == get.status == 200
    assert head.body == b""
    assert hashlib.sha256(get.body).hexdigest() == file.sha256
    for name in ("content-length", "etag", "last-modified", "accept-ranges", "repr-digest", "content-type"):
        assert head.headers[name] == get.headers[name], name
    assert head.headers["etag"] == f'"{file.sha256}"'
    assert head.headers["content-length"] == str(file.size)
    assert head.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("header", "first", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=100-199", 100, 200),
        ("bytes=1048576-", MIB, None),
        ("bytes=-10", -10, None),
        ("bytes=0-99999999", 0, None),
    ],
)
def test_ranges(one_node: NodeProcess, file: File, header: str, first: int, stop: int | None) -> None:
    whole = file.path.read_bytes()
    answer = one_node.download("Ranged.pkg", {"Range": header})
    assert answer.status == 206
    assert answer.body == whole[first:stop]
    start = first % len(whole)
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(answer.body) - 1}/{len(whole)}"


def test_a_range_behind_the_end(one_node: NodeProcess, file: File) -> None:
    answer = one_node.download("Ranged.pkg", {"Range": f"bytes={file.size}-"})
    assert (answer.status, answer.headers["content-range"]) == (416, f"bytes */{file.size}")
    assert answer.json()["code"] == "range_not_satisfiable"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "bytes=9-2", "furlongs=1-2", "bytes=0-,0-,0-"])
def test_other_ranges_are_ignored(one_node: NodeProcess, file: File, header: str) -> None:
    answer = one_node.download("Ranged.pkg", {"Range": header})
    assert (answer.status, len(answer.body)) == (200, file.size)


def test_conditions(one_node: NodeProcess, file: File) -> None:
    head = one_node.request("HEAD", "/Packages/Ranged.pkg").headers
    assert one_node.download("Ranged.pkg", {"If-None-Match": head["etag"]}).status == 304
    assert one_node.download("Ranged.pkg", {"If-None-Match": '"other"'}).status == 200
    assert one_node.download("Ranged.pkg", {"If-Modified-Since": head["last-modified"]}).status == 304
    part = {"Range": "bytes=0-3"}
    assert one_node.download("Ranged.pkg", {**part, "If-Range": head["etag"]}).status == 206
    assert one_node.download("Ranged.pkg", {**part, "If-Range": head["last-modified"]}).status == 206
    changed = one_node.download("Ranged.pkg", {**part, "If-Range": '"other"'})
    assert (changed.status, len(changed.body)) == (200, file.size)
    weak = one_node.download("Ranged.pkg", {**part, "If-Range": f"W/{head['etag']}"})
    assert (weak.status, len(weak.body)) == (200, file.size)


def test_who_insists_on_certain_bytes_gets_no_others(one_node: NodeProcess, file: File) -> None:
    etag, changed = (one_node.head("Ranged.pkg").headers[name] for name in ("etag", "last-modified"))
    for value in (etag, f'"other", {etag}', "*"):
        assert one_node.download("Ranged.pkg", {"If-Match": value}).status == 200, value
    for value in ('"other"', f"W/{etag}", ""):
        answer = one_node.download("Ranged.pkg", {"If-Match": value, "Range": "bytes=0-1"})
        assert answer.status == 412, value
    assert one_node.download("Ranged.pkg", {"If-Unmodified-Since": changed}).status == 200
    assert one_node.download("Ranged.pkg", {"If-Unmodified-Since": "soon"}).status == 200
    long_ago = "Mon, 01 Jan 2001 00:00:00 GMT"
    assert one_node.download("Ranged.pkg", {"If-Unmodified-Since": long_ago}).status == 412


@pytest.mark.parametrize("name", NAMES)
def test_names(one_node: NodeProcess, tmp_path: Path, name: str) -> None:
    made = make_file(tmp_path / "x.pkg", 1000, name)
    one_node.publish(made.path, name)
    for form in ("NFC", "NFD"):
        for prefix in ("/Packages/", "/packages/", "/ods/Packages/", "/ods/packages/"):
            answer = one_node.request("GET", prefix + quote(unicodedata.normalize(form, name)))
            assert (answer.status, hashlib.sha1(answer.body).hexdigest()) == (200, made.sha1), (form, prefix)
    url = one_node.api("GET", "/packages/" + quote(name))["url"]
    assert url.endswith("/ods/Packages/" + quote(name))


def test_names_that_are_not_here(one_node: NodeProcess) -> None:
    for path in (
        "/Packages/no.pkg",
        "/Packages/..%2f..%2fods.sqlite3",
        "/Packages/%00",
        "/Packages/",
        "/other/Packages/x",
    ):
        answer = one_node.request("GET", path)
        assert answer.status in {400, 404}, path
        assert b"Traceback" not in answer.body
        assert answer.headers["content-type"].startswith("application/problem+json"), path


def test_withdrawn(one_node: NodeProcess, tmp_path: Path) -> None:
    one_node.publish(make_file(tmp_path / "Gone.pkg", 10).path)
    one_node.api("DELETE", "/packages/Gone.pkg")
    answer = one_node.download("Gone.pkg")
    assert (answer.status, answer.json()["code"]) == (410, "package_withdrawn")


def test_a_missing_file_is_503_and_is_noticed(one_node: NodeProcess, tmp_path: Path) -> None:
    made = make_file(tmp_path / "Lost.pkg", 1000)
    one_node.publish(made.path)
    data = Path(one_node.environment()["ODS_DATA_DIR"])
    (data / "blobs" / made.sha256[:2] / made.sha256).unlink()
    answer = one_node.download("Lost.pkg")
    assert (answer.status, answer.headers["retry-after"]) == (503, "30")
    eventually(lambda: one_node.presence("Lost.pkg") == "damaged", 10, "it is not noticed")
    assert one_node.events("package.damaged")


def test_a_damaged_file_is_set_aside(one_node: NodeProcess, tmp_path: Path) -> None:
    made = make_file(tmp_path / "Rotten.pkg", 2 * MIB)
    one_node.publish(made.path)
    blob = Path(one_node.environment()["ODS_DATA_DIR"]) / "blobs" / made.sha256[:2] / made.sha256
    with blob.open("r+b") as opened:
        opened.seek(MIB)
        opened.write(b"\0rot")
    job = one_node.api("POST", "/packages/Rotten.pkg/verify")["job"]["id"]
    eventually(lambda: one_node.api("GET", f"/jobs/{job}")["state"] == "failed", 20, "it is not found")
    assert one_node.download("Rotten.pkg").status == 503
    assert one_node.files("quarantine")


def test_portable_and_fast_ways_send_the_same(network: Network, tmp_path: Path) -> None:
    made = make_file(tmp_path / "Same.pkg", 20 * MIB + 3)
    for name, portable in (("fast", "0"), ("portable", "1")):
        node = network.node(name, PORTABLE=portable)
        node.publish(made.path)
        assert node.sha1("Same.pkg") == made.sha1
        part = node.download("Same.pkg", {"Range": "bytes=5-9999999"})
        assert part.body == made.path.read_bytes()[5:10_000_000]


def test_what_send_file_uses_of_tornado_is_still_there() -> None:
    source = Path(str(tornado.http1connection.__file__)).read_text()
    for name in ("_expected_content_remaining", "_chunking_output"):
        assert f"self.{name}" in source, f"Tornado no longer has {name}: see api/sendfile.py"
    assert hasattr(tornado.iostream.IOStream, "writing")
    assert hasattr(os, "sendfile")


def test_downloads_can_ask_for_an_account(tmp_path: Path) -> None:
    account = {"HTTP_DOWNLOAD_USERNAME": "ods-client", "HTTP_DOWNLOAD_PASSWORD": "a:b ü"}
    with Network(tmp_path / "nodes", settings=account) as network:
        node = network.node("guarded")
        file = make_file(tmp_path / "Guarded.pkg", 1000)
        node.publish(file.path)
        url = f"{node.url}/Packages/Guarded.pkg"
        for wrong in (None, ("ods-client", "wrong"), ("admin", "correct horse battery")):
            refused = requests.get(url, auth=wrong, timeout=10)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"].startswith("Basic")
        assert requests.head(url, headers={"Authorization": "Basic ???"}, timeout=10).status_code == 401
        answer = requests.get(url, auth=(b"ods-client", "a:b ü".encode()), timeout=10)
        assert answer.status_code == 200
        assert hashlib.sha256(answer.content).hexdigest() == file.sha256
