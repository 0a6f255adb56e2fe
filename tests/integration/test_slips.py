"""Slips of the hand: whatever somebody or a script sends by mistake, a good package stays as it is."""

import base64
import hashlib
import itertools
import json
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.builders import MIB, make_file
from tests.harness import Network, eventually
from tests.harness.command import ods
from tests.harness.node import AUTHORIZATION, PASSWORD, Answer, NodeProcess

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = "application/offset+octet-stream"
UPLOADS = "/api/v1/uploads"
OLD, NEW = b"the good package\n", b"another file\n"
SHA1, SHA256 = hashlib.sha1(b"x").hexdigest(), hashlib.sha256(b"x").hexdigest()  #: of neither
_numbers = itertools.count()


def b64(data: str | bytes) -> str:
    return base64.b64encode(data.encode() if isinstance(data, str) else data).decode()


def metadata(**fields: str) -> str:
    return ",".join(f"{key} {b64(value)}" for key, value in fields.items())


@dataclass(frozen=True)
class Good:
    """A package that somebody is about to hurt."""

    node: NodeProcess
    name: str
    before: dict[str, Any]

    @property
    def path(self) -> str:
        return f"/api/v1/packages/{quote(self.name)}"

    @property
    def url(self) -> str:
        return f"{self.node.url}{self.path}"

    @property
    def id(self) -> str:
        return str(self.node.api("GET", f"/packages/{quote(self.name)}")["id"])

    def put(self, body: bytes | None, query: str = "", **headers: str) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.node.request("PUT", self.path + (f"?{query}" if query else ""), body, named)

    def is_untouched(self) -> None:
        after = self.node.package(self.name)
        assert after is not None
        assert {k: after[k] for k in self.before} == self.before
        assert self.node.download(self.name).body == OLD
        assert self.node.api("GET", "/uploads")["items"] == []


@pytest.fixture
def good(one_node: NodeProcess) -> Good:
    name = f"Good {next(_numbers)}.pkg"
    answer = one_node.request("PUT", f"/api/v1/packages/{quote(name)}?stage=test&tags=a,b&notes=n", OLD)
    assert answer.status == 201, answer.body
    shown = one_node.package(name)
    assert shown is not None
    kept = (
        "filename",
        "sha256",
        "revision",
        "stage",
        "tags",
        "notes",
        "withdrawn",
        "uploaded_at",
        "presence",
    )
    return Good(one_node, name, {field: shown[field] for field in kept})


def curl(*arguments: str, directory: Path | None = None) -> tuple[int, dict[str, Any]]:
    command = ["curl", "-sS", "-u", f"admin:{PASSWORD}", "-w", "\n%{http_code}", *arguments]
    done = subprocess.run(
        command, capture_output=True, timeout=60, check=False, cwd=directory, stdin=subprocess.DEVNULL
    )
    body, _, status = done.stdout.rpartition(b"\n")
    return int(status), json.loads(body) if body else {}


def refused(answer: Answer, status: int, code: str, *words: str) -> None:
    problem = answer.json()
    assert (answer.status, problem["code"]) == (status, code), problem
    for word in words:
        assert word in problem["detail"]


# The nine that destroyed or replaced a good package


def test_a_folder_by_curl(good: Good, tmp_path: Path, need: Callable[[str], str]) -> None:
    need("curl")
    folder = tmp_path / good.name
    folder.mkdir()
    (folder / "Contents").write_bytes(b"x" * 1000)
    status, problem = curl("-T", str(folder), f"{good.url}?replace=true")
    assert (status, problem["code"]) == (422, "empty_file")
    assert "zip" in problem["detail"]
    good.is_untouched()


