"""Who may come in: every route, every method."""

import base64
import re
from typing import Any

import pytest

from appliance.api.peer import ROUTES as PEER
from appliance.api.routes import API
from tests.harness.node import Answer, NodeProcess
from tests.unit.test_openapi import EXAMPLES

OPEN = {"/health/live", "/health/ready", "/Packages/Some.pkg", "/packages/Some.pkg", "/ods/Packages/Some.pkg"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
NODE_ID = "a" * 52


def path_of(pattern: str) -> str:
    """A path that fits a route."""
    route = pattern
    pattern = re.sub(r"\((\w+)(?:\|\w+)+\)", r"\1", pattern)  # of several words the first
    known = {
        "[^/]+": "Some.pkg",
        "[a-z2-7]{52}": NODE_ID,
        "[a-z2-7]{32}": "a" * 32,
    }
    known |= {"[0-9a-f]{32}": EXAMPLES["upload"], "[0-9a-f]{16}": EXAMPLES["invite"], "[0-9a-f]+": "00"}
    known |= {"[0-9a-f]{64}": EXAMPLES["session"], "[a-z2-7]{8}": EXAMPLES["token"]}
    for part, example in known.items():
        pattern = pattern.replace(f"({part})", example).replace(part, example)
    path = re.sub(r"[()]", "", pattern)
    assert re.fullmatch(route, path), (route, path)
    return path


def call(node: NodeProcess, method: str, path: str, **headers: str) -> Answer:
    return node.request(method, path, b"" if method in {"POST", "PUT", "PATCH"} else None, headers)


def without_account(node: NodeProcess, method: str, path: str) -> Answer:
    """A call with an Authorization header that says nothing: the harness would sign in by itself."""
    return call(node, method, path, Authorization="")


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in API])
def test_the_api_refuses_strangers(one_node: NodeProcess, pattern: str) -> None:
    for method in METHODS:
        answer = without_account(one_node, method, path_of(pattern))
        assert answer.status == 401, (method, pattern, answer.status)
        if method != "HEAD":
            assert answer.json()["code"] == "not_authenticated"
        assert "Basic" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in PEER])
def test_the_peer_api_refuses_accounts_and_strangers(one_node: NodeProcess, pattern: str) -> None:
    for method in METHODS:
        answer = call(one_node, method, path_of(pattern))
        assert answer.status in {401, 400}, (method, pattern, answer.status)
        if answer.status == 400:  # a registration that is none: nothing to check the signature with
            assert pattern.endswith("registrations")


def test_what_is_open(one_node: NodeProcess) -> None:
    for path in OPEN:
        assert without_account(one_node, "GET", path).status in {200, 404}, path


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!",
        "Basic " + base64.b64encode(b"admin").decode(),
        "Basic " + base64.b64encode(b"admin:wrong").decode(),
        "Basic " + base64.b64encode(b"nobody:wrong").decode(),
        "Bearer x",
        "Bearer ods_abcdefgh_" + "x" * 43,
        "Digest x",
    ],
)
def test_wrong_credentials(one_node: NodeProcess, header: str) -> None:
    answer = call(one_node, "GET", "/api/v1/about", Authorization=header)
    assert answer.status == 401
    assert "Traceback" not in answer.body.decode()


def with_token(node: NodeProcess, token: str, method: str, path: str, data: Any = None) -> Answer:
    import json

    body = None if data is None else json.dumps(data).encode()
    return node.request(method, path, body, {"Authorization": f"Bearer {token}"})


