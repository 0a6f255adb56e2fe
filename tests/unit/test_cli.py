"""The command line without a node: usage, exit codes, output, profile, and what goes over the line."""

import gzip
import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from xml.etree import ElementTree

import click
import pytest
import requests

from appliance.api.schemas import TEXT, object_of
from appliance.cli import client as client_module
from appliance.cli.answers import Answer, misfit
from appliance.cli.client import failure, segment
from appliance.cli.exits import CommandFailed, ExitCode, for_error, for_status
from appliance.cli.flat_package import build_flat_package
from appliance.cli.main import ods, run
from appliance.cli.output import Output, moment, size, span, visible
from appliance.cli.profile import Connection, find_connection, profile_path, read_profile, write_profile
from appliance.cli.tus import Memory, _Body
from appliance.cli.waiting import wait_for_all
from appliance.domain import errors

FINGERPRINT = "ab" * 32


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("ODS_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def commands(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = []
    for name, command in group.commands.items():
        found.append(((*path, name), command))
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
    return found


@pytest.mark.parametrize(
    ("path", "command"), commands(ods), ids=lambda value: " ".join(value) if isinstance(value, tuple) else ""
)
def test_every_command_has_help_and_takes_json(
    path: tuple[str, ...], command: click.Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*path, "--help"]) == ExitCode.OK
    assert "--json" in capsys.readouterr().out
    assert command.help


def test_a_group_without_a_command_shows_its_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["package"]) == ExitCode.USAGE
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("Usage: ods package")
    assert told.err.count("Usage:") == 1
    assert run(["--json", "package"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().err)["error"] == "Missing command."


@pytest.mark.parametrize("life", ["inf", "nan", "9" * 400 + "d", "soon"])
def test_a_duration_that_is_none(life: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["peer", "invite", "--expires", life]) == ExitCode.USAGE
    assert "is not a duration" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fifo"], "no regular file"),
        (["/dev/null"], "no regular file"),
        (["one.pkg", "--stage", ""], "stage is empty"),
        (["one.pkg", "--name", "a/b"], 'contains "/"'),
        (["one.pkg", "CON.pkg"], "reserved on Windows"),
        (["one.pkg", "caf\udce9.pkg"], "not valid Unicode"),
    ],
)
def test_files_that_are_refused_before_anything_is_sent(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name in ("one.pkg", "CON.pkg", "caf\udce9.pkg"):
        (tmp_path / name).touch()
    assert run(["package", "add", "--url", "http://127.0.0.1:1", *arguments]) == ExitCode.USAGE
    assert words in capsys.readouterr().err
    assert run(["package", "show", "--url", "http://127.0.0.1:1", "caf\udce9"]) == ExitCode.USAGE


@pytest.mark.parametrize("option", ["--notes", "--tag"])
def test_words_that_are_not_utf_8(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ODS_USER", "admin")
    monkeypatch.setenv("ODS_PASSWORD", "a password of enough")
    (tmp_path / "a.pkg").write_bytes(b"x")
    given = ["package", "add", "--url", "http://127.0.0.1:1", str(tmp_path / "a.pkg"), option, "caf\udce9"]
    assert run(given) == ExitCode.USAGE
    assert "not UTF-8" in capsys.readouterr().err


def test_the_commands_of_the_plan_are_there() -> None:
    names = {" ".join(path) for path, _ in commands(ods)}
    assert names >= {
        "serve", "worker", "init", "config show", "config check", "config default", "peer invite", "peer join",
        "peer list", "peer remove", "package add", "package list", "package show", "package withdraw",
        "package verify", "package change", "token create", "token list", "token revoke", "user add", "user list",
        "user passwd", "user remove", "export", "import", "fsck", "demo", "status",
    }  # fmt: skip


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["package", "show"], ["serve", "--port", "99999"], ["package", "add", "/does/not/exist"],
     ["peer", "invite", "--expires", "soon"], ["--no-such"], ["--json", "package", "show"]],
)  # fmt: skip
def test_wrong_usage_is_two(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == ExitCode.USAGE
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    assert shown.err


def test_nobody_there_is_six(capsys: pytest.CaptureFixture[str]) -> None:
    with_no_node = ["package", "list", "--url", "http://127.0.0.1:9"]
    assert run(with_no_node) == ExitCode.UNREACHABLE
    assert "http://127.0.0.1:9 cannot be reached: Connection refused" in capsys.readouterr().err
    assert run(["--json", *with_no_node]) == ExitCode.UNREACHABLE
    assert json.loads(capsys.readouterr().err)["exit_code"] == ExitCode.UNREACHABLE


def test_a_user_without_a_password_and_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status", "--user", "admin"]) == ExitCode.USAGE
    assert "ODS_PASSWORD" in capsys.readouterr().err


def test_settings_faults_are_two_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("http:\n  prot: 1\n")
    assert run(["config", "check", "--config", str(path)]) == ExitCode.USAGE
    assert f"{path}:2: http.prot: there is no such setting; did you mean port?" in capsys.readouterr().err
    assert run(["config", "check", "--config", str(path), "--json"]) == ExitCode.USAGE
    assert json.loads(capsys.readouterr().err)["faults"] == [
        f"{path}:2: http.prot: there is no such setting; did you mean port?"
    ]


def test_config_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(["config", "default", "-o", "ods.yaml"]) == ExitCode.OK
    assert run(["config", "default", "-o", "ods.yaml"]) == ExitCode.CONFLICT
    assert run(["config", "check"]) == ExitCode.OK
    assert "ods.yaml" in capsys.readouterr().out
    monkeypatch.setenv("ODS_ADMIN_PASSWORD", "a secret of mine")
    assert run(["config", "show", "--json", "--data-dir", "/elsewhere"]) == ExitCode.OK
    shown = json.loads(capsys.readouterr().out)
    assert (shown["data_dir"], shown["admin"]["password"]) == ("/elsewhere", "***")


@pytest.mark.parametrize("command", [["export", "x.tar"], ["fsck"]])
def test_a_directory_without_a_node_stays_without_one(command: list[str], tmp_path: Path) -> None:
    assert run([*command, "--data-dir", str(tmp_path / "typo")]) == ExitCode.NOT_FOUND
    assert not (tmp_path / "typo").exists()


def every_error() -> list[type[errors.ApplianceError]]:
    found = [errors.ApplianceError]
    for kind in found:
        found += kind.__subclasses__()
    return found


def test_every_error_has_an_exit_code() -> None:
    assert all(for_error(kind("x")) for kind in every_error())
    assert for_error(errors.PackageExists()) == ExitCode.CONFLICT
    assert for_error(errors.StoreUnavailable()) == ExitCode.TRY_LATER
    assert for_error(errors.InvalidSettings()) == ExitCode.USAGE


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, 2),
        (401, 4),
        (403, 4),
        (404, 3),
        (409, 5),
        (410, 3),
        (422, 1),
        (429, 75),
        (500, 1),
        (502, 1),
        (503, 75),
        (507, 75),
    ],
)
def test_statuses(status: int, code: int) -> None:
    assert for_status(status) == code


