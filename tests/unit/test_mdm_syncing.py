"""What a sync notes of a server when one of its parts fails."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.domain.errors import ApplianceError, StaleRevision, StoreUnavailable
from appliance.domain.mdm_errors import MdmBusy, MdmError, MdmNeedsAttention
from appliance.jobs.context import JobContext
from appliance.service.secrets import SecretBox
from appliance.store.opening import open_store
from jamf_bridge.driver import Capabilities
from jamf_bridge.intake.comparing import IntakeSummary
from jamf_bridge.jobs import sync_job
from jamf_bridge.servers.registry import Registry
from jamf_bridge.servers.server import ServerState
from jamf_bridge.servers.servers import Servers
from jamf_bridge.syncing import Syncing
from tests.fakes.driver_c import FakeDriver, FakeFactory

NOW = 1_800_000_000_000
FIELDS: dict[str, Any] = {
    "name": "Jamf Pro",
    "kind": "jamf",
    "settings": {"url": "https://mdm.example", "client_id": "bridge", "client_secret": "the secret"},
    "mirror": {"enabled": False},
    "points": {"enabled": True},
}


@pytest.mark.parametrize(
    ("fault", "state", "usable"),
    [
        (None, ServerState.ATTENTION, True),
        (MdmNeedsAttention("points: no privilege"), ServerState.ATTENTION, False),
        (MdmBusy("later"), ServerState.ATTENTION, True),
    ],
    ids=["an ability is missing", "and a part is refused", "and a part fails for a moment"],
)
def test_a_server_of_which_a_part_is_refused_is_not_used_as_if_one_ability_were_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: MdmError | None, state: ServerState, usable: bool
) -> None:
    async def capabilities(_driver: FakeDriver) -> Capabilities:
        return Capabilities(missing="Cloud files cannot be read.", privilege_missing=True)

    class Part:
        fault: MdmError | None = None

        async def run(self, *_args: object, **_options: object) -> Any:
            if self.fault is not None:
                raise self.fault
            return IntakeSummary()

    async def nothing(*_args: object) -> None: ...

    monkeypatch.setattr(FakeDriver, "capabilities", capabilities)

    async def go() -> None:
        store = await open_store("", tmp_path)
        servers = Servers(
            store, SecretBox(tmp_path / "secrets.key"), lambda: NOW, Registry({"jamf": FakeFactory()})
        )
        points: Any = Part()
        syncing = Syncing(
            store=store, servers=servers, intake=cast(Any, Part()), mirror=cast(Any, Part()), points=points,
            register_webhooks=nothing, gather_hints=nothing, caught_up=nothing, now=lambda: NOW,
        )  # fmt: skip
        try:
            id = (await servers.add(FIELDS, actor="admin")).id
            for points.fault in (None, fault):
                await syncing.run(sync_job(id, NOW), cast(JobContext, None))
            server = await servers.get(id)
            assert (server.state, server.usable) == (state, usable)
        finally:
            await servers.close()
            await store.close()

    asyncio.run(go())


class Busy(BaseException):
    """The process was killed."""


@pytest.mark.parametrize("where", ["driver", "list", "mirror", "points", "nowhere"])
@pytest.mark.parametrize(
    "fault", [MdmNeedsAttention("refused"), MdmBusy("later"), StoreUnavailable(), StaleRevision("x"), Busy()]
)
def test_what_was_asked_of_a_sync_is_asked_until_it_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, fault: BaseException
) -> None:
    failing = {where}
    done: list[str] = []

    def step(name: str) -> None:
        done.append(name)
        if name in failing:
            raise fault

    class Part:
        def __init__(self, name: str) -> None:
            self.name = name

        async def run(self, *_args: object, **options: object) -> Any:
            step(self.name)
            if options.get("verify"):
                done.append("verified")
            return IntakeSummary()

    async def nothing(*_args: object) -> None: ...

    async def listed(_driver: FakeDriver) -> list[Any]:
        step("list")
        return []

    monkeypatch.setattr(FakeDriver, "list_packages", listed)

    async def go() -> None:
        store = await open_store("", tmp_path)
        servers = Servers(
            store, SecretBox(tmp_path / "secrets.key"), lambda: NOW, Registry({"jamf": FakeFactory()})
        )
        real = servers.driver

        async def driver(id: str) -> Any:
            step("driver")
            return await real(id)

        monkeypatch.setattr(servers, "driver", driver)
        parts: Any = {name: Part(name) for name in ("intake", "mirror", "points")}
        syncing = Syncing(
            store=store, servers=servers, **parts,
            register_webhooks=nothing, gather_hints=nothing, caught_up=nothing, now=lambda: NOW,
        )  # fmt: skip

        async def sync() -> frozenset[str]:
            with contextlib.suppress(ApplianceError, Busy):
                await syncing.run(sync_job(id, NOW), cast(JobContext, None))
            return (await servers.asked(id)).what

        try:
            id = (await servers.add({**FIELDS, "mirror": {"enabled": True}}, actor="admin")).id
            await servers.ask(id, "probe", "verify")
            left = await sync()
            finished = where == "nowhere" or (where == "points" and isinstance(fault, MdmError))
            assert ("verify" not in left) == finished
            failing.clear()
            done.clear()
            assert await sync() == frozenset()
            assert ("verified" in done) != finished
            assert await sync() == frozenset()
            assert done.count("verified") == (not finished)
        finally:
            await servers.close()
            await store.close()

    asyncio.run(go())
