"""Destinations and deliveries through the admin API and the command line of a real node."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from appliance.cli.exits import ExitCode
from appliance.cli.main import run
from tests.builders import make_file
from tests.fakes.receiver import Receiver, answers
from tests.fakes.smtp import MailCatcher
from tests.harness import ApiError, Network, NodeProcess, eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.node import PASSWORD
from tests.unit.test_openapi import document


@pytest.fixture(scope="module")
def catcher() -> Iterator[MailCatcher]:
    with MailCatcher() as made:
        yield made


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, catcher: MailCatcher) -> Iterator[NodeProcess]:
    settings = {
        "MAIL_HOST": "localhost",
        "MAIL_PORT": str(catcher.port),
        "MAIL_TLS": "none",
        "MAIL_SENDER": "ods@example.com",
    }
    with Network(tmp_path_factory.mktemp("notify"), settings=settings) as network:
        yield network.node("berlin")


def hook(node: NodeProcess, receiver: Receiver, name: str, **given: Any) -> dict[str, Any]:
    body = {"name": name, "kind": "webhook", "url": receiver.url, "allow_private": True, **given}
    made: dict[str, Any] = node.api("POST", "/destinations", body)
    return made


def refused(node: NodeProcess, method: str, path: str, body: Any = None) -> dict[str, Any]:
    with pytest.raises(ApiError) as caught:
        node.api(method, path, body)
    return caught.value.problem


def shape(name: str) -> set[str]:
    return set(document()["components"]["schemas"][name]["properties"])


def test_a_webhook_from_beginning_to_end(node: NodeProcess, receiver: Receiver, tmp_path: Path) -> None:
    made = hook(node, receiver, "end to end", events=["package.*"])
    id = made["id"]
    assert set(made) == shape("NewDestination")
    assert made["url"] == f"http://localhost:{receiver.port}/…"
    node.publish(make_file(tmp_path / "Story 1.pkg", 3000).path)
    eventually(lambda: len(receiver.received) == 1, message="no webhook")
    message = receiver.received[0].verify(made["secret"])
    assert (message["type"], message["data"]["title"]) == ("package.published", "Story 1.pkg was published")
    assert message["data"]["node"]["name"] == "berlin"

    def delivered() -> dict[str, Any]:
        found = node.api("GET", f"/deliveries?destination={id}&state=delivered")["items"]
        assert len(found) == 1, "it is not on record yet"
        return dict(found[0])

    delivery = eventually(delivered)
    assert set(delivery) == shape("Delivery")
    assert (delivery["status"], delivery["answer"], delivery["type"]) == (200, "ok", "package.published")
    assert node.api("GET", f"/deliveries/{delivery['id']}") == delivery
    node.api("POST", f"/deliveries/{delivery['id']}/resend")
    eventually(lambda: len(receiver.received) == 2, message="not sent again")
    assert receiver.ids[0] == receiver.ids[1]
    result = node.api("POST", f"/destinations/{id}/test")
    assert set(result) == shape("TestResult")
    assert (result["ok"], result["status"]) == (True, 200)
    assert receiver.received[-1].verify(made["secret"])["type"] == "destination.test"
    rotated = node.api("POST", f"/destinations/{id}/rotate")
    assert rotated["secret"] != made["secret"]
    receiver.behave = answers(500, b"broken")
    result = node.api("POST", f"/destinations/{id}/test")
    assert (result["ok"], result["status"], result["answer"]) == (False, 500, "broken")
    assert "answered 500" in result["error"]
    assert receiver.received[-1].verify(rotated["secret"]) == receiver.received[-1].verify(made["secret"])
    node.api("DELETE", f"/destinations/{id}")
    assert refused(node, "GET", f"/destinations/{id}")["code"] == "destination_unknown"
    assert node.api("GET", f"/deliveries?destination={id}")["items"] == []


def test_the_page_takes_the_name_of_a_destination(
    node: NodeProcess, receiver: Receiver, tmp_path: Path
) -> None:
    made = hook(node, receiver, "by name", events=["package.*"])
    other = hook(node, receiver, "by another name", events=["token.*"])
    node.publish(make_file(tmp_path / "Story 2.pkg", 3000).path)
    eventually(lambda: node.api("GET", f"/deliveries?destination={made['id']}&state=delivered")["items"])
    person = BrowserClient(node)
    person.sign_in("admin")

    def shown(destination: str) -> str:
        page = person.get(f"/ui/deliveries?destination={quote(destination)}").body.decode()
        return page[page.index('id="list"') :]

    assert "Story 2.pkg" in shown("by name")
    assert shown("by name") == shown(made["id"])
    assert "Story 2.pkg" not in shown("by another name")
    page = person.get("/ui/deliveries?destination=by%20another%20name").body.decode()
    assert f'value="{other["id"]}" selected' in page
    assert person.get("/ui/deliveries?destination=Nobody%20here").status == 400
    for each in (made, other):
        node.api("DELETE", f"/destinations/{each['id']}")


def test_secrets_are_nowhere(node: NodeProcess, receiver: Receiver) -> None:
    made = hook(node, receiver, "secretive")
    receiver.behave = answers(500)
    node.api("POST", f"/destinations/{made['id']}/test")
    shown = json.dumps([node.api("GET", "/destinations"), node.api("GET", "/events?limit=500")])
    log = node.log.read_text()
    key = made["secret"].removeprefix("whsec_")
    for text in (shown, log):
        assert "T0PSECRET" not in text
        assert key not in text
    assert '"action": "notification_failed"' in log
    node.api("DELETE", f"/destinations/{made['id']}")


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"url": "http://example.com/"}, "https"),
        ({"url": "https://127.0.0.1/"}, "allow_private"),
        ({"url": "nonsense"}, "not a URL"),
        ({}, "url"),
        ({"url": "https://example.com/", "events": ["nothing"]}, "no event"),
        ({"url": "https://example.com/", "events": []}, "events"),
        ({"url": "https://example.com/", "mode": "daily"}, "has no mode"),
        ({"url": "https://example.com/", "format": "template", "template": "{{ x"}, "not valid"),
        ({"url": "https://example.com/", "format": "telegram"}, "format"),
        ({"url": "https://example.com/", "name": ""}, "name"),
        ({"url": "https://example.com/", "name": "a\u202eb"}, "name"),
        ({"url": "https://example.com/", "hour": 24}, "hour"),
        ({"url": "https://example.com/", "bogus": 1}, "bogus"),
        ({"kind": "mail", "address": "x"}, "mail address"),
        ({"kind": "mail"}, "mail address"),
        ({"kind": "mail", "address": "a@example.com", "zone": "Mars/Base"}, "time zone"),
        ({"kind": "pigeon"}, "kind"),
    ],
)
def test_what_makes_no_sense_is_told(node: NodeProcess, given: dict[str, Any], word: str) -> None:
    before = node.api("GET", "/destinations")["items"]
    problem = refused(node, "POST", "/destinations", {"name": "x", "kind": "webhook", **given})
    assert problem["status"] == 400
    assert word in problem["detail"]
    assert node.api("GET", "/destinations")["items"] == before


def test_two_admins(node: NodeProcess, receiver: Receiver) -> None:
    made = hook(node, receiver, "shared")
    assert refused(node, "POST", "/destinations", {"name": "shared", "kind": "webhook", "url": "https://example.com/"})[
        "code"
    ] == "destination_exists"  # fmt: skip
    node.api("PATCH", f"/destinations/{made['id']}", {"events": ["peer.*"], "version": made["version"]})
    problem = refused(
        node, "PATCH", f"/destinations/{made['id']}", {"name": "mine", "version": made["version"]}
    )
    assert (problem["status"], problem["code"]) == (409, "stale_revision")
    found = node.api("GET", f"/destinations/{made['id']}")
    assert set(found) == shape("Destination")
    assert (found["name"], found["events"], found["version"]) == ("shared", ["peer.*"], 2)
    node.api("DELETE", f"/destinations/{made['id']}")


def test_mail_through_the_settings_of_the_node(
    node: NodeProcess, catcher: MailCatcher, tmp_path: Path
) -> None:
    made = node.api(
        "POST",
        "/destinations",
        {"name": "anna", "kind": "mail", "address": "anna@example.com", "events": ["package.published"]},
    )
    assert (made["secret"], made["mode"], made["url"]) == ("", "immediate", "")
    node.publish(make_file(tmp_path / "Mail <i>1.pkg".replace("<i>", "Ü"), 100).path)
    eventually(lambda: len(catcher.messages) == 1, message="no mail")
    assert catcher.messages[0]["Subject"] == "[berlin] Mail Ü1.pkg was published"
    assert node.api("POST", f"/destinations/{made['id']}/test")["ok"] is True
    assert refused(node, "POST", f"/destinations/{made['id']}/rotate")["status"] == 400
    node.api("DELETE", f"/destinations/{made['id']}")


def test_roles(node: NodeProcess) -> None:
    for role, read, write in (("viewer", 403, 403), ("operator", 200, 403)):
        name = f"only-{role}"
        node.api("POST", "/users", {"name": name, "password": PASSWORD, "role": role})
        header = {"Authorization": "Basic " + base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()}
        for path in ("/destinations", "/deliveries"):
            assert node.request("GET", f"/api/v1{path}", None, header).status == read
        body = b'{"name":"n","kind":"webhook","url":"https://example.com/"}'
        assert node.request("POST", "/api/v1/destinations", body, header).status == write


def test_a_lockout_is_an_event(node: NodeProcess, receiver: Receiver) -> None:
    made = hook(node, receiver, "security", events=["sign_in.locked"])
    node.api("POST", "/users", {"name": "victim", "password": PASSWORD, "role": "viewer"})
    wrong = {"Authorization": "Basic " + base64.b64encode(b"victim:wrong password").decode()}
    for _ in range(7):
        node.request("GET", "/api/v1/about", None, wrong)
    eventually(lambda: len(receiver.received) == 1, message="no webhook")
    message = receiver.received[0].verify(made["secret"])
    assert (message["data"]["subject"], message["data"]["details"]) == ("victim", {"address": "127.0.0.1"})
    node.api("DELETE", f"/destinations/{made['id']}")


def test_the_command_line(
    node: NodeProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:  # fmt: skip
    for name, value in {"ODS_URL": node.url, "ODS_USER": "admin", "ODS_PASSWORD": PASSWORD}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))

    def ods(*words: str, code: int = ExitCode.OK) -> str:
        assert run(["notify", *words]) == code, capsys.readouterr()
        return capsys.readouterr().out

    made = json.loads(
        ods("add", "cli", "--webhook", receiver.url, "--allow-private", "--events", "package.*", "--events", "peer.*",
            "--json")
    )  # fmt: skip
    assert (made["events"], made["secret"][:6]) == (["package.*", "peer.*"], "whsec_")
    assert "took it in" in ods("test", "cli")
    node.publish(make_file(tmp_path / "Cli.pkg", 10).path)
    eventually(lambda: "package.published" in ods("deliveries", "--to", "cli", "--state", "delivered"))
    (delivery,) = json.loads(ods("deliveries", "--to", "cli", "--json"))
    ods("resend", delivery["id"])
    eventually(lambda: len(receiver.received) == 3, message="not sent again")
    assert "T0PSECRET" not in ods("show", "cli") + ods("list")
    assert ods("rotate", "cli").startswith("whsec_")
    receiver.behave = answers(503, b"closed today")
    assert "closed today" in ods("test", "cli", code=ExitCode.FAILED)
    assert "is disabled" in ods("change", "cli", "--disable")
    assert "is active" in ods("change", made["id"], "--enable", "--events", "disk.low")
    template = tmp_path / "template.json"
    template.write_text('{"text": {{ data.title|tojson }}}')
    ods("add", "own", "--webhook", receiver.url, "--allow-private", "--template", str(template))
    receiver.behave = answers(200)
    ods("test", "own")
    assert receiver.received[-1].json() == {"text": "This is a test"}
    ods("add", "both", "--webhook", "x", "--mail", "y", code=ExitCode.USAGE)
    ods("change", "cli", code=ExitCode.USAGE)
    ods("show", "nobody", code=ExitCode.NOT_FOUND)
    ods("resend", "nothing", code=ExitCode.NOT_FOUND)
    ods("add", "bad", "--webhook", "ftp://x", code=ExitCode.USAGE)
    for name in ("cli", "own"):
        ods("remove", name, "--yes")
    assert json.loads(ods("list", "--json")) == []
