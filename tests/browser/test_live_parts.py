"""Parts of a page are made anew under somebody's hands: nothing that they do is lost."""

from pathlib import Path

import pytest
from playwright.sync_api import Route, expect

from tests.builders import make_file
from tests.harness import eventually
from tests.harness.node import NodeProcess

from .visitor import Visitor


@pytest.fixture
def tokens(visitor: Visitor, node: NodeProcess) -> Visitor:
    """Somebody at the page of tokens, which renews itself with every event."""
    known = {token["name"] for token in node.api("GET", "/tokens")["items"]}
    for name in {"first", "second"} - known:
        node.api("POST", "/tokens", {"name": name})
    visitor.sign_in(node)
    visitor.go("/ui/tokens")
    return visitor


def test_the_focus_stays_on_the_same_button(tokens: Visitor, node: NodeProcess) -> None:
    page = tokens.page
    page.get_by_role("button", name="Revoke first").focus()
    node.api("POST", "/tokens", {"name": "third"})  # a row above it
    expect(page.locator("#list")).to_contain_text("third")
    expect(page.get_by_role("button", name="Revoke first")).to_be_focused()


def test_a_button_that_is_being_pressed_is_not_replaced(tokens: Visitor, node: NodeProcess) -> None:
    page = tokens.page
    page.get_by_role("button", name="Revoke second").hover()
    page.mouse.down()
    node.api("POST", "/tokens", {"name": "meanwhile"})
    page.wait_for_timeout(2500)
    page.mouse.up()
    expect(page.get_by_role("dialog")).to_contain_text("second")
    page.keyboard.press("Escape")
    expect(page.locator("#list")).to_contain_text("meanwhile")


def test_marked_text_stays_marked(tokens: Visitor, node: NodeProcess) -> None:
    page = tokens.page
    page.locator("#list code").first.select_text()
    marked = page.evaluate("getSelection().toString()")
    node.api("POST", "/tokens", {"name": "while it was marked"})
    page.wait_for_timeout(2500)
    assert page.evaluate("getSelection().toString()") == marked != ""
    page.evaluate("getSelection().empty()")
    expect(page.locator("#list")).to_contain_text("while it was marked")


def test_a_table_stays_where_it_was_scrolled_to(visitor: Visitor, node: NodeProcess, tmp_path: Path) -> None:
    node.publish(make_file(tmp_path / "Wide.pkg", 1000, 1).path)
    page = visitor.page
    visitor.sign_in(node)
    visitor.go("/ui/replication")
    page.evaluate("document.styleSheets[0].insertRule('table.matrix { width: 3000px; }')")  # of many nodes
    page.locator("#matrix .table-wrap").evaluate("(table) => { table.scrollLeft = 30; }")
    node.publish(make_file(tmp_path / "Wide too.pkg", 1000, 2).path)
    expect(page.locator("#matrix")).to_contain_text("Wide too.pkg")
    assert page.locator("#matrix .table-wrap").evaluate("(table) => table.scrollLeft") == 30


def test_an_upload_notices_a_connection_that_died_in_silence(
    visitor: Visitor, node: NodeProcess, tmp_path: Path
) -> None:
    """The lid was closed: the connection is gone, and nobody said so."""
    file = make_file(tmp_path / "Lid.pkg", 20_000_000, 1)
    page = visitor.page
    visitor.sign_in(node)
    page.clock.install()
    visitor.go("/ui/upload")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/api/v1/uploads/*", hold)
    visitor.drag(file.path)
    eventually(lambda: (page.wait_for_timeout(50), held)[1], 20, "no piece is sent")
    page.unroute("**/api/v1/uploads/*")
    page.clock.fast_forward("01:35")
    expect(visitor.upload_row(file.path)).to_contain_text("Complete and checked")
    assert node.sha1(file.path.name) == file.sha1
