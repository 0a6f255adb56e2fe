"""The door for webhooks: who may come in, what follows, and what is absorbed."""

import asyncio
import base64
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.domain.errors import StoreUnavailable
from appliance.domain.job import Job
from appliance.service.secrets import SecretBox
from appliance.store.opening import open_store
from appliance.store.ports import Store
from jamf_bridge.hooks import door as hooks
from jamf_bridge.hooks import gate as hint_gate
from jamf_bridge.hooks.counts import HookCounts
from jamf_bridge.hooks.door import MAX_BODY, SEEN, HookDoor
from jamf_bridge.jobs import hint_key, sync_key
from jamf_bridge.servers.registry import Registry
from jamf_bridge.servers.server import Server, ServerState
from jamf_bridge.servers.servers import Servers
from tests.fakes.driver_c import FakeFactory, webhook

FIELDS: dict[str, Any] = {
    "name": "Jamf Pro",
    "kind": "jamf",
    "settings": {"url": "https://mdm.example", "client_id": "bridge", "client_secret": "x"},
}
UPLOAD = {"objectTypeName": "Package", "restAPIOperationType": "PUT", "authorizedUsername": "autopkg"}


class World:
    def __init__(self, store: Store, directory: Path) -> None:
        self.store = store
        self.clock = 1_800_000_000_000
        self.factory = FakeFactory()
        registry = Registry({"jamf": self.factory})
        self.servers = Servers(store, SecretBox(directory / "secrets.key"), lambda: self.clock, registry)
        self.door = HookDoor(store=store, servers=self.servers, now=lambda: self.clock)
        self.server: Server

    async def begin(self, **changes: Any) -> None:
        self.server = await self.servers.add({**FIELDS, **changes}, actor="admin")
        await self.forget_jobs()

    async def forget_jobs(self) -> None:
        await self.store.delete("jobs", {"name": {"in": ["mdm.sync", "mdm.hint"]}})

    async def send(self, event: str, *, server: str = "", secret: str | None = None, **facts: Any) -> int:
        body = facts.pop("body", None) or webhook(event, **facts)
        headers = {"x-ods-hook-token": self.server.hook_secret if secret is None else secret}
        return await self.door.accept(
            server or self.server.id, path_secret="", headers=headers, content_type="application/json",
            body=body, address="192.0.2.1",
        )  # fmt: skip

    async def jobs(self) -> list[Job]:
        keys = [sync_key(self.server.id), hint_key(self.server.id)]
        return await self.store.find_jobs({"active_key": {"in": keys}})

    async def health(self) -> dict[str, Any]:
        await self.door.close()
        return dict((await self.servers.get(self.server.id)).health)

    async def state(self) -> ServerState:
        return (await self.servers.get(self.server.id)).state


