"""Uploads over HTTP: tus 1.0.0 written out by hand, tuspy, plain PUT, and clients that are refused."""

import base64
import contextlib
import hashlib
import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tusclient import client as tus

from appliance.domain.sizes import human_size
from tests.builders import MIB, make_file
from tests.harness import Network, curl_upload
from tests.harness.browser_client import BrowserClient
from tests.harness.command import ods
from tests.harness.node import AUTHORIZATION, PASSWORD, Answer, NodeProcess
from tests.harness.waiting import eventually

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = "application/offset+octet-stream"
API = "/api/v1/uploads"


def b64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def metadata(**fields: str) -> str:
    return ",".join(f"{key} {b64(value)}" for key, value in fields.items())


def path_of(answer: Answer) -> str:
    location = answer.headers["location"]
    return location[location.index(API) :]


def create(node: NodeProcess, size: int, body: bytes | None = None, **fields: str) -> Answer:
    headers = {**TUS, "Upload-Length": str(size), "Upload-Metadata": metadata(**fields)}
    if body is not None:
        headers["Content-Type"] = OCTETS
    return node.request("POST", API, body, headers)


def part(node: NodeProcess, data: bytes) -> str:
    headers = {**TUS, "Upload-Length": str(len(data)), "Upload-Concat": "partial", "Content-Type": OCTETS}
    answer = node.request("POST", API, data, headers)
    assert answer.status == 201, answer.body
    return path_of(answer)


def patch(node: NodeProcess, path: str, data: bytes, offset: int, **more: str) -> Answer:
    headers = {**TUS, "Upload-Offset": str(offset), "Content-Type": OCTETS}
    return node.request("PATCH", path, data, {**headers, **more})


def offset(node: NodeProcess, path: str) -> int:
    answer = node.request("HEAD", path, None, TUS)
    assert answer.status == 200
    return int(answer.headers["upload-offset"])


def begin_patch(node: NodeProcess, path: str, at: int, promised: int, data: bytes) -> socket.socket:
    """A PATCH whose client says nothing after `data`."""
    connection = socket.create_connection(("127.0.0.1", node.port), 10)
    connection.sendall(
        f"PATCH {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\nTus-Resumable: 1.0.0\r\n"
        f"Content-Type: {OCTETS}\r\nUpload-Offset: {at}\r\nContent-Length: {promised}\r\n\r\n".encode()
        + data
    )
    return connection


# Who may


@pytest.mark.parametrize("body", [None, b"x", b"x" * 100_000], ids=["none", "one byte", "more"])
def test_nobody_gets_in_with_a_body_in_hand(one_node: NodeProcess, body: bytes | None) -> None:
    path = path_of(create(one_node, 10, filename="guarded.pkg"))
    piece = part(one_node, b"piece")
    requests: list[tuple[str, str, dict[str, str]]] = [
        ("GET", API, {}),
        ("GET", path, {}),
        ("HEAD", path, TUS),
        ("DELETE", path, TUS),
        ("OPTIONS", API, {}),
        ("PATCH", path, {**TUS, "Upload-Offset": "0", "Content-Type": OCTETS}),
        ("POST", API, {**TUS, "Upload-Length": "5", "Upload-Metadata": metadata(filename="evil.pkg")}),
        (
            "POST",
            API,
            {**TUS, "Upload-Concat": f"final;{piece}", "Upload-Metadata": metadata(filename="evil.pkg")},
        ),
        ("PUT", "/api/v1/packages/evil.pkg", {}),
    ]
    for method, target, headers in requests:
        answer = one_node.request(method, target, body, headers, anonymous=True)
        assert answer.status == 401, (method, target)
    assert offset(one_node, path) == 0
    assert offset(one_node, piece) == 5
    assert one_node.package("evil.pkg") is None


def test_a_viewer_may_look_and_no_more(one_node: NodeProcess) -> None:
    one_node.api("POST", "/users", {"name": "looker", "password": PASSWORD, "role": "viewer"})
    token = "Basic " + b64(f"looker:{PASSWORD}")
    path = path_of(create(one_node, 10, filename="viewed.pkg"))
    assert one_node.request("GET", path, b"x", {"Authorization": token}).status == 200
    for method in ("DELETE", "PATCH"):
        answer = one_node.request(method, path, b"x", {**TUS, "Authorization": token})
        assert answer.status == 403, method
    assert offset(one_node, path) == 0


