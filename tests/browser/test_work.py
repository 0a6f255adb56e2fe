"""Watching work: a slow transfer moves in the matrix, is cancelled and tried again; a node that goes away is seen."""

import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.builders import make_file
from tests.harness import Network, eventually

from .visitor import Visitor

MIB = 1024 * 1024


def test_a_transfer_is_watched_cancelled_and_tried_again(
    network: Network, browser: Browser, visitor: Visitor, tmp_path: Path
) -> None:
    source, here = network.node("Amsterdam", proxied=True), network.node("Berlin")
    here.join(source)
    proxy = network.proxies["Amsterdam"]
    proxy.limit(3 * MIB)
    file = make_file(tmp_path / "Slow.pkg", 60 * MIB, 1)
    visitor.sign_in(here)
    visitor.menu("Replication")
    source.publish(file.path)
    page = visitor.page
    row = page.get_by_role("row", name=re.compile("Slow.pkg"))
    expect(row).to_contain_text(re.compile(r"[1-9]\d? %"))
    visitor.show("replication-moving")
    visitor.menu("Transfers")
    expect(page.locator("#list")).to_contain_text("fetching")
    visitor.show("transfers-moving")
    page.get_by_role("button", name="Cancel Slow.pkg").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator("#list")).to_contain_text("cancelled")
    (event,) = here.events("transfer.cancelled")
    assert (event["actor"], event["data"]["after"]) == ("admin", {"state": "cancelled"})
    proxy.limit(0)
    page.get_by_role("button", name="Retry Slow.pkg").click()
    expect(page.locator("#list")).to_contain_text("done")
    assert here.sha1("Slow.pkg") == file.sha1


def test_the_uploader_watches_it_reach_each_node(network: Network, visitor: Visitor, tmp_path: Path) -> None:
    """The other way round: nothing comes here, and its progress elsewhere is seen, two registrations away too."""
    here, berlin = network.node("Amsterdam", proxied=True), network.node("Berlin", proxied=True)
    cairo = network.node("Cairo")
    berlin.join(here)
    cairo.join(berlin)
    for proxy in network.proxies.values():
        proxy.limit(3 * MIB)
    file = make_file(tmp_path / "Reach.pkg", 60 * MIB, 2)
    visitor.sign_in(here)
    visitor.menu("Replication")
    page = visitor.page
    expect(page.get_by_role("heading", name="No packages yet")).to_be_visible()
    here.publish(file.path)
    cells = page.get_by_role("row", name=re.compile("Reach.pkg")).get_by_role("cell")
    expect(cells.nth(2)).to_contain_text(re.compile(r"[1-9]\d? %"))
    visitor.menu("Nodes")
    expect(page.locator("#peers")).to_contain_text(re.compile(r"MB/s to it"))
    expect(page.locator("#graph line.flow")).to_have_count(1)
    expect(page.locator("#graph line")).to_have_count(2)  # Berlin told of its registration with Cairo
    visitor.show("network-flow")
    visitor.go("/ui/packages/Reach.pkg")
    expect(page.get_by_label("Progress at Berlin")).to_be_visible()
    visitor.show("package-arriving-elsewhere")
    visitor.menu("Replication")
    network.proxies["Amsterdam"].limit(0)
    expect(cells.nth(2)).to_contain_text("held", timeout=60_000)
    expect(cells.nth(3)).to_contain_text(re.compile(r"[1-9]\d? %"), timeout=60_000)
    (reach,) = [r for r in here.api("GET", "/packages/Reach.pkg")["replicas"] if r["name"] == "Cairo"]
    assert 0 < reach["bytes_done"] <= file.size
    network.proxies["Berlin"].limit(0)
    expect(cells.nth(0)).to_have_text("3 of 3", timeout=60_000)


def test_a_node_that_is_down_needs_attention(network: Network, browser: Browser, visitor: Visitor) -> None:
    source, here = network.chain("Amsterdam", "Berlin")
    visitor.sign_in(here)
    concerns = visitor.page.locator("#concerns")
    expect(concerns).to_contain_text("all is well")
    source.kill9()
    expect(concerns).to_contain_text("Amsterdam is down", timeout=90_000)
    visitor.show("attention")
    visitor.menu("Nodes")
    expect(visitor.page.locator("#peers")).to_contain_text("down")
    source.start()
    expect(visitor.page.locator("#peers")).to_contain_text("healthy", timeout=90_000)
    eventually(lambda: here.peer(source)["healthy"], 30, "it is not healthy")


def test_a_node_that_is_gone_is_removed(network: Network, visitor: Visitor) -> None:
    amsterdam, berlin, cairo = network.chain("Amsterdam", "Berlin", "Cairo")
    page = visitor.page
    visitor.sign_in(amsterdam)
    visitor.menu("Nodes")
    others = page.locator("#others")
    expect(others).to_contain_text("Cairo")
    cairo.kill9()
    others.get_by_role("button", name="Remove").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Remove")).to_be_disabled()
    dialog.get_by_label("Type").fill("Cairo")
    visitor.show("remove-node")
    dialog.get_by_role("button", name="Remove").click()
    expect(page.get_by_text("Cairo is removed from the network.")).to_be_visible()
    expect(others).to_be_hidden()
    eventually(
        lambda: "Cairo" not in {node["name"] for node in berlin.api("GET", "/nodes")["items"]},
        20,
        "Berlin remembers it",
    )
