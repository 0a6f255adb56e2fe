"""Earlier versions at the doors of a node: admin API, command line, web page."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.exits import ExitCode
from appliance.cli.main import run
from tests.builders import File, make_file
from tests.harness import eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.node import PASSWORD, NodeProcess

from .test_admin_api import refused, send


@pytest.fixture(scope="module")
def node(one_node: NodeProcess) -> NodeProcess:
    one_node.api(
        "POST", "/users", {"name": "dev", "password": PASSWORD, "role": "operator", "stages": ["dev"]}
    )
    one_node.api("POST", "/users", {"name": "viewer", "password": PASSWORD, "role": "viewer"})
    return one_node


@pytest.fixture
def replaced(node: NodeProcess, tmp_path: Path, request: pytest.FixtureRequest) -> tuple[str, File, File]:
    """A package that was replaced once: its name, the earlier file, the current one."""
    name = re.sub(r"\W+", "-", request.node.name) + ".pkg"
    one, two = make_file(tmp_path / "1" / name, 5000, name), make_file(tmp_path / "2" / name, 6000, name)
    node.publish(one.path, tags="lab", notes="first")
    node.publish(two.path, replace="true")
    return name, one, two


def basic(name: str) -> dict[str, str]:
    import base64

    return {"Authorization": "Basic " + base64.b64encode(f"{name}:{PASSWORD}".encode()).decode()}


def cli(node: NodeProcess, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *arguments: str) -> int:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in (("ODS_URL", node.url), ("ODS_USER", "admin"), ("ODS_PASSWORD", PASSWORD)):
        monkeypatch.setenv(name, value)
    return run(["package", *arguments])


def test_the_api_lists_versions_and_restores_one(node: NodeProcess, replaced: tuple[str, File, File]) -> None:
    name, one, two = replaced
    current, earlier = node.api("GET", f"/packages/{name}/versions")["items"]
    assert (current["sha256"], current["current"], current["expires_at"]) == (two.sha256, True, None)
    assert (earlier["sha256"], earlier["why"], earlier["here"]) == (one.sha256, "replaced", True)
    assert (earlier["size"], earlier["tags"], earlier["notes"]) == (5000, ["lab"], "first")
    assert earlier["uploaded_by"] == "admin"
    assert earlier["expires_at"][:10] > earlier["at"][:10]
    assert node.api("GET", "/system")["disk"]["trash"] >= 5000
    assert node.metric("ods_trash_bytes") >= 5000

    answer = send(node, "POST", f"/packages/{name}/restore", {"version": str(earlier["revision"])})
    assert answer.status == 202
    assert answer.json()["version"]["sha256"] == one.sha256
    node.wait_holds(name, one.sha256)
    package = node.package(name)
    assert package is not None
    assert (package["notes"], package["tags"]) == ("first", ["lab"])
    assert package["revision"] > current["revision"]
    event = node.events("package.restored")[0]
    assert (event["actor"], event["subject"]) == ("admin", package["id"])
    assert event["data"]["address"] == "127.0.0.1"
    assert event["data"]["before"] == two.sha256


def test_what_cannot_be_restored_is_said(node: NodeProcess, replaced: tuple[str, File, File]) -> None:
    name, _, two = replaced
    path = f"/packages/{name}/restore"
    assert (
        "nothing to restore"
        in refused(send(node, "POST", path, {"version": two.sha256}), 409, "conflict")["detail"]
    )
    refused(send(node, "POST", path, {"version": "f" * 64}), 404, "version_unknown")
    refused(send(node, "POST", path, {"version": "f" * 65}), 400, "invalid_input")
    refused(send(node, "POST", path, {"versoin": "f"}), 400, "invalid_input")
    refused(send(node, "POST", "/packages/none.pkg/restore", {}), 404, "package_unknown")
    refused(node.request("GET", "/api/v1/packages/none.pkg/versions"), 404, "package_unknown")
    refused(node.request("GET", f"/api/v1/packages/{name}/versions?limit=1"), 400, "invalid_input")


def test_roles_and_stages_hold(node: NodeProcess, replaced: tuple[str, File, File]) -> None:
    name, one, two = replaced
    path = f"/packages/{name}/restore"
    refused(send(node, "POST", path, {}, **basic("viewer")), 403, "permission_denied")
    assert (
        "limited" in refused(send(node, "POST", path, {}, **basic("dev")), 403, "permission_denied")["detail"]
    )
    answer = node.request("GET", f"/api/v1/packages/{name}/versions", None, basic("viewer"))
    assert [each["sha256"] for each in answer.json()["items"]] == [two.sha256, one.sha256]
    assert node.holds(name, two.sha256)


def test_the_command_line_lists_and_restores(
    node: NodeProcess,
    replaced: tuple[str, File, File],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    name, one, two = replaced
    assert cli(node, monkeypatch, tmp_path, "versions", name) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert lines[0][0] == "SHA256"
    assert [(line[0], line[5]) for line in lines[1:]] == [
        (two.sha256[:16], "current"),
        (one.sha256[:16], "replaced"),
    ]

    assert cli(node, monkeypatch, tmp_path, "restore", name, "--version", two.sha256[:8]) == ExitCode.CONFLICT
    assert "nothing to restore" in capsys.readouterr().err
    assert cli(node, monkeypatch, tmp_path, "restore", name, "--version", "nonsense") == ExitCode.NOT_FOUND
    assert "Traceback" not in capsys.readouterr().err
    assert cli(node, monkeypatch, tmp_path, "withdraw", name, "--yes") == 0
    capsys.readouterr()
    assert cli(node, monkeypatch, tmp_path, "restore", name) == 0
    assert capsys.readouterr().out == f"{name}: restored version {two.sha256[:16]}.\n"
    assert node.holds(name, two.sha256)
    assert cli(node, monkeypatch, tmp_path, "restore", name, "--json", "--version", one.sha256) == 0
    data: Any = json.loads(capsys.readouterr().out)
    assert (data["job"]["state"], data["version"]["sha256"]) == ("done", one.sha256)

    blob = node.layout.blob(two.sha256)
    blob.write_bytes(b"x" * 6000)
    assert cli(node, monkeypatch, tmp_path, "restore", name, "--version", two.sha256) == ExitCode.FAILED
    error = capsys.readouterr().err
    assert "damaged here and was quarantined. Restore it on another node" in error
    assert "DigestMismatch" not in error
    assert cli(node, monkeypatch, tmp_path, "versions", name) == 0
    assert "No earlier version is on this node." in capsys.readouterr().err
    assert node.holds(name, one.sha256)
    assert run(["status"]) == 0
    assert re.search(r"Earlier versions: +\d+, ", capsys.readouterr().out)


def test_the_page_offers_what_the_person_may_restore(
    node: NodeProcess, replaced: tuple[str, File, File]
) -> None:
    name, one, _ = replaced
    call = f'data-call="POST /packages/{(node.package(name) or {})["id"]}/restore"'
    admin = BrowserClient(node)
    admin.sign_in("admin")
    html = admin.get(f"/ui/packages/{name}").body.decode()
    assert "Earlier versions on this node" in html
    assert call in html
    assert f'value="{one.sha256}"' in html
    assert "can be restored for 7 days" in html
    viewer = BrowserClient(node)
    viewer.sign_in("viewer")
    html = viewer.get(f"/ui/packages/{name}").body.decode()
    assert one.sha256[:16] in html
    assert call not in html
    node.api("DELETE", f"/packages/{name}")
    html = admin.get(f"/ui/packages/{name}").body.decode()
    assert "Restore a version of it below" in html
    assert call in html


def test_identical_requests_are_one_job(node: NodeProcess, replaced: tuple[str, File, File]) -> None:
    name, one, _ = replaced
    for _ in range(3):
        answer = send(node, "POST", f"/packages/{name}/restore", {"version": one.sha256})
        assert answer.status in {202, 409}
    node.wait_holds(name, one.sha256)
    id = (node.package(name) or {})["id"]

    def settled() -> bool:
        return not node.api("GET", "/jobs?name=package.restore&state=doing")["items"]

    eventually(settled, 20, "a job goes on")
    assert sum(event["subject"] == id for event in node.events("package.restored")) == 1