@pytest.mark.parametrize("chunked", [False, True], ids=["length 0", "chunked"])
def test_an_empty_body(good: Good, chunked: bool) -> None:
    if chunked:
        answer = raw(good.node, f"PUT {good.path}?replace=true", "Transfer-Encoding: chunked", b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 422"), answer
    else:
        refused(good.put(b"", "replace=true"), 422, "empty_file", "is empty", "zip", good.name)
    good.is_untouched()


def raw(node: NodeProcess, target: str, headers: str, body: bytes, *, finish: bool = False) -> bytes:
    """A request written out; returns what comes back until the connection ends or falls silent."""
    with socket.create_connection(("127.0.0.1", node.port), 10) as connection:
        connection.sendall(
            f"{target} HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n{headers}\r\n\r\n".encode()
            + body
        )
        if finish:
            connection.shutdown(socket.SHUT_WR)
        connection.settimeout(10)
        found = b""
        while b"\r\n\r\n" not in found and (data := connection.recv(65_536)):
            found += data
        return found


def test_a_form_with_a_file_in_it(good: Good, tmp_path: Path, need: Callable[[str], str]) -> None:
    need("curl")
    (tmp_path / "new").write_bytes(NEW)
    for more in (("-X", "PUT"), ()):
        status, problem = curl("-F", "file=@new", *more, f"{good.url}?replace=true", directory=tmp_path)
        assert (status, problem["code"]) == (415, "unsupported_media_type")
        assert "curl -T" in problem["detail"]
    good.is_untouched()


@pytest.mark.parametrize("option", ["-d", "--data-binary", "--data-urlencode"])
def test_a_form_of_words(good: Good, tmp_path: Path, need: Callable[[str], str], option: str) -> None:
    need("curl")
    (tmp_path / "new").write_bytes(NEW)
    for more in (("-X", "PUT"), ()):
        status, problem = curl(option, "@new", *more, f"{good.url}?replace=true", directory=tmp_path)
        assert (status, problem["code"]) == (415, "unsupported_media_type")
        assert "Content-Type: application/octet-stream" in problem["detail"]
    good.is_untouched()
    plain = ("-H", "Content-Type: application/octet-stream", "--data-binary", "@new", "-X", "PUT")
    assert curl(*plain, f"{good.url}?replace=true", directory=tmp_path)[0] == 200, "as the error says"


@pytest.mark.parametrize(
    "query",
    [
        "replace=", "replace", "replace=yes", "replace=1", "replace=on", "replace=tru", "replace=perhaps",
        "replace=false&replace=true", "replace=true&replace=true", "Replace=true", "overwrite=true",
        "replace=true&stages=prod", "replace=true&stage=", "replace=true&tags=", "replace=true&sha256=",
        "replace=true&sha1=", "replace=true&allow_empty=", "replace=true&dry_run=true",
    ],
)  # fmt: skip
def test_a_parameter_that_is_not_one(good: Good, query: str) -> None:
    refused(good.put(NEW, query), 400, "invalid_input")
    good.is_untouched()


def test_a_condition_that_does_not_hold(good: Good) -> None:
    for condition in ({"If-Match": '"nothing"'}, {"If-None-Match": "*"}):
        answer = good.node.request("PUT", f"{good.path}?replace=true", NEW, condition)
        refused(answer, 412, "precondition_failed", "nothing was changed")
        good.is_untouched()


def test_a_withdrawal_of_what_has_changed(good: Good) -> None:
    answer = good.node.request("DELETE", good.path, None, {"If-Match": '"nothing"'})
    refused(answer, 412, "precondition_failed", "nothing was changed")
    good.is_untouched()


def test_withdrawing_without_a_terminal(good: Good) -> None:
    done = ods(good.node, "package", "withdraw", good.name)
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "Nothing changed." in done.stderr
    good.is_untouched()


# Every door, and every slip that fits it


def put(good: Good, body: bytes, **said: str) -> Answer:
    query = "&".join(f"{name}={quote(value)}" for name, value in said.items())
    return good.put(body, query)


def put_chunked(good: Good, body: bytes, **said: str) -> Answer:
    """As curl sends what comes from a pipe."""
    query = "&".join(f"{name}={quote(value)}" for name, value in said.items())
    return good.node.request("PUT", f"{good.path}?{query}", body, {}, chunked=True)


def tus_at_once(good: Good, body: bytes, **said: str) -> Answer:
    headers = {"Upload-Length": str(len(body)), "Upload-Metadata": metadata(filename=good.name, **said)}
    return good.node.request("POST", UPLOADS, body, {**TUS, "Content-Type": OCTETS, **headers})


def tus_by_pieces(good: Good, body: bytes, **said: str) -> Answer:
    headers = {"Upload-Length": str(len(body)), "Upload-Metadata": metadata(filename=good.name, **said)}
    opened = good.node.request("POST", UPLOADS, None, {**TUS, **headers})
    if opened.status != 201 or "ods-package" in opened.headers:
        return opened
    at = 0
    for piece in (body[:4], body[4:]):
        patch = {**TUS, "Content-Type": OCTETS, "Upload-Offset": str(at)}
        answer = good.node.request("PATCH", opened.headers["location"], piece, patch)
        at += len(piece)
    return answer


def tus_joined(good: Good, body: bytes, **said: str) -> Answer:
    parts = []
    for piece in (body[:5], body[5:]):
        headers = {"Upload-Length": str(len(piece)), "Upload-Concat": "partial", "Content-Type": OCTETS}
        parts.append(good.node.request("POST", UPLOADS, piece, {**TUS, **headers}).headers["location"])
    headers = {
        "Upload-Concat": f"final;{' '.join(parts)}",
        "Upload-Metadata": metadata(filename=good.name, **said),
    }
    answer = good.node.request("POST", UPLOADS, None, {**TUS, **headers})
    for part in parts:  # what was refused has not taken them
        good.node.request("DELETE", part, None, TUS)
    return answer


Door = Callable[..., Answer]
DOORS: list[Door] = [put, put_chunked, tus_at_once, tus_by_pieces, tus_joined]
every_door = pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)

