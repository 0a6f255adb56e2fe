"""The admin's story, in a browser: upload through an outage, invite, watch, promote, withdraw, and prove it."""

import re
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.builders import make_file
from tests.harness import Network, eventually

from .visitor import Visitor

SIZE = 300 * 1024 * 1024
OUTAGE_MS = 10_000


@pytest.mark.slow
def test_the_story(network: Network, browser: Browser, visitor: Visitor, tmp_path: Path) -> None:
    amsterdam = network.node("Amsterdam")
    file = make_file(tmp_path / "Story 1.0.pkg", SIZE, 1)
    page = visitor.page
    visitor.sign_in(amsterdam)
    expect(page.get_by_role("heading", name="Amsterdam")).to_be_visible()
    expect(page.get_by_text("This node is alone")).to_be_visible()

    # A file is dragged in, and the node is cut off in the middle.
    visitor.menu("Upload")
    page.get_by_label("Stage").select_option("test")
    page.get_by_label("Tags").fill("story, big")
    visitor.slow_down(40_000_000)
    visitor.drag(file.path)
    eventually(lambda: visitor.percent(file.path) >= 20, 60, "the upload does not begin")
    visitor.expected.append("ERR_")  # the console says that the node does not answer; so does the page
    amsterdam.kill9()
    expect(visitor.upload_row(file.path)).to_contain_text("The node cannot be reached")
    visitor.show("upload-interrupted")
    page.wait_for_timeout(OUTAGE_MS)
    before = visitor.percent(file.path)
    visitor.slow_down(0)
    amsterdam.start()
    expect(visitor.upload_row(file.path)).to_contain_text("Complete and checked", timeout=120_000)
    assert before > 0
    assert amsterdam.sha1(file.path.name) == file.sha1
    visitor.expected.clear()

    # What the package's page says is what the file is.
    page.get_by_role("link", name="Show the package").click()
    expect(page.get_by_role("heading", name=file.path.name, exact=True)).to_be_visible()
    expect(page.get_by_text(file.sha256, exact=True)).to_be_visible()
    page.get_by_role("button", name="Copy SHA-256").click()
    assert page.evaluate("navigator.clipboard.readText()") == file.sha256

    # Another node is invited by copy and paste.
    berlin = network.node("Berlin")
    visitor.menu("Nodes")
    page.get_by_role("button", name="Invite a node").click()
    page.get_by_role("button", name="Make the invite").click()
    page.get_by_role("button", name="Copy the invite").click()
    invite = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Done").click()
    other = Visitor(browser)
    other.sign_in(berlin)
    other.menu("Nodes")
    other.page.get_by_role("button", name="Join a network").click()
    other.page.get_by_role("textbox", name="Invite").fill(invite)
    other.page.get_by_role("button", name="Join", exact=True).click()
    expect(other.page.locator("#peers")).to_contain_text("healthy")
    expect(page.locator("#peers")).to_contain_text("Berlin")  # without loading the page again
    visitor.show("network")

    # It does not go there as long as it is for testing; promoted, it does, and the matrix fills.
    visitor.menu("Replication")
    row = page.get_by_role("row", name=re.compile(re.escape(file.path.name)))
    expect(row).to_contain_text("not admitted")
    expect(row).to_contain_text("1 of 2")
    promoting = visitor.context.new_page()
    promoting.goto(f"{amsterdam.url}/ui/packages/{file.path.name}")
    promoting.get_by_label("Stage").select_option("prod")
    promoting.get_by_role("button", name="Save").click()
    expect(promoting.get_by_text("Saved.")).to_be_visible()
    promoting.close()
    expect(row).to_contain_text("2 of 2", timeout=60_000)
    visitor.show("replication-full")
    assert berlin.sha1(file.path.name) == file.sha1

    # It is withdrawn, which needs its name typed.
    row.get_by_role("link").click()
    page.get_by_role("button", name="Withdraw").click()
    confirm = page.get_by_role("dialog").get_by_role("button", name="Withdraw")
    expect(confirm).to_be_disabled()
    page.get_by_label("Type").fill("Story")
    expect(confirm).to_be_disabled()
    page.get_by_label("Type").fill(file.path.name)
    visitor.show("withdraw")
    confirm.click()
    expect(page.get_by_text(f"{file.path.name} is withdrawn.")).to_be_visible()
    eventually(lambda: berlin.head(file.path.name).status in {404, 410}, 30, "Berlin still has it")

    # The audit log knows all of it.
    visitor.menu("Audit log")
    log = page.locator("#list")
    for line in ("package.withdrawn", "test → prod", "peer.joined", "package.published", "session.started"):
        expect(log).to_contain_text(line)
    with page.expect_download() as download:
        page.get_by_role("link", name="Export as CSV").click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    assert lines[0] == '"number","time","type","actor","address","subject","before","after","details"'
    assert any('"package.withdrawn","admin","127.0.0.1"' in line for line in lines)
    assert other.complaints == []
    other.close()
