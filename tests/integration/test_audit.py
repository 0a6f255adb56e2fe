"""The audit log: every change has who, from where, before and after; and it can be taken away as a table."""

import base64
import csv
import datetime
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from appliance.api.system import csv_line
from tests.builders import make_file
from tests.harness import Network, eventually
from tests.harness.browser_client import BrowserClient
from tests.harness.node import PASSWORD, NodeProcess


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    with Network(tmp_path_factory.mktemp("audit")) as network:
        made = network.node("Amsterdam")
        made.publish(make_file(tmp_path_factory.mktemp("files") / "Audited.pkg", 1000, 1).path)
        yield made


def last(node: NodeProcess, type: str) -> dict[str, Any]:
    event: dict[str, Any] = node.events(type)[0]
    return event


def test_a_change_of_a_package_has_before_and_after(node: NodeProcess) -> None:
    person = BrowserClient(node)
    person.sign_in("admin")
    body = json.dumps({"stage": "test", "tags": ["a"]}).encode()
    headers = {"X-XSRF-Token": person.xsrf()}
    assert person.request("PATCH", "/api/v1/packages/Audited.pkg", body, headers).status == 200
    event = last(node, "package.changed")
    assert (event["actor"], event["data"]["address"]) == ("admin", "127.0.0.1")
    assert (event["data"]["before"]["stage"], event["data"]["after"]["stage"]) == ("prod", "test")
    assert (event["data"]["before"]["tags"], event["data"]["after"]["tags"]) == ([], ["a"])


def test_a_change_of_an_account_has_before_and_after_and_no_password(node: NodeProcess) -> None:
    node.api("POST", "/users", {"name": "audited", "password": PASSWORD, "role": "viewer"})
    node.api("PATCH", "/users/audited", {"role": "operator", "password": "another long password"})
    event = last(node, "account.changed")
    assert event["data"] == {
        "address": "127.0.0.1",
        "change": "password changed, role changed",
        "role": "operator",
        "before": {"role": "viewer"},
        "after": {"role": "operator"},
    }


def test_who_ends_what_is_known(node: NodeProcess) -> None:
    invite = node.api("POST", "/peers/invites", {})
    node.api("DELETE", f"/peers/invites/{invite['id']}")
    assert last(node, "peer.invite_revoked")["subject"] == invite["id"]
    assert invite["invite"] not in node.request("GET", "/api/v1/events.csv").body.decode()
    headers = {"Tus-Resumable": "1.0.0", "Upload-Length": "9", "Upload-Metadata": "filename eC5wa2c="}
    place = node.request("POST", "/api/v1/uploads", b"", headers).headers["location"].rpartition("/")[2]
    assert node.request("DELETE", f"/api/v1/uploads/{place}", None, headers).status == 204
    assert last(node, "upload.ended")["data"] == {"address": "127.0.0.1", "filename": "x.pkg", "received": 0}
    job = eventually(lambda: node.api("GET", "/jobs?state=done")["items"], 30)[0]
    refused = node.request("POST", f"/api/v1/jobs/{job['id']}/retry")
    assert refused.status == 409
    assert node.events("job.retried") == [], "what was refused is not logged as done"


def test_what_the_node_does_by_itself_has_no_address(node: NodeProcess) -> None:
    assert "address" not in last(node, "node.started")["data"]


def test_signing_in_and_out_is_logged(node: NodeProcess) -> None:
    person = BrowserClient(node)
    person.sign_in("admin")
    assert last(node, "session.started")["data"]["address"] == "127.0.0.1"
    person.form("/ui/sign-out", {"_xsrf": person.xsrf()})
    assert last(node, "session.ended")["actor"] == "admin"
    BrowserClient(node).sign_in("admin", "a wrong password")
    assert eventually(lambda: node.events("sign_in.refused"), 15)[0]["subject"] == "admin"