def in_world(tmp_path: Path, test: Callable[[World], Awaitable[None]], **changes: Any) -> None:
    async def go() -> None:
        store = await open_store("", tmp_path)
        world = World(store, tmp_path)
        try:
            await world.begin(**changes)
            await test(world)
        finally:
            await world.door.close()
            await world.servers.close()
            await store.close()

    asyncio.run(go())


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def test_three_ways_to_prove_a_delivery(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        secret = world.server.hook_secret

        async def admit(path_secret: str = "", **headers: str) -> int:
            return await world.door.admit(
                world.server.id, path_secret=path_secret, headers=headers, address="192.0.2.1"
            )

        assert await admit(**{"X-Ods-Hook-Token": secret}) == 202
        assert await admit(Authorization=basic("ods", secret)) == 202
        assert await admit(secret) == 202
        refused = [
            await admit(),
            await admit(secret[:-1]),
            await admit(secret + "x"),
            await admit("\udcff"),
            await admit(**{"X-Ods-Hook-Token": ""}),
            await admit(Authorization=basic("jss", secret)),
            await admit(Authorization=basic("ods", "")),
            await admit(Authorization="Basic ???"),
            await admit(Authorization="Basic " + base64.b64encode(b"\xff:\xff").decode()),
            await admit(Authorization=f"Bearer {secret}"),
        ]
        assert set(refused) == {401}
        assert (await world.health())["hooks_refused"] == len(refused)

    in_world(tmp_path, test)


def test_refusals_are_counted_and_told_once_a_minute(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        async def told() -> int:
            return await world.store.count("events", {"type": "mdm.hook_refused"})

        for _ in range(20):
            assert await world.send("JSSStartup", secret="wrong") == 401
        assert await told() == 1
        world.clock += 60_000
        assert await world.send("JSSStartup", secret="wrong") == 401
        assert await told() == 2
        assert (await world.health())["hooks_refused"] == 21
        assert await world.jobs() == []

    in_world(tmp_path, test)


def test_an_unknown_server_is_not_found_and_costs_no_read(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.send("JSSStartup", server="nobody") == 404
        reads = 0
        find = world.servers.all

        async def counted() -> list[Server]:
            nonlocal reads
            reads += 1
            return await find()

        world.servers.all = counted  # type: ignore[method-assign]
        for number in range(50):
            assert await world.send("JSSStartup", server=f"nobody{number}") == 404
        assert reads == 0
        await world.servers.add({**FIELDS, "name": "another"}, actor="admin")
        assert await world.send("JSSStartup", server="nobody") == 404
        assert reads == 2, "adding looked at the names, and the door read once more"

    in_world(tmp_path, test)


def test_bodies_that_are_no_webhook(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        for body in (b"\0", b"<x>", b"[]", b"{}", b'{"webhook": 5}'):
            assert await world.send("", body=body) == 400
        assert await world.send("", body=b"x" * (MAX_BODY + 1)) == 413
        assert await world.send("SomethingNew") == 202
        health = await world.health()
        assert health["hooks_invalid"] == 5
        assert (health["hooks_received"], health["hooks_ignored"]) == (1, 1)
        assert health["last_hook_event"] == "SomethingNew"
        assert await world.jobs() == []

    in_world(tmp_path, test)


def test_an_upload_queues_one_sync_after_the_debounce_time(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        (job,) = await world.jobs()
        assert job.run_at == world.clock + 3000
        assert job.args == {"server": world.server.id, "reason": "webhook: sync_package"}
        assert (await world.health())["last_hook_at"] == world.clock

    in_world(tmp_path, test)


def test_a_flood_is_one_job_and_few_writes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        writes = 0
        enqueue = world.store.enqueue

        async def counted(job: Job) -> bool:
            nonlocal writes
            writes += 1
            return await enqueue(job)

        world.store.enqueue = counted  # type: ignore[method-assign]
        answers = await asyncio.gather(
            *(world.send("RestAPIOperation", number=number, **UPLOAD) for number in range(2000))
        )
        assert set(answers) == {202}
        assert len(await world.jobs()) == 1
        assert writes == 1
        health = await world.health()
        assert health["hooks_received"] == 2000
        assert len(world.door._seen) == 2000

    in_world(tmp_path, test)


def test_counts_whose_write_is_under_way_at_the_end_are_kept() -> None:
    class Health:
        """Takes its time to write."""

        def __init__(self) -> None:
            self.begun = asyncio.Event()
            self.written = 0

        async def count(self, server: str, counts: dict[str, int], **facts: Any) -> None:
            self.begun.set()
            await asyncio.sleep(0.02)
            self.written += counts["hooks_received"]

    async def test() -> None:
        health: Any = Health()
        counts = HookCounts(health, flush_s=0.0)
        for _ in range(3):
            counts.add("jamf", "hooks_received")
        await asyncio.wait_for(health.begun.wait(), 5)
        counts.add("jamf", "hooks_received")
        await counts.close()
        assert health.written == 4
        counts.add("jamf", "hooks_received")
        await counts.close()
        assert health.written == 5

    asyncio.run(test())


def test_hints_that_come_while_one_gathers_need_no_job(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.send("RestAPIOperation", number=1, **UPLOAD)
        world.clock += 3000
        (running,) = await world.store.claim("default", "w", now=world.clock, lease_ms=60_000)
        await world.send("RestAPIOperation", number=2, **UPLOAD)
        gathering = asyncio.create_task(world.door.gather(world.server.id))
        await asyncio.sleep(0.05)
        before = await world.store.get_job(running.id)
        for number in range(10, 40):
            world.clock += 100
            assert await world.send("RestAPIOperation", number=number, **UPLOAD) == 202
        assert not gathering.done()
        assert await world.store.get_job(running.id) == before
        world.clock += 3000
        await asyncio.wait_for(gathering, 5)
        await world.send("RestAPIOperation", number=99, **UPLOAD)
        again = await world.store.get_job(running.id)
        assert again is not None
        assert again.again, "what comes later is for the next"

    in_world(tmp_path, test)


def test_a_flood_that_does_not_end_is_synced_after_a_minute(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        gathering = asyncio.create_task(world.door.gather(world.server.id))
        for number in range(70):
            await world.send("RestAPIOperation", number=number, **UPLOAD)
            await asyncio.sleep(0)
            if gathering.done():
                break
            world.clock += 1000
        await asyncio.wait_for(gathering, 5)

    in_world(tmp_path, test)


def test_hints_while_a_sync_runs_are_in_the_store_before_their_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hint_gate, "SPACING_S", 0.01)

    async def test(world: World) -> None:
        await world.send("RestAPIOperation", number=1, **UPLOAD)
        world.clock += 3000
        (running,) = await world.store.claim("default", "w", now=world.clock, lease_ms=60_000)
        for number in range(2, 6):
            assert await world.send("RestAPIOperation", number=number, **UPLOAD) == 202
            again = await world.store.get_job(running.id)
            assert again is not None
            assert again.again
        answers = await asyncio.gather(
            *(world.send("RestAPIOperation", number=number, **UPLOAD) for number in range(10, 200))
        )
        assert set(answers) == {202}
        assert len(await world.jobs()) == 1

    in_world(tmp_path, test)


def test_a_job_that_could_not_be_queued_is_not_answered_well_and_may_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hint_gate, "SPACING_S", 0.0)

    async def test(world: World) -> None:
        enqueue = world.store.enqueue

        async def down(job: Job) -> bool:
            raise StoreUnavailable()

        world.store.enqueue = down  # type: ignore[method-assign]
        with pytest.raises(StoreUnavailable):
            await world.send("RestAPIOperation", **UPLOAD)
        world.store.enqueue = enqueue  # type: ignore[method-assign]
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        assert len(await world.jobs()) == 1

    in_world(tmp_path, test)


def test_duplicates_and_our_own_traffic_are_absorbed(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.servers.note(world.server.id, own_account="ODS Bridge")
        world.clock += 1000
        own = {**UPLOAD, "authorizedUsername": "ods bridge"}
        reading = {**UPLOAD, "restAPIOperationType": "GET"}
        failed = {**UPLOAD, "operationSuccessful": False}
        for facts in (own, reading, failed):
            assert await world.send("RestAPIOperation", **facts) == 202
        assert await world.jobs() == []
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        await world.forget_jobs()
        world.clock += 10_000
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        assert await world.jobs() == []
        health = await world.health()
        assert (health["hooks_own"], health["hooks_duplicate"], health["hooks_ignored"]) == (2, 1, 1)
        assert health["hooks_received"] == 5

    in_world(tmp_path, test)


def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooks, "SEEN", 16)

    async def test(world: World) -> None:
        for number in range(100):
            await world.send("RestAPIOperation", number=number, **UPLOAD)
        assert len(world.door._seen) == 16
        assert len(world.door._gates) == 1

    assert SEEN >= 4096
    in_world(tmp_path, test)


def test_going_down_pauses_and_coming_up_probes(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.send("JSSShutdown") == 202
        assert await world.state() is ServerState.PAUSED
        assert await world.jobs() == []
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        assert await world.jobs() == [], "the sync after the pause sees it"
        assert await world.send("JSSStartup") == 202
        assert await world.state() is ServerState.CONNECTED
        assert sorted(job.name for job in await world.jobs()) == ["mdm.hint", "mdm.sync"]
        assert (await world.servers.asked(world.server.id)).what == {"probe"}
        await world.send("JSSShutdown", number=2)
        world.clock += 10 * 60_000
        assert await world.state() is ServerState.CONNECTED, "it may never say that it is back"

    in_world(tmp_path, test)


def test_a_persons_pause_outlives_a_restart_of_the_mdm(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        await world.servers.pause(world.server.id, world.clock + 10**9, "maintenance", actor="admin")
        for event in ("JSSShutdown", "JSSStartup"):
            assert await world.send(event) == 202
        world.clock += 11 * 60_000
        assert await world.state() is ServerState.PAUSED

    in_world(tmp_path, test)


def test_the_admins_rules_come_first(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        assert await world.send("ComputerCheckIn") == 202
        assert (await world.servers.asked(world.server.id)).what == {"verify"}
        (job,) = await world.jobs()
        assert job.run_at == world.clock, "no debounce"
        await world.forget_jobs()
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        assert await world.jobs() == []

    rules = {"computercheckin": "verify", "RESTAPIOPERATION": "ignore"}
    in_world(tmp_path, test, webhooks={"rules": rules, "debounce_s": 0})


@pytest.mark.parametrize("change", [{"webhooks": {"enabled": False}}, {"enabled": False}])
def test_where_webhooks_are_not_wanted_nothing_follows(tmp_path: Path, change: dict[str, Any]) -> None:
    async def test(world: World) -> None:
        assert await world.send("RestAPIOperation", **UPLOAD) == 202
        assert await world.jobs() == []
        assert (await world.health())["hooks_ignored"] == 1

    in_world(tmp_path, test, **change)


def test_a_changed_secret_holds_at_once(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        old = world.server.hook_secret
        assert await world.send("SomethingNew") == 202
        await world.servers.change(world.server.id, {"hook_secret": "another-secret-of-mine"}, actor="admin")
        assert await world.send("SomethingNew", secret=old) == 401
        assert await world.send("SomethingNew", secret="another-secret-of-mine") == 202

    in_world(tmp_path, test)


def test_counts_that_cannot_be_written_are_kept(tmp_path: Path) -> None:
    async def test(world: World) -> None:
        batch = world.store.batch

        async def down(operations: Any) -> Any:
            raise StoreUnavailable()

        await world.send("SomethingNew")
        world.store.batch = down  # type: ignore[method-assign]
        await world.door.close()
        world.store.batch = batch  # type: ignore[method-assign]
        await world.send("SomethingNew", number=2)
        assert (await world.health())["hooks_received"] == 2

    in_world(tmp_path, test)
