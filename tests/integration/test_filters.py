"""Lists: a filter with a value that there is not is an error that says what there is, in every list."""

from pathlib import Path

import pytest

from appliance.api.operations import OPERATIONS
from tests.builders import make_file
from tests.harness import Network
from tests.harness.browser_client import BrowserClient
from tests.harness.command import ods
from tests.harness.node import NodeProcess
from tests.unit.test_openapi import example

WRONG = [
    ("/packages", "stage=moon", "dev, test, prod"),
    ("/packages", "presence=here", "held, arriving"),
    ("/packages", "sort=name", "'filename'"),
    ("/packages", "withdrawn=yes", "true or false"),
    ("/packages", "withdrawn=", "true or false"),
    ("/packages", "limit=0", "limit: it has to be at least 1."),
    ("/packages", "limit=501", "limit: it has to be at most 500."),
    ("/packages", "limit=all", "limit: it has to be a whole number."),
    ("/packages", "cursor=x", "cursor"),
    ("/packages", "stage=dev&stage=prod", "2 times"),
    ("/packages", "stag=prod", 'do you mean "stage"? There are:'),
    ("/packages", "presence=helt", 'presence: there is no "helt"; there are: held'),
    ("/transfers", "state=running", "pending, fetching"),
    ("/transfers", "package=Never.pkg", "There is no package"),
    ("/transfers", "cursor=x", "cursor"),
    ("/jobs", "state=running", "todo, doing"),
    ("/jobs", "queue=slow", "transfer, small"),
    ("/events", "type=package.vanished", "package.published"),
    ("/events", "type=packages.*", "package.*"),
    ("/events", "type=package*", "package.*"),
    ("/events", "start=yesterday", "2026-07-23"),
    ("/events", "start=2026-02-02&end=2026-02-01", "not before the end"),
    ("/events", "zone=Mars", "time zone"),
    ("/events", "since=last", "since: it has to be a whole number."),
    ("/events.csv", "type=nothing", "package.published"),
    ("/deliveries", "state=lost", "pending"),
    ("/deliveries", "type=package.vanished", "package.published"),
    ("/deliveries", "destination=Nobody here", "There is no destination"),
]


@pytest.mark.parametrize(
    ("path", "query", "words"), WRONG, ids=[f"{path}?{query}" for path, query, _ in WRONG]
)
def test_a_value_that_there_is_not(one_node: NodeProcess, path: str, query: str, words: str) -> None:
    answer = one_node.request("GET", f"/api/v1{path}?{query.replace(' ', '%20')}")
    assert answer.status == (404 if "Never.pkg" in query else 400), answer.body
    assert words in answer.json()["detail"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/packages", "stage=&presence=&tag=&q=&cursor="),
        ("/packages", "presence=withdrawn"),
        ("/packages", "withdrawn=TRUE"),
        ("/transfers", f"package={'a' * 32}&state=done"),
        ("/jobs", "state=done&queue=hash"),
        ("/events", "type=package.*&start=2026-01-01&end=2026-01-01"),
        ("/deliveries", "state=failed&type=peer.down"),
    ],
)
def test_values_that_there_are(one_node: NodeProcess, path: str, query: str) -> None:
    assert one_node.request("GET", f"/api/v1{path}?{query}").status == 200


def test_the_page_of_transfers_takes_a_file_name(network: Network, tmp_path: Path) -> None:
    a, b = network.chain("a", "b")
    files = [make_file(tmp_path / name, 1000, number) for number, name in enumerate(("One.pkg", "Other.pkg"))]
    ids = [a.publish(file.path)["id"] for file in files]
    for file in files:
        b.wait_holds(file.name, file.sha256)
    person = BrowserClient(b)
    person.sign_in("admin")
    for package in ("One.pkg", ids[0]):
        page = person.get(f"/ui/transfers?package={package}").body.decode()
        assert f"/ui/packages/{ids[0]}" in page
        assert f"/ui/packages/{ids[1]}" not in page
    assert person.get("/ui/transfers?package=Never.pkg").status == 404


def test_those_that_were_withdrawn_are_found_by_their_presence(one_node: NodeProcess) -> None:
    one_node.request("PUT", "/api/v1/packages/Gone.pkg", b"x")
    one_node.api("DELETE", "/packages/Gone.pkg")
    found = one_node.api("GET", "/packages?presence=withdrawn")["items"]
    assert [item["filename"] for item in found] == ["Gone.pkg"]
    assert one_node.api("GET", "/packages")["items"] == []


