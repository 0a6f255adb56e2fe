"""An MDM in memory, behind the driver protocol: for tests of what surrounds drivers. It has the real one's moods."""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from appliance.domain.mdm_errors import HookInvalid, MdmError, MdmRefused
from jamf_bridge.driver import (
    Capabilities,
    CheckLine,
    Driver,
    Hook,
    Mirrored,
    NodeFacts,
    PackageFacts,
    RemotePackage,
)

_SECRET: JsonDict = {"secret": True}


class Proxy(BaseModel):
    """A section of the driver's own settings that has a secret, too."""

    host: str = ""
    password: str = Field("", json_schema_extra=_SECRET)


class FakeSettings(BaseModel):
    """Like those of Jamf Pro."""

    model_config = ConfigDict(extra="forbid")

    url: str
    client_id: str = ""
    client_secret: str = Field("", json_schema_extra=_SECRET)
    username: str = ""
    password: str = Field("", json_schema_extra=_SECRET)
    proxy: Proxy = Field(default_factory=Proxy)

    @model_validator(mode="after")
    def _complete(self) -> "FakeSettings":
        if not self.url.startswith("https://"):
            raise ValueError("url: it must begin with https://")
        if bool(self.client_id) == bool(self.username):
            raise ValueError("set client_id or username: one of the two")
        return self


class FakeMdm:
    """The server on the other side, as its drivers see it."""

    def __init__(self) -> None:
        self.drivers: list[FakeDriver] = []
        self.error: MdmError | None = None  #: what the next calls raise
        self.lines = [CheckLine(what="Sign in", ok=True, detail="as bridge")]
        self.hooks: dict[str, dict[str, Any]] = {}  #: by event
        self.refuses_hooks = False
        self.made_with: list[FakeSettings] = []


class FakeDriver:
    """One connection to it."""

    def __init__(self, mdm: FakeMdm, settings: FakeSettings) -> None:
        self.mdm = mdm
        self.settings = settings
        self.closed = 0
        self.calls: list[str] = []
        mdm.drivers.append(self)
        mdm.made_with.append(settings)

    def _call(self, name: str) -> None:
        self.calls.append(name)
        assert not self.closed, f"{name} was called on a driver that is closed"
        if self.mdm.error is not None:
            raise self.mdm.error

    @property
    def requests_made(self) -> int:
        return len(self.calls)

    async def check(self) -> list[CheckLine]:
        self.calls.append("check")
        return list(self.mdm.lines)

    async def capabilities(self) -> Capabilities:
        self._call("capabilities")
        return Capabilities(webhooks=True)

    async def probe(self) -> None:
        self.calls.append("probe")

    async def own_account(self) -> str:
        self._call("own_account")
        return "bridge"

    async def list_packages(self) -> list[RemotePackage]:
        self._call("list_packages")
        return []

    async def find_package(self, remote_id: str) -> RemotePackage | None:
        self._call("find_package")
        return None

    async def open_package(self, package: RemotePackage, offset: int) -> AsyncIterator[bytes]:
        self._call("open_package")
        yield b""

    async def add_note(self, package: RemotePackage, text: str) -> None:
        self._call("add_note")

    async def ensure_package_record(
        self,
        facts: PackageFacts,
        *,
        remote: RemotePackage | None,
        known_id: str = "",
        sent: Mapping[str, Any],
    ) -> Mirrored:
        raise MdmRefused("not here")

    async def upload_package(self, facts: PackageFacts, remote_id: str, path: str) -> Mirrored:
        raise MdmRefused("not here")

    async def withdraw_package_record(
        self, remote_id: str, *, policy: str, sent: Mapping[str, Any]
    ) -> Mirrored:
        raise MdmRefused("not here")

    async def list_distribution_points(self) -> list[Mapping[str, Any]]:
        self._call("list_distribution_points")
        return []

    async def find_distribution_point(self, remote_id: str) -> Mapping[str, Any] | None:
        self._call("find_distribution_point")
        return None

    async def ensure_distribution_point(
        self, node: NodeFacts, *, remote_id: str, sent: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
    ) -> Mirrored:
        raise MdmRefused("not here")

    async def remove_distribution_point(self, remote_id: str) -> None:
        raise MdmRefused("not here")

    async def segments(self) -> list[Mapping[str, Any]]:
        self._call("segments")
        return [{"name": "Zurich", "start": "10.0.0.0", "end": "10.0.0.255", "distribution_point": ""}]

    async def register_webhooks(
        self, url: str, *, events: Sequence[str], secret: str
    ) -> list[Mapping[str, Any]]:
        self._call("register_webhooks")
        way = "basic" if self.mdm.refuses_hooks else "header"
        for event in events:
            self.mdm.hooks[event] = {"url": url, "secret": secret}
        detail = "header: it was not kept" if self.mdm.refuses_hooks else ""
        return [
            {"id": str(number), "event": event, "authentication": way, "ok": True, "detail": detail}
            for number, event in enumerate(events)
        ]

    async def remove_webhooks(self, url: str) -> int:
        self._call("remove_webhooks")
        ours = [event for event, hook in self.mdm.hooks.items() if hook["url"] == url]
        for event in ours:
            del self.mdm.hooks[event]
        return len(ours)

    def parse_webhook(self, content_type: str, body: bytes) -> Hook:
        try:
            data = json.loads(body)
            event, facts = data["webhook"]["webhookEvent"], data.get("event", {})
        except (ValueError, KeyError, TypeError) as exc:
            raise HookInvalid("It names no event.") from exc
        return Hook(
            event=event,
            id=hashlib.sha256(body).hexdigest(),
            at=data["webhook"].get("eventTimestamp", 0),
            subject=facts.get("objectName", ""),
            subject_kind=facts.get("objectTypeName", ""),
            operation={"GET": "read", "PUT": "update"}.get(facts.get("restAPIOperationType", ""), ""),
            actor=facts.get("authorizedUsername", ""),
            successful=facts.get("operationSuccessful", True),
        )

    async def close(self) -> None:
        self.closed += 1


class FakeFactory:
    """Fake MDM: settings as those of Jamf Pro."""

    Settings: type[BaseModel] = FakeSettings

    def __init__(self, mdm: FakeMdm | None = None) -> None:
        self.mdm = mdm or FakeMdm()

    def __call__(self, settings: BaseModel) -> Driver:
        assert isinstance(settings, FakeSettings)
        return FakeDriver(self.mdm, settings)


def webhook(event: str, *, number: int = 1, **facts: Any) -> bytes:
    """A delivery as this MDM writes it; another number is another delivery."""
    return json.dumps(
        {"webhook": {"webhookEvent": event, "id": 7, "eventTimestamp": number}, "event": facts}
    ).encode()
