"""Whatever a page changes, the admin API can change: each form is paired with its call, field by field."""

import re
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.resources import files
from typing import Any

import pytest

from appliance.api.operations import OPERATIONS, Operation
from tests.builders import make_file
from tests.harness import Network, eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.node import PASSWORD, NodeProcess
from tests.unit.test_openapi import example
from web.routes import PAGES

#: Forms that a browser sends to a page, since they open or end its session; `data-twin` names the call.
TO_PAGES = {"/ui/sign-out": "DELETE /sessions/{session}", "/ui/password": "PATCH /users/{user}"}
#: The one form whose fields travel as a header: Upload-Metadata.
UPLOAD = "POST /uploads"
#: Settings of a directory, so that its page has its form; nobody is asked.
DIRECTORY = {
    "DIRECTORY_SERVERS": "ldaps://127.0.0.1:1",
    "DIRECTORY_BASE_DN": "dc=example,dc=com",
    "DIRECTORY_GROUPS": "staff=viewer",
}
MDM = {
    "name": "Jamf",
    "kind": "jamf",
    "enabled": False,
    "settings": {"url": "https://127.0.0.1:1", "client_id": "id", "client_secret": "secret"},
}
WEBHOOK = {"name": "Script", "kind": "webhook", "url": "http://127.0.0.1:1/", "allow_private": True}
METADATA = {"stage", "tags", "notes", "replace"}


class Forms(HTMLParser):
    """The forms of a page, with the names of their fields."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[dict[str, str], set[str]]] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "form":
            self.found.append((values, set()))
            self._inside = True
        elif tag in {"input", "select", "textarea"} and self._inside and values.get("name"):
            self.found[-1][1].add(values["name"].partition(".")[0])
        elif tag == "button" and self._inside and values.get("data-call"):
            form, fields = self.found[-1]
            self.found.append(
                ({**form, "data-call": values["data-call"]}, fields - {values.get("data-leave", "")})
            )

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every page, as an administrator sees it, with something in every list."""
    directory = tmp_path_factory.mktemp("parity")
    with Network(directory) as network:
        node = network.node("Amsterdam", **DIRECTORY)
        berlin = network.node("Berlin")
        berlin.join(node)
        network.node("Cairo").join(berlin)
        eventually(lambda: len(node.api("GET", "/nodes")["items"]) == 3, 20, "Cairo is not heard of")
        for size in (999, 1000):
            node.publish(make_file(directory / "Some.pkg", size, 1).path, replace="true")
        node.api("POST", "/users", {"name": "op", "password": PASSWORD, "role": "operator"})
        node.api("POST", "/tokens", {"name": "x"})
        node.api("POST", "/peers/invites", {})
        begin_upload(node)
        node.api("POST", "/mdm/servers", MDM)
        destination = node.api("POST", "/destinations", WEBHOOK)
        names = {"/ui/mdm/": "Jamf", "/ui/notifications/": destination["id"]}
        admin = BrowserClient(node)
        found = {"/ui/sign-in": admin.get("/ui/sign-in").body.decode()}
        admin.sign_in("admin")
        for pattern, handler in PAGES:
            prefix = pattern.partition("(")[0]
            path = prefix + names.get(prefix, "Some.pkg") if "(" in pattern else pattern
            if path != "/ui/sign-in" and "get" in handler.__dict__:
                found[path] = admin.get(path).body.decode()
        return found


def begin_upload(node: NodeProcess) -> None:
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "10", "Upload-Metadata": "filename eC5wa2c="}
    assert node.request("POST", "/api/v1/uploads", b"", headers).status == 201


def operation_of(call: str) -> Operation:
    """The described call that a form makes."""
    method, path = call.split(" ", 1)
    for operation in OPERATIONS:
        pattern = re.sub(r"\\{\w+\\}", "[^/]+", re.escape(operation.path))
        if operation.method == method.lower() and re.fullmatch(pattern, path):
            return operation
    raise AssertionError(f"no call of the admin API is {call}")


def forms(pages: dict[str, str]) -> Iterator[tuple[str, dict[str, str], set[str]]]:
    for path, html in pages.items():
        parser = Forms()
        parser.feed(html)
        for attributes, fields in parser.found:
            yield path, attributes, fields


def changes(form: dict[str, str]) -> bool:
    return "filters" not in form.get("class", "")