SLIPS: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "nothing": (b"", {"replace": "true"}, 422, "empty_file"),
    "nothing, and not meant": (b"", {"replace": "true", "allow_empty": "false"}, 422, "empty_file"),
    "another file": (NEW, {}, 409, "package_exists"),
    "another file of the same size": (OLD[::-1], {}, 409, "package_exists"),
    "replace: false": (NEW, {"replace": "false"}, 409, "package_exists"),
    "replace: nothing": (NEW, {"replace": ""}, 400, "invalid_input"),
    "replace: yes": (NEW, {"replace": "yes"}, 400, "invalid_input"),
    "replace: 1": (NEW, {"replace": "1"}, 400, "invalid_input"),
    "allow_empty: nothing": (NEW, {"replace": "true", "allow_empty": ""}, 400, "invalid_input"),
    "stage: nothing": (NEW, {"replace": "true", "stage": ""}, 400, "invalid_input"),
    "stage: moon": (NEW, {"replace": "true", "stage": "moon"}, 400, "invalid_input"),
    "tags: nothing": (NEW, {"replace": "true", "tags": ""}, 400, "invalid_input"),
    "sha256: nothing": (NEW, {"replace": "true", "sha256": ""}, 400, "invalid_input"),
    "sha256: short": (NEW, {"replace": "true", "sha256": "12"}, 400, "invalid_digest"),
    "sha256: of another": (NEW, {"replace": "true", "sha256": SHA256}, 422, "digest_mismatch"),
    "sha1: of another": (NEW, {"replace": "true", "sha1": SHA1}, 422, "digest_mismatch"),
    "stages": (NEW, {"replace": "true", "stages": "prod"}, 400, "invalid_input"),
    "Replace": (NEW, {"Replace": "true"}, 400, "invalid_input"),
    "allow-empty": (b"", {"replace": "true", "allow-empty": "true"}, 400, "invalid_input"),
    "the same file elsewhere": (OLD, {"stage": "prod"}, 409, "package_exists"),
    "the same file, other tags": (OLD, {"tags": "c"}, 409, "package_exists"),
}  # fmt: skip


@every_door
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_at_a_door(good: Good, door: Door, slip: str) -> None:
    body, said, status, code = SLIPS[slip]
    refused(door(good, body, **said), status, code)
    good.is_untouched()


@every_door
@pytest.mark.parametrize(
    "said",
    [{}, {"replace": "true"}, {"replace": "false"}, {"stage": "test", "tags": "a,b", "notes": "n"}],
    ids=["plain", "replace", "no replace", "as it is"],
)
def test_the_very_file_is_a_success_and_no_new_revision(good: Good, door: Door, said: dict[str, str]) -> None:
    events = len(good.node.api("GET", f"/events?subject={good.id}")["items"])
    answer = door(good, OLD, **said)
    assert answer.status in {200, 201, 204}
    assert answer.headers["ods-effect"] == "unchanged"
    if door in {put, put_chunked}:
        assert (answer.status, answer.json()["message"]) == (200, "This exact file is already here.")
    good.is_untouched()
    assert len(good.node.api("GET", f"/events?subject={good.id}")["items"]) == events


@every_door
def test_the_very_file_with_replace_changes_what_is_said_of_it(good: Good, door: Door) -> None:
    assert door(good, OLD, replace="true", stage="dev").headers["ods-effect"] == "changed"
    after = good.node.package(good.name)
    assert after is not None
    assert (after["stage"], after["tags"], after["notes"]) == ("dev", ["a", "b"], "n")
    assert after["uploaded_at"] == good.before["uploaded_at"], "the bytes came once"


