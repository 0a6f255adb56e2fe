"""Every page: usable by everybody (axe-core), without a complaint of the browser, and worth a look."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.builders import make_file
from tests.harness import Network, eventually
from tests.harness.node import PASSWORD, NodeProcess

from .visitor import PHONE, Visitor

RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
PAGES = (
    "/ui/", "/ui/packages", "/ui/packages?q=nothing-fits", "/ui/packages/Page%200.pkg", "/ui/upload", "/ui/network",
    "/ui/replication", "/ui/transfers", "/ui/transfers?state=failed", "/ui/jobs", "/ui/users", "/ui/tokens",
    "/ui/directory", "/ui/mdm", "/ui/mdm/Jamf", "/ui/notifications", "/ui/deliveries", "/ui/sessions", "/ui/audit",
    "/ui/audit?actor=nobody", "/ui/settings", "/ui/about", "/ui/password",
)  # fmt: skip
DIALOGS = {
    "/ui/network": ("Invite a node", "Join a network", "Remove Berlin"),
    "/ui/users": ("Add a user", "Role of viewer", "Password of viewer", "Remove viewer"),
    "/ui/mdm": ("Connect a server",),
    "/ui/mdm/Jamf": ("Disconnect",),
    "/ui/notifications": ("Add a webhook", "Add a mailbox"),
    "/ui/tokens": ("Make a token", "Revoke script"),
    "/ui/packages/Page%200.pkg": ("Withdraw",),
}
DIRECTORY = {
    "DIRECTORY_SERVERS": "ldaps://127.0.0.1:1",
    "DIRECTORY_BASE_DN": "dc=example,dc=com",
    "DIRECTORY_GROUPS": "staff=viewer;helpdesk=operator:test",
}
MDM = {
    "name": "Jamf",
    "kind": "jamf",
    "settings": {"url": "https://127.0.0.1:1", "client_id": "id", "client_secret": "secret"},
}
WEBHOOK = {"name": "Script", "kind": "webhook", "url": "http://127.0.0.1:1/", "allow_private": True}
LOOKS = [(theme, width) for theme in ("light", "dark") for width in ("desktop", "phone")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """Two nodes with packages, accounts and tokens."""
    directory = tmp_path_factory.mktemp("pages")
    with Network(directory) as network:
        amsterdam, berlin = network.node("Amsterdam", **DIRECTORY), network.node("Berlin")
        berlin.join(amsterdam)
        for number in range(4):
            file = make_file(directory / f"Page {number}.pkg", 1000 * (1 + number), number)
            amsterdam.publish(file.path, stage=("prod", "test")[number % 2], tags="browsers,office")
        amsterdam.api("POST", "/users", {"name": "viewer", "password": PASSWORD, "role": "viewer"})
        amsterdam.api("POST", "/tokens", {"name": "script", "role": "operator"})
        amsterdam.api("POST", "/destinations", WEBHOOK)
        amsterdam.api("POST", "/mdm/servers", MDM)
        amsterdam.api("POST", "/peers/invites", {})
        eventually(lambda: amsterdam.api("GET", "/deliveries")["items"], 60, "nothing is owed")
        eventually(lambda: berlin.presence("Page 0.pkg") == "held", 60, "Berlin has not got it")
        yield amsterdam


def faults(visitor: Visitor, axe: str) -> list[str]:
    """What axe-core finds, the minor aside."""
    page = visitor.page
    page.evaluate(axe)  # by the debugger: the page's policy lets no foreign script in
    options = json.dumps({"runOnly": RULES, "resultTypes": ["violations"]})
    found: dict[str, Any] = page.evaluate(f"axe.run(document, {options})")
    return [
        f"{page.url}: {violation['id']} ({violation['impact']}): {node['html'][:200]}"
        for violation in found["violations"]
        if violation["impact"] in {"moderate", "serious", "critical"}
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize(("theme", "width"), LOOKS)
def test_every_page_is_accessible_and_fits(
    site: NodeProcess, browser: Browser, axe: str, theme: str, width: str
) -> None:
    visitor = Visitor(browser, phone=width == "phone", dark=theme == "dark")
    visitor.base = site.url
    visitor.go("/ui/sign-in")
    found = faults(visitor, axe)
    visitor.show(f"sign-in-{theme}-{width}")
    visitor.sign_in(site)
    destination = site.api("GET", "/destinations")["items"][0]["id"]
    for path in (*PAGES, f"/ui/notifications/{destination}"):
        visitor.go(path)
        visitor.page.wait_for_load_state("load")
        found += faults(visitor, axe)
        wide = visitor.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{path} scrolls sideways by {wide} px"
        visitor.show(f"{path.strip('/').replace('/', '-').replace('?', '-') or 'root'}-{theme}-{width}")
        for opener in DIALOGS.get(path, ()):
            visitor.page.locator("main").get_by_role("button", name=opener).first.click()
            dialog = visitor.page.get_by_role("dialog")
            expect(dialog).to_be_visible()
            wide = dialog.evaluate("(dialog) => dialog.scrollWidth - dialog.clientWidth")
            assert wide <= 0, f"{path}: {opener}: it scrolls sideways by {wide} px"
            visitor.show(f"dialog-{opener.replace(' ', '-')}-{theme}-{width}")
            found += faults(visitor, axe)
            visitor.page.keyboard.press("Escape")
            expect(visitor.page.get_by_role("dialog")).to_have_count(0)
    assert found == []
    assert visitor.complaints == []
    visitor.close()


@pytest.mark.parametrize("wide", [390, 700, 820, 1024, 1280])
def test_no_page_and_no_table_is_wider_than_the_window(
    site: NodeProcess, browser: Browser, wide: int
) -> None:
    visitor = Visitor(browser)
    visitor.sign_in(site)
    visitor.page.set_viewport_size({"width": wide, "height": 900})
    destination = site.api("GET", "/destinations")["items"][0]["id"]
    found = []
    for path in (*PAGES, f"/ui/notifications/{destination}"):
        visitor.go(path)
        visitor.page.wait_for_load_state("load")
        over = visitor.page.evaluate(
            "[document.documentElement, ...document.querySelectorAll('.table-wrap')]"
            ".map((part) => part.scrollWidth - part.clientWidth)"
        )
        if max(over) > 0:
            found.append((path, over))
        visitor.show(f"{path.strip('/').replace('/', '-').replace('?', '-') or 'root'}-{wide}")
    assert found == []
    visitor.close()


def test_a_page_that_is_not_there(site: NodeProcess, browser: Browser, axe: str) -> None:
    visitor = Visitor(browser)
    visitor.sign_in(site)
    visitor.expected.append("404")
    visitor.go("/ui/nowhere")
    expect(visitor.page.get_by_text("There is no page at this address.")).to_be_visible()
    assert faults(visitor, axe) == []
    visitor.go("/ui/packages/none.pkg")
    expect(visitor.page.get_by_text("There is no package")).to_be_visible()
    visitor.close()
    assert visitor.complaints == []


def test_the_keyboard_is_enough(site: NodeProcess, visitor: Visitor) -> None:
    page = visitor.page
    visitor.base = site.url
    visitor.go("/ui/sign-in")
    for text in ("admin", PASSWORD):  # the first field has the focus
        page.keyboard.type(text)
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Amsterdam")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    visitor.go("/ui/tokens")
    page.get_by_role("button", name="Make a token").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Make a token")).to_be_focused()


def test_the_theme_is_kept(site: NodeProcess, visitor: Visitor) -> None:
    visitor.sign_in(site)
    background = "getComputedStyle(document.body).backgroundColor"
    light = visitor.page.evaluate(background)
    visitor.page.get_by_role("button", name="Dark").click()
    dark = visitor.page.evaluate(background)
    assert dark != light
    visitor.go("/ui/about")
    assert visitor.page.evaluate(background) == dark


def test_the_menu_of_a_narrow_screen(site: NodeProcess, visitor: Visitor) -> None:
    visitor.sign_in(site)
    visitor.page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    navigation = visitor.page.get_by_role("navigation", name="Pages")
    expect(navigation).to_be_hidden()
    visitor.page.get_by_role("button", name="Menu").click()
    visitor.show("menu-light-phone")
    visitor.page.keyboard.press("Escape")
    expect(navigation).to_be_hidden()
    expect(visitor.page.get_by_role("button", name="Menu")).to_be_focused()
    visitor.page.keyboard.press("Enter")
    visitor.menu("Packages")
    expect(visitor.page.get_by_role("heading", name="Packages", exact=True)).to_be_visible()


def test_two_people_change_the_same_package(site: NodeProcess, visitor: Visitor, browser: Browser) -> None:
    second = Visitor(browser)
    for person in (visitor, second):
        person.sign_in(site)
        person.go("/ui/packages/Page%203.pkg")
    second.page.get_by_label("Tags").fill("second")
    second.page.get_by_role(
        "heading", name="Page 3.pkg"
    ).click()  # what was typed stays, whoever has the focus
    visitor.page.get_by_label("Notes").fill("the first one's words")
    visitor.page.get_by_role("button", name="Save").click()
    expect(visitor.page.get_by_text("Saved.")).to_be_visible()
    second.expected.append("409")
    expect(second.page.locator("#history")).to_contain_text("the first one's words")
    second.page.get_by_role("button", name="Save").click()
    expect(second.page.get_by_role("alert").filter(has_text="Somebody changed")).to_contain_text(
        "the first one's words"
    )
    second.show("conflict")
    assert second.page.get_by_label("Tags").input_value() == "second", "what was typed is kept"
    package = site.package("Page 3.pkg")
    assert package is not None
    assert package["notes"] == "the first one's words", "nothing was overwritten"
    assert second.page.get_by_label("Notes").input_value() == "the first one's words"
    second.page.get_by_role("button", name="Save").click()
    expect(second.page.get_by_text("Saved.")).to_be_visible()
    package = site.package("Page 3.pkg")
    assert package is not None
    assert (package["notes"], package["tags"]) == ("the first one's words", ["second"]), "both are kept"
    second.close()
    assert second.complaints == []


def test_an_open_page_asks_for_the_password_when_its_session_has_ended(
    site: NodeProcess, visitor: Visitor
) -> None:
    visitor.sign_in(site)
    visitor.go("/ui/audit")
    page = visitor.page
    site.api("DELETE", "/users/admin/sessions")  # an event, so the page renews itself and finds out
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Sign in again")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog).to_have_count(0)
    expect(page.locator("#list")).to_contain_text("session.ended")


def test_errors_stand_beside_their_field(site: NodeProcess, visitor: Visitor) -> None:
    visitor.sign_in(site)
    visitor.go("/ui/users")
    visitor.expected.append("40")
    page = visitor.page
    page.get_by_role("button", name="Add a user").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Account").fill("viewer")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Add").click()
    expect(dialog.locator('[data-error-of="name"]')).to_contain_text('There is an account "viewer" already.')
    expect(dialog.get_by_label("Account")).to_have_attribute("aria-invalid", "true")
    expect(dialog.get_by_label("Account")).to_have_accessible_error_message(re.compile("There is an account"))
    dialog.get_by_label("Account").fill("new.person")
    dialog.get_by_label("Password").fill("short")
    dialog.get_by_role("button", name="Add").click()
    expect(dialog).to_contain_text("A password has 12 to 1024 characters.")
    dialog.get_by_label("Password").fill(PASSWORD)
    dialog.get_by_role("button", name="Add").click()
    expect(page.locator("#list")).to_contain_text("new.person")


def test_what_others_wrote_is_text(site: NodeProcess, visitor: Visitor) -> None:
    evil = "<img src=x onerror=alert(1)><script>alert(2)</script>"
    site.api(
        "PATCH", "/packages/Page%202.pkg", {"notes": evil, "tags": ["<b>bold</b>"], "metadata": {"k": evil}}
    )
    site.api("POST", "/tokens", {"name": "<i>token</i>"})
    visitor.sign_in(site)
    for path in ("/ui/packages/Page%202.pkg", "/ui/packages", "/ui/audit", "/ui/tokens", "/ui/"):
        visitor.go(path)
        assert visitor.page.locator("main b:text-is('bold'), main img, main i, main script").count() == 0
    visitor.go("/ui/packages/Page%202.pkg")
    assert visitor.page.get_by_label("Notes").input_value() == evil