# tus by hand


def test_what_the_server_can(one_node: NodeProcess) -> None:
    headers = one_node.request("OPTIONS", API).headers
    assert headers["tus-resumable"] == headers["tus-version"] == "1.0.0"
    assert set(headers["tus-extension"].split(",")) == {
        "creation", "creation-with-upload", "expiration", "checksum", "termination", "concatenation",
    }  # fmt: skip
    assert headers["tus-checksum-algorithm"] == "sha1,sha256"
    assert int(headers["tus-max-size"]) > 0


def test_another_version_of_the_protocol_is_refused(one_node: NodeProcess) -> None:
    for version in ({}, {"Tus-Resumable": "0.2.2"}):
        answer = one_node.request("POST", API, b"", {**version, "Upload-Length": "1"})
        assert (answer.status, answer.headers["tus-version"]) == (412, "1.0.0")


def test_from_creation_to_the_package(one_node: NodeProcess) -> None:
    data = os.urandom(300_000)
    opened = create(one_node, len(data), filename="Tus.pkg", stage="test", tags="a, b", notes="hi")
    assert (opened.status, opened.headers["upload-offset"]) == (201, "0")
    assert opened.headers["upload-expires"].endswith("GMT")
    path = path_of(opened)
    head = one_node.request("HEAD", path, None, TUS).headers
    assert (head["upload-offset"], head["upload-length"]) == ("0", "300000")
    assert head["upload-metadata"] == metadata(filename="Tus.pkg", stage="test", tags="a, b", notes="hi")
    assert head["cache-control"] == "no-store"
    first = patch(one_node, path, data[:100_000], 0)
    assert (first.status, first.headers["upload-offset"]) == (204, "100000")
    assert "ods-package" not in first.headers
    wrong = patch(one_node, path, data[100_000:], 99_999)
    assert (wrong.status, wrong.headers["upload-offset"]) == (409, "100000")
    last = patch(one_node, path, data[100_000:], 100_000)
    assert (last.status, last.headers["upload-offset"]) == (204, "300000")
    package = one_node.package("Tus.pkg")
    assert package is not None
    assert package["id"] == last.headers["ods-package"]
    assert (package["stage"], package["tags"], package["notes"]) == ("test", ["a", "b"], "hi")
    assert package["sha256"] == hashlib.sha256(data).hexdigest()
    # The answer may have been lost: asking again tells the same.
    again = one_node.request("HEAD", path, None, TUS).headers
    assert (again["upload-offset"], again["ods-package"]) == ("300000", package["id"])
    empty = patch(one_node, path, b"", 300_000)
    assert (empty.status, empty.headers["ods-package"]) == (204, package["id"])
    assert path not in {item["url"] for item in one_node.api("GET", "/uploads")["items"]}


def test_creation_with_the_whole_file(one_node: NodeProcess) -> None:
    for name, data, empty in (("whole.pkg", b"w" * 50_000, "false"), ("empty.pkg", b"", "true")):
        answer = create(one_node, len(data), data, filename=name, allow_empty=empty)
        assert (answer.status, answer.headers["upload-offset"]) == (201, str(len(data)))
        assert one_node.download(name).body == data


def test_creation_with_a_first_piece(one_node: NodeProcess) -> None:
    opened = create(one_node, 10, b"12345", filename="piece.pkg")
    assert (opened.status, opened.headers["upload-offset"]) == (201, "5")
    assert patch(one_node, path_of(opened), b"67890", 5).status == 204
    assert one_node.download("piece.pkg").body == b"1234567890"


