"""The admin API keeps to its description, and does not let other sites use a browser's password."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from appliance.api.openapi import document
from tests.builders import make_file
from tests.fakes.receiver import Receiver
from tests.harness import NodeProcess, eventually
from tests.harness.browser_client import BrowserClient

DOCUMENT = document()


@pytest.fixture(scope="module")
def node(one_node: NodeProcess, tmp_path_factory: pytest.TempPathFactory) -> NodeProcess:
    """The node with something in every list that one node alone can fill."""
    directory = tmp_path_factory.mktemp("files")
    for number in range(3):
        one_node.publish(make_file(directory / f"{number}.pkg", 10, number).path)
    one_node.api("POST", "/packages/0.pkg/verify", {})
    one_node.api("POST", "/peers/invites", {})
    with Receiver() as receiver:
        hook = {"name": "x", "kind": "webhook", "url": receiver.url, "allow_private": True}
        one_node.api("POST", "/destinations", hook)
        one_node.api("POST", "/tokens", {"name": "x"})
        eventually(lambda: receiver.received, message="nothing is delivered")
    BrowserClient(one_node).sign_in("admin")
    return one_node


def check(path: str, method: str, status: int, answer: Any) -> None:
    """Check an answer against the description."""
    described = DOCUMENT["paths"][path][method]["responses"][str(status)]
    (content,) = described["content"].values()
    schema = {**content["schema"], "components": DOCUMENT["components"]}
    faults = [error.message for error in OAS31Validator(schema).iter_errors(answer)]
    assert faults == [], (method, path, faults)


def _schema_of(calls: dict[str, Any]) -> Any:
    """The schema of what GET answers, if it is JSON that has one."""
    content = calls.get("get", {"responses": {}})["responses"].get("200", {}).get("content", {})
    return content.get("application/json", {}).get("schema")


@pytest.mark.parametrize(
    "path",
    [path for path, calls in DOCUMENT["paths"].items() if "{" not in path and _schema_of(calls)],
)
def test_lists_and_reports_are_as_described(node: NodeProcess, path: str) -> None:
    answer = node.request("GET", path)
    check(path, "get", answer.status, answer.json())
    if "items" in answer.json() and not path.endswith(("/peers", "/transfers", "/uploads", "/mdm/servers")):
        assert answer.json()["items"], "there is something to check"


def test_single_things_are_as_described(node: NodeProcess) -> None:
    check("/api/v1/packages/{package}", "get", 200, node.api("GET", "/packages/0.pkg"))
    check("/api/v1/packages/{package}/manifest", "get", 200, node.api("GET", "/packages/0.pkg/manifest"))
    check("/api/v1/packages/{package}", "patch", 200, node.api("PATCH", "/packages/0.pkg", {"notes": "x"}))
    started = node.api("POST", "/packages/1.pkg/verify", {})
    check("/api/v1/packages/{package}/verify", "post", 202, started)
    check("/api/v1/jobs/{job}", "get", 200, node.api("GET", f"/jobs/{started['job']['id']}"))
    check("/api/v1/peers/invites", "post", 201, node.api("POST", "/peers/invites", {}))
    check("/api/v1/tokens", "post", 201, node.api("POST", "/tokens", {"name": "y"}))
    made = node.api("POST", "/users", {"name": "shown", "password": "a long enough one"})
    check("/api/v1/users", "post", 201, made)
    check("/api/v1/users/{user}", "patch", 200, node.api("PATCH", "/users/shown", {"role": "operator"}))
    node.api("DELETE", "/users/shown")


def test_refusals_are_as_described(node: NodeProcess) -> None:
    for method, path, pattern, body in (
        ("get", "/packages/none.pkg", "/packages/{package}", None),
        ("patch", "/packages/0.pkg", "/packages/{package}", {"bogus": 1}),
        ("patch", "/packages/0.pkg", "/packages/{package}", {"revision": 1, "notes": "y"}),
        ("post", "/users", "/users", {"name": "admin", "password": "a long enough one"}),
        ("patch", "/users/admin", "/users/{user}", {}),
        ("delete", "/users/admin", "/users/{user}", None),
    ):
        data = None if body is None else json.dumps(body).encode()
        answer = node.request(method.upper(), f"/api/v1{path}", data)
        assert answer.status >= 400, (method, path)
        check(f"/api/v1{pattern}", method, answer.status, answer.json())
        described = DOCUMENT["paths"][f"/api/v1{pattern}"][method]["responses"][str(answer.status)]
        assert f"`{answer.json()['code']}`" in described["description"]


@pytest.mark.parametrize("path", ["/users", "/tokens", "/peers", "/peers/invites", "/nodes"])
def test_lists_that_come_whole_take_no_parameters(node: NodeProcess, path: str) -> None:
    assert node.api("GET", path)["next"] is None
    answer = node.request("GET", f"/api/v1{path}?bogus=1")
    assert (answer.status, answer.json()["code"]) == (400, "invalid_input")
    assert "bogus" in answer.json()["fields"]
    assert "none" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/packages", "/events", "/jobs"])
def test_the_last_page_says_that_it_is_the_last(node: NodeProcess, path: str) -> None:
    query = "state=done&" if path == "/jobs" else ""  # what changes no more

    def holds() -> bool:  # again if something was added meanwhile
        whole = node.api("GET", f"{path}?{query}limit=500")
        assert whole["next"] is None
        count = len(whole["items"])
        assert count > 1
        assert node.api("GET", f"{path}?{query}limit={count}")["next"] is None, "full, and the last"
        assert node.api("GET", f"{path}?{query}limit={count - 1}")["next"] is not None
        return True

    eventually(holds, 10)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/v1/about", "GET, HEAD"),
        ("PUT", "/api/v1/users", "GET, HEAD, POST"),
        ("POST", "/api/v1/packages/x.pkg", "DELETE, GET, HEAD, PATCH, PUT"),
        ("GET", "/api/v1/peers/join", "POST"),
        ("DELETE", "/Packages/x.pkg", "GET, HEAD"),
    ],
)
def test_a_method_that_is_not_there_is_answered_with_those_that_are(
    node: NodeProcess, method: str, path: str, allowed: str
) -> None:
    answer = node.request(method, path, b"" if method in {"POST", "PUT"} else None)
    assert (answer.status, answer.headers["allow"]) == (405, allowed)
    assert allowed in answer.json()["detail"]


FOREIGN: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example"},
    {"Sec-Fetch-Site": "same-site"},
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Origin": "http://127.0.0.1:1"},
]


@pytest.mark.parametrize("headers", FOREIGN, ids=range(len(FOREIGN)))
def test_a_page_of_another_site_changes_nothing_with_the_browsers_password(
    node: NodeProcess, tmp_path: Path, headers: dict[str, str]
) -> None:
    user = json.dumps({"name": "planted", "password": "a long enough one", "role": "admin"}).encode()
    for method, path, body in (
        ("POST", "/users", user),
        ("POST", "/packages/0.pkg/verify", b""),
        ("PUT", "/packages/planted.pkg", b"x"),
        ("DELETE", "/packages/0.pkg", None),
    ):
        answer = node.request(method, f"/api/v1{path}", body, {"Content-Type": "text/plain", **headers})
        assert (answer.status, answer.json()["code"]) == (403, "permission_denied"), (method, path)
    assert "planted" not in [item["name"] for item in node.api("GET", "/users")["items"]]
    assert node.package("planted.pkg") is None
    assert node.request("GET", "/api/v1/about", None, headers).status == 200, "reading is not held up"


def test_the_nodes_own_pages_and_tokens_anywhere_may(node: NodeProcess) -> None:
    own = [
        {"Sec-Fetch-Site": "same-origin", "Origin": node.url},
        {"Sec-Fetch-Site": "none"},
        {"Origin": node.url},
        {"Origin": node.url.upper()},
    ]
    token = {"Authorization": f"Bearer {node.api('POST', '/tokens', {'name': 'z'})['token']}"}
    for headers in (*own, {**token, "Origin": "https://elsewhere.example"}):
        answer = node.request("PATCH", "/api/v1/packages/0.pkg", b'{"notes": "x"}', headers)
        assert answer.status == 200, (headers, answer.body)


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("DELETE", "/tokens/ZZ", "There is no token ZZ."),
        ("DELETE", "/users/nobody/sessions", 'There is no account "nobody".'),
        ("DELETE", "/peers/invites/ZZ", "There is no invite ZZ."),
        ("GET", "/transfers/ZZ", "There is no transfer ZZ."),
        ("POST", "/transfers/ZZ/retry", "There is no transfer ZZ."),
        ("POST", "/transfers/ZZ/cancel", "There is no transfer ZZ."),
        ("GET", "/jobs/Z%00Z", "There is no job"),
        ("POST", "/jobs/ZZ/retry", "There is no job ZZ."),
    ],
)
def test_what_is_missing_is_named_whatever_was_asked_for(
    node: NodeProcess, method: str, path: str, words: str
) -> None:
    answer = node.request(method, f"/api/v1{path}", b"" if method == "POST" else None)
    assert answer.status == 404
    assert answer.json()["detail"].startswith(words)
