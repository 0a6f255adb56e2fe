"""The command line against real nodes: processes started as a user starts them, on the loopback address."""

import contextlib
import io
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from appliance.cli import tus
from appliance.cli.exits import ExitCode
from appliance.cli.main import run
from tests.ports import free_port

PASSWORD = "a password for tests"
ODS = [sys.executable, "-m", "appliance"]


class Node:
    """A node as a process."""

    def __init__(self, directory: Path, **settings: str) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.settings = settings
        self.process: subprocess.Popen[str] | None = None
        self.announced: list[str] = []

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*ODS, "serve", "--data-dir", str(self.data), "--host", "127.0.0.1", "--port", str(self.port)],
                env={**plain_environment(self.directory), "ODS_ADMIN_PASSWORD": PASSWORD, **self.settings},
                cwd=self.directory, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.announced.append(line.rstrip())
            if "/api/v1/docs" in line:
                return
        pytest.fail((self.directory / "log").read_text())

    def stop(self) -> int:
        assert self.process is not None
        self.process.terminate()
        code = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code


def plain_environment(home: Path) -> dict[str, str]:
    """The environment without whatever the person who runs the tests has set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ODS_", "XDG_"))}
    return {
        **kept,
        "HOME": str(home),
        "ODS_TRANSFERS_MIN_FREE": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


@contextlib.contextmanager
def started(directory: Path, **settings: str) -> Iterator[Node]:
    node = Node(directory, **settings)
    node.start()
    try:
        yield node
    finally:
        if node.process is not None:
            node.stop()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with started(tmp_path_factory.mktemp("node")) as node:
        yield node


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ODS_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ODS_USER", "admin")
    monkeypatch.setenv("ODS_PASSWORD", PASSWORD)
    monkeypatch.chdir(tmp_path)


class Cli:
    """Runs commands in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch

    def at(self, node: Node) -> "Cli":
        self._monkeypatch.setenv("ODS_URL", node.url)
        return self

    def __call__(self, *arguments: str, code: int = 0, stdin: str = "") -> str:
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        got = run(arguments)
        shown = self._capsys.readouterr()
        self.errors = shown.err
        assert got == code, shown.err
        return shown.out

    def json(self, *arguments: str, code: int = 0, stdin: str = "") -> Any:
        return json.loads(self(*arguments, "--json", code=code, stdin=stdin))


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    return Cli(capsys, monkeypatch)


def eventually(check: Any, seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while not (found := check()):
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.05)
    return found


def test_a_package_from_beginning_to_end(node: Node, cli: Cli, tmp_path: Path) -> None:
    cli.at(node)
    name = "Ünï + 50% #1 (x).pkg"
    path = tmp_path / name
    path.write_bytes(os.urandom(3_000_001))
    added = cli.json("package", "add", str(path), "--tag", "one", "--tag", "two", "--notes", "from a test")
    assert (added["filename"], added["size"], added["tags"]) == (name, 3_000_001, ["one", "two"])
    again = cli.json("package", "add", str(path))
    assert (again["effect"], again["revision"]) == ("unchanged", added["revision"])
    assert "This exact file is already here." in (cli("package", "add", str(path)) and cli.errors)
    assert name in cli("package", "list", "--tag", "two")
    assert cli.json("package", "add", str(path), "--replace", "--notes", "again")["sha256"] == added["sha256"]
    assert [p["filename"] for p in cli.json("package", "list", "-q", "ünï +")] == [name]
    assert added["sha256"] in cli("package", "show", name)
    assert cli("package", "verify", name, "--against", str(path)).strip() == f"{name}: ok"
    other = tmp_path / "other"
    other.write_bytes(b"other")
    cli("package", "verify", name, "--against", str(other), code=ExitCode.FAILED)
    changed = cli.json("package", "change", name, "--no-tags", "--stage", "test")
    assert (changed["tags"], changed["stage"], changed["notes"]) == ([], "test", "again")
    cli("package", "change", name, "--stage", "prod", "--revision", "1", code=ExitCode.CONFLICT)
    cli("package", "change", name, "--stage", "moon", code=ExitCode.USAGE)
    assert "withdrawn" in cli("package", "withdraw", name, "--yes")
    assert cli.json("package", "list", "-q", "ünï") == []
    assert [p["withdrawn"] for p in cli.json("package", "list", "-q", "ünï", "--withdrawn")] == [True]
    cli("package", "show", "never.pkg", code=ExitCode.NOT_FOUND)