def test_requests_that_make_no_sense(one_node: NodeProcess) -> None:
    path = path_of(create(one_node, 10, filename="sense.pkg"))
    named = {"Upload-Metadata": metadata(filename="n.pkg")}
    for method, target, body, headers, status in (
        ("POST", API, None, {"Upload-Metadata": metadata(filename="n.pkg")}, 400),
        ("POST", API, None, {**named, "Upload-Length": "-1"}, 400),
        ("POST", API, None, {**named, "Upload-Length": "1e3"}, 400),
        ("POST", API, None, {"Upload-Length": "5"}, 400),
        ("POST", API, None, {"Upload-Length": "5", "Upload-Metadata": "filename ***"}, 400),
        ("POST", API, None, {**named, "Upload-Length": str(10**15)}, 413),
        ("POST", API, b"123456", {**named, "Upload-Length": "5"}, 413),
        ("POST", API, None, {**named, "Upload-Length": "5", "Upload-Concat": "whole"}, 400),
        ("PATCH", path, b"1", {"Upload-Offset": "0", "Content-Type": OCTETS, "Content-Encoding": "br"}, 415),
        ("POST", API, b"12345", {**named, "Upload-Length": "5", "Upload-Checksum": "md5 AAAA"}, 400),
        ("POST", API, b"12345", {**named, "Upload-Length": "5", "Upload-Checksum": "sha1 AAAA"}, 400),
        ("PATCH", path, b"1", {"Upload-Offset": "0"}, 415),
        ("PATCH", path, b"1", {"Upload-Offset": "x", "Content-Type": OCTETS}, 400),
        ("PATCH", path, b"12345678901", {"Upload-Offset": "0", "Content-Type": OCTETS}, 413),
        ("PATCH", f"{API}/{'0' * 32}", b"1", {"Upload-Offset": "0", "Content-Type": OCTETS}, 404),
        ("HEAD", f"{API}/{'0' * 32}", None, {}, 404),
        ("DELETE", f"{API}/{'0' * 32}", None, {}, 404),
    ):
        answer = one_node.request(method, target, body, {**TUS, **headers})
        assert answer.status == status, (method, headers, answer.body)
        assert method == "HEAD" or answer.json()["code"] != "error"
    assert offset(one_node, path) == 0
    assert "n.pkg" not in {item["filename"] for item in one_node.api("GET", "/uploads")["items"]}


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_checksums_of_requests(one_node: NodeProcess, kind: str) -> None:
    name, data = f"sum-{kind}.pkg", os.urandom(2 * MIB)
    path = path_of(create(one_node, len(data), filename=name))
    half = len(data) // 2

    def checksum(of: bytes) -> str:
        return f"{kind} {b64(hashlib.new(kind, of).digest())}"

    assert patch(one_node, path, data[:half], 0, **{"Upload-Checksum": checksum(data[:half])}).status == 204
    for tail in (data[half:], data[half:-5]):
        wrong = patch(one_node, path, tail, half, **{"Upload-Checksum": checksum(b"other")})
        assert (wrong.status, wrong.json()["code"]) == (460, "checksum_mismatch")
        assert offset(one_node, path) == half
    assert one_node.package(name) is None
    assert (
        patch(one_node, path, data[half:], half, **{"Upload-Checksum": checksum(data[half:])}).status == 204
    )
    assert one_node.download(name).body == data


def test_a_creation_with_a_wrong_checksum_leaves_nothing(one_node: NodeProcess) -> None:
    before = one_node.files("uploads")
    headers = {
        **TUS,
        "Upload-Length": "5",
        "Upload-Metadata": metadata(filename="cws.pkg"),
        "Upload-Checksum": f"sha1 {b64(hashlib.sha1(b'other').digest())}",
    }
    assert one_node.request("POST", API, b"12345", headers).status == 460
    assert one_node.files("uploads") == before


def test_termination(one_node: NodeProcess) -> None:
    path = path_of(create(one_node, 8 * MIB, b"12345", filename="ended.pkg"))
    file = one_node.layout.upload(path.rsplit("/", 1)[1])
    with begin_patch(one_node, path, 5, 8 * MIB - 5, bytes(2 * MIB)) as hanging:
        eventually(lambda: file.stat().st_size > 5, 10, "the writer is at work")
        assert one_node.request("DELETE", path, None, TUS).status == 204
        assert one_node.request("HEAD", path, None, TUS).status == 404
        assert path.rsplit("/", 1)[1] not in one_node.files("uploads")
        with contextlib.suppress(ConnectionResetError):
            assert hanging.recv(100) == b""  # its connection was ended


