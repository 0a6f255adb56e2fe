"""Every command of `ods` is harmless, or asks before it destroys: at a terminal it asks, elsewhere it needs --yes."""

import contextlib
import io
import json
import os
import pty
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

from appliance.cli.answers import answer_schema
from appliance.cli.client import API
from appliance.cli.exits import ExitCode
from appliance.cli.main import ods, run
from tests.builders import make_file
from tests.harness.node import PASSWORD, NodeProcess

#: each with why it need not ask
HARMLESS = {
    "serve": "runs a node",
    "worker": "runs jobs",
    "init": "makes what is missing and changes nothing else",
    "demo": "has nodes and a directory of its own",
    "config show": "reads",
    "config check": "reads",
    "config default": "writes a new file only",
    "login": "asks for the password; an older profile is of use to nobody else",
    "logout": "ends what `login` began",
    "status": "reads",
    "package add": "replaces with --replace only",
    "package list": "reads",
    "package show": "reads",
    "package change": "names what it changes, and can be changed back",
    "package verify": "reads",
    "package versions": "reads",
    "package restore": "what is there now can be restored in turn",
    "scrub": "reads",
    "peer invite": "adds",
    "peer invites": "reads",
    "peer join": "adds",
    "peer list": "reads",
    "node list": "reads",
    "mdm add": "adds; asks if something that is needed fails",
    "mdm change": "names what it changes, and can be changed back",
    "mdm list": "reads",
    "mdm show": "reads",
    "mdm check": "reads",
    "mdm sync": "does what would be done soon",
    "mdm pause": "`mdm resume` takes it back",
    "mdm resume": "`mdm pause` takes it back",
    "mdm packages": "reads",
    "mdm points": "reads",
    "mdm segments": "reads",
    "mdm kinds": "reads",
    "transfer list": "reads",
    "transfer retry": "does what would be done later",
    "transfer first": "changes an order",
    "transfer cancel": "`transfer retry` takes it back, and nothing that came is lost",
    "token create": "adds",
    "token list": "reads",
    "user add": "adds",
    "user list": "reads",
    "user passwd": "needs the new password",
    "user role": "names what it changes, and can be changed back",
    "user reset": "is for who has no password, and prints the new one",
    "user sessions": "reads",
    "directory show": "reads",
    "directory test": "reads",
    "audit list": "reads",
    "audit export": "writes a new file only",
    "notify add": "adds",
    "notify list": "reads",
    "notify show": "reads",
    "notify change": "names what it changes, and can be changed back",
    "notify rotate": "the old secret signs for a day more",
    "notify test": "sends an event that says that it is a test",
    "notify deliveries": "reads",
    "notify resend": "adds",
    "export": "replaces a file with --force only",
    "import": "fills an empty database only",
    "fsck": "repairs with --repair only, and sets aside what it takes away",
}
#: what makes a command destroy that can do other things too
DESTROYING = {"mdm webhooks": ["--remove"]}


