"""The admin API and the commands for MDM servers, over HTTP."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_schema_validator import OAS31Validator

from appliance.api.openapi import document
from appliance.cli.exits import ExitCode
from appliance.cli.main import run
from appliance.domain.mdm_errors import MdmNeedsAttention
from jamf_bridge.driver import CheckLine
from jamf_bridge.servers.secret_fields import MASK
from tests.harness.mdm_node import PASSWORD, MdmNode

DOCUMENT = document()
SECRET = "the very secret word"
FIELDS: dict[str, Any] = {
    "name": "Jamf Pro",
    "kind": "jamf",
    "settings": {"url": "https://mdm.example", "client_id": "bridge", "client_secret": SECRET},
}


@pytest.fixture
def node(tmp_path: Path) -> Iterator[MdmNode]:
    with MdmNode(tmp_path) as made:
        yield made


def described(path: str, method: str, status: int, answer: Any) -> None:
    content = DOCUMENT["paths"]["/api/v1" + path][method]["responses"][str(status)]["content"]
    (kind,) = content.values()
    schema = {**kind["schema"], "components": DOCUMENT["components"]}
    assert [fault.message for fault in OAS31Validator(schema).iter_errors(answer)] == []


def test_a_server_from_check_to_removal(node: MdmNode) -> None:
    report = node.api("POST", "/mdm/check", FIELDS)
    described("/mdm/check", "post", 200, report)
    assert report == {
        "ok": True,
        "lines": [
            {
                "what": "Sign in", "ok": True, "detail": "as bridge", "privilege": "", "needed_for": "",
                "needed": True,
            }
        ],
    }  # fmt: skip
    assert node.api("GET", "/mdm/servers")["items"] == []
    answer = node.request("POST", "/mdm/servers", FIELDS)
    assert answer.status_code == 201
    described("/mdm/servers", "post", 201, answer.json())
    id = answer.json()["id"]
    assert answer.json()["settings"]["client_secret"] == MASK
    changed = node.api("PATCH", "/mdm/servers/jamf%20pro", {"intake": {"poll_s": 120}, "revision": 1})
    assert (changed["intake"]["poll_s"], changed["revision"]) == (120, 2)
    assert node.request("PATCH", f"/mdm/servers/{id}", {"name": "x", "revision": 1}).status_code == 409
    same = node.api("POST", f"/mdm/servers/{id}/check", {"settings": {"client_secret": MASK}})
    assert same["ok"]
    assert node.mdm.made_with[-1].client_secret == SECRET
    started = node.request("POST", f"/mdm/servers/{id}/sync", {"verify": True})
    assert started.status_code == 202
    described("/mdm/servers/{server}/sync", "post", 202, started.json())
    assert started.json()["job"]["name"] == "mdm.sync"
    paused = node.api("POST", f"/mdm/servers/{id}/pause", {"seconds": 60})
    assert paused["state"] == "paused"
    assert paused["health"]["paused_until"].endswith("Z")
    assert node.request("POST", f"/mdm/servers/{id}/sync", {}).json()["code"] == "invalid_transition"
    assert node.api("POST", f"/mdm/servers/{id}/pause", {})["health"]["paused_until"].startswith("9999")
    assert node.api("POST", f"/mdm/servers/{id}/resume")["state"] == "connected"
    text = json.dumps(
        [node.api("GET", "/mdm/servers"), node.api("GET", f"/mdm/servers/{id}"), changed, paused]
    )
    assert SECRET not in text
    assert node.secret(id) not in text
    assert node.request("DELETE", f"/mdm/servers/{id}").status_code == 204
    gone = node.request("GET", f"/mdm/servers/{id}")
    assert (gone.status_code, gone.json()["code"]) == (404, "mdm_server_unknown")
    types = [doc["type"] for doc in node.find("events", {"subject": id})]
    assert set(types) == {"mdm.added", "mdm.changed", "mdm.removed"}


def test_lists_are_as_described(node: MdmNode) -> None:
    id = node.api("POST", "/mdm/servers", FIELDS)["id"]

    async def fill() -> None:
        store = node.running.store
        for number in range(3):
            row = {"_id": f"{id}:{number}", "server": id, "remote": str(number), "at": 1_800_000_000_000}
            await store.insert(
                "mdm_remote", {**row, "file_name": f"{number}.pkg", "state": "taken", "error": ""}
            )
        await store.insert(
            "mdm_links", {"_id": f"{id}:p", "server": id, "package": "p", "state": "failed", "at": 0}
        )
        await store.insert("mdm_points", {"_id": f"{id}:n", "server": id, "state": "written", "at": 0})

    node.on_loop(fill)
    described("/mdm/servers", "get", 200, node.api("GET", "/mdm/servers"))
    described("/mdm/servers/{server}", "get", 200, node.api("GET", f"/mdm/servers/{id}"))
    for name in ("packages", "points", "segments"):
        found = node.api("GET", f"/mdm/servers/{id}/{name}")
        described(f"/mdm/servers/{{server}}/{name}", "get", 200, found)
        assert found["items"]
    kinds = node.api("GET", "/mdm/kinds")
    described("/mdm/kinds", "get", 200, kinds)
    assert kinds["items"][0]["settings"]["properties"]["client_secret"]["secret"]
    assert "debounce_s" in json.dumps(kinds["items"][0]["config"])
    seen, cursor = [], ""
    while cursor is not None:
        page = node.api("GET", f"/mdm/servers/{id}/packages?limit=2&cursor={cursor}")
        seen += [row["file_name"] for row in page["items"]]
        cursor = page["next"]
    assert seen == ["0.pkg", "1.pkg", "2.pkg", "p"]
    assert [row["state"] for row in node.api("GET", f"/mdm/servers/{id}/packages?state=pulled")["items"]] == [
        "pulled"
    ] * 3
    assert node.request("GET", f"/mdm/servers/{id}/packages?cursor=zzz").status_code == 400


@pytest.mark.parametrize(
    ("body", "status", "code", "word"),
    [
        ({}, 400, "invalid_input", "name"),
        ({**FIELDS, "colour": 1}, 400, "invalid_input", "colour"),
        ({**FIELDS, "kind": "nothing"}, 400, "invalid_input", "kind"),
        ({**FIELDS, "settings": {"url": "ftp://x", "client_id": "a"}}, 400, "invalid_input", "https://"),
        ({**FIELDS, "settings": "url"}, 400, "invalid_input", "settings"),
        ({**FIELDS, "points": {"password": {"a": 1}}}, 400, "invalid_input", "points.password"),
        ([], 400, "invalid_input", "body"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_field(
    node: MdmNode, body: Any, status: int, code: str, word: str
) -> None:
    for path in ("/mdm/servers", "/mdm/check"):
        answer = node.request("POST", path, body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert word in answer.json()["detail"]
        assert SECRET not in answer.text


def test_viewers_see_masks_and_change_nothing(node: MdmNode) -> None:
    id = node.api("POST", "/mdm/servers", FIELDS)["id"]
    for user in ("viewer", "operator"):
        seen = node.request("GET", f"/mdm/servers/{id}", user=user)
        assert seen.status_code == 200
        assert SECRET not in seen.text
        for method, path in (
            ("POST", "/mdm/servers"), ("PATCH", f"/mdm/servers/{id}"), ("DELETE", f"/mdm/servers/{id}"),
            ("POST", "/mdm/check"), ("POST", f"/mdm/servers/{id}/check"), ("POST", f"/mdm/servers/{id}/sync"),
            ("POST", f"/mdm/servers/{id}/webhooks"), ("POST", f"/mdm/servers/{id}/pause"),
        ):  # fmt: skip
            assert node.request(method, path, FIELDS, user=user).status_code == 403, (user, method, path)
    assert node.request("GET", "/mdm/servers", user="").status_code == 401


def test_a_node_without_a_bridge_says_so(tmp_path: Path) -> None:
    with MdmNode(tmp_path, bridge=False) as node:
        for method, path in (("GET", "/mdm/servers"), ("GET", "/mdm/kinds"), ("POST", "/mdm/servers/x/sync")):
            answer = node.request(method, path, {} if method == "POST" else None)
            assert (answer.status_code, answer.json()["detail"]) == (404, "This node has no MDM bridge.")


def test_webhooks_are_registered_and_removed(node: MdmNode) -> None:
    node.api("POST", "/mdm/servers", FIELDS)
    unset = node.request("POST", "/mdm/servers/Jamf%20Pro/webhooks", {})
    assert unset.status_code == 400
    assert "webhooks.register_at" in unset.json()["detail"]
    node.api("PATCH", "/mdm/servers/Jamf%20Pro", {"webhooks": {"register_at": "https://ods.example"}})
    found = node.api("POST", "/mdm/servers/Jamf%20Pro/webhooks")
    described("/mdm/servers/{server}/webhooks", "post", 200, found)
    assert len(found["lines"]) == 4
    assert node.api("DELETE", "/mdm/servers/Jamf%20Pro/webhooks") == {"removed": 4}
    node.mdm.error = MdmNeedsAttention('Add the privilege "Create Webhooks" to the API role.')
    refused = node.request("POST", "/mdm/servers/Jamf%20Pro/webhooks", {})
    assert (refused.status_code, refused.json()["code"]) == (502, "mdm_attention")
    assert "Create Webhooks" in refused.json()["detail"]


# The command line


@pytest.fixture
def cli(node: MdmNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MdmNode:
    for name in ("ODS_TOKEN", "ODS_MDM_SECRET", "ODS_CA_FILE", "ODS_FINGERPRINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ODS_URL", node.url)
    monkeypatch.setenv("ODS_USER", "admin")
    monkeypatch.setenv("ODS_PASSWORD", PASSWORD)
    monkeypatch.setattr("sys.stdin", io.StringIO())  # not a terminal
    return node


def ods(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(["mdm", *arguments])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


ADD = ("add", "Jamf Pro", "https://mdm.example", "--client-id", "bridge")


def test_a_server_is_added_with_its_secret_from_standard_input(
    cli: MdmNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{SECRET}\n"))
    code, out, err = ods(
        capsys, *ADD, "--client-secret", "-", "--set", "intake.poll_s=300", "--set", "proxy={}"
    )
    assert (code, err) == (ExitCode.OK, "")
    assert "Sign in" in out
    assert "as bridge" in out
    (server,) = cli.api("GET", "/mdm/servers")["items"]
    assert server["intake"]["poll_s"] == 300
    assert cli.mdm.made_with[-1].client_secret == SECRET
    code, out, _ = ods(capsys, "show", "jamf pro")
    assert code == ExitCode.OK
    assert SECRET not in out
    assert "https://mdm.example" in out
    code, out, _ = ods(capsys, "list", "--json")
    assert json.loads(out)[0]["id"] == server["id"]


def test_what_is_needed_and_fails_is_shown_and_nothing_is_added_without_force(
    cli: MdmNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ODS_MDM_SECRET", SECRET)
    cli.mdm.lines.append(
        CheckLine(
            what="Packages: create", ok=False, needed_for="out", privilege="Create Packages", detail="Add it."
        )
    )
    code, out, err = ods(capsys, *ADD)
    assert code == ExitCode.FAILED
    assert "FAILS" in out
    assert 'Missing privilege: "Create Packages"' in out
    assert "--force" in err
    assert cli.api("GET", "/mdm/servers")["items"] == []
    code, out, _ = ods(capsys, *ADD, "--force", "--json")
    assert code == ExitCode.OK
    assert json.loads(out)["server"]["name"] == "Jamf Pro"
    code, out, err = ods(capsys, "check", "Jamf Pro")
    assert code == ExitCode.FAILED
    assert "Packages: create" in err
    code, out, _ = ods(capsys, "check", "Jamf Pro", "--set", "mirror.enabled=false")
    assert code == ExitCode.OK
    assert "not needed with these settings" in out


@pytest.mark.parametrize(
    "arguments",
    [
        (*ADD, "--client-secret", "in-the-clear"),
        (*ADD,),
        (*ADD, "--client-secret", "-", "--username", "x"),
        ("add", "x", "https://mdm.example", "--set", "novalue"),
        ("add", "x", "https://mdm.example", "--set", "nosuch.field=1"),
        ("change", "Jamf Pro"),
    ],
)
def test_usage(cli: MdmNode, arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = ods(capsys, *arguments)
    assert code == ExitCode.USAGE
    assert "in-the-clear" not in err
    assert cli.api("GET", "/mdm/servers")["items"] == []


def test_the_other_commands(
    cli: MdmNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.api("POST", "/mdm/servers", {**FIELDS, "webhooks": {"register_at": "https://ods.example"}})
    for arguments, word in (
        (("list",), "Jamf Pro"),
        (("sync", "Jamf Pro", "--verify"), "todo"),
        (("pause", "Jamf Pro", "--for", "2h"), "paused until"),
        (("resume", "Jamf Pro"), "connected"),
        (("webhooks", "Jamf Pro"), "RestAPIOperation"),
        (("webhooks", "Jamf Pro", "--remove", "--yes"), "4 webhooks"),
        (("packages", "Jamf Pro", "--state", "conflict"), "FILE NAME"),
        (("points", "Jamf Pro"), "NAME"),
        (("segments", "Jamf Pro"), "Zurich"),
        (("kinds",), "client_secret"),
        (("change", "Jamf Pro", "--set", "enabled=false"), "revision is 2"),
    ):
        code, out, err = ods(capsys, *arguments)
        assert (code, err) == (ExitCode.OK, ""), arguments
        assert word in out
    monkeypatch.setenv("ODS_MDM_SECRET", "another word")
    code, _, _ = ods(capsys, "change", "Jamf Pro", "--username", "api", "--set", "enabled=true")
    assert code == ExitCode.OK
    cli.api("POST", "/mdm/servers/Jamf%20Pro/check")
    made = cli.mdm.made_with[-1]
    assert (made.username, made.password, made.client_id, made.client_secret) == (
        "api",
        "another word",
        "",
        "",
    )
    assert ods(capsys, "show", "nobody")[0] == ExitCode.NOT_FOUND
    code, out, _ = ods(capsys, "remove", "Jamf Pro", "--yes", "--json")
    assert code == ExitCode.OK
    assert "removed" in json.loads(out)
    assert ods(capsys, "list")[1].splitlines()[1:] == []
