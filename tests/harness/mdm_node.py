"""The admin API and the hooks of a node with an MDM bridge, in this process, over an MDM in memory.

Only what these handlers work with is real: routes, accounts, store and bridge. The rest of a node is not there.
"""

import asyncio
import base64
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import requests
from argon2 import PasswordHasher
from tornado.httpserver import HTTPServer

from appliance.api.app import App
from appliance.api.routes import make_application
from appliance.log import AccessLog
from appliance.server import listen
from appliance.service.accounts import Accounts, Role
from appliance.service.secrets import SecretBox
from appliance.store.opening import open_store
from appliance.store.ports import Store
from config.settings import Settings
from jamf_bridge.hooks.door import HookDoor
from jamf_bridge.servers.admin import ServerAdmin
from jamf_bridge.servers.registry import Registry
from jamf_bridge.servers.servers import Servers
from tests.fakes.driver_c import FakeFactory, FakeMdm
from tests.keys import identity_at

PASSWORD = "a password for tests"
T = TypeVar("T")


def now_ms() -> int:
    """UTC milliseconds."""
    return time.time_ns() // 1_000_000


class SmallBridge(ServerAdmin):
    """The administration and the door for webhooks; no job runs here."""

    def __init__(self, store: Store, directory: Path, factory: FakeFactory) -> None:
        registry = Registry({"jamf": factory})
        self.all = Servers(
            store, SecretBox(directory / "secrets.key"), now_ms, registry, stages=("dev", "prod")
        )
        self.door = HookDoor(store=store, servers=self.all, now=now_ms)
        super().__init__(
            store=store, servers=self.all, registry=registry, now=now_ms, file_name=str, node_name=str,
            suggest=lambda _server, driver: driver.segments(),
        )  # fmt: skip

    async def admit_hook(
        self, server_id: str, *, path_secret: str, headers: Mapping[str, str], address: str
    ) -> int:
        """As `MdmPort.admit_hook`."""
        return await self.door.admit(server_id, path_secret=path_secret, headers=headers, address=address)

    async def take_hook(self, server_id: str, *, content_type: str, body: bytes) -> int:
        """As `MdmPort.take_hook`."""
        return await self.door.take(server_id, content_type=content_type, body=body)


@dataclass
class Running:
    """What lives on the loop."""

    app: App
    store: Store
    bridge: SmallBridge
    port: int


class MdmNode:
    """A context: the node runs in a thread of its own."""

    def __init__(self, directory: Path, *, bridge: bool = True) -> None:
        self._directory = directory
        self._with_bridge = bridge
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._running: Running | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)
        self.mdm: FakeMdm = FakeMdm()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        assert self._running is not None, "the node did not start"
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(30)

    async def _live(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        store = await open_store("", self._directory)
        try:
            bridge = SmallBridge(store, self._directory, FakeFactory(self.mdm))
            accounts = Accounts(
                store, now_ms, hasher=PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
            )
            for role in (Role.VIEWER, Role.OPERATOR, Role.ADMIN):
                await accounts.create_user(role.word, PASSWORD, role, actor="test")
            parts: dict[str, Any] = dict.fromkeys(field.name for field in fields(App))
            parts |= {"settings": Settings(), "store": store, "accounts": accounts, "now": now_ms}
            parts["identity"] = identity_at(self._directory / "node.key")
            app = App(**{**parts, "mdm": bridge if self._with_bridge else None})
            sockets = listen("127.0.0.1", 0)
            port = sockets[0].getsockname()[1]
            server = HTTPServer(make_application(app, log_function=AccessLog()), max_body_size=1_048_576)
            server.add_sockets(sockets)
            self._running = Running(app, store, bridge, port)
            self._ready.set()
            await self._stop.wait()
            server.stop()
            await server.close_all_connections()
            await bridge.door.close()
            await bridge.all.close()
        finally:
            self._ready.set()
            await store.close()

    @property
    def running(self) -> Running:
        """What lives on the loop; to be used there."""
        assert self._running is not None
        return self._running

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.running.port}"

    def on_loop(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine where the node lives."""
        return asyncio.run_coroutine_threadsafe(work(), self._loop).result(30)

    def request(self, method: str, path: str, body: Any = None, *, user: str = "admin") -> requests.Response:
        """A call of the admin API."""
        header = base64.b64encode(f"{user}:{PASSWORD}".encode()).decode()
        return requests.request(
            method, f"{self.url}/api/v1{path}", data=None if body is None else json.dumps(body),
            headers={"Authorization": f"Basic {header}"} if user else {}, timeout=30,
        )  # fmt: skip

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """A call that must go well; its JSON."""
        answer = self.request(method, path, body)
        assert answer.status_code < 300, (answer.status_code, answer.text)
        return answer.json() if answer.content else None

    def secret(self, server: str) -> str:
        """What proves webhooks of a server."""
        return self.on_loop(lambda: self.running.bridge.all.get(server)).hook_secret

    def find(self, collection: str, where: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Documents of its store."""
        return self.on_loop(lambda: self.running.store.find(collection, where))