def test_sizes_at_the_edges_and_checksums(node: Node, cli: Cli, tmp_path: Path) -> None:
    cli.at(node)
    for size in (0, 1, 2**20 - 1, 2**20, 2**20 + 1):
        path = tmp_path / f"edge-{size}.pkg"
        path.write_bytes(os.urandom(size))
        empty = [] if size else ["--allow-empty"]
        assert cli.json("package", "add", str(path), *empty)["size"] == size
    path = tmp_path / "wrong.pkg"
    path.write_bytes(b"x")
    cli("package", "add", str(path), "--sha256", "0" * 64, code=ExitCode.FAILED)
    cli("package", "show", "wrong.pkg", code=ExitCode.NOT_FOUND)
    cli("package", "add", str(path), "--name", "../wrong.pkg", code=ExitCode.USAGE)


class Cutting:
    """A proxy before a node that cuts the first connection that has carried `after` bytes."""

    def __init__(self, port: int, after: int) -> None:
        self._target = port
        self._after: int | None = after
        self.sent = 0
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self._threads: list[threading.Thread] = []
        self._open: list[socket.socket] = []
        self._start(self._accept)

    def _start(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._open += [near, far]
            self._start(self._pass, near, far, True)
            self._start(self._pass, far, near, False)

    def _pass(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        carried = 0
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                target.sendall(data)
                if counted:
                    carried += len(data)
                    self.sent += len(data)
                    if self._after is not None and carried > self._after:
                        self._after = None
                        for sock in (source, target):  # close() resets the connections
                            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        break
        for sock in (source, target):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for sock in self._open:
            sock.close()


@pytest.mark.parametrize("runs", [1, 2], ids=["within one run", "in a second run"])
def test_an_upload_that_is_cut_off_goes_on(
    node: Node, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runs: int
) -> None:
    size = 24 * 2**20
    path = tmp_path / f"cut-{runs}.pkg"
    path.write_bytes(os.urandom(size))
    proxy = Cutting(node.port, size // 2)
    try:
        monkeypatch.setenv("ODS_URL", proxy.url)
        if runs == 2:
            with monkeypatch.context() as impatient:
                impatient.setattr(tus, "TRIES", -1)
                cli("package", "add", str(path), code=ExitCode.UNREACHABLE)
        assert cli.json("package", "add", str(path))["size"] == size
    finally:
        proxy.close()
    assert size <= proxy.sent < size * 1.3, "what had arrived was not sent again"
    cli.at(node)("package", "verify", path.name)


def test_a_file_that_changed_is_not_continued(
    node: Node, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "changing.pkg"
    path.write_bytes(os.urandom(12 * 2**20))
    proxy = Cutting(node.port, 6 * 2**20)
    try:
        monkeypatch.setenv("ODS_URL", proxy.url)
        with monkeypatch.context() as impatient:
            impatient.setattr(tus, "TRIES", -1)
            cli("package", "add", str(path), code=ExitCode.UNREACHABLE)
        path.write_bytes(os.urandom(12 * 2**20))
        cli("package", "add", str(path))
    finally:
        proxy.close()
    cli.at(node)("package", "verify", path.name, "--against", str(path))


def test_accounts_tokens_and_roles(
    node: Node, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cli.at(node)
    cli("user", "add", "viv", "--password-stdin", stdin="viv's own password\n")
    cli("user", "add", "viv", "--generate", code=ExitCode.CONFLICT)
    cli("user", "add", "short", "--password-stdin", code=ExitCode.USAGE, stdin="short\n")
    made = cli.json("user", "passwd", "viv", "--generate")
    assert {u["name"]: u["role"] for u in cli.json("user", "list")} == {"admin": "admin", "viv": "viewer"}
    monkeypatch.setenv("ODS_USER", "viv")
    monkeypatch.setenv("ODS_PASSWORD", made["password"])
    assert cli.json("status")["about"]["role"] == "viewer"
    (tmp_path / "no.pkg").write_bytes(b"x")
    for command in (["package", "add", "no.pkg"], ["user", "list"], ["peer", "invite"]):
        cli(*command, code=ExitCode.NOT_ALLOWED)
    cli("token", "create", "too much", "--role", "operator", code=ExitCode.NOT_ALLOWED)
    token = cli("token", "create", "for a test", "--expires", "1h").strip()
    assert token.startswith("ods_")
    monkeypatch.delenv("ODS_USER")
    cli("status", code=ExitCode.NOT_ALLOWED)
    monkeypatch.setenv("ODS_TOKEN", token)
    listed = cli.json("token", "list")
    assert [t["name"] for t in listed] == ["for a test"]
    assert token not in json.dumps(listed)
    cli("token", "revoke", listed[0]["id"], "--yes")
    cli("status", code=ExitCode.NOT_ALLOWED)
    monkeypatch.delenv("ODS_TOKEN")
    monkeypatch.setenv("ODS_USER", "admin")
    monkeypatch.setenv("ODS_PASSWORD", PASSWORD)
    cli("user", "role", "viv", "operator")
    cli("user", "remove", "viv", "--yes")
    cli("user", "remove", "viv", "--yes", code=ExitCode.NOT_FOUND)
    cli("user", "remove", "admin", "--yes", code=ExitCode.CONFLICT)


def test_login_and_logout(node: Node, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ODS_USER")
    monkeypatch.delenv("ODS_PASSWORD")
    cli(
        "login",
        node.url,
        "--user",
        "admin",
        "--password-stdin",
        stdin="wrong password\n",
        code=ExitCode.NOT_ALLOWED,
    )
    cli("logout", code=ExitCode.NOT_FOUND)
    cli("login", node.url, "--user", "admin", "--password-stdin", stdin=PASSWORD + "\n")
    assert cli.json("status")["about"]["url"] == node.url
    assert cli.json("logout")["revoked"] is True
    assert not list(Path.home().rglob("profile.yaml"))


def test_status_for_people(node: Node, cli: Cli) -> None:
    shown = cli.at(node)("status")
    assert "State:" in shown
    assert "ready" in shown


def test_peers_join_and_leave(node: Node, cli: Cli, tmp_path: Path) -> None:
    with started(tmp_path / "second", ODS_NODE_NAME="second") as second:
        invite = cli.at(node)("peer", "invite", "--expires", "10m").strip()
        assert invite.startswith("ods1.")
        assert cli.at(second).json("peer", "join", "-", stdin=invite + "\n")["state"] == "active"
        cli.at(node)("peer", "join", invite, code=ExitCode.CONFLICT)  # it is the node's own
        assert "second" in cli.at(node)("peer", "list")
        path = tmp_path / "shared.pkg"
        path.write_bytes(os.urandom(2_500_000))
        cli("package", "add", str(path))
        cli.at(second)
        eventually(
            lambda: [
                p for p in cli.json("package", "list", "--presence", "held") if p["filename"] == path.name
            ]
        )
        assert [t["state"] for t in cli.json("transfer", "list") if t["filename"] == path.name] == ["done"]
        assert {r["presence"] for r in cli.json("package", "show", path.name)["replicas"]} == {"held"}
        cli.at(node)("peer", "remove", "second", "--yes")
        assert cli.json("peer", "list") == []
        cli("peer", "remove", "second", code=ExitCode.NOT_FOUND)
        unused = cli.json("peer", "invite")["id"]
        cli("peer", "revoke", unused, "--yes")
        cli("peer", "revoke", unused, "--yes", code=ExitCode.NOT_FOUND)


def test_an_upload_waits_until_every_node_holds_it(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "everywhere.pkg"
    path.write_bytes(os.urandom(3_000_000))
    with (
        started(tmp_path / "one") as one,
        started(tmp_path / "two", ODS_NODE_NAME="two", ODS_NODE_TAGS_REFUSE="secret") as two,
    ):
        invite = cli.at(one)("peer", "invite").strip()
        cli.at(two)("peer", "join", invite)
        eventually(lambda: len(cli.at(one).json("peer", "list")) == 1)
        shown = cli.at(one).json("package", "add", str(path), "--wait", "--timeout", "1m")
        assert {r["presence"] for r in shown["replicas"]} == {"held"}
        assert len(shown["replicas"]) == 2
        # Other bytes: a copy that "two" had already would stay until "one" proves its own.
        path.write_bytes(os.urandom(3_000_000))
        shown = cli.json("package", "add", str(path), "--name", "s.pkg", "--tag", "secret", "--wait")
        assert sorted(r["presence"] for r in shown["replicas"]) == ["held", "not_admitted"]
        two.stop()
        (tmp_path / "later.pkg").write_bytes(b"later")
        cli(
            "package",
            "add",
            str(tmp_path / "later.pkg"),
            "--wait",
            "--timeout",
            "2s",
            code=ExitCode.TRY_LATER,
        )
        assert "two" in cli.errors


def test_a_self_signed_node_is_trusted_by_its_fingerprint(cli: Cli, tmp_path: Path) -> None:
    with started(tmp_path / "tls", ODS_HTTP_TLS_SELF_SIGNED="true") as node:
        url = node.url.replace("http:", "https:")
        cli("status", "--url", url, code=ExitCode.UNREACHABLE)
        cli("login", url, "--user", "admin", "--password-stdin", stdin=PASSWORD, code=ExitCode.UNREACHABLE)
        fingerprint = cli.errors.split("--fingerprint ")[1].split()[0]
        cli("status", "--url", url, "--fingerprint", "ab" * 32, code=ExitCode.UNREACHABLE)
        cli("login", url, "--user", "admin", "--password-stdin", "--fingerprint", fingerprint, stdin=PASSWORD)
        assert cli.json("status", "--user", "")["about"]["url"] == url
        cli("status", "--url", url, "--ca-file", str(node.data / "identity" / "tls.crt"))


def test_a_lost_password_is_reset_on_the_machine(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(tmp_path / "own") as own:
        made = cli.at(own).json("user", "reset", "--data-dir", str(own.data))
        cli("user", "list", code=ExitCode.NOT_ALLOWED)
        monkeypatch.setenv("ODS_PASSWORD", made["password"])
        assert [found["name"] for found in cli.json("user", "list")] == ["admin"]
        cli("user", "reset", "nobody", "--data-dir", str(own.data), code=ExitCode.NOT_FOUND)
        assert 'There is no account "nobody". There are: admin.' in cli.errors
        assert [found["name"] for found in cli.json("user", "list")] == ["admin"], "a slip makes no account"
        cli("user", "add", "viv", "--password-stdin", stdin="viv's own password\n")
        reset = cli.json("user", "reset", "viv", "--data-dir", str(own.data))
        assert (reset["name"], reset["role"]) == ("viv", "viewer")
        assert {u["name"]: u["role"] for u in cli.json("user", "list")} == {"admin": "admin", "viv": "viewer"}
        cli("user", "reset", "--data-dir", str(tmp_path / "elsewhere"), code=ExitCode.USAGE)
        assert not (tmp_path / "elsewhere").exists()


def test_nodes_are_listed(node: Node, cli: Cli) -> None:
    found = cli.at(node).json("node", "list")
    assert (node.url, True) in [(one["url"], one["self"]) for one in found]
    assert node.url in cli("node", "list")


def test_init_makes_a_node_and_twice_is_once(cli: Cli, tmp_path: Path) -> None:
    first = cli.json("init", "--data-dir", str(tmp_path / "new"))
    again = cli.json("init", "--data-dir", str(tmp_path / "new"))
    assert first["password"]
    assert again == {**first, "password": ""}
    with started(tmp_path / "new-node", ODS_DATA_DIR="ignored") as node:
        assert node.stop() == 0


def test_export_and_import(node: Node, cli: Cli, tmp_path: Path) -> None:
    cli.at(node)
    (tmp_path / "moved.pkg").write_bytes(b"moved")
    cli("package", "add", "moved.pkg")
    assert cli.json("export", "site.tar", "--data-dir", str(node.data))["bytes"] > 0
    cli("export", "site.tar", "--data-dir", str(node.data), code=ExitCode.CONFLICT)
    cli("import", "site.tar", "--data-dir", str(node.data), code=ExitCode.USAGE)  # it runs
    counts = cli.json("import", "site.tar", "--data-dir", "copy")["imported"]
    assert counts["packages"] >= 1
    assert "identity" in cli.errors or counts
    cli("export", "again.tar", "--data-dir", "copy")
    (tmp_path / "broken.tar").write_bytes((tmp_path / "site.tar").read_bytes()[:5000])
    cli("import", "broken.tar", "--data-dir", "other", code=ExitCode.FAILED)


def test_an_export_replaces_nothing_but_a_file_elsewhere(node: Node, cli: Cli, tmp_path: Path) -> None:
    cli.at(node)
    local = ("--force", "--data-dir", str(node.data))
    (tmp_path / "link").symlink_to(node.data)
    database = (node.data / "ods.sqlite3").stat()
    for inside in (node.data / "ods.sqlite3", node.data / "site.tar", tmp_path / "link" / "ods.sqlite3"):
        cli("export", str(inside), *local, code=ExitCode.USAGE)
        assert "data directory" in cli.errors
    assert os.path.samestat((node.data / "ods.sqlite3").stat(), database)
    assert not (node.data / "site.tar").exists()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to(tmp_path / "pipe")
    for other in ("pipe", "to-pipe"):
        cli("export", other, *local, code=ExitCode.USAGE)
        assert "no regular file" in cli.errors
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "newest.tar").symlink_to(tmp_path / "monday.tar")
    for _ in range(2):
        cli("export", "newest.tar", *local)
        assert (tmp_path / "newest.tar").is_symlink()
        assert (tmp_path / "monday.tar").stat().st_size > 0


def test_a_database_that_was_deleted_is_told(cli: Cli, tmp_path: Path) -> None:
    cli("init", "--data-dir", "gone")
    cli("export", "whole.tar", "--data-dir", "gone")
    for path in (tmp_path / "gone").glob("ods.sqlite3*"):
        path.unlink()
    for arguments in (("export", "site.tar"), ("fsck",)):
        cli(*arguments, "--data-dir", "gone", code=ExitCode.USAGE)
        assert "ods.sqlite3 is missing" in cli.errors
        assert "There is no node" not in cli.errors
    cli("export", "site.tar", "--data-dir", "mistyped", code=ExitCode.NOT_FOUND)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130)], ids=["ctrl-c", "terminate"]
)
def test_the_demo_is_ended_at_any_time(tmp_path: Path, number: signal.Signals, code: int) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    demo = subprocess.Popen(
        [*ODS, "demo"], env={**plain_environment(tmp_path), "TMPDIR": str(scratch)}, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - as at a terminal
    )  # fmt: skip
    eventually(lambda: len(list(scratch.rglob("ods.sqlite3"))) == 3)
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == code
    assert "Traceback" not in errors
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("jamf", [[], ["--jamf"]], ids=["nodes", "jamf"])
def test_the_demo_shows_a_package_on_three_nodes(tmp_path: Path, jamf: list[str]) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    demo = subprocess.run(
        [*ODS, "demo", *jamf, "--exit-when-done", "--size", "5MiB", "--json"],
        env={**plain_environment(tmp_path), "TMPDIR": str(scratch)}, cwd=tmp_path,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert demo.returncode == 0, demo.stderr
    report = json.loads(demo.stdout)
    assert set(report["seconds"]) == {"Berlin", "Cairo"}
    if jamf:
        assert set(report["jamf"]["seconds"]) == {"Amsterdam", "Berlin", "Cairo"}
        assert len(report["jamf"]["distribution_points"]) == 3
    assert report["package"]["size"] > 5_000_000
    for node in report["nodes"]:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(node["url"].rsplit(":", 1)[1])))
    assert list(scratch.iterdir()) == []


def test_a_reader_that_has_seen_enough(node: Node, tmp_path: Path) -> None:
    first = subprocess.run(
        f"{sys.executable} -m appliance config default | head -1",
        shell=True, env=plain_environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert first.stdout.startswith("# Settings")
    assert first.stderr == ""


def test_serve_says_what_is_wrong_in_a_line(node: Node, tmp_path: Path) -> None:
    second = subprocess.run(
        [*ODS, "serve", "--port", str(free_port()), "--data-dir", str(node.data)],
        env=plain_environment(tmp_path), cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert second.returncode == 1
    assert second.stderr.splitlines()[-1].startswith("ods: Another node is running")
    assert "Traceback" not in second.stderr
