"""A URL that is no node's: whatever answers there, every command ends in one plain sentence."""

import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from appliance.cli.exits import ExitCode
from appliance.cli.main import run
from tests.unit.test_cli import commands, ods

#: What a command needs beside its arguments, to come as far as a request.
FURTHER: dict[str, list[str]] = {
    "package change": ["--notes", "x"],
    "notify add": ["--webhook", "https://x"],
    "notify change": ["--enable"],
    "user add": ["--generate"],
    "user passwd": ["--generate"],
    "mdm change": ["--set", "intake.poll_s=120"],
}
GIVEN = {"files": "file.pkg", "file": "out.csv", "role": "viewer"}


class Foreign(http.server.ThreadingHTTPServer):
    """Answers everything with 200 and one body."""

    body = b""


class Handler(http.server.BaseHTTPRequestHandler):
    """Speaks for `Foreign`."""

    server: Foreign

    def _answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.server.body)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = do_HEAD = _answer

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ODS_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def foreign() -> Iterator[Foreign]:
    with Foreign(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def asking() -> list[str]:
    """Every command that asks a node."""
    return [
        " ".join(path)
        for path, command in commands(ods)
        if {"ca_file", "fingerprint"} <= {parameter.name for parameter in command.params}
        and path != ("login",)
    ]


def line(words: str) -> list[str]:
    """A command line of a command that is accepted."""
    command = next(one for path, one in commands(ods) if " ".join(path) == words)
    arguments = [
        GIVEN.get(parameter.name or "", "x")
        for parameter in command.params
        if isinstance(parameter, click.Argument)
    ]
    yes = ["--yes"] if any("--yes" in parameter.opts for parameter in command.params) else []
    return [*words.split(), *FURTHER.get(words, []), *yes, "--", *arguments]


@pytest.mark.parametrize("words", asking())
def test_every_command_says_that_this_is_no_node(
    words: str, foreign: Foreign, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file.pkg").write_bytes(b"x")
    port = foreign.server_address[1]
    for name, value in (("URL", f"http://127.0.0.1:{port}"), ("TOKEN", "t"), ("MDM_SECRET", "s")):
        monkeypatch.setenv(f"ODS_{name}", value)
    for body in (
        b"[]",
        b"{}",
        b'{"items": 5}',
        b'{"items": [{}], "next": null}',
        b"5",
        b"[" * 9999,
        b"<html>",
    ):
        foreign.body = body
        code = run(line(words))
        said = capsys.readouterr().err
        assert (code, "is this a node's URL?" in said) == (ExitCode.FAILED, True), (body, said)
        assert not Path("out.csv").exists()


@pytest.mark.parametrize(
    "body", [b'{"detail": [1]}', b'{"detail": "x", "code": ["y"]}', b'{"detail": null}', b"[" * 9999]
)
def test_a_refusal_that_is_no_nodes(
    body: bytes, foreign: Foreign, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file.pkg").write_bytes(b"x")
    monkeypatch.setattr(foreign, "body", body)
    monkeypatch.setattr(Handler, "send_response", lambda self, _: _refuse(self))
    assert run(["package", "add", "file.pkg", "--url", f"http://127.0.0.1:{foreign.server_address[1]}"]) == 4
    assert "is this a node's URL?" in capsys.readouterr().err


def _refuse(handler: Handler) -> None:
    http.server.BaseHTTPRequestHandler.send_response(handler, 403)