def commands(group: click.Group = ods, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        path = f"{before} {name}".strip()
        if isinstance(command, click.Group):
            yield from commands(command, path)
        else:
            yield path, command


ASKING = {path: command for path, command in commands() if path not in HARMLESS}


def test_every_command_is_harmless_or_asks() -> None:
    known = dict(commands())
    assert HARMLESS.keys() <= known.keys(), "a command that is gone"
    for path, command in known.items():
        asks = "yes" in [parameter.name for parameter in command.params]
        assert asks != (path in HARMLESS), (
            f"ods {path}: give it `yes_option` and `confirm`, or say why it is harmless"
        )


class _Handler(BaseHTTPRequestHandler):
    """Answers whatever a command asks as a node would, and remembers what would have changed something."""

    changes: list[str]

    def _answer(self) -> None:
        text = dict.fromkeys(
            ("id", "name", "url", "filename", "stage", "role", "kind", "address", "format"), "thing"
        )
        thing = {**text, "size": 1, "revision": 7, "stages": [], "ended": 1, "removed": 1, "state": "x"}
        body = json.dumps({**thing, "items": [thing], "next": None}).encode()
        if answer_schema(self.command, self.path.partition("?")[0].removeprefix(API)) is None:
            body = b""
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self.changes.append(f"{self.command} {self.path} {self.headers.get('If-Match', '')}".rstrip())
        self._answer()

    do_POST = do_PATCH = do_PUT = do_DELETE

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """What a node was told to change."""
    found: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"changes": found}))
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    for name in [name for name in os.environ if name.startswith("ODS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ODS_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("ODS_TOKEN", "x")
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Terminal(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


def arguments(path: str) -> list[str]:
    needed = [one for one in ASKING[path].params if isinstance(one, click.Argument) and one.required]
    return [*path.split(), *("thing" for _ in needed), *DESTROYING.get(path, [])]


every_asking = pytest.mark.parametrize("path", ASKING)


@every_asking
def test_without_a_terminal_it_needs_yes(
    path: str, changes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed in ("", "y\n"):  # also `yes | ods ...`
        monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
        assert run(arguments(path)) == ExitCode.USAGE
        shown = capsys.readouterr()
        assert shown.out == ""
        assert "--yes" in shown.err
        assert shown.err.endswith("Nothing changed.\n")
    assert changes == []
    assert run([*arguments(path), "--yes"]) == ExitCode.OK
    assert len(changes) == 1


@every_asking
def test_at_a_terminal_it_asks(
    path: str, changes: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for typed, code in (("n\n", ExitCode.FAILED), ("\n", ExitCode.FAILED), ("", ExitCode.INTERRUPTED)):
        monkeypatch.setattr(sys, "stdin", Terminal(typed))
        assert run(arguments(path)) == code
        shown = capsys.readouterr()
        assert "?" in shown.err
        assert ("ods: Nothing changed." in shown.err) == (code == ExitCode.FAILED)
        assert changes == []
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run(arguments(path)) == ExitCode.OK
    assert len(changes) == 1


def test_what_was_asked_about_is_what_is_withdrawn(
    changes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert run(["package", "withdraw", "thing"]) == ExitCode.OK
    assert run(["package", "withdraw", "thing", "--yes"]) == ExitCode.OK
    assert run(["package", "withdraw", "thing", "--yes", "--revision", "3"]) == ExitCode.OK
    place = "DELETE /api/v1/packages/thing"
    assert changes == [f'{place} "7"', place, f'{place} "3"']


@pytest.mark.parametrize(("typed", "code"), [(b"n\n", 1), (b"y\n", 0)])
def test_at_a_real_terminal(one_node: NodeProcess, tmp_path: Path, typed: bytes, code: int) -> None:
    file = make_file(tmp_path / f"Terminal {code}.pkg", 10)
    one_node.publish(file.path)
    near, far = pty.openpty()
    command = subprocess.Popen(
        [sys.executable, "-m", "appliance", "package", "withdraw", file.name],
        env=one_node.environment() | {"ODS_URL": one_node.url, "ODS_USER": "admin", "ODS_PASSWORD": PASSWORD},
        cwd=one_node.directory, stdin=far, stdout=far, stderr=far,
    )  # fmt: skip
    shown = b""
    try:
        os.close(far)
        while b"?" not in shown:
            shown += os.read(near, 1000)
        os.write(near, typed)
        with contextlib.suppress(OSError):  # Linux ends so when the other end is closed
            while data := os.read(near, 1000):
                shown += data
        assert command.wait(30) == code
    finally:
        os.close(near)
        command.kill()
        command.wait()
    assert f"Withdraw {file.name} (10 bytes, stage prod) from every node of the network?".encode() in shown
    assert (b"Nothing changed." in shown) == bool(code)
    package = one_node.package(file.name)
    assert package is not None
    assert package["withdrawn"] == (not code)