def test_the_export_is_whole_and_in_order(node: NodeProcess) -> None:
    for number in range(30):
        node.api("PATCH", "/packages/Audited.pkg", {"notes": f'"{number}", =SUM(1)\n'})
    rows = list(csv.reader(io.StringIO(node.request("GET", "/api/v1/events.csv").body.decode())))
    assert rows[0] == ["number", "time", "type", "actor", "address", "subject", "before", "after", "details"]
    numbers = [int(row[0]) for row in rows[1:]]
    assert numbers == list(range(1, len(numbers) + 1)), "nothing is missing, oldest first"
    assert all(len(row) == 9 for row in rows)
    some = node.request("GET", "/api/v1/events.csv?type=package.changed&actor=admin").body.decode()
    kinds = {row[2] for row in list(csv.reader(io.StringIO(some)))[1:]}
    assert kinds == {"package.changed"}


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_a_spreadsheet_computes_nothing(cell: str) -> None:
    assert csv_line([cell]).startswith("\"'")


def test_the_page_filters(node: NodeProcess) -> None:
    person = BrowserClient(node)
    person.sign_in("admin")
    page = person.get("/ui/audit?type=account.changed&actor=admin").body.decode()
    assert "role" in page
    assert "viewer → operator" in page
    assert "package.published" not in page.partition("<tbody>")[2]
    about = person.get("/ui/audit?subject=Audited.pkg").body.decode().partition("<tbody>")[2]
    assert "package.changed" in about
    assert "account.changed" not in about


def test_the_settings_are_shown_without_secrets(node: NodeProcess) -> None:
    items = {item["key"]: item for item in node.api("GET", "/settings")["items"]}
    assert items["admin.password"]["value"] == "***"
    assert items["http.port"]["environment"] == "ODS_HTTP_PORT"
    assert (items["node.name"]["value"], items["node.name"]["default"]) == ("Amsterdam", False)
    assert items["log.level"]["default"]


def test_the_command_line_twins(node: NodeProcess, tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    def ods(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"ODS_URL": node.url, "ODS_USER": "admin", "ODS_PASSWORD": PASSWORD}
        command = [sys.executable, "-m", "appliance", *arguments]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    BrowserClient(node).sign_in("admin")
    listed = ods("audit", "list", "--type", "session.started", "--json")
    assert {event["type"] for event in json.loads(listed.stdout)} == {"session.started"}
    file = tmp_path / "audit.csv"
    assert ods("audit", "export", str(file)).returncode == 0
    assert file.read_text().startswith('"number","time"')
    assert ods("audit", "export", str(file)).returncode == 5
    assert "127.0.0.1" in ods("user", "sessions").stdout
    assert "admin is signed out" in ods("user", "sign-out", "admin", "--yes").stdout
    assert node.api("GET", "/sessions")["items"] == []
    unknown = base64.b64encode(b"x").decode()
    assert node.request("DELETE", f"/api/v1/sessions/{unknown}").status == 404


def test_days_are_days_of_a_zone(node: NodeProcess) -> None:
    at = datetime.datetime.fromisoformat(last(node, "node.started")["at"])
    zone = ZoneInfo("Pacific/Kiritimati")  # 14 hours ahead: often another day
    day = at.astimezone(zone).date()

    def found(query: str) -> bool:
        items = node.api("GET", f"/events?type=node.*&zone=Pacific/Kiritimati&{query}")["items"]
        assert {item["type"] for item in items} <= {"node.started", "node.stopped"}
        return bool(items)

    tomorrow, yesterday = day + datetime.timedelta(days=1), day - datetime.timedelta(days=1)
    assert found(f"start={day}&end={day}")
    assert not found(f"start={tomorrow}")
    assert not found(f"end={yesterday}")
    assert not found(f"end={at.isoformat().replace('+', '%2B')}"), "the end is not in it"
    export = node.request("GET", f"/api/v1/events.csv?start={tomorrow}&zone=Pacific/Kiritimati").body.decode()
    assert len(export.splitlines()) == 1
    person = BrowserClient(node)
    person.sign_in("admin")
    page = person.get(f"/ui/audit?start={tomorrow}&zone=Pacific/Kiritimati").body.decode()
    assert "No event fits" in page
    assert f"events.csv?start={tomorrow}&amp;zone=Pacific%2FKiritimati" in page


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("start=yesterday", "start"),
        ("end=2026-13-01", "end"),
        ("start=2026-07-01&zone=../etc/passwd", "zone"),
    ],
)
def test_what_is_no_moment_is_refused(node: NodeProcess, query: str, field: str) -> None:
    answer = node.request("GET", f"/api/v1/events?{query}")
    assert answer.status == 400
    assert field in json.loads(answer.body)["fields"]
