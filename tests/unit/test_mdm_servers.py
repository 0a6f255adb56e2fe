"""Configured MDM servers over the real store."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import InvalidInput, StaleRevision
from appliance.domain.mdm_errors import (
    MdmNeedsAttention,
    MdmUnreachable,
    ServerExists,
    ServerUnknown,
)
from appliance.service.secrets import SecretBox
from appliance.store.opening import open_store
from appliance.store.ports import Store
from jamf_bridge.jobs import sync_key
from jamf_bridge.servers.registry import Registry, installed
from jamf_bridge.servers.secret_fields import MASK
from jamf_bridge.servers.server import ServerState
from jamf_bridge.servers.servers import Servers
from tests.fakes.driver_c import FakeDriver, FakeFactory

SECRET, POINT_SECRET, PROXY_SECRET = "very secret word", "password of points", "password of the proxy"
FIELDS: dict[str, Any] = {
    "name": "Jamf Pro",
    "kind": "jamf",
    "settings": {
        "url": "https://mdm.example",
        "client_id": "bridge",
        "client_secret": SECRET,
        "proxy": {"host": "proxy.example", "password": PROXY_SECRET},
    },
    "points": {"username": "mac", "password": POINT_SECRET},
}


class World:
    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.clock = 1_800_000_000_000
        self.box = SecretBox(directory / "secrets.key")
        self.factory = FakeFactory()
        self.servers = self.made(Registry({"jamf": self.factory}))

    def made(self, registry: Registry) -> Servers:
        return Servers(self.store, self.box, lambda: self.clock, registry, stages=("dev", "test", "prod"))

    async def events(self, subject: str) -> list[str]:
        docs = await self.store.find("events", {"subject": subject}, order="seq")
        return [doc["type"] for doc in docs]

    async def stored(self) -> str:
        """Everything in the database that could hold a secret, as text."""
        docs: list[Any] = []
        for collection in ("mdm_servers", "events", "jobs"):
            docs += await self.store.find(collection)
        return json.dumps(docs, default=str)


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


def test_a_server_is_kept_without_its_secrets_in_clear(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        assert server.config.settings["client_secret"] == SECRET
        assert server.config.points.password == POINT_SECRET
        assert server.state is ServerState.CONNECTED
        stored = await world.stored()
        for secret in (SECRET, POINT_SECRET, PROXY_SECRET, server.hook_secret):
            assert secret
            assert secret not in stored
        (job,) = await world.store.find_jobs({"active_key": sync_key(server.id)})
        assert job.args == {"server": server.id, "reason": "added"}
        assert await world.events(server.id) == ["mdm.added"]

    in_world(tmp_path, test)


def test_what_is_shown_masks_secrets_that_are_set(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        shown = world.servers.shown(server)
        assert shown["settings"]["client_secret"] == MASK
        assert shown["settings"]["proxy"] == {"host": "proxy.example", "password": MASK}
        assert shown["settings"]["password"] == ""
        assert shown["points"]["password"] == MASK
        assert shown["hook_secret"] == MASK
        assert shown["hook_path"] == f"/hooks/{server.id}"
        text = json.dumps(shown)
        assert not any(secret in text for secret in (SECRET, POINT_SECRET, PROXY_SECRET, server.hook_secret))
        without = await world.servers.change(server.id, {"points": {"password": None}}, actor="admin")
        assert world.servers.shown(without)["points"]["password"] == ""

    in_world(tmp_path, test)


@pytest.mark.parametrize("kept", [{}, {"client_secret": ""}, {"client_secret": MASK}])
def test_a_change_merges_and_keeps_secrets(tmp_path: Path, kept: dict[str, str]) -> None:
    async def test(world: World) -> None:
        before = await world.servers.add(FIELDS, actor="admin")
        sent = {
            "settings": {"url": "https://new.example", "proxy": {"host": "p2"}, **kept},
            "intake": {"poll_s": 90},
        }
        after = await world.servers.change(before.id, sent, actor="admin")
        assert after.config.settings["url"] == "https://new.example"
        assert after.config.settings["client_secret"] == SECRET
        assert after.config.settings["proxy"] == {"host": "p2", "password": PROXY_SECRET}
        assert after.config.intake.poll_s == 90
        assert after.config.points.username == "mac"
        assert after.hook_secret == before.hook_secret
        assert (after.id, after.rev) == (before.id, 2)
        back = await world.servers.change(before.id, {"intake": {"poll_s": None}}, actor="admin")
        assert back.config.intake.poll_s == 60

    in_world(tmp_path, test)


def test_null_removes_a_secret_so_that_a_user_account_can_take_its_place(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        account = {"client_id": None, "client_secret": None, "username": "api", "password": "another word"}
        changed = await world.servers.change(server.id, {"settings": account}, actor="admin")
        assert "client_secret" not in changed.config.settings
        assert changed.config.settings["password"] == "another word"

    in_world(tmp_path, test)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"settings": {"url": "http://mdm.example"}}, "settings"),
        ({"settings": {"client_id": ""}}, "settings"),
        ({"settings": {"colour": "red"}}, "settings.colour"),
        ({"settings": {"url": ["x"]}}, "settings.url"),
        ({"intake": {"poll_s": 1}}, "intake.poll_s"),
        ({"intake": {"names": "("}}, "intake.names"),
        ({"intake": []}, "intake"),
        ({"mirror": {"stages": ["produce"]}}, "mirror.stages"),
        ({"intake": {"stage": "produce"}}, "intake.stage"),
        ({"webhooks": {"rules": {"JSSStartup": "explode"}}}, "webhooks.rules.JSSStartup"),
        ({"mirror": {"notes": "{{ 7 * }}"}}, "mirror.notes"),
        ({"mirror": {"category": "{{ unheard_of }}"}}, "mirror.category"),
        ({"points": {"name": "{% for %}"}}, "points.name"),
        ({"webhooks": {"register_at": "ods.example.com"}}, "webhooks.register_at"),
        ({"points": {"urls": {"a": "javascript:1"}}}, "points.urls"),
        ({"kind": "unheard-of"}, "kind"),
        ({"name": "  "}, "name"),
        ({"name": None}, "name"),
        ({"nonsense": 1}, "nonsense"),
        ({"hook_secret": "too short"}, "hook_secret"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_refused_with_the_field(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    async def test(world: World) -> None:
        fields = {**FIELDS, **change}
        if isinstance(change.get("settings"), dict):
            fields["settings"] = {**FIELDS["settings"], **change["settings"]}
        with pytest.raises(InvalidInput) as caught:
            await world.servers.add(fields, actor="admin")
        assert caught.value.message.startswith(field)
        assert SECRET not in caught.value.message + str(caught.value.details)
        assert await world.servers.all() == []

    in_world(tmp_path, test)


def test_names_are_unique_in_any_case_and_servers_are_found_by_name_or_id(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        with pytest.raises(ServerExists):
            await world.servers.add({**FIELDS, "name": "JAMF PRO"}, actor="admin")
        other = await world.servers.add({**FIELDS, "name": "second"}, actor="admin")
        with pytest.raises(ServerExists):
            await world.servers.change(other.id, {"name": "jamf pro"}, actor="admin")
        assert (await world.servers.change(server.id, {"name": "JAMF pro"}, actor="admin")).rev == 2
        assert (await world.servers.resolve("jamf PRO")).id == server.id
        assert (await world.servers.resolve(other.id)).config.name == "second"
        assert [one.config.name for one in await world.servers.all()] == ["JAMF pro", "second"]
        with pytest.raises(ServerUnknown):
            await world.servers.resolve("third")

    in_world(tmp_path, test)


def test_a_change_of_an_old_revision_is_refused_but_notes_do_not_count(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        await world.servers.note(server.id, last_poll_at=5)
        await world.servers.change(server.id, {"enabled": False}, actor="admin", expect_revision=1)
        with pytest.raises(StaleRevision):
            await world.servers.change(server.id, {"enabled": True}, actor="admin", expect_revision=1)
        assert (await world.servers.get(server.id)).state is ServerState.DISABLED

    in_world(tmp_path, test)


def test_removing_forgets_all_rows_of_this_server_alone(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        one = await world.servers.add(FIELDS, actor="admin")
        two = await world.servers.add({**FIELDS, "name": "second"}, actor="admin")
        for server in (one, two):
            for collection in ("mdm_remote", "mdm_links", "mdm_versions", "mdm_points"):
                await world.store.insert(collection, {"_id": f"{server.id}:1", "server": server.id})
        await world.servers.remove(one.id, actor="admin")
        for collection in ("mdm_remote", "mdm_links", "mdm_versions", "mdm_points"):
            assert [doc["server"] for doc in await world.store.find(collection)] == [two.id]
        with pytest.raises(ServerUnknown):
            await world.servers.get(one.id)
        with pytest.raises(ServerUnknown):
            await world.servers.remove(one.id, actor="admin")
        assert (await world.events(one.id))[-1] == "mdm.removed"
        await world.servers.note(one.id, last_poll_at=1)
        assert len(await world.servers.all()) == 1

    in_world(tmp_path, test)


def test_one_driver_for_each_version_of_the_settings(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        first = await world.servers.driver(server.id)
        await world.servers.note(server.id, last_poll_at=5)
        await world.servers.change(server.id, {"intake": {"poll_s": 300}}, actor="admin")
        assert await world.servers.driver(server.id) is first
        await world.servers.change(server.id, {"settings": {"client_secret": "new"}}, actor="admin")
        second = await world.servers.driver(server.id)
        await world.servers.close()
        assert isinstance(first, FakeDriver)
        assert isinstance(second, FakeDriver)
        assert (first.closed, second.closed) == (1, 1)
        assert second.settings.client_secret == "new"

    in_world(tmp_path, test)


def test_a_change_by_another_process_gives_a_new_driver(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        first = await world.servers.driver(server.id)
        elsewhere = world.made(Registry({"jamf": FakeFactory()}))
        await elsewhere.change(server.id, {"settings": {"url": "https://new.example"}}, actor="admin")
        second = await world.servers.driver(server.id)
        await world.servers.close()
        assert isinstance(first, FakeDriver)
        assert first is not second
        assert first.closed == 1

    in_world(tmp_path, test)


def test_a_kind_without_a_driver_needs_attention_and_disturbs_nobody(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        both = world.made(Registry({"jamf": world.factory, "other": FakeFactory()}))
        gone = await both.add({**FIELDS, "name": "gone", "kind": "other"}, actor="admin")
        well = await world.servers.add(FIELDS, actor="admin")
        states = {server.id: server.state for server in await world.servers.all()}
        assert states == {gone.id: ServerState.ATTENTION, well.id: ServerState.CONNECTED}
        shown = world.servers.shown(await world.servers.get(gone.id))
        assert "other" in shown["reason"]
        assert set(shown["settings"].values()) == {MASK}
        for _ in range(3):
            with pytest.raises(MdmNeedsAttention):
                await world.servers.driver(gone.id)
        assert await world.events(gone.id) == ["mdm.added", "mdm.attention"]
        assert (await both.get(gone.id)).config.settings["client_secret"] == SECRET, "nothing was lost"
        await world.servers.remove(gone.id, actor="admin")
        await both.close()

    in_world(tmp_path, test)


def test_a_lost_key_needs_attention_and_new_secrets_mend_it(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        world.box = SecretBox(tmp_path / "another.key")
        other = world.made(Registry({"jamf": world.factory}))
        (found,) = await other.all()
        assert found.state is ServerState.ATTENTION
        assert "secrets" in found.reason
        secrets = {"settings": FIELDS["settings"], "points": {"password": POINT_SECRET}}
        mended = await other.change(server.id, secrets, actor="admin")
        assert mended.state is ServerState.CONNECTED
        assert mended.config.settings["client_secret"] == SECRET
        assert mended.hook_secret
        await other.close()

    in_world(tmp_path, test)


def test_failures_change_the_state_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")

        async def state() -> ServerState:
            return (await world.servers.get(server.id)).state

        for _ in range(5):
            await world.servers.unreachable(server.id, MdmUnreachable("no route"))
        assert await state() is ServerState.UNREACHABLE
        assert (await world.servers.get(server.id)).usable
        for number in range(5):
            await world.servers.attention(server.id, MdmNeedsAttention(f"wrong secret, try {number}"))
        await world.servers.unreachable(server.id, MdmUnreachable("no route"))
        assert await state() is ServerState.ATTENTION, "who needs attention goes on needing it"
        assert (await world.servers.get(server.id)).reason == "wrong secret, try 4"
        for _ in range(3):
            await world.servers.recovered(server.id)
        assert await state() is ServerState.CONNECTED
        assert await world.events(server.id) == [
            "mdm.added",
            "mdm.attention",
            "mdm.attention",
            "mdm.recovered",
        ]

    in_world(tmp_path, test)


def test_a_changed_configuration_clears_attention_and_queues_a_sync(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        await world.store.delete("jobs", {"active_key": sync_key(server.id)})
        await world.servers.attention(server.id, MdmNeedsAttention("wrong secret"))
        changed = await world.servers.change(server.id, {"settings": {"client_secret": "new"}}, actor="admin")
        assert (changed.state, changed.reason) == (ServerState.CONNECTED, "")
        (job,) = await world.store.find_jobs({"active_key": sync_key(server.id)})
        assert job.args["reason"] == "changed"

    in_world(tmp_path, test)


def test_a_pause_ends_by_itself_and_the_system_does_not_touch_a_persons(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")

        async def state() -> ServerState:
            return (await world.servers.get(server.id)).state

        await world.servers.pause(server.id, world.clock + 1000, "it goes down")
        assert await state() is ServerState.PAUSED
        world.clock += 1000
        assert await state() is ServerState.CONNECTED
        await world.servers.pause(server.id, world.clock + 9000, "maintenance", actor="admin")
        await world.servers.pause(server.id, world.clock + 1000, "it goes down")
        assert not await world.servers.resume(server.id)
        assert await state() is ServerState.PAUSED
        assert (await world.servers.get(server.id)).reason == "maintenance"
        assert await world.servers.resume(server.id, actor="admin")
        assert await state() is ServerState.CONNECTED

    in_world(tmp_path, test)


def test_notes_of_many_writers_are_all_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        worker = world.made(Registry({"jamf": world.factory}))
        await asyncio.gather(
            *(one.note(server.id, **{f"{who}_{number}": number}) for number in range(8) for who, one in
              (("a", world.servers), ("b", worker))),
            *(one.count(server.id, {"hooks": 2}) for one in (world.servers, worker)),
        )  # fmt: skip
        health = (await world.servers.get(server.id)).health
        assert {name: health[name] for name in health if name != "hooks"} == {
            f"{who}_{number}": number for number in range(8) for who in "ab"
        }
        assert health["hooks"] == 4
        await world.servers.note(server.id, a_0=None)
        assert "a_0" not in (await world.servers.get(server.id)).health

    in_world(tmp_path, test)


def test_what_is_asked_of_the_next_sync_stays_until_it_is_done(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        server = await world.servers.add(FIELDS, actor="admin")
        await world.servers.ask(server.id, "verify")
        await world.servers.ask(server.id, "probe")
        await world.servers.ask(server.id, "verify")
        asked = await world.servers.asked(server.id)
        assert asked.what == {"verify", "probe"}
        await world.servers.fulfilled(server.id, asked, "probe")
        assert (await world.servers.asked(server.id)).what == {"verify"}
        await world.servers.ask(server.id, "verify")
        await world.servers.fulfilled(server.id, asked, "verify")
        asked = await world.servers.asked(server.id)
        assert asked.what == {"verify"}, "asked for again meanwhile"
        await world.servers.fulfilled(server.id, asked, "verify")
        assert (await world.servers.asked(server.id)).what == frozenset()

    in_world(tmp_path, test)


def test_a_plug_in_that_cannot_be_loaded_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    def point(name: str, value: str) -> EntryPoint:
        return EntryPoint(name=name, value=value, group="ods.mdm_drivers")

    factories = installed(
        [
            point("missing", "there.is.no.such:thing"),
            point("wrong", "json:dumps"),
            point("good", "tests.fakes.driver_c:FakeFactory.__call__"),
            point("fake", "tests.unit.test_mdm_servers:FACTORY"),
        ]
    )
    registry = Registry(factories)
    assert registry.kinds() == ("fake",)
    assert {record.__dict__["kind"] for record in caplog.records} == {"missing", "wrong", "good"}
    (kind,) = registry.describe()
    assert kind["settings"]["properties"]["client_secret"]["secret"] is True


FACTORY = FakeFactory()
