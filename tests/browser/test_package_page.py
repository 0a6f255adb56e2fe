"""The page of a package: all of it follows what happens, and the end of what somebody began there is told."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.builders import make_file
from tests.harness import Network, eventually
from tests.harness.node import NodeProcess

from .visitor import Visitor


def restore(visitor: Visitor) -> None:
    page = visitor.page
    page.locator("#versions").get_by_role("button", name="Restore").first.click()
    page.get_by_role("dialog").get_by_role("button", name="Restore").click()
    expect(page.get_by_role("status")).to_contain_text("is restored")


def test_a_restored_version_is_shown_everywhere(visitor: Visitor, node: NodeProcess, tmp_path: Path) -> None:
    first, second = (make_file(tmp_path / f"{n}.pkg", 2000 * n, n) for n in (1, 2))
    node.publish(first.path, "Tool.pkg", notes="the first")
    node.publish(second.path, "Tool.pkg", notes="the second", replace="true")
    visitor.sign_in(node)
    visitor.go("/ui/packages/Tool.pkg")
    page = visitor.page
    page.get_by_text("Manifest for InstallEnterpriseApplication").click()
    expect(page.locator("#file")).to_contain_text(second.sha256)
    restore(visitor)
    expect(page.locator("#file")).to_contain_text(first.sha256)
    expect(page.locator("#file")).to_contain_text("2.0 KB")
    assert page.get_by_label("Notes").input_value() == "the first"
    expect(page.locator("#file details")).to_have_attribute("open", "")  # what somebody opened stays open


def test_a_withdrawn_package_comes_back_on_its_page(
    visitor: Visitor, node: NodeProcess, tmp_path: Path
) -> None:
    file = make_file(tmp_path / "Gone.pkg", 2000, 3)
    node.publish(file.path)
    node.api("DELETE", "/packages/Gone.pkg")
    visitor.sign_in(node)
    visitor.go("/ui/packages/Gone.pkg")
    page = visitor.page
    expect(page.locator("#notices")).to_contain_text("This package was withdrawn.")
    expect(page.locator("#replicas")).to_contain_text(re.compile("Amsterdam.*withdrawn", re.DOTALL))
    expect(page.locator("#replicas")).not_to_contain_text("No status")
    restore(visitor)
    expect(page.locator("#notices")).not_to_contain_text("withdrawn")
    expect(page.locator("#state")).to_contain_text("held")
    expect(page.get_by_role("button", name="Withdraw").first).to_be_visible()
    assert node.sha1("Gone.pkg") == file.sha1


@pytest.mark.parametrize("intact", [True, False])
def test_what_verifying_found_is_told(
    visitor: Visitor, node: NodeProcess, tmp_path: Path, intact: bool
) -> None:
    file = make_file(tmp_path / f"Verify {intact}.pkg", 2000, 4 + intact)
    node.publish(file.path)
    visitor.sign_in(node)
    visitor.go(f"/ui/packages/Verify%20{intact}.pkg")
    if not intact:
        blob = next(path for path in (node.data / "blobs").rglob(file.sha256))
        blob.chmod(0o600)
        blob.write_bytes(bytes(2000))
    page = visitor.page
    page.get_by_role("button", name="Verify file").click()
    if intact:
        expect(page.get_by_role("status")).to_contain_text("is intact: the file matches its SHA-256.")
        expect(page.locator("#file")).to_contain_text(re.compile(r"Last verified\s*(now|\d+ seconds ago)"))
    else:
        expect(page.get_by_role("status")).to_contain_text("it is fetched again.")
        expect(page.locator("#state")).to_contain_text("damaged")


def test_a_cancelled_transfer_is_retried_where_its_reason_stands(
    network: Network, browser: Browser, visitor: Visitor, tmp_path: Path
) -> None:
    source, here = network.node("Amsterdam", proxied=True), network.node("Berlin")
    here.join(source)
    network.proxies["Amsterdam"].limit(512 * 1024)  # longer than the page needs
    file = make_file(tmp_path / "Slow.pkg", 40 * 1024 * 1024, 1)
    source.publish(file.path)
    eventually(lambda: here.api("GET", "/transfers?state=fetching")["items"], 30, "it does not begin")
    visitor.sign_in(here)
    visitor.go("/ui/jobs")
    page = visitor.page
    expect(page.get_by_role("link", name="Slow.pkg")).to_be_visible()
    page.get_by_role("button", name="Cancel Slow.pkg").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Slow.pkg")
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.get_by_role("status")).to_contain_text("The job is cancelled.")
    visitor.go("/ui/")
    text = "1 package isn't here: its transfer was cancelled. Retry to fetch it."
    expect(page.locator("#concerns")).to_contain_text(text)
    expect(page.locator("#concerns")).not_to_contain_text("waiting for a reachable node")
    visitor.go("/ui/packages/Slow.pkg")
    network.proxies["Amsterdam"].limit(0)
    page.get_by_role("button", name="Retry the transfer").click()
    expect(page.locator("#state")).to_contain_text("held")
    expect(page.get_by_role("button", name="Retry the transfer")).to_have_count(0)
    assert here.sha1("Slow.pkg") == file.sha1


def test_a_node_that_is_down_or_far_is_said_to_be_so(
    network: Network, browser: Browser, visitor: Visitor, tmp_path: Path
) -> None:
    here, berlin, cairo = (network.node(name) for name in ("Amsterdam", "Berlin", "Cairo"))
    berlin.join(here)
    cairo.join(berlin)
    eventually(lambda: len(here.api("GET", "/nodes")["items"]) == 3, 30, "Cairo is not heard of")
    cairo.stop()
    here.publish(make_file(tmp_path / "Far.pkg", 2000, 1).path)
    visitor.sign_in(here)
    visitor.go("/ui/packages/Far.pkg")
    row = visitor.page.locator("#replicas tr").filter(has_text="Cairo")
    expect(row).to_contain_text("Cairo is reached only through Berlin.")
    berlin.stop()
    eventually(lambda: not here.api("GET", "/peers")["items"][0]["healthy"], 120, "Berlin is not missed")
    visitor.page.reload()
    expect(row).to_contain_text("Cairo is reached only through Berlin, which is down. Last seen")
    here.publish(make_file(tmp_path / "Farther.pkg", 2000, 2).path)
    visitor.go("/ui/packages/Farther.pkg")
    row = visitor.page.locator("#replicas tr").filter(has=visitor.page.get_by_text("Berlin", exact=True))
    expect(row).to_contain_text("Berlin is down")
