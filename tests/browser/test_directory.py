"""Somebody of the helpdesk, with the account of a real LDAP server, in the browser."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.builders import make_file
from tests.conftest import skip_or_fail
from tests.harness import Network
from tests.harness.directory import directory_settings
from tests.harness.people import BEN, company, password_of
from tests.harness.slapd import Authority, Slapd, find_slapd

from .visitor import Visitor


@pytest.fixture
def slapd(tmp_path: Path) -> Iterator[tuple[Slapd, Authority]]:
    """A directory that runs."""
    if find_slapd() is None:
        skip_or_fail("there is no slapd: apt-get install slapd ldap-utils")
    authority = Authority(tmp_path / "ca")
    server = Slapd(tmp_path / "slapd", company(), authority=authority)
    try:
        yield server.start(), authority
    finally:
        server.dispose()


def test_the_helpdesk_uploads_to_test_and_only_the_admin_promotes(
    network: Network, browser: Browser, visitor: Visitor, tmp_path: Path, slapd: tuple[Slapd, Authority]
) -> None:
    server, authority = slapd
    node = network.node("Amsterdam", **directory_settings(authority, server.starttls))
    file = make_file(tmp_path / "Helpdesk.pkg", 3_000_000, 1)
    page = visitor.page
    visitor.sign_in(node, BEN, password_of(BEN))
    expect(page.get_by_text("operator of test")).to_be_visible()
    visitor.menu("Upload")
    assert page.get_by_label("Stage").locator("option").all_inner_texts() == ["test"]
    visitor.drag(file.path)
    expect(visitor.upload_row(file.path)).to_contain_text("Complete and checked")
    assert node.sha1(file.path.name) == file.sha1
    visitor.go("/ui/packages/Helpdesk.pkg")
    assert page.get_by_label("Stage").locator("option").all_inner_texts() == ["test"]

    admin = Visitor(browser)
    admin.sign_in(node)
    admin.go("/ui/packages/Helpdesk.pkg")
    admin.page.get_by_label("Stage").select_option("prod")
    admin.page.get_by_role("button", name="Save").click()
    expect(admin.page.get_by_text("Saved")).to_be_visible()
    visitor.go("/ui/packages/Helpdesk.pkg")
    expect(page.get_by_role("button", name="Withdraw")).to_have_count(0)
    expect(page.get_by_role("button", name="Save")).to_have_count(0)

    admin.menu("Directory")
    admin.page.get_by_label("Account").fill(BEN)
    admin.page.get_by_label("Password", exact=True).fill("wrong")
    admin.page.get_by_role("button", name="Try it").click()
    steps = admin.page.locator("#steps")
    expect(steps.get_by_role("row").filter(has_text="password")).to_contain_text("failed")
    expect(steps).to_contain_text('"ben" is operator of test')
    admin.show("directory-steps")
    admin.close()
    assert admin.complaints == []

    server.stop()
    late = Visitor(browser)
    late.expected.append("503")
    late.base = node.url
    late.go("/")
    late.page.get_by_label("Account").fill("cara")
    late.page.get_by_label("Password").fill(password_of("cara"))
    late.page.get_by_role("button", name="Sign in").click()
    expect(late.page.get_by_role("alert")).to_contain_text("does not answer")
    late.sign_in(node)
    late.close()
    assert late.complaints == []