def test_tokens_have_a_role_and_can_be_revoked(one_node: NodeProcess) -> None:
    made = one_node.api("POST", "/tokens", {"name": "reader", "role": "viewer"})
    token = made["token"]
    assert with_token(one_node, token, "GET", "/api/v1/packages").status == 200
    assert with_token(one_node, token, "GET", "/api/v1/about").json()["role"] == "viewer"
    refused = with_token(one_node, token, "PUT", "/api/v1/packages/x.pkg", {})
    assert (refused.status, refused.json()["code"]) == (403, "permission_denied")
    assert with_token(one_node, token, "POST", "/api/v1/tokens", {"name": "x", "role": "admin"}).status == 403
    assert token not in one_node.log_text()
    listed = one_node.request("GET", "/api/v1/tokens").body.decode()
    assert made["id"] in listed
    assert token not in listed
    one_node.api("DELETE", f"/tokens/{made['id']}")
    assert with_token(one_node, token, "GET", "/api/v1/packages").status == 401


def test_accounts(one_node: NodeProcess) -> None:
    short = one_node.request("POST", "/api/v1/users", b'{"name":"op","password":"short","role":"operator"}')
    assert (short.status, short.json()["code"]) == (400, "invalid_input")
    one_node.api("POST", "/users", {"name": "op", "password": "a long enough one", "role": "operator"})
    header = "Basic " + base64.b64encode(b"op:a long enough one").decode()
    assert call(one_node, "GET", "/api/v1/about", Authorization=header).json()["role"] == "operator"
    assert call(one_node, "GET", "/api/v1/users", Authorization=header).status == 403
    assert call(one_node, "POST", "/api/v1/peers/invites", Authorization=header).status == 403
    again = one_node.request("POST", "/api/v1/users", b'{"name":"op","password":"a long enough one"}')
    assert again.json()["code"] == "account_exists"
    one_node.api("DELETE", "/users/op")
    assert one_node.request("DELETE", "/api/v1/users/admin").json()["code"] == "conflict"
    assert b"argon2" not in one_node.request("GET", "/api/v1/users").body


def test_guessing_is_slowed_down(one_node: NodeProcess) -> None:
    wrong = "Basic " + base64.b64encode(b"victim:guess").decode()
    answers = [call(one_node, "GET", "/api/v1/about", Authorization=wrong) for _ in range(7)]
    assert [answer.status for answer in answers][:5] == [401] * 5
    assert answers[-1].status == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert one_node.api("GET", "/about")["name"] == "solo", "others are not held up"


def test_a_token_is_good_for_its_scopes(one_node: NodeProcess) -> None:
    made = one_node.api("POST", "/tokens", {"name": "autopkg", "scopes": ["packages:write"]})
    assert made["scopes"] == ["packages:write"]
    bearer = {"Authorization": f"Bearer {made['token']}"}
    put = one_node.request("PUT", "/api/v1/packages/Scoped.pkg", b"bytes", bearer)
    assert put.status == 201
    assert call(one_node, "GET", "/api/v1/packages/Scoped.pkg", **bearer).status == 200
    assert call(one_node, "GET", "/api/v1/about", **bearer).status == 200
    for method, path in (
        ("GET", "/api/v1/users"),
        ("GET", "/api/v1/events"),
        ("GET", "/api/v1/peers"),
        ("POST", "/api/v1/tokens"),
        ("DELETE", f"/api/v1/tokens/{made['id']}"),
        ("GET", "/ui/"),
        ("GET", "/ui/live?topics=packages"),
    ):
        answer = call(one_node, method, path, **bearer)
        assert answer.status == 403, (method, path)
        assert b"scope" in answer.body or path.startswith("/ui/")
    answer = call(one_node, "GET", "/api/v1/events", **bearer)
    assert b"This needs the scope audit:read; the token has packages:write." in answer.body
    (event,) = [e for e in one_node.events("token.created") if e["subject"] == made["id"]]
    assert event["data"]["scopes"] == ["packages:write"]
    assert one_node.api("GET", "/tokens")["items"][0].keys() >= {"scopes"}


def test_a_scope_that_is_none_is_refused(one_node: NodeProcess) -> None:
    body = b'{"name": "x", "scopes": ["everything"]}'
    answer = one_node.request("POST", "/api/v1/tokens", body)
    assert answer.status == 400
    assert b'"scopes"' in answer.body