@pytest.mark.parametrize(
    "operation",
    [one for one in OPERATIONS if one.method != "options"],
    ids=lambda one: f"{one.method} {one.path}",
)
def test_every_call_refuses_a_parameter_that_there_is_not(one_node: NodeProcess, operation: object) -> None:
    """And does nothing else: what it is about is not even looked for."""
    method, path = operation.method.upper(), example(operation.path)  # type: ignore[attr-defined]
    body = b"" if method in {"POST", "PUT", "PATCH"} else None
    for query in ("bogus=1", "stage=prod&stage=dev"):
        answer = one_node.request(method, f"/api/v1{path}?{query}", body, {"Tus-Resumable": "1.0.0"})
        assert answer.status == 400, (method, path, answer.body)
        if method != "HEAD":
            assert answer.json()["code"] == "invalid_input"


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"name": "d", "kind": "mail", "address": "a@example.com", "enabled": "yes"}, "/destinations"),
        ({"name": "d", "kind": "mail", "address": "a@example.com", "enabled": 1}, "/destinations"),
        ({"name": "m", "kind": "jamf", "enabled": "false"}, "/mdm/servers"),
    ],
    ids=str,
)
def test_switches_in_json_are_true_or_false(
    one_node: NodeProcess, body: dict[str, object], path: str
) -> None:
    with pytest.raises(AssertionError, match="enabled"):
        one_node.api("POST", path, body)


@pytest.mark.parametrize(
    "arguments",
    [
        ("package", "list", "--presence", "here"),
        ("package", "list", "--stage", "moon"),
        ("package", "list", "--stage", ""),
        ("package", "list", "--tag", ""),
        ("package", "list", "-q", ""),
        ("transfer", "list", "--state", "running"),
        ("transfer", "list", "--state", ""),
        ("audit", "list", "--type", "package.vanished"),
        ("audit", "list", "--type", ""),
        ("audit", "list", "--from", "yesterday"),
        ("audit", "list", "--limit", "0"),
        ("notify", "deliveries", "--state", "lost"),
        ("notify", "deliveries", "--type", "package.vanished"),
    ],
    ids=" ".join,
)
def test_the_command_line_too(one_node: NodeProcess, arguments: tuple[str, ...]) -> None:
    done = ods(one_node, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("method", "path", "body", "words"),
    [
        ("POST", "/tokens", '{"name": 3, "from": "x"}',
         ["name: it has to be a text", "from: there is no such field; there are: name"]),
        ("POST", "/tokens", '{"nam": "x"}',
         ["name: it is missing", 'nam: there is no such field; do you mean "name"? There are: name']),
        ("POST", "/tokens", '{"name": "", "expires_in": "soon"}',
         ["at least 1 characters", "expires_in: it has to be a whole number"]),
        ("POST", "/tokens", '[]', ["body: it has to be an object"]),
        ("POST", "/tokens", '{"name": "x", "role": "king"}', ["role: it has to be one of 'viewer'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_body_is_said_in_plain_words(
    one_node: NodeProcess, method: str, path: str, body: str, words: list[str]
) -> None:
    answer = one_node.request(method, f"/api/v1{path}", body.encode(), {"Content-Type": "application/json"})
    assert answer.status == 400
    for word in words:
        assert word in answer.json()["detail"]
    for library in ("Value error", "Input should", "Extra inputs", "Field required"):
        assert library not in answer.json()["detail"]


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_form_or_a_file_for_the_list_with_a_slash(one_node: NodeProcess, method: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    assert one_node.request(method, "/api/v1/packages/", b"--x--", headers).status == 415
    plain = one_node.request(method, "/api/v1/packages/", b"bytes", {})
    assert plain.status == 405
    assert "curl -T FILE" in plain.json()["detail"]
    lost = one_node.request("GET", "/api/v1/packages/")
    assert lost.status == 404
    assert "end without a slash" in lost.json()["detail"]


def test_other_upper_and_lower_case_is_the_same_package(one_node: NodeProcess, tmp_path: Path) -> None:
    old, new = make_file(tmp_path / "CASE.pkg", 1000, 1), make_file(tmp_path / "case.pkg", 1000, 2)
    first = one_node.publish(old.path)
    one_node.publish(new.path, replace="true")
    for name in ("CASE.pkg", "case.pkg", "Case.PKG"):
        assert one_node.api("GET", f"/packages/{name}")["id"] == first["id"]
        assert len(one_node.api("GET", f"/packages/{name}/versions")["items"]) == 2
        answer = one_node.request("GET", f"/Packages/{name}")
        assert (answer.status, answer.body) == (200, new.path.read_bytes())
    answer = one_node.request(
        "POST",
        "/api/v1/packages/CASE.pkg/restore",
        b'{"version": "60"}',
        {"Content-Type": "application/json"},
    )
    assert answer.status == 404
    assert "Give a revision, or at least 6 characters of a SHA-256." in answer.json()["detail"]
