"""Every address of the web interface and the API, asked by strangers and by a viewer: nothing to read or change."""

import re
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Any

import pytest

from appliance.api.base import BaseHandler
from appliance.api.operations import OPERATIONS
from appliance.service.accounts import Role
from tests.builders import make_file
from tests.harness import Network
from tests.harness.browser_client import BrowserClient
from tests.harness.node import PASSWORD, NodeProcess
from tests.unit.test_openapi import example
from web.routes import PAGES, ROUTES

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
OPEN = {"/ui/sign-in"}
SECRET = "the-name-of-a-package-that-nobody-may-guess"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node with something to find."""
    directory = tmp_path_factory.mktemp("crawl")
    settings = {"HTTP_DOWNLOAD_USERNAME": "mac", "HTTP_DOWNLOAD_PASSWORD": "the-download-password"}
    with Network(directory, settings=settings) as network:
        made = network.node("Amsterdam")
        made.publish(make_file(directory / f"{SECRET}.pkg", 1000, 1).path)
        for role in ("viewer", "operator"):
            made.api("POST", "/users", {"name": role, "password": PASSWORD, "role": role})
        made.api("POST", "/tokens", {"name": "admins-token"})
        made.api("POST", "/peers/invites", {})
        jamf = {"url": "https://127.0.0.1:1", "client_id": SECRET, "client_secret": "the-client-secret"}
        made.api(
            "POST", "/mdm/servers",
            {"name": f"{SECRET}.pkg", "kind": "jamf", "enabled": False, "settings": jamf},
        )  # fmt: skip
        hook = {"kind": "webhook", "url": "http://127.0.0.1:1/", "allow_private": True, "enabled": False}
        made.api("POST", "/destinations", {"name": SECRET, **hook})
        yield made


def paths() -> list[str]:
    """An address for every page."""
    return [re.sub(r"\(.*?\)", f"{SECRET}.pkg", pattern) for pattern, _ in PAGES]


def state(node: NodeProcess) -> Any:
    """Everything that a call could have changed."""
    lists = (
        "/packages?withdrawn=true",
        "/users",
        "/tokens",
        "/peers",
        "/peers/invites",
        "/uploads",
        "/transfers",
        "/mdm/servers",
        "/destinations",
        "/deliveries",
    )
    return {name: node.api("GET", name) for name in lists}


def test_every_page_is_in_the_list() -> None:
    patterns = {pattern for pattern, _ in ROUTES}
    assert {pattern for pattern, _ in PAGES} < patterns
    others = patterns - {pattern for pattern, _ in PAGES}
    assert others == {"/", "/ui", r"/ui/static/([0-9a-f]+)/(.+)", "/ui/live", "/ui/(.*)"}


@pytest.mark.parametrize("path", [*paths(), "/ui/live?topics=packages", "/ui/none"])
def test_strangers_see_and_change_nothing(node: NodeProcess, path: str) -> None:
    before = state(node)
    for method in METHODS:
        answer = BrowserClient(node).request(
            method, path, b"" if method in {"POST", "PUT", "PATCH"} else None
        )
        assert SECRET.encode() not in answer.body
        if path in OPEN:
            assert answer.status in {200, 405}, (method, answer.status)
        elif path.startswith("/ui/live") and method in {"GET", "HEAD"}:
            assert answer.body in {b"", b"event: ended\ndata: sign in\n\n"}
        elif method in {"GET", "HEAD"}:
            assert answer.status == 302
            assert answer.headers["location"].startswith("/ui/sign-in?next=")
        else:
            assert answer.status == 401
        given = SimpleCookie(answer.headers.get("set-cookie", ""))
        assert not any(name.endswith("session") and morsel.value for name, morsel in given.items())
    assert state(node) == before


def handlers() -> Iterator[tuple[str, type[BaseHandler]]]:
    for (_, handler), path in zip(PAGES, paths(), strict=True):
        yield path, handler


@pytest.mark.parametrize(("name", "role"), [("viewer", Role.VIEWER), ("operator", Role.OPERATOR)])
def test_pages_for_others_are_refused(node: NodeProcess, name: str, role: Role) -> None:
    person = BrowserClient(node)
    person.sign_in(name)
    destination = node.api("GET", "/destinations")["items"][0]["id"]
    for path, handler in handlers():
        if path in OPEN or "get" not in handler.__dict__:
            continue
        prefix = "/ui/notifications/"
        answer = person.get(f"{prefix}{destination}" if path.startswith(prefix) else path)
        assert b"the-client-secret" not in answer.body
        least = handler.roles.get("GET", Role.VIEWER)
        assert answer.status == (200 if role >= least else 403), path
        if role < least:
            assert SECRET.encode() not in answer.body
            assert f"This needs the role {least.word}".encode() in answer.body
        if role is Role.VIEWER and answer.status == 200:
            forms = re.findall(rb'data-call="([A-Z]+ [^"]+)"', answer.body)
            own = re.compile(rb"DELETE /sessions/|DELETE /users/viewer/sessions|(POST|DELETE) /tokens")
            assert [form for form in forms if not own.match(form)] == [], path
    overview = person.get("/ui/").body.decode()
    offered = set(re.findall(r'<li><a href="([^"]+)"', overview))
    allowed = {path for path, handler in handlers() if role >= handler.roles.get("GET", Role.VIEWER)}
    assert {address for address in offered if address.startswith("/ui/") and address in paths()} <= allowed


def test_a_viewer_sees_no_secret(node: NodeProcess) -> None:
    person = BrowserClient(node)
    person.sign_in("viewer")
    everything = b"".join(person.get(path).body for path in paths() if "sign" not in path)
    for secret in (b"argon2", b"the-download-password", PASSWORD.encode(), b"BEGIN"):
        assert secret not in everything


def test_an_admin_sees_no_secret_either(node: NodeProcess) -> None:
    person = BrowserClient(node)
    person.sign_in("admin")
    everything = b"".join(person.get(path).body for path in paths() if "sign" not in path)
    for secret in (b"argon2", b"the-download-password", PASSWORD.encode(), b"BEGIN"):
        assert secret not in everything
    assert b"http.download_password" in person.get("/ui/settings").body


@pytest.mark.parametrize(
    "operation",
    [operation for operation in OPERATIONS if operation.role != "viewer"],  # theirs: looking, and their own
    ids=lambda one: f"{one.method} {one.path}",
)
def test_a_viewers_session_changes_nothing(node: NodeProcess, operation: Any) -> None:
    """Whatever the API lets nobody below an operator do, a viewer's session with its token cannot do either."""
    person = BrowserClient(node)
    person.sign_in("viewer")
    headers = {"X-XSRF-Token": person.xsrf(), "Tus-Resumable": "1.0.0", "Upload-Length": "0"}
    path = "/api/v1" + example(operation.path).replace("Some.pkg", f"{SECRET}.pkg")
    before = state(node)
    body = b"{}" if operation.method in {"post", "put", "patch"} else None
    answer = person.request(operation.method.upper(), path, body, headers)
    assert answer.status == 403, answer.body
    assert state(node) == before
