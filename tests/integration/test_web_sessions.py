"""Signing in on the web: cookies, tokens of forms, generated passwords, and what other sites may not do."""

import contextlib
import http.client
import re
import ssl
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import urlencode

import pytest

from tests.harness import Network, eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.node import PASSWORD, NodeProcess
from web.routes import PAGES


def user(node: NodeProcess, name: str, role: str = "viewer") -> str:
    node.api("POST", "/users", {"name": name, "password": PASSWORD, "role": role})
    return name


def test_strangers_are_sent_to_the_sign_in_page(one_node: NodeProcess) -> None:
    visitor = BrowserClient(one_node)
    assert visitor.get("/").headers["location"] == "/ui/"
    answer = visitor.get("/ui/packages?q=a%26b")
    assert answer.status == 302
    assert answer.headers["location"] == "/ui/sign-in?next=%2Fui%2Fpackages%3Fq%3Da%2526b"
    assert "www-authenticate" not in visitor.get("/ui/sign-in").headers


def test_signing_in_and_out(one_node: NodeProcess) -> None:
    person = BrowserClient(one_node)
    answer = person.sign_in("admin", next="/ui/about")
    assert (answer.status, answer.headers["location"]) == (303, "/ui/about")
    cookie = SimpleCookie(answer.headers["set-cookie"])
    (name,) = [name for name in cookie if name.endswith("session")]
    assert cookie[name]["httponly"]
    assert cookie[name]["samesite"] == "Lax"
    page = person.get("/ui/")
    assert page.status == 200
    assert cookie[name].value not in page.body.decode()
    assert cookie[name].value not in one_node.log_text()
    assert person.form("/ui/sign-out", {"_xsrf": person.xsrf()}).status == 303
    assert person.get("/ui/").status == 302
    stolen = BrowserClient(one_node)
    stolen.cookies[name] = cookie[name].value
    assert stolen.get("/ui/").status == 302, "the token is dead on the node, not only in the browser"


@pytest.mark.parametrize(
    "target",
    ["//evil.example", "https://evil.example/ui/", "/ui/\\evil.example", "/api/v1/about", "javascript:1"],
)
def test_nobody_is_led_away_after_signing_in(one_node: NodeProcess, target: str) -> None:
    assert BrowserClient(one_node).sign_in("admin", next=target).headers["location"] == "/ui/"


def test_wrong_passwords_and_unknown_accounts_get_the_same_answer(one_node: NodeProcess) -> None:
    user(one_node, "known")
    pages = []
    for name in ("known", "unknown"):
        answer = BrowserClient(one_node).sign_in(name, "not the password")
        assert answer.status == 401
        assert "www-authenticate" not in answer.headers, "the browser must not ask by itself"
        pages.append(re.sub(rb"pwd|value=\"[^\"]*\"", b"", answer.body))
    assert pages[0] == pages[1]


def test_guessing_is_slowed_down_with_a_clear_message(one_node: NodeProcess) -> None:
    guesser = BrowserClient(one_node)
    answers = [guesser.sign_in("guessed", f"guess {number}") for number in range(7)]
    assert [answer.status for answer in answers[:5]] == [401] * 5
    assert answers[-1].status == 429
    assert int(answers[-1].headers["retry-after"]) >= 1
    assert b"Too many attempts failed; try again in" in answers[-1].body


def test_over_tls_the_cookie_is_bound_to_the_host(tmp_path: Path) -> None:
    with Network(tmp_path, settings={"HTTP_TLS_SELF_SIGNED": "true"}) as network:
        node = network.node("secure", start=False)
        node.start(wait=False)
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

        def page() -> http.client.HTTPMessage:
            connection = http.client.HTTPSConnection("127.0.0.1", node.port, context=context, timeout=20)
            with contextlib.closing(connection):
                connection.request("GET", "/ui/sign-in")
                with contextlib.closing(connection.getresponse()) as answer:
                    return answer.headers

        def reached() -> http.client.HTTPMessage | None:
            try:
                return page()
            except OSError:
                return None

        headers = eventually(reached, 30)
        assert headers is not None
        ((name, morsel),) = SimpleCookie(headers["set-cookie"]).items()
        assert name.startswith("__Host-ods-")
        assert (bool(morsel["secure"]), morsel["path"], morsel["domain"]) == (True, "/", "")


def test_what_a_person_typed_is_text(one_node: NodeProcess) -> None:
    answer = BrowserClient(one_node).sign_in('"><script>alert(1)</script>', "x")
    assert b"<script>alert" not in answer.body
    assert b"&lt;script&gt;" in answer.body


def test_changes_need_the_sessions_token(one_node: NodeProcess) -> None:
    person = BrowserClient(one_node)
    person.sign_in("admin")
    name = user(one_node, "target")
    for headers in ({}, {"X-XSRF-Token": ""}, {"X-XSRF-Token": "0" * 64}, {"X-XSRF-Token": "é"}):
        answer = person.request("DELETE", f"/api/v1/users/{name}", headers=headers)
        assert (answer.status, answer.json()["code"]) == (403, "permission_denied")
    assert person.form("/ui/sign-out", {"_xsrf": "wrong"}).status == 403
    foreign = {"X-XSRF-Token": person.xsrf(), "Origin": "https://evil.example"}
    assert person.request("DELETE", f"/api/v1/users/{name}", headers=foreign).status == 403
    good = person.request("DELETE", f"/api/v1/users/{name}", headers={"X-XSRF-Token": person.xsrf()})
    assert good.status == 204
    assert person.request("GET", "/api/v1/about").json()["account"] == "admin"