def test_concatenation(one_node: NodeProcess) -> None:
    data = [os.urandom(MIB + 1), b"", os.urandom(77)]
    paths = [part(one_node, piece) for piece in data]
    assert one_node.request("HEAD", paths[0], None, TUS).headers["upload-concat"] == "partial"
    whole = hashlib.sha256(b"".join(data)).hexdigest()
    headers = {
        **TUS,
        "Upload-Concat": "final;" + " ".join([one_node.url + paths[0], *paths[1:]]),
        "Upload-Metadata": metadata(filename="joined.pkg", sha256=whole),
    }
    for _ in range(2):  # the second time the answer was lost
        final = one_node.request("POST", API, None, headers)
        assert final.status == 201, final.body
        package = one_node.package("joined.pkg")
        assert package is not None
        assert (package["id"], package["sha256"]) == (final.headers["ods-package"], whole)
    head = one_node.request("HEAD", path_of(final), None, TUS).headers
    assert head["upload-concat"] == "final;" + " ".join(paths)
    assert int(head["upload-length"]) == int(head["upload-offset"]) == MIB + 78
    assert patch(one_node, path_of(final), b"", MIB + 78).status == 403
    assert one_node.request("HEAD", paths[0], None, TUS).status == 404


def test_a_join_of_what_is_not_complete(one_node: NodeProcess) -> None:
    whole = part(one_node, b"12")
    for wrong in (path_of(create(one_node, 5, filename="np.pkg")), f"{API}/{'0' * 32}", whole):
        headers = {
            **TUS,
            "Upload-Concat": f"final;{whole} {wrong}",
            "Upload-Metadata": metadata(filename="j.pkg"),
        }
        assert one_node.request("POST", API, None, headers).status == 400
    assert offset(one_node, whole) == 2


def test_names_that_are_taken_are_refused_before_the_body(one_node: NodeProcess) -> None:
    assert create(one_node, 3, b"old", filename="taken.pkg").status == 201
    assert create(one_node, 4, filename="taken.pkg").status == 409
    other = hashlib.sha256(b"new").hexdigest()
    assert create(one_node, 3, filename="taken.pkg", sha256=other).status == 409
    assert create(one_node, 3, b"new", filename="taken.pkg", replace="true").status == 201
    assert one_node.download("taken.pkg").body == b"new"


# Connections that break, or only seem to live


def test_who_comes_back_is_not_held_up_by_the_old_connection(one_node: NodeProcess) -> None:
    data = os.urandom(2 * MIB)
    path = path_of(create(one_node, len(data), filename="halfopen.pkg"))
    hanging = begin_patch(one_node, path, 0, len(data), data[: MIB + 123])
    eventually(lambda: one_node.api("GET", path.removeprefix("/api/v1"))["offset"] >= MIB)
    there = offset(one_node, path)  # the client's network changed; the server saw nothing of it
    assert there == MIB + 123
    assert patch(one_node, path, data[there:], there).status == 204
    assert one_node.download("halfopen.pkg").body == data
    hanging.close()


def test_killed_after_the_last_byte_and_before_the_package(network: Network) -> None:
    node = network.node("a")
    data = os.urandom(MIB)
    path = path_of(create(node, len(data), data[:-1], filename="last.pkg"))
    node.kill9()
    with (node.data / "uploads" / path.rsplit("/", 1)[1]).open("ab") as file:
        file.write(data[-1:])
    node.start()
    head = node.request("HEAD", path, None, TUS)
    assert (head.status, head.headers["upload-offset"]) == (200, str(len(data)))
    package = node.package("last.pkg")
    assert package is not None
    assert head.headers["ods-package"] == package["id"]
    assert node.download("last.pkg").body == data
    assert node.files("uploads") == []


def test_a_body_that_ends_too_early_leaves_what_arrived(one_node: NodeProcess) -> None:
    path = path_of(create(one_node, 1000, filename="early.pkg"))
    begin_patch(one_node, path, 0, 1000, b"x" * 400).close()
    eventually(lambda: one_node.api("GET", path.removeprefix("/api/v1"))["offset"] == 400)
    assert patch(one_node, path, b"y" * 600, 400).status == 204


