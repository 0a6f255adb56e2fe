"""Uploads as real clients make them: curl, tuspy, and connections that break."""

import socket
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest
from tusclient import client as tus

from tests.builders import MIB, make_file
from tests.harness import Network, NodeProcess, eventually
from tests.harness.node import AUTHORIZATION
from tests.installers import Installers


@pytest.fixture
def node(network: Network) -> NodeProcess:
    """One node."""
    return network.node("a")


def no_leftovers(node: NodeProcess) -> bool:
    """Whether no bytes of an upload are left, whole or half."""
    return node.files("blobs") + node.files("public") + node.files("uploads") == []


@pytest.mark.parametrize("restart", [False, True], ids=["same process", "after a restart"])
def test_tuspy_is_cut_off_at_half_and_resumes(node: NodeProcess, tmp_path: Path, restart: bool) -> None:
    file = make_file(tmp_path / "Big.pkg", 40 * MIB + 77)
    client = tus.TusClient(f"{node.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
    metadata = {"filename": file.name, "stage": "prod", "tags": "one,two", "sha1": file.sha1}
    with file.path.open("rb") as stream:
        first = client.uploader(file_stream=stream, chunk_size=4 * MIB, metadata=metadata)
        first.upload(stop_at=20 * MIB)
    url = first.url
    listed = node.api("GET", "/uploads")["items"]
    assert [(item["filename"], item["offset"], item["size"]) for item in listed] == [
        (file.name, 20 * MIB, file.size)
    ]
    assert node.head(file.name).status == 404
    if restart:
        node.restart()
    with file.path.open("rb") as stream:
        second = client.uploader(file_stream=stream, chunk_size=4 * MIB, url=url)
        assert second.offset == 20 * MIB
        second.upload()
    assert node.sha1(file.name) == file.sha1
    package = node.package(file.name)
    assert package is not None
    assert (package["sha256"], package["tags"]) == (file.sha256, ["one", "two"])
    assert node.api("GET", "/uploads")["items"] == []
    assert node.files("uploads") == []


def test_a_put_that_breaks_off_can_be_continued(node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Cut.pkg", 8 * MIB)
    head = (
        f"PUT /api/v1/packages/{file.name} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: {AUTHORIZATION}\r\n"
        f"Content-Length: {file.size}\r\n\r\n"
    )
    with file.path.open("rb") as source, socket.create_connection(("127.0.0.1", node.port), 10) as connection:
        connection.sendall(head.encode() + source.read(3 * MIB))
    upload = eventually(
        lambda: next((item for item in node.api("GET", "/uploads")["items"] if item["offset"]), None),
        10,
        "the upload is not to be seen",
    )
    assert upload["filename"] == file.name
    assert upload["size"] == file.size
    assert upload["expires_at"]
    eventually(
        lambda: node.api("GET", f"/uploads/{upload['id']}")["offset"] == 3 * MIB, 10, "bytes are missing"
    )
    assert node.head(file.name).status == 404
    client = tus.TusClient(f"{node.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
    with file.path.open("rb") as stream:
        uploader = client.uploader(file_stream=stream, chunk_size=4 * MIB, url=node.url + upload["url"])
        assert uploader.offset == 3 * MIB
        uploader.upload()
    assert node.sha1(file.name) == file.sha1


def test_an_upload_cut_off_by_a_kill_resumes(network: Network, tmp_path: Path) -> None:
    node = network.node("a")
    file = make_file(tmp_path / "Big.pkg", 30 * MIB)
    client = tus.TusClient(f"{node.url}/api/v1/uploads", headers={"Authorization": AUTHORIZATION})
    with file.path.open("rb") as stream:
        first = client.uploader(file_stream=stream, chunk_size=5 * MIB, metadata={"filename": file.name})
        first.upload(stop_at=15 * MIB)
        node.kill9()
        node.start()
        second = client.uploader(file_stream=stream, chunk_size=5 * MIB, url=first.url)
        assert 0 < second.offset <= 15 * MIB
        second.upload()
    assert node.sha1(file.name) == file.sha1


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(
    node: NodeProcess, tmp_path: Path, kind: str
) -> None:
    file = make_file(tmp_path / "Sum.pkg", 3 * MIB)
    right = getattr(file, kind)
    wrong = ("0" if right[0] != "0" else "1") + right[1:]
    answer = node.upload(file.path, **{kind: wrong})
    assert (answer.code, answer.status) == (0, 422)
    problem = answer.json()
    assert problem["code"] == "digest_mismatch"
    assert right in problem["detail"]
    assert node.package(file.name) is None
    assert no_leftovers(node)
    assert node.upload(file.path, **{kind: right}).status == 201


def test_a_name_that_is_taken_needs_replace(node: NodeProcess, tmp_path: Path) -> None:
    old, new = (
        make_file(tmp_path / "1" / "Same.pkg", MIB, 1),
        make_file(tmp_path / "2" / "Same.pkg", 9 * MIB, 2),
    )
    node.publish(old.path)
    answer = node.upload(new.path)
    assert (answer.code, answer.status) == (0, 409)
    problem = answer.json()
    assert (problem["code"], problem["sha256"], problem["size"]) == ("package_exists", old.sha256, old.size)
    assert old.sha256 in problem["detail"]
    assert node.sha1(old.name) == old.sha1
    # Also a name that only differs in case, which many file systems cannot keep beside it.
    assert node.upload(new.path, "SAME.PKG").status == 409
    assert node.upload(new.path, replace="true").status == 200
    assert node.sha1(new.name) == new.sha1


BAD_NAMES = {
    "../up.pkg": "not allowed",
    "a/b.pkg": "not allowed",
    "a\\b.pkg": "not allowed",
    "/etc/passwd": "not allowed",
    ".hidden.pkg": "begins with a dot",
    "x" * 252 + ".pkg": "at most 255",
    "é" * 128 + ".pkg": "at most 255",
    "tab\there.pkg": "U+0009",
    "null\0.pkg": "U+0000",
    "line\nbreak.pkg": "U+000A",
    "right\u202eto-left.pkg": "U+202E",
    "CON": "reserved",
    "nul.pkg": "reserved",
    "Com1.tar.gz": "reserved",
    "what?.pkg": "not allowed",
    "colon:stream.pkg": "not allowed",
    "space at the end ": "space",
    "dot at the end.": "dot",
}


def test_bad_names_are_refused_with_their_rule(node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "x.pkg", 4 * MIB)
    for name, rule in BAD_NAMES.items():
        answer = node.upload(file.path, name)
        assert (answer.code, answer.status) == (0, 400), (name, answer)
        problem = answer.json()
        assert problem["code"] == "invalid_name", name
        assert rule in problem["detail"], (name, problem["detail"])
    for path in (
        "%ff%fe.pkg",
        "%2e%2e",
        "..",
        "%2e",
        "..%2f..%2fetc%2fpasswd",
    ):  # curl would change some of these
        raw = node.request("PUT", f"/api/v1/packages/{path}", b"x")
        assert raw.status == 400, path
    empty = node.request("PUT", "/api/v1/packages/", b"x")
    assert empty.status in {400, 404, 405}
    assert no_leftovers(node)
    assert node.api("GET", "/packages?withdrawn=true")["items"] == []
    assert sorted(path.name for path in node.directory.iterdir()) == ["data", "log"]


GOOD_NAMES = [
    "Name with spaces 1.0.pkg",
    "plus+and-minus.pkg",
    "hash#tag.pkg",
    "100%.pkg",
    "%41.pkg",
    "a&b=c;d,e'f(g)!$@~.pkg",
    "Grüße aus Köln.pkg",
    "日本語 パッケージ.pkg",
    "emoji 📦.dmg",
    "x" * 251 + ".pkg",
    "é" * 125 + ".pkg",
]


def test_names_of_all_kinds_go_in_and_come_out(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    for number, name in enumerate(GOOD_NAMES):
        file = make_file(tmp_path / f"f{number}", 1000 + number, number)
        package = a.publish(file.path, name)
        assert package["filename"] == unicodedata.normalize("NFC", name)
        assert package["url"] == f"{a.url}/Packages/{quote(name)}"
        b.wait_holds(name, file.sha256)
        for node in (a, b):
            assert node.sha1(name) == file.sha1
            assert node.request("GET", f"/packages/{quote(name, safe='')}", anonymous=True).status == 200


def test_unicode_forms_of_one_name_are_one_package(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "u", 5000)
    nfc, nfd = (unicodedata.normalize(form, "Café Ångström.pkg") for form in ("NFC", "NFD"))
    assert nfc != nfd
    a.publish(file.path, nfd)
    assert a.upload(file.path, nfc).json()["effect"] == "unchanged"
    assert a.upload(make_file(tmp_path / "other", 5001).path, nfc).status == 409
    for name in (nfc, nfd):
        b.wait_holds(name, file.sha256)
        assert b.sha1(name) == file.sha1


def test_curl_continues_a_download(node: NodeProcess, installers: Installers, tmp_path: Path) -> None:
    import subprocess

    file = installers.get()
    node.publish(file.path)
    target = tmp_path / "down.pkg"
    target.write_bytes(file.path.read_bytes()[:1_000_001])
    command = ["curl", "-sSf", "-C", "-", "-o", str(target), f"{node.url}/Packages/{file.name}"]
    subprocess.run(command, check=True, timeout=60)
    assert target.read_bytes() == file.path.read_bytes()


def test_anonymous_uploads_are_refused_before_the_body(node: NodeProcess, tmp_path: Path) -> None:
    from tests.harness import curl_upload

    file = make_file(tmp_path / "x.pkg", 20 * MIB)
    answer = curl_upload(file.path, f"{node.url}/api/v1/packages/x.pkg", user="admin:wrong")
    assert answer.status == 401
    assert answer.json()["code"] == "not_authenticated"
    assert no_leftovers(node)