def test_each_form_is_paired_with_its_call(pages: dict[str, str]) -> None:
    seen: set[str] = set()
    for path, form, fields in forms(pages):
        if not changes(form):
            assert form.get("method", "get") == "get", (path, form)
        elif form.get("method") == "post":
            assert "_xsrf" in fields, (path, form)
            if form["action"] != "/ui/sign-in":
                assert form["data-twin"] == TO_PAGES[form["action"]]
        elif form.get("data-twin") == UPLOAD:
            assert fields == METADATA
            seen.add(UPLOAD)
        else:
            operation = operation_of(form["data-call"])
            known = set(operation.body.model_fields) if operation.body else set()
            assert fields <= known, (path, form["data-call"], fields - known)
            required = {
                name
                for name, info in (operation.body.model_fields if operation.body else {}).items()
                if info.is_required()
            }
            assert required <= fields, (path, form["data-call"])
            seen.add(f"{operation.method.upper()} {operation.path}")
    assert seen >= {
        UPLOAD,
        "PATCH /packages/{package}", "DELETE /packages/{package}", "POST /packages/{package}/verify",
        "POST /packages/{package}/restore",
        "DELETE /uploads/{upload}", "POST /peers/invites", "DELETE /peers/invites/{invite}", "POST /peers/join",
        "DELETE /peers/{peer}", "POST /users", "PATCH /users/{user}",
        "DELETE /users/{user}", "DELETE /users/{user}/sessions", "POST /tokens", "DELETE /tokens/{token}",
        "DELETE /sessions/{session}",
    }  # fmt: skip


def test_no_template_has_a_form_that_was_not_paired(pages: dict[str, str]) -> None:
    """What a page shows depends on what there is; so the templates themselves are read as well."""
    for template in (files("web") / "templates").iterdir():
        text = re.sub(r"\{#.*?#\}", "", template.read_text(encoding="utf-8"), flags=re.DOTALL)
        for form in re.findall(r"<form\b[^>]*>", text):
            kinds = [
                kind
                for kind in ("data-call=", "data-twin=", 'class="filters"', "/ui/sign-in")
                if kind in form
            ]
            assert kinds, (template.name, form)
        for call in re.findall(r'data-call="((?:GET|POST|PUT|PATCH|DELETE) [^"]+)"', text):
            operation_of(re.sub(r"\{\{.*?\}\}", "0", call))
        for call in re.findall(r'confirm\([^,]+, "((?:DELETE|POST) [^"]*)"( ~ [^,]+)?', text):
            operation_of(call[0] + ("x" if call[1] else "") + "".join(re.findall(r'"(/\w+)"', call[1])))


def test_every_change_of_the_api_has_a_page(pages: dict[str, str]) -> None:
    """The other way round: what only programs need is named here."""
    programs = {
        "PUT /packages/{package}",  # the page uploads by tus
        "PATCH /uploads/{upload}",
        "POST /transfers/{transfer}/{action}",  # these two are shown for what can be retried or cancelled, see below
        "POST /jobs/{job}/{action}",
        "POST /deliveries/{delivery}/resend",  # for what does not wait to be sent
    }
    texts = "".join(
        template.read_text(encoding="utf-8") for template in (files("web") / "templates").iterdir()
    ).replace('" ~ item.id ~ "', "{{ item.id }}")
    for kind in ("transfers", "jobs"):
        for action in ("retry", "cancel", "prioritize"):
            assert f"POST /{kind}/{{{{ item.id }}}}/{action}" in texts
    assert "POST /deliveries/{{ item.id }}/resend" in texts
    offered = set()
    for _, form, _ in forms(pages):
        if "data-call" in form:
            operation = operation_of(form["data-call"])
            offered.add(f"{operation.method.upper()} {operation.path}")
    missing = (
        {
            f"{operation.method.upper()} {operation.path}"
            for operation in OPERATIONS
            if operation.method in {"post", "put", "patch", "delete"}
        }
        - offered
        - programs
        - {UPLOAD}
    )
    assert missing == set()


def test_pages_carry_no_script_or_style_of_their_own(pages: dict[str, str]) -> None:
    for path, html in pages.items():
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", html), path
        for script in re.findall(r"<script[^>]*>", html):
            assert 'src="/ui/static/' in script, path


def test_paths_of_forms_are_examples_of_calls() -> None:
    for operation in OPERATIONS:
        found: Any = operation_of(f"{operation.method.upper()} {example(operation.path)}")
        assert found.method == operation.method
