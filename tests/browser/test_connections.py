"""MDM servers and notifications in the browser, against a stand-in for Jamf Pro and a real receiver of webhooks."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Locator, expect

from tests.builders import make_file
from tests.fakes.jamf import FakeJamf
from tests.fakes.receiver import Receiver, answers
from tests.harness import eventually
from tests.harness.node import PASSWORD, NodeProcess

from .visitor import Visitor


@pytest.fixture
def jamf() -> Iterator[FakeJamf]:
    with FakeJamf(packages=3) as server:
        yield server


def test_jamf_pro_is_connected(node: NodeProcess, visitor: Visitor, jamf: FakeJamf, tmp_path: Path) -> None:
    file = make_file(tmp_path / "Mirrored.pkg", 5000, 1)
    node.publish(file.path, stage="prod")
    page = visitor.page
    visitor.sign_in(node)
    visitor.menu("MDM servers")
    expect(page.get_by_role("heading", name="No MDM server")).to_be_visible()
    page.get_by_role("button", name="Connect a server").click()
    dialog = page.locator("#add-jamf")

    visitor.expected.append("400")  # the console tells of each refusal
    fill(dialog, Name="Jamf", URL="nonsense")
    dialog.get_by_role("button", name="Connect", exact=True).click()
    expect(dialog.locator('[data-error-of="settings.url"]')).to_contain_text("not a URL")
    expect(dialog.get_by_label("URL", exact=True)).to_be_focused()

    # A wrong secret and a missing privilege are found before anything is saved.
    fill(dialog, URL=jamf.url)
    dialog.get_by_label("Client ID").fill(jamf.client_id)
    dialog.get_by_label("Client secret").fill("wrong")
    dialog.get_by_label("Insecure").check()
    tried = page.locator("#tried")
    dialog.get_by_role("button", name="Try it").click()
    expect(tried.get_by_text("fails").first).to_be_visible()
    tried.get_by_role("button", name="Done").click()
    jamf.control("privileges", without=["Create Packages"])
    dialog.get_by_label("Client secret").fill(jamf.client_secret)
    dialog.get_by_role("button", name="Try it").click()
    expect(tried.get_by_role("row", name="Package records: create")).to_contain_text("Create Packages")
    visitor.show("mdm-check")
    tried.get_by_role("button", name="Done").click()
    jamf.control("privileges", without=[])
    assert node.api("GET", "/mdm/servers")["items"] == []
    expect(dialog.get_by_label("Client ID")).to_have_value(jamf.client_id)

    dialog.get_by_role("button", name="Connect", exact=True).click()
    expect(page.locator("#list").get_by_text("connected")).to_be_visible()
    page.get_by_role("link", name="Jamf", exact=True).click()
    expect(page.get_by_role("heading", name="Jamf", exact=True)).to_be_visible()
    page.get_by_role("button", name="Sync now").click()
    expect(page.locator("#rows").get_by_role("link", name="Mirrored.pkg")).to_be_visible(timeout=60_000)
    record = eventually(lambda: jamf.package("Mirrored.pkg"), 60, node.tail)
    expect(page.locator("#points")).to_contain_text("Amsterdam", timeout=60_000)
    visitor.show("mdm-server")

    # A setting is changed, and a wrong one says so at its field.
    page.get_by_text("Taking in", exact=True).click()
    page.get_by_label("Poll (seconds)").fill("120")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.", exact=True)).to_be_visible()  # by the page that was loaded again
    assert node.api("GET", "/mdm/servers/Jamf")["intake"]["poll_s"] == 120
    page.get_by_text("Taking in", exact=True).click()
    page.get_by_label("Stage", exact=True).fill("nowhere")
    page.get_by_role("button", name="Save").click()
    expect(page.locator('[data-error-of="intake.stage"]')).to_contain_text("there is no stage nowhere")

    visitor.go("/ui/packages/Mirrored.pkg")
    expect(page.locator("#mdm")).to_contain_text(str(record["id"]))
    page.get_by_text("Manifest for InstallEnterpriseApplication").click()
    expect(page.get_by_text("software-package")).to_be_visible()
    page.get_by_role("button", name="Copy the install manifest").click()
    assert file.sha256 in page.evaluate("navigator.clipboard.readText()")

    visitor.go("/ui/mdm/Jamf")
    page.get_by_role("button", name="Disconnect").click()
    page.get_by_label("Type Jamf to go on").fill("Jamf")
    page.locator("#forget").get_by_role("button", name="Disconnect").click()
    expect(page.get_by_role("heading", name="No MDM server")).to_be_visible()
    assert jamf.package("Mirrored.pkg"), "in the MDM nothing changes"


def fill(place: Locator, **values: str) -> None:
    for label, value in values.items():
        place.get_by_label(label, exact=True).fill(value)


def test_a_webhook_is_added_tried_and_sent_again(node: NodeProcess, visitor: Visitor, tmp_path: Path) -> None:
    page = visitor.page
    visitor.sign_in(node)
    visitor.menu("Notifications")
    expect(page.get_by_role("heading", name="Nobody hears of anything")).to_be_visible()
    with Receiver() as receiver:
        page.get_by_role("button", name="Add a webhook").click()
        dialog = page.locator("#webhook")
        fill(dialog, Name="Chat", URL=receiver.url)
        visitor.expected.append("400")
        dialog.get_by_role("button", name="Add", exact=True).click()
        expect(dialog.locator(".form-error, .error").filter(has_text="private").first).to_be_visible()
        dialog.get_by_label("It is in our own network").check()
        dialog.get_by_role("button", name="Add", exact=True).click()
        page.get_by_role("button", name="Copy the secret").click()
        secret = page.evaluate("navigator.clipboard.readText()")
        visitor.show("webhook-secret")
        page.locator("#secret").get_by_role("button", name="Done").click()
        page.get_by_role("button", name="Test Chat").click()
        expect(page.locator("#tested")).to_contain_text("200")
        page.locator("#tested").get_by_role("button", name="Done").click()
        assert receiver.received[-1].verify(secret)["type"] == "destination.test"

        receiver.behave = answers(500, b"out of order")
        node.publish(make_file(tmp_path / "Told.pkg", 900, 3).path)
        visitor.menu("Deliveries")
        row = page.get_by_role("row").filter(has_text="package.published").first
        expect(row).to_contain_text("out of order", timeout=60_000)
        expect(row).to_contain_text("next try")
        receiver.behave = lambda handler: handler.answer(200)
        expect(row).to_contain_text("delivered", timeout=120_000)
        before = len(receiver.received)
        row.get_by_role("button", name="Resend").click()
        eventually(lambda: len(receiver.received) > before, 30, node.tail)
        assert receiver.received[-1].verify(secret)["type"] == "package.published"
        expect(row).to_contain_text("delivered")
        visitor.show("deliveries")

        visitor.menu("Notifications")
        page.get_by_role("link", name="Chat", exact=True).click()
        page.get_by_label("package.published").uncheck()
        page.get_by_role("button", name="Save").click()
        expect(page.get_by_text("Saved.", exact=True)).to_be_visible()  # by the page that was loaded again
        assert "package.published" not in node.api("GET", "/destinations")["items"][0]["events"]
        page.get_by_role("button", name="Remove", exact=True).click()
        page.get_by_label("Type Chat to go on").fill("Chat")
        page.locator("#remove").get_by_role("button", name="Remove").click()
        expect(page.get_by_role("heading", name="Nobody hears of anything")).to_be_visible()


def test_two_people_change_the_same_destination(node: NodeProcess, visitor: Visitor) -> None:
    given = {"name": "Shared", "kind": "webhook", "url": "http://127.0.0.1:1/", "allow_private": True}
    made = node.api("POST", "/destinations", {**given, "events": ["peer.down"]})
    page = visitor.page
    visitor.sign_in(node)
    visitor.go(f"/ui/notifications/{made['id']}")
    page.get_by_label("Name", exact=True).fill("Mine")
    changed = {"events": ["disk.low"], "name": "Theirs", "format": "slack"}
    node.api("PATCH", f"/destinations/{made['id']}", changed)
    visitor.expected.append("409")
    page.get_by_role("button", name="Save").click()
    alert = page.get_by_role("alert").filter(has_text="Somebody changed this")
    expect(alert).to_contain_text("Name is now “Theirs”")
    expect(alert).to_contain_text("Events is now disk.low")
    expect(page.get_by_label("Name", exact=True)).to_have_value("Mine")
    expect(page.get_by_label("disk.low")).to_be_checked()
    expect(page.get_by_label("peer.down")).not_to_be_checked()
    expect(page.get_by_label("Body")).to_have_value("slack")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("Saved.")).to_be_visible()  # on the page that is loaded anew
    expect(page.get_by_role("heading", name="Mine", exact=True)).to_be_visible()
    found = node.api("GET", f"/destinations/{made['id']}")
    assert (found["events"], found["format"]) == (["disk.low"], "slack"), "both are kept"
    node.api("DELETE", f"/destinations/{made['id']}")


def test_two_people_change_the_same_account(node: NodeProcess, visitor: Visitor) -> None:
    node.api("POST", "/users", {"name": "shared", "password": PASSWORD, "role": "viewer"})
    page = visitor.page
    visitor.sign_in(node)
    visitor.go("/ui/users")
    page.get_by_role("button", name="Role of shared").click()
    dialog = page.get_by_role("dialog")
    node.api("PATCH", "/users/shared", {"role": "operator", "stages": ["test"]})
    visitor.expected.append("409")
    dialog.get_by_label("Role", exact=True).select_option("admin")
    dialog.get_by_role("button", name="Save").click()
    expect(dialog).to_contain_text("Stages of an operator is now test")
    expect(dialog).to_contain_text("Role is now “operator”")
    assert node.api("GET", "/users/shared")["role"] == "operator", "nothing was overwritten"
    node.api("DELETE", "/users/shared")


def test_saving_a_suspended_destination_resumes_it(
    node: NodeProcess, visitor: Visitor, tmp_path: Path
) -> None:
    with Receiver() as receiver:
        receiver.behave = answers(410, b"gone")
        given = {"name": "Moved", "kind": "webhook", "url": receiver.url, "allow_private": True}
        made = node.api("POST", "/destinations", {**given, "events": ["package.published"]})
        path = f"/destinations/{made['id']}"
        node.publish(make_file(tmp_path / "Gone.pkg", 700, 4).path)
        eventually(lambda: node.api("GET", path)["state"] == "suspended", 60, node.tail)
        receiver.behave = lambda handler: handler.answer(200)
        visitor.sign_in(node)
        visitor.go(f"/ui/notifications/{made['id']}")
        page = visitor.page
        expect(page.get_by_text("saving resumes it")).to_be_visible()
        expect(page.get_by_label("Enabled")).to_be_checked()
        page.get_by_role("button", name="Save").click()
        expect(page.locator("#log")).to_contain_text("delivered", timeout=60_000)
        assert node.api("GET", path)["state"] == "active"
        node.api("DELETE", path)
