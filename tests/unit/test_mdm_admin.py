"""What the admin API asks of the bridge: checks, syncs, rows, webhooks."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import InvalidInput, InvalidTransition
from appliance.domain.mdm_errors import MdmUnreachable, ServerUnknown
from appliance.service.secrets import SecretBox
from appliance.store.opening import open_store
from appliance.store.ports import Done, Store
from jamf_bridge.driver import CheckLine, Driver
from jamf_bridge.jobs import sync_key
from jamf_bridge.servers import admin as server_admin
from jamf_bridge.servers.admin import ServerAdmin
from jamf_bridge.servers.registry import Registry
from jamf_bridge.servers.secret_fields import MASK
from jamf_bridge.servers.server import Server
from jamf_bridge.servers.servers import Servers
from tests.fakes.driver_c import FakeDriver, FakeFactory

FIELDS: dict[str, Any] = {
    "name": "Jamf Pro",
    "kind": "jamf",
    "settings": {"url": "https://mdm.example", "client_id": "bridge", "client_secret": "the secret"},
    "webhooks": {"register_at": "https://ods.example/"},
}


async def suggest(server: Server, driver: Driver) -> Sequence[Mapping[str, Any]]:
    return [{**segment, "suggestion": f"use {server.config.name}"} for segment in await driver.segments()]


class World:
    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.clock = 1_800_000_000_000
        self.factory = FakeFactory()
        self.mdm = self.factory.mdm
        registry = Registry({"jamf": self.factory})
        box = SecretBox(directory / "secrets.key")
        self.servers = Servers(store, box, lambda: self.clock, registry)
        self.admin = ServerAdmin(
            store=store, servers=self.servers, registry=registry, now=lambda: self.clock,
            file_name=lambda package: f"{package}.pkg", node_name=lambda node: f"node {node}", suggest=suggest,
        )  # fmt: skip


def in_world(tmp_path: Path, test: Callable[[World], Awaitable[None]]) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        world = World(store, tmp_path)
        try:
            await test(world)
        finally:
            await world.servers.close()
            await store.close()

    asyncio.run(go())


def line(what: str, *, ok: bool, needed_for: str = "", privilege: str = "") -> CheckLine:
    return CheckLine(what=what, ok=ok, needed_for=needed_for, privilege=privilege)


def test_a_check_saves_nothing_and_closes_what_it_opened(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        report = await world.admin.check(FIELDS)
        assert report.ok
        assert [found.what for found in report.lines] == ["Sign in"]
        assert await world.admin.servers() == []
        assert await world.store.count("jobs") == 0
        (driver,) = world.mdm.drivers
        assert (driver.calls, driver.closed) == (["check"], 1)

    in_world(tmp_path, test)


def test_after_a_check_of_a_server_a_sync_finds_out_anew_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.admin.add(FIELDS, actor="admin")
        for job in await world.store.claim("default", "w", now=world.clock, lease_ms=60_000, limit=10):
            await world.store.settle(job, Done(), now=world.clock)
        await world.admin.check({}, name="Jamf Pro")
        (job,) = await world.store.find_jobs({"active_key": sync_key(server["id"])})
        assert job.run_at <= world.clock
        assert (await world.servers.asked(server["id"])).what == {"probe"}

    in_world(tmp_path, test)


def test_a_check_of_changes_uses_the_secrets_that_are_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.admin.add(FIELDS, actor="admin")
        sent = {"settings": {"url": "https://new.example", "client_secret": MASK}}
        await world.admin.check(sent, name="jamf pro")
        assert world.mdm.made_with[-1].client_secret == "the secret"
        assert world.mdm.made_with[-1].url == "https://new.example"
        assert (await world.admin.server(server["id"]))["settings"]["url"] == "https://mdm.example"
        with pytest.raises(ServerUnknown):
            await world.admin.check({}, name="nobody")
        with pytest.raises(InvalidInput):
            await world.admin.check({"settings": {"url": 5}}, name="Jamf Pro")

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("found", "change", "ok"),
    [
        (line("Sign in", ok=False), {}, False),
        (line("Create", ok=False, needed_for="out", privilege="Create Packages"), {}, False),
        (line("Create", ok=False, needed_for="out"), {"mirror": {"enabled": False}}, True),
        (line("Files", ok=False, needed_for="in"), {"intake": {"enabled": False}}, True),
        (line("Points", ok=False, needed_for="points"), {}, False),
        (line("Webhooks", ok=False, needed_for="webhooks"), {}, False),
        (line("Webhooks", ok=False, needed_for="webhooks"), {"webhooks": {"register_at": ""}}, True),
        (line("Delete", ok=False, privilege="Delete Packages"), {}, True),
    ],
)
def test_only_what_the_configuration_needs_is_a_fault(
    tmp_path: Path, found: CheckLine, change: dict[str, Any], ok: bool
) -> None:
    async def test(world: World) -> None:
        world.mdm.lines.append(found)
        report = await world.admin.check({**FIELDS, **change})
        assert report.ok is ok
        assert report.lines[-1].needed is not ok

    in_world(tmp_path, test)


def test_a_server_that_does_not_answer_ends_the_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(self: FakeDriver) -> list[CheckLine]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(FakeDriver, "check", silent)
    monkeypatch.setattr(server_admin, "CHECK_S", 0.01)

    async def test(world: World) -> None:
        report = await world.admin.check(FIELDS)
        assert not report.ok
        assert world.mdm.drivers[0].closed == 1

    in_world(tmp_path, test)


def test_a_sync_joins_the_one_that_waits(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.admin.add(FIELDS, actor="admin")
        first = await world.admin.sync("Jamf Pro", verify=False)
        second = await world.admin.sync("Jamf Pro", verify=True)
        assert first.id == second.id
        assert first.args["reason"] == "added"
        assert (await world.servers.asked(server["id"])).what == {"probe", "verify"}, "joined, yet not lost"
        await world.store.delete("jobs", {})
        assert (await world.admin.sync("Jamf Pro", verify=True)).args["reason"] == "verify"
        paused = await world.admin.pause("Jamf Pro", seconds=None, actor="admin")
        assert paused["state"] == "paused"
        with pytest.raises(InvalidTransition):
            await world.admin.sync("Jamf Pro", verify=False)
        assert (await world.admin.resume("Jamf Pro", actor="admin"))["state"] == "connected"
        assert (await world.admin.pause("Jamf Pro", seconds=60, actor="admin"))["health"]["paused_until"] == (
            world.clock + 60_000
        )

    in_world(tmp_path, test)


async def fill(world: World, server: str) -> None:
    for number in range(7):
        row = {
            "remote": str(number),
            "file_name": f"in-{number}.pkg",
            "package": "",
            "error": "",
            "at": number,
        }
        state = "taken" if number < 5 else "conflict"
        await world.store.insert(
            "mdm_remote", {"_id": f"{server}:{number}", "server": server, "state": state, **row}
        )
    for number in range(4):
        row = {"package": f"p{number}", "remote_id": str(100 + number), "ours": True, "error": "", "at": 9}
        state = "mirrored" if number < 3 else "conflict"
        await world.store.insert(
            "mdm_links", {"_id": f"{server}:p{number}", "server": server, "state": state, **row}
        )
    await world.store.insert("mdm_links", {"_id": "other:p1", "server": "other", "state": "mirrored"})


async def pages(world: World, limit: int, **where: str) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    after: tuple[str, str] | None = None
    while True:
        chosen = {"direction": "", "state": "", **where}
        rows = await world.admin.packages("Jamf Pro", limit=limit, after=after, **chosen)
        assert len(rows.items) <= limit
        found += [(row["direction"], row["file_name"], row["state"]) for row in rows.items]
        if rows.next is None:
            return found
        after = rows.next


def test_rows_come_page_by_page_in_one_order(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.admin.add(FIELDS, actor="admin")
        await fill(world, server["id"])
        whole = await pages(world, 100)
        assert len(whole) == 11
        assert whole[0] == ("in", "in-0.pkg", "pulled")
        assert whole[-1] == ("out", "p3.pkg", "conflict")
        for limit in (1, 3, 7, 10, 11):
            assert await pages(world, limit) == whole
        conflicts = [("in", "in-5.pkg"), ("in", "in-6.pkg"), ("out", "p3.pkg")]
        assert [row[:2] for row in await pages(world, 2, state="conflict")] == conflicts
        assert len(await pages(world, 2, state="pulled")) == 5
        assert len(await pages(world, 2, state="mirrored")) == 3
        assert len(await pages(world, 2, direction="out")) == 4
        with pytest.raises(InvalidInput, match=r"there are: .*pulled"):
            await pages(world, 2, state="nonsense")
        with pytest.raises(InvalidInput):
            await world.admin.packages("Jamf Pro", direction="out", state="", limit=1, after=("in", "x"))

    in_world(tmp_path, test)


def test_points_and_segments(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.admin.add(FIELDS, actor="admin")
        await world.store.insert(
            "mdm_points",
            {"_id": f"{server['id']}:abc", "server": server["id"], "remote_id": "3", "state": "written"},
        )
        (point,) = await world.admin.points("Jamf Pro")
        assert (point["node"], point["name"], point["remote"], point["ours"]) == (
            "abc",
            "node abc",
            "3",
            False,
        )
        (segment,) = await world.admin.segments("Jamf Pro")
        assert segment["suggestion"] == "use Jamf Pro"
        world.mdm.error = MdmUnreachable("no route")
        with pytest.raises(MdmUnreachable):
            await world.admin.segments("Jamf Pro")

    in_world(tmp_path, test)


def test_webhooks_are_registered_with_our_secret_and_shown(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        world.mdm.refuses_hooks = True
        shown = await world.admin.add(FIELDS, actor="admin")
        report = await world.admin.register_webhooks("Jamf Pro", actor="admin")
        assert report.ok
        assert "proven by basic" in report.lines[0].detail
        hook = world.mdm.hooks["RestAPIOperation"]
        assert hook["url"] == f"https://ods.example/hooks/{shown['id']}"
        assert hook["secret"] == (await world.servers.get(shown["id"])).hook_secret
        health = (await world.admin.server("Jamf Pro"))["health"]
        assert {one["event"] for one in health["webhooks"]} == set(world.mdm.hooks)
        assert hook["secret"] not in str(health)
        assert await world.admin.remove_webhooks("Jamf Pro", actor="admin") == 4
        assert "webhooks" not in (await world.admin.server("Jamf Pro"))["health"]
        await world.admin.change(
            "Jamf Pro", {"webhooks": {"register_at": ""}}, actor="admin", expect_revision=None
        )
        with pytest.raises(InvalidInput, match="register_at"):
            await world.admin.register_webhooks("Jamf Pro", actor="admin")

    in_world(tmp_path, test)