def test_a_lost_database_costs_no_file(network: Network, tmp_path: Path) -> None:
    node = network.node("a")
    file = make_file(tmp_path / "kept.pkg", MIB)
    node.publish(file.path)
    node.stop()
    for path in node.data.glob("ods.sqlite3*"):
        path.unlink()
    done = ods(node, "init", "--empty-database")
    assert done.returncode == 0, done.stderr
    assert "join its peers again" in done.stdout + done.stderr
    node.start()
    assert node.files("blobs") == [f"{file.sha256[:2]}/{file.sha256}"]
    assert (node.data / "public" / "Packages" / "kept.pkg").read_bytes() == file.path.read_bytes()


# tuspy


def test_tuspy_with_checksums(one_node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "tuspy.pkg", 5 * MIB + 3)
    client = tus.TusClient(one_node.url + API, headers={"Authorization": AUTHORIZATION})
    with file.path.open("rb") as stream:
        uploader = client.uploader(
            file_stream=stream, chunk_size=2 * MIB, metadata={"filename": file.name}, upload_checksum=True
        )
        uploader.upload()
    assert one_node.sha1(file.name) == file.sha1


# PUT


def test_an_upload_goes_on_at_the_host_that_the_client_came_to(network: Network, tmp_path: Path) -> None:
    node = network.node("aliased", NODE_URL="https://nobody.invalid/behind")
    assert create(node, 3, filename="a.pkg").headers["location"].startswith("/behind/")
    node.settings["NODE_URL"] = "https://nobody.invalid"  # what a proxy or another name of the machine hides
    node.restart()
    file = make_file(tmp_path / "alias.pkg", 2 * MIB + 1)
    client = tus.TusClient(f"{node.url}{API}", headers={"Authorization": AUTHORIZATION})
    with file.path.open("rb") as stream:
        uploader = client.uploader(file_stream=stream, chunk_size=MIB, metadata={"filename": file.name})
        uploader.upload()
    assert uploader.url.startswith(node.url)
    assert node.sha1(file.name) == file.sha1


def test_put_with_digest_headers(one_node: NodeProcess) -> None:
    data = os.urandom(1000)
    digest = hashlib.sha256(data).digest()
    for header in ("Repr-Digest", "Content-Digest"):
        name = f"{header}.pkg"
        wrong = one_node.request(
            "PUT", f"/api/v1/packages/{name}", data, {header: f"sha-256=:{b64(bytes(32))}:"}
        )
        assert (wrong.status, wrong.json()["code"]) == (422, "digest_mismatch")
        right = f"sha-512=:AAAA:, sha-256=:{b64(digest)}:"
        assert one_node.request("PUT", f"/api/v1/packages/{name}", data, {header: right}).status == 201


def test_put_in_chunks_of_unknown_length(one_node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "stream.pkg", 3 * MIB)
    answer = curl_upload(
        file.path,
        f"{one_node.url}/api/v1/packages/stream.pkg",
        user=f"admin:{PASSWORD}",
        options=("-H", "Transfer-Encoding: chunked"),
    )
    assert answer.status == 201
    assert one_node.sha1("stream.pkg") == file.sha1


def test_a_stream_that_grows_too_large_is_413_and_leaves_nothing(network: Network, tmp_path: Path) -> None:
    node = network.node("small", UPLOADS_MAX_SIZE="3 MiB")
    for size in (3 * MIB, 3 * MIB + 1, 20 * MIB):
        file = make_file(tmp_path / f"{size}.pkg", size)
        answer = curl_upload(
            file.path,
            f"{node.url}/api/v1/packages/{size}.pkg",
            user=f"admin:{PASSWORD}",
            options=("-H", "Transfer-Encoding: chunked"),
        )
        if size > 3 * MIB:
            assert (answer.status, answer.json()["code"]) == (413, "too_large"), size
        else:
            assert answer.status == 201
    eventually(lambda: not node.api("GET", "/uploads")["items"], 10)
    eventually(lambda: node.files("uploads") == [], 10)


def test_put_parameters(one_node: NodeProcess) -> None:
    for query in ("colour=red", "stage=moon", "stage=", "replace=perhaps", "sha1=12", "tags=" + "x" * 65):
        answer = one_node.request("PUT", f"/api/v1/packages/query.pkg?{query}", b"data")
        assert answer.status == 400, query
    assert one_node.package("query.pkg") is None