@every_door
def test_what_is_meant_is_done(good: Good, door: Door) -> None:
    for body, said in ((NEW, {"replace": "true"}), (b"", {"replace": "true", "allow_empty": "true"})):
        assert door(good, body, **said).headers["ods-effect"] == "replaced"
        assert good.node.download(good.name).body == body
        after = good.node.package(good.name)
        assert after is not None
        assert (after["stage"], after["tags"], after["notes"]) == ("test", ["a", "b"], "n")


@every_door
def test_a_name_in_another_case_names_the_one_that_is_there(good: Good, door: Door) -> None:
    other = Good(good.node, good.name.upper(), good.before)
    answer = door(other, NEW)
    refused(
        answer, 409, "package_exists", f'"{good.name}" already exists', f'"{other.name}" is the same name'
    )
    refused(door(other, OLD), 409, "package_exists", f'"{good.name}" already exists')
    good.is_untouched()
    assert door(other, OLD, replace="true").headers["ods-effect"] == "changed"
    assert good.node.download(other.name).body == OLD


def test_a_stage_that_somebody_sets_meanwhile_stays(good: Good) -> None:
    """What the upload does not name is that of the newest record, not of the moment at which it was opened."""
    path = good.node.request(
        "POST",
        UPLOADS,
        NEW[:4],
        {
            **TUS,
            "Content-Type": OCTETS,
            "Upload-Length": str(len(NEW)),
            "Upload-Metadata": metadata(filename=good.name, replace="true", notes="mine"),
        },
    ).headers["location"]
    good.node.api(
        "PATCH", f"/packages/{quote(good.name)}", {"stage": "dev", "tags": ["z"], "notes": "theirs"}
    )
    headers = {**TUS, "Content-Type": OCTETS, "Upload-Offset": "4"}
    assert good.node.request("PATCH", path, NEW[4:], headers).status == 204
    after = good.node.package(good.name)
    assert after is not None
    assert (after["stage"], after["tags"], after["notes"]) == ("dev", ["z"], "mine")


def test_the_very_file_brings_back_what_is_lost_here(network: Network, tmp_path: Path) -> None:
    """It is no new revision, but the bytes are taken: they may be what a node lacks."""
    a, b = network.chain("a", "b")
    file = make_file(tmp_path / "Lost.pkg", 70 * MIB)  # more chunks than a record carries
    a.publish(file.path)
    b.wait_holds(file.name, file.sha256)
    before = b.package(file.name)
    assert before is not None
    a.stop()
    b.layout.blob(file.sha256).unlink()
    assert b.download(file.name).status == 503
    answer = b.upload(file.path)
    assert (answer.status, answer.json()["effect"]) == (200, "repaired")
    b.wait_holds(file.name, file.sha256)
    assert b.sha1(file.name) == file.sha1
    after = b.package(file.name)
    assert after is not None
    assert (after["revision"], after["author"]) == (before["revision"], before["author"])


def test_doubled_words_of_tus(good: Good) -> None:
    said = f"{metadata(filename=good.name, replace='false')},replace {b64('true')}"
    headers = {**TUS, "Upload-Length": str(len(NEW)), "Upload-Metadata": said}
    refused(good.node.request("POST", UPLOADS, None, headers), 400, "invalid_input", "more than once")
    own = metadata(
        filename=good.name, replace="true", filetype="application/x-xar", name="x", relativePath="null"
    )
    headers = {**TUS, "Upload-Length": str(len(NEW)), "Upload-Metadata": own, "Content-Type": OCTETS}
    assert good.node.request("POST", UPLOADS, NEW, headers).status == 201, "words of a client's own"


# The command