def answer(status: int, body: bytes) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response._content = body
    response.request = requests.Request("GET", "http://node/x").prepare()
    return response


def test_problems_become_sentences() -> None:
    fault = failure(answer(409, b'{"detail": "It is taken.", "code": "package_exists", "sha256": "ab"}'))
    assert (fault.message, fault.code, fault.details["sha256"]) == ("It is taken.", ExitCode.CONFLICT, "ab")
    assert "ods login" in failure(answer(401, b'{"detail": "no"}')).message
    for body in (b"<html>", b"[1]", b'"x"', b"{}"):
        assert "is this a node's URL?" in failure(answer(502, body)).message


def test_a_name_is_one_segment() -> None:
    assert segment("a/b ?#%+ü.pkg") == "a%2Fb%20%3F%23%25%2B%C3%BC.pkg"


def test_what_a_terminal_would_obey_is_not_printed() -> None:
    assert visible("a\x1b[2Jb\r\n") == "a\ufffd[2Jb\ufffd\ufffd"


def test_numbers_for_people() -> None:
    assert [size(n) for n in (0, 1023, 1024, 5 * 2**30, None)] == [
        "0 bytes",
        "1.0 KB",
        "1.0 KB",
        "5.4 GB",
        "-",
    ]
    assert [span(n) for n in (0, 119, 120, 7300, 200_000)] == ["0 s", "119 s", "2 min", "2 h", "2 d"]
    assert moment(None) == "-"


def test_tables_in_a_pipe_are_plain(capsys: pytest.CaptureFixture[str]) -> None:
    Output().table(["name", "tags"], [("x" * 300, ["a", "b"]), (None, [])])
    assert capsys.readouterr().out == f"NAME\tTAGS\n{'x' * 300}\ta, b\n-\t-\n"


# Profile


def test_a_profile_is_private_and_comes_back(tmp_path: Path) -> None:
    path = profile_path()
    assert path == tmp_path / ".config" / "ods" / "profile.yaml"
    assert read_profile(path) is None
    profile = Connection(url="https://a", token="t", fingerprint=FINGERPRINT)
    write_profile(path, profile)
    assert read_profile(path) == profile
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_a_profile_that_is_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for text in (
        "url: [",
        "- a",
        "surprise: 1",
        "5",
        "url: 5",
        "{url: 'http://a', token: 5}",
        "url: 'http://[::1'",
    ):
        profile_path().parent.mkdir(parents=True, exist_ok=True)
        profile_path().write_text(text)
        for command in ("status", "logout"):
            assert run([command]) == ExitCode.USAGE
            assert "ods login" in capsys.readouterr().err