def test_the_sign_in_form_needs_its_token_and_its_site(one_node: NodeProcess) -> None:
    visitor = BrowserClient(one_node)
    assert b"too old" in visitor.form("/ui/sign-in", {"name": "admin", "password": PASSWORD}).body
    visitor.get("/ui/sign-in")
    data = {"name": "admin", "password": PASSWORD, "_xsrf": visitor.form_key()}
    foreign = visitor.form("/ui/sign-in", data, {"Origin": "https://evil.example"})
    assert foreign.status == 403
    assert not any(name.endswith("session") for name in visitor.cookies)


def test_a_role_that_changes_ends_the_session(one_node: NodeProcess) -> None:
    person = BrowserClient(one_node)
    person.sign_in(user(one_node, "promoted"))
    assert person.get("/ui/").status == 200
    one_node.api("PATCH", "/users/promoted", {"role": "operator"})
    assert person.get("/ui/").status == 302


def test_signing_out_everywhere(one_node: NodeProcess) -> None:
    name = user(one_node, "roaming")
    first, second = BrowserClient(one_node), BrowserClient(one_node)
    first.sign_in(name)
    second.sign_in(name)
    assert len(first.request("GET", "/api/v1/sessions").json()["items"]) == 2
    headers = {"X-XSRF-Token": first.xsrf()}
    assert first.request("DELETE", "/api/v1/users/admin/sessions", headers=headers).status == 403
    assert first.request("DELETE", f"/api/v1/users/{name}/sessions", headers=headers).json() == {"ended": 2}
    assert first.get("/ui/").status == second.get("/ui/").status == 302


def test_a_session_survives_a_restart_and_pages_work_on_both_databases(any_network: Network) -> None:
    node = any_network.node("kept")
    person = BrowserClient(node)
    person.sign_in("admin")
    node.restart()
    for pattern, handler in PAGES:
        if "get" in handler.__dict__ and "(" not in pattern and pattern != "/ui/sign-in":
            assert person.get(pattern).status == 200, pattern


def test_headers(one_node: NodeProcess) -> None:
    answer = BrowserClient(one_node).get("/ui/sign-in")
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy
    for part in ("default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'"):
        assert part in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "server" not in answer.headers
    assert not re.search(rb"<script>|<style|style=|onclick=", answer.body)


def test_static_files_are_kept_for_good_under_their_digest(one_node: NodeProcess) -> None:
    visitor = BrowserClient(one_node)
    (address,) = re.findall(r'href="(/ui/static/[^"]+\.css)"', visitor.get("/ui/sign-in").body.decode())
    answer = visitor.get(address)
    assert "immutable" in answer.headers["cache-control"]
    old = re.sub(r"static/[0-9a-f]+/", "static/0000/", address)
    assert visitor.get(old).headers["cache-control"] == "no-cache"
    for missing in ("/ui/static/0/../pages.py", "/ui/static/0/%2e%2e/pages.py", "/ui/static/0/nothing.css"):
        assert visitor.get(missing).status == 404


@pytest.fixture(scope="module")
def fresh_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """A node that makes up its first password."""
    with Network(tmp_path_factory.mktemp("fresh"), settings={"ADMIN_PASSWORD": ""}) as network:
        yield network.node("fresh")


def test_a_generated_password_is_replaced_first(fresh_node: NodeProcess) -> None:
    match = re.search(r"password:\s+(\S+)\s+\(shown only now\)", fresh_node.log_text())
    assert match is not None
    person = BrowserClient(fresh_node)
    assert person.sign_in("admin", match[1]).headers["location"] == "/ui/password"
    assert person.get("/ui/packages").headers["location"] == "/ui/password"
    headers = {"X-XSRF-Token": person.xsrf("/ui/password")}
    blocked = person.request("GET", "/api/v1/packages", headers=headers)
    assert (blocked.status, blocked.json()["code"]) == (403, "password_change_required")
    other = person.request("DELETE", "/api/v1/users/admin", headers=headers)
    assert other.status == 403
    new = {"current": match[1], "password": PASSWORD, "again": PASSWORD, "_xsrf": headers["X-XSRF-Token"]}
    for change, message in (
        ({"again": "something else"}, b"do not match"),
        ({"current": "wrong"}, b"not your password"),
        ({"password": "short", "again": "short"}, b"12 to 1024"),
        ({"password": match[1], "again": match[1]}, b"another password"),
    ):
        answer = person.form("/ui/password", {**new, **change})
        assert 400 <= answer.status < 500
        assert message in answer.body
    assert person.form("/ui/password", new).headers["location"] == "/ui/"
    assert person.get("/ui/").status == 200
    assert urlencode({"p": PASSWORD}) not in fresh_node.log_text()