@pytest.mark.parametrize("kind", ["folder", "empty", "two of a name", "stage", "missing"])
def test_the_command_sends_no_slip(good: Good, tmp_path: Path, kind: str) -> None:
    path = tmp_path / good.name
    arguments: tuple[str, ...] = ("--replace",)
    files, words = [path], ""
    if kind == "folder":
        (path / "Contents").mkdir(parents=True)
        words = (
            f"is a folder. If it is a bundle, zip it and add that: zip -ry '{good.name}.zip' '{good.name}'"
        )
    elif kind == "empty":
        path.touch()
        words = "--allow-empty"
    elif kind == "two of a name":
        path.write_bytes(NEW)
        other = tmp_path / "other" / good.name.lower()
        other.parent.mkdir()
        other.write_bytes(NEW[::-1])
        files, words = [path, other], "have the same name"
    elif kind == "stage":
        path.write_bytes(NEW)
        arguments, words = ("--replace", "--stage", ""), "stage is empty"
    else:
        words = "does not exist"
    done = ods(good.node, "package", "add", *map(str, files), *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert words in done.stderr
    good.is_untouched()


def test_the_command_says_that_a_file_is_there(good: Good, tmp_path: Path) -> None:
    path = tmp_path / good.name
    path.write_bytes(OLD)
    done = ods(good.node, "package", "add", str(path))
    assert done.returncode == 0
    assert done.stderr.startswith(f"{good.name}: This exact file is already here.\n")
    good.is_untouched()
    assert ods(good.node, "package", "add", str(path), "--stage", "prod").returncode == 5
    path.write_bytes(NEW)
    assert ods(good.node, "package", "add", str(path)).returncode == 5
    assert ods(good.node, "package", "add", str(path), "--replace", "--revision", "99").returncode == 5
    assert ods(good.node, "package", "withdraw", good.name, "--yes", "--revision", "99").returncode == 5
    good.is_untouched()
    path.write_bytes(b"")
    revision = str(good.before["revision"])
    done = ods(good.node, "package", "add", str(path), "--replace", "--revision", revision, "--allow-empty")
    assert done.returncode == 0, done.stderr


# Bodies that are not the file


@pytest.mark.parametrize(
    "header",
    [
        {"Content-Digest": f"sha-256=:{b64(bytes(32))}:"},
        {"Repr-Digest": f"sha-256=:{b64(bytes(32))}:"},
        {"Repr-Digest": f"sha-512=:{b64(bytes(64))}:"},
        {"Digest": f"SHA-256={b64(bytes(32))}"},
        {"Digest": f"MD5={b64(bytes(16))}"},
        {"Content-MD5": b64(bytes(16))},
    ],
    ids=lambda header: " ".join(*header.items()),
)
def test_a_digest_that_does_not_match(good: Good, header: dict[str, str]) -> None:
    answer = good.node.request("PUT", f"{good.path}?replace=true", NEW, header)
    refused(answer, 422, "digest_mismatch")
    good.is_untouched()


@pytest.mark.parametrize(
    "header",
    [
        {"Content-Digest": "crc32c=:AAAA:"},
        {"Repr-Digest": "sha-256=no"},
        {"Content-MD5": "AAAA"},
        {"Digest": ""},
    ],
    ids=lambda header: " ".join(*header.items()),
)
def test_a_digest_that_cannot_be_checked(good: Good, header: dict[str, str]) -> None:
    refused(good.node.request("PUT", f"{good.path}?replace=true", NEW, header), 400, "invalid_input")
    good.is_untouched()


@pytest.mark.parametrize("kind", ["md5", "sha512"])
def test_other_digests_that_match(good: Good, kind: str) -> None:
    digest = b64(hashlib.new(kind, NEW).digest())
    header = {"Content-MD5": digest} if kind == "md5" else {"Content-Digest": f"sha-512=:{digest}:"}
    assert good.node.request("PUT", f"{good.path}?replace=true", NEW, header).status == 200


def test_the_rest_of_a_file(good: Good, tmp_path: Path, need: Callable[[str], str]) -> None:
    need("curl")
    (tmp_path / "new").write_bytes(NEW)
    status, problem = curl("-C", "5", "-T", "new", f"{good.url}?replace=true", directory=tmp_path)
    assert (status, problem["code"]) == (400, "invalid_input")
    good.is_untouched()


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("end", ["shut", "reset"])
def test_a_body_that_ends_early(good: Good, chunked: bool, end: str) -> None:
    headers = "Transfer-Encoding: chunked" if chunked else "Content-Length: 100"
    with socket.create_connection(("127.0.0.1", good.node.port), 10) as connection:
        connection.sendall(
            f"PUT {good.path}?replace=true HTTP/1.1\r\nHost: x\r\nAuthorization: {AUTHORIZATION}\r\n{headers}"
            "\r\n\r\n".encode()
            + (b"20\r\n" + b"x" * 32 + b"\r\n" if chunked else b"x" * 32)
        )
        eventually(lambda: good.node.api("GET", "/uploads")["items"], 10, "nothing arrives")
        if end == "shut":
            connection.shutdown(socket.SHUT_WR)
            connection.settimeout(10)
            assert b"HTTP/1.1 20" not in connection.recv(1000)
        else:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    for _ in range(2):  # whatever is kept of it is no package
        for upload in good.node.api("GET", "/uploads")["items"]:
            good.node.request("DELETE", upload["url"], None, TUS)
        eventually(lambda: not good.node.api("GET", "/uploads")["items"], 10, "it is not ended")
    good.is_untouched()


# Files that are sent to the wrong place


@pytest.mark.parametrize("expect", ["Expect: 100-continue", "Expect:"], ids=["polite", "blunt"])
@pytest.mark.parametrize(
    ("place", "status"),
    [
        ("/Packages/", 405), ("/packages/Tool.pkg", 405), ("/ods/Packages/Tool.pkg", 405),
        ("/api/v1/packages", 405), ("/api/v1/pakages/Tool.pkg", 404), ("/api/v1/packages/a/b.pkg", 404), ("/", 404),
    ],
)  # fmt: skip
def test_a_large_file_that_is_sent_to_the_wrong_place(
    one_node: NodeProcess, tmp_path: Path, need: Callable[[str], str], place: str, status: int, expect: str
) -> None:
    need("curl")
    path = tmp_path / "Tool.pkg"
    with path.open("wb") as file:
        file.truncate(3 * 1024**3)
    began = time.monotonic()
    found = 0
    for _ in range(5):  # a client that sends on after the answer may be cut off before it has read that
        found, problem = curl("-H", expect, "-T", str(path), f"{one_node.url}{place}")
        if found:
            break
    assert found == status, problem
    assert f"curl -T FILE {one_node.url}/api/v1/packages/" in problem["detail"]
    assert time.monotonic() - began < 20, "it was not read to its end"
    assert one_node.package("Tool.pkg") is None


@pytest.mark.parametrize("place", ["/api/v1/packages", "/api/v1/packages/Tool.pkg"])
def test_a_form_that_is_posted(
    one_node: NodeProcess, tmp_path: Path, need: Callable[[str], str], place: str
) -> None:
    need("curl")
    path = tmp_path / "Tool.pkg"
    with path.open("wb") as file:
        file.truncate(3 * 1024**3)
    status, problem = curl("-H", "Expect:", "-F", f"file=@{path}", f"{one_node.url}{place}")
    assert (status, problem["code"]) == (415, "unsupported_media_type")
    assert "curl -T" in problem["detail"]


# Withdrawals


@pytest.mark.parametrize(
    ("target", "headers", "body", "status"),
    [
        ("?dry_run=true", {}, None, 400),
        ("?replace=true", {}, None, 400),
        ("", {}, b'{"revision": 1}', 400),
        ("", {"If-Match": "7"}, None, 400),
        ("", {"If-Match": ""}, None, 400),
        ("", {"If-Match": 'W/"*"'}, None, 412),
        ("", {"If-Match": '"99"'}, None, 412),
        ("", {"If-None-Match": "*"}, None, 412),
        ("", {"If-Unmodified-Since": "Thu, 01 Jan 2015 00:00:00 GMT"}, None, 412),
        ("/verify", {}, None, 405),
        ("/", {}, None, 404),
    ],
)
def test_a_withdrawal_that_is_not_quite_one(
    good: Good, target: str, headers: dict[str, str], body: bytes | None, status: int
) -> None:
    assert good.node.request("DELETE", good.path + target, body, headers).status == status
    for path in ("/api/v1/packages/", "/api/v1/packages"):  # a script's empty variable
        assert good.node.request("DELETE", path).status in {404, 405}
    good.is_untouched()


def test_withdrawing_twice(good: Good) -> None:
    assert good.node.request("DELETE", good.path).status == 200
    refused(good.node.request("DELETE", good.path), 410, "package_withdrawn", "was withdrawn")
    refused(good.node.request("PATCH", good.path, b'{"stage": "dev"}'), 410, "package_withdrawn")


@pytest.mark.parametrize(
    "body", [b"", b"{}", b'{"stage": null}', b'{"revision": 1}', b'{"stage":"dev","stage":"prod"}']
)
def test_a_change_that_says_nothing(good: Good, body: bytes) -> None:
    refused(good.node.request("PATCH", good.path, body), 400, "invalid_input")
    refused(good.node.request("PATCH", f"{good.path}?stage=prod", body), 400, "invalid_input")
    good.is_untouched()
