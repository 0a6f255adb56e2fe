"""Slips of the hand: whatever somebody or a script sends by mistake, a good package stays as it is."""

import base64
import itertools
import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness.command import ods
from tests.harness.node import AUTHORIZATION, PASSWORD, Answer, NodeProcess

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = "application/offset+octet-stream"
UPLOADS = "/api/v1/uploads"
OLD, NEW = b"the good package\n", b"another file\n"
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
    def etag(self) -> str:
        return self.node.request("GET", self.path).headers["etag"]

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