def test_a_put_of_less_than_the_file_is_refused(one_node: NodeProcess, tmp_path: Path) -> None:
    file = make_file(tmp_path / "rest.pkg", 3000)
    done = curl_upload(
        file.path,
        f"{one_node.url}/api/v1/packages/rest.pkg",
        user=f"admin:{PASSWORD}",
        options=("-C", "1000"),  # curl's way to go on: it sends the last 2000 bytes
    )
    assert (done.status, done.json()["code"]) == (400, "invalid_input")
    packed = one_node.request("PUT", "/api/v1/packages/rest.pkg", b"x", {"Content-Encoding": "gzip"})
    assert packed.status == 415
    assert one_node.package("rest.pkg") is None


def test_a_put_of_which_nothing_came_leaves_nothing(one_node: NodeProcess) -> None:
    address = ("127.0.0.1", one_node.port)
    head = f"PUT /api/v1/packages/silent.pkg HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n"
    for rest in ("Content-Length: 9\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\nno number\r\n"):
        with socket.create_connection(address, 10) as silent:
            silent.sendall((head + rest).encode())
            silent.shutdown(socket.SHUT_WR)
            silent.recv(1000)

    def left() -> list[str]:
        items = one_node.api("GET", "/uploads")["items"]
        return [item["filename"] for item in items if item["filename"] == "silent.pkg"]

    eventually(lambda: not left(), 10, lambda: f"{left()}")


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"], ids=["polite", "blunt"])
def test_a_large_body_that_is_refused_costs_little_and_is_answered(
    one_node: NodeProcess, tmp_path: Path, expect: str
) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200 * MIB)
    command = [
        "curl", "-sS", "-u", f"admin:{PASSWORD}", "-H", expect, "-T", str(path),
        "-w", "\n%{http_code} %{size_upload}", f"{one_node.url}/api/v1/packages/.hidden",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=60, check=True, text=True)
    body, _, end = done.stdout.rpartition("\n")
    status, sent = end.split()
    assert (status, json.loads(body)["code"]) == ("400", "invalid_name")
    assert int(sent) < 50 * MIB


# A full disk


def full(answer: Any) -> None:
    assert answer.status == 507, answer
    problem = answer.json()
    assert problem["code"] == "storage_full"


def test_a_full_disk_is_507_and_only_what_can_be_resumed_is_kept(
    network: Network, small_disk: Path, tmp_path: Path
) -> None:
    node = network.node("a", DATA_DIR=str(small_disk), TRANSFERS_MIN_FREE="16MiB")
    large = make_file(tmp_path / "large.pkg", 60 * MIB)
    full(node.upload(large.path))  # its length is known: refused before the body
    assert node.api("GET", "/uploads")["items"] == []
    url = f"{node.url}/api/v1/packages/large.pkg"
    unknown = curl_upload(
        large.path, url, user=f"admin:{PASSWORD}", options=("-H", "Transfer-Encoding: chunked")
    )
    full(unknown)  # its length is not: refused when the floor is reached
    assert "There is no more room: " in unknown.json()["detail"]
    assert re.search(r"\d MB have to stay free", unknown.json()["detail"])

    def free() -> int:
        return os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize

    # Its client cannot resume it, so it takes no room: the node is ready again.
    eventually(
        lambda: not node.api("GET", "/uploads")["items"] and free() > 24 * MIB, 10, lambda: f"{free()}"
    )
    eventually(lambda: node.status("/health/ready") == 200, 10)
    half = make_file(tmp_path / "half.pkg", (free() - 16 * MIB) * 2 // 3)
    url = path_of(create(node, half.size, filename="half.pkg"))
    with half.path.open("rb") as opened:
        assert patch(node, url, opened.read(half.size - 1), 0).status == 204
    assert node.api("GET", "/system")["disk"]["uploads"] == half.size - 1
    person = BrowserClient(node)
    person.sign_in("admin")
    assert f"Unfinished uploads use {human_size(half.size - 1)}." in person.get("/ui/").body.decode()
    full(node.upload(half.path, "other.pkg"))
    [kept] = node.api("GET", "/uploads")["items"]
    assert kept["offset"] == half.size - 1, "its client can resume it"
    assert node.request("DELETE", url, None, TUS).status == 204
    small = make_file(tmp_path / "small.pkg", 20 * MIB)
    node.publish(small.path)
    assert node.sha1("small.pkg") == small.sha1
