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
    ("/packages", "limit=0", "greater than or equal to 1"),
    ("/packages", "limit=501", "less than or equal to 500"),
    ("/packages", "limit=all", "integer"),
    ("/packages", "cursor=x", "cursor"),
    ("/packages", "stage=dev&stage=prod", "2 times"),
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
    ("/events", "since=last", "integer"),
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