def test_who_speaks_to_whom(tmp_path: Path) -> None:
    assert find_connection(environment={"HOME": str(tmp_path)}) == Connection(url="http://127.0.0.1:8080")
    write_profile(profile_path(), Connection(url="https://a", token="secret", fingerprint=FINGERPRINT))
    assert find_connection().token == "secret"
    assert find_connection(url="https://a/").token == "secret"
    assert find_connection(environment={"ODS_URL": "https://a", "ODS_TOKEN": "other"}).token == "other"
    as_user = find_connection(user="admin", environment={"ODS_TOKEN": "t", "ODS_PASSWORD": "p"})
    assert (as_user.token, as_user.user, as_user.password) == ("", "admin", "p")


def test_a_profiles_token_goes_to_its_own_node_only() -> None:
    write_profile(profile_path(), Connection(url="https://a", token="secret", fingerprint=FINGERPRINT))
    for other in ("https://b", "http://a", "https://a:8443", "https://a/b"):
        assert find_connection(url=other) == Connection(url=other)


@pytest.mark.parametrize(
    "url",
    [
        "a", "ftp://a", "https://", "https://u:p@a", "https://a/?x=1", "//a", "http://[::1", "http://[x]", "http://a:b",
        "http://a:99999", f"http://{'a' * 80}", "http://a..b", "http://a b", "http://a\n/b", "http://a/\udcff",
    ],
)  # fmt: skip
def test_urls_that_are_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandFailed, match="not the URL"):
        find_connection(url=url)
    assert run(["login", url]) == ExitCode.USAGE
    assert "not the URL" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TOKEN", "a\nb"),
        ("TOKEN", "t\u00f6ken"),
        ("USER", "a\nb"),
        ("PASSWORD", "a\udcffb"),
        ("FINGERPRINT", "zzz"),
    ],
)
def test_what_cannot_be_sent_is_refused_where_it_is_read(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if name == "PASSWORD":
        monkeypatch.setenv("ODS_USER", "admin")
    monkeypatch.setenv(f"ODS_{name}", value)
    assert run(["status"]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert (said[:5], said.count("\n")) == ("ods: ", 1)
    assert all(shown not in said for shown in (value, ascii(value)))


def test_fingerprints() -> None:
    assert find_connection(fingerprint=":".join(["AB"] * 32)).fingerprint == FINGERPRINT
    with pytest.raises(CommandFailed, match="64 hex"):
        find_connection(fingerprint="abc")


def test_no_credentials_from_netrc_or_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login x password y\n")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with client_module.NodeClient(Connection(url="http://127.0.0.1:10")) as client:
        assert not client._session.trust_env
        assert "Authorization" not in client._session.headers


# Uploads


def test_bytes_that_are_sent_twice_are_hashed_once(tmp_path: Path) -> None:

    data = os.urandom(100_000)
    path = tmp_path / "f"
    path.write_bytes(data)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        first = _Body(file, len(data), digest, lambda _: None, 0)
        first.read(70_000)
        file.seek(50_000)
        second = _Body(file, len(data) - 50_000, digest, lambda _: None, first.hashed, 50_000)
        while second.read(999):
            pass
    assert digest.hexdigest() == hashlib.sha256(data).hexdigest()
    assert len(second) == 0


def test_what_is_remembered_of_uploads(tmp_path: Path) -> None:
    path = tmp_path / "state" / "uploads.json"
    memory = Memory(path)
    assert memory.get("a") is None
    memory.put("a", "http://x/1")
    assert Memory(path).get("a") == "http://x/1"
    assert path.stat().st_mode & 0o777 == 0o600
    memory.put("a", None)
    assert Memory(path).get("a") is None
    path.write_text("rubbish")
    assert memory.get("a") is None


# The demo's package


def test_the_package_of_the_demo_is_a_xar_archive_of_cpio(tmp_path: Path) -> None:
    """Read back by the formats' own rules, without the code that wrote it."""
    path = tmp_path / "demo.pkg"
    build_flat_package(path, size=3_000_000, name='A & "B"', version="1.0")
    assert list(tmp_path.iterdir()) == [path]
    data = path.read_bytes()
    magic, header, version, packed, plain, checksum = struct.unpack(">4sHHQQI", data[:28])
    assert (magic, header, version, checksum) == (b"xar!", 28, 1, 1)
    table = zlib.decompress(data[28 : 28 + packed])
    assert len(table) == plain
    heap = data[28 + packed :]

    assert heap[:20] == hashlib.sha1(data[28 : 28 + packed]).digest()
    contents = {}
    for file in ElementTree.fromstring(table).iter("file"):
        found = file.find("data")
        if found is not None:
            offset, length = int(found.findtext("offset", "")), int(found.findtext("length", ""))
            contents[file.findtext("name")] = heap[offset : offset + length]
            assert hashlib.sha1(heap[offset : offset + length]).hexdigest() == found.findtext(
                "archived-checksum"
            )
    assert set(contents) == {"Distribution", "PackageInfo", "Payload"}
    assert ElementTree.fromstring(contents["Distribution"]).findtext("title") == 'A & "B"'
    cpio = gzip.decompress(contents["Payload"])
    names, at = [], 0
    while at < len(cpio):
        assert cpio[at : at + 6] == b"070707"
        name_size, file_size = int(cpio[at + 59 : at + 65], 8), int(cpio[at + 65 : at + 76], 8)
        names.append(cpio[at + 76 : at + 75 + name_size].decode())
        at += 76 + name_size + file_size
    assert names[-1] == "TRAILER!!!"
    numbers = ElementTree.fromstring(contents["PackageInfo"]).find("payload")
    assert numbers is not None
    assert numbers.get("numberOfFiles") == str(len(names) - 1)
    assert len(cpio) > 3_000_000


@pytest.mark.parametrize(
    ("option", "told"),
    [("--bogus", ""), ("--waitt", "'--wait'"), ("--time", "'--timeout'")],
)
def test_only_an_option_that_is_likely_meant_is_suggested(
    option: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["scrub", option]) == ExitCode.USAGE
    said = capsys.readouterr().err
    assert "No such option" in said
    assert ("Did you mean" in said) == bool(told)
    assert told in said


NODES = {"a": {"health": "", "failing_since": None}, "b": {"health": "", "failing_since": None}}
HELD = {"presence": "held", "current": True, "at": "2026-01-02T03:04:05Z"}
DOWN = {"health": "down", "failing_since": "2026-01-02T03:04:05Z"}


@pytest.mark.parametrize(
    ("node", "replica", "told"),
    [
        ({}, {}, ""),
        ({}, {"presence": "not_admitted"}, ""),
        ({}, {"presence": "damaged"}, "b (damaged)"),
        ({}, {"presence": "arriving"}, "b (arriving)"),
        ({}, {"current": False}, "b (it had other bytes)"),
        ({}, None, "b (silent)"),
        (DOWN, {}, r"b (down since .*, held at .*)"),
        (DOWN, {"presence": "not_admitted"}, r"b (down since .*, not admitted at .*)"),
        (DOWN, None, r"b (down since .*)"),
    ],
)
def test_what_is_waited_for(node: dict[str, object], replica: dict[str, object] | None, told: str) -> None:
    said = {"a": HELD, "b": {**HELD, **replica}} if replica is not None else {"a": HELD}
    package = {
        "id": "p", "filename": "W.pkg", "sha256": "s", "withdrawn": False, "admitted_by": ["a"],
        "replicas": [{"node": id, **one} for id, one in said.items()],
        "unheard": [] if replica is not None else [{"node": "b", "reason": "silent"}],
    }  # fmt: skip
    nodes = {**NODES, "b": {**NODES["b"], **node}}
    answers = {
        "/packages/p": package,
        "/nodes": {"items": [{"id": id, "name": id, **one} for id, one in nodes.items()]},
    }
    client = cast(Any, SimpleNamespace(get=answers.__getitem__))
    output = Output()
    output.json = True
    if not told:
        assert wait_for_all(client, output, package, 0.0) == package
        return
    pattern = "^W.pkg is not yet on: " + told.replace("(", r"\(").replace(")", r"\)") + r"\.$"
    with pytest.raises(CommandFailed, match=pattern) as caught:
        wait_for_all(client, output, package, 0.0)
    assert caught.value.code == ExitCode.TRY_LATER


def test_an_answer_of_an_older_node_lacks_what_nobody_reads() -> None:
    schema = object_of({"name": TEXT, "added_later": TEXT})
    assert misfit({"name": "x"}, schema) == ""
    assert misfit({"name": 5}, schema) == "name is no string"
    assert misfit({"other": "x"}, schema) == "name is missing"
    answer = Answer({"name": "x"}, CommandFailed)
    assert (answer["name"], answer.get("added_later")) == ("x", None)
    with pytest.raises(CommandFailed, match="added_later is missing"):
        answer["added_later"]
