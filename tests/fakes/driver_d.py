"""An MDM in memory behind the `Driver` protocol: its storage hashes by itself, people change it, calls fail."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from appliance.domain.mdm_errors import MdmUnreachable
from jamf_bridge.driver import (
    Capabilities,
    CheckLine,
    CloudState,
    Hook,
    Mirrored,
    NodeFacts,
    PackageFacts,
    RemotePackage,
)

HASHES = ("md5", "sha256", "sha512", "sha3_512")


def digests(data: bytes) -> dict[str, str]:
    """What an MDM computes of bytes in its storage."""
    return {kind: hashlib.new(kind, data).hexdigest() for kind in ("md5", "sha256", "sha3_512")}


class Killed(BaseException):
    """The process ended here, as by `kill -9`."""


class FakeMdm:
    """Records by id, and what was asked. It plays the driver as well."""

    def __init__(self) -> None:
        self.packages: dict[str, RemotePackage] = {}
        self.points: dict[str, dict[str, Any]] = {}
        self.network_segments: list[dict[str, Any]] = []
        self.uploaded: list[str] = []
        self.calls: list[str] = []
        self.at_once = self.most_at_once = 0
        self.capability = Capabilities(package_records=True, upload_package=True, distribution_points=True)
        #: called with the name of a call before it is done, or after ("created"): may raise
        self.fault: Callable[[str, str], None] = lambda _call, _about: None
        self._number = 100

    # What people do there

    def id(self) -> str:
        """A new id."""
        self._number += 1
        return str(self._number)

    def by_hand(self, file_name: str, **fields: Any) -> RemotePackage:
        """A record that a person made."""
        made = RemotePackage(id=self.id(), file_name=file_name, **fields)
        self.packages[made.id] = made
        return made

    def store(self, file_name: str, data: bytes) -> RemotePackage:
        """A file that a person uploaded."""
        return self.by_hand(file_name, state=CloudState.READY, size=len(data), hashes=digests(data))

    def edit(self, id: str, **fields: Any) -> None:
        """Change a record by hand."""
        self.packages[id] = replace(self.packages[id], **fields)

    def named(self, file_name: str) -> list[RemotePackage]:
        """Records of a file name."""
        return [package for package in self.packages.values() if package.file_name == file_name]

    # Driver

    @property
    def requests_made(self) -> int:
        """As `Driver.requests_made`."""
        return len(self.calls)

    async def _call(self, name: str, about: str = "") -> None:
        self.calls.append(f"{name} {about}".strip())
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(0.001)
            self.fault(name, about)
        finally:
            self.at_once -= 1

    async def check(self) -> list[CheckLine]:
        """As `Driver.check`."""
        return [CheckLine(what="Sign in", ok=True)]

    async def capabilities(self) -> Capabilities:
        """As `Driver.capabilities`."""
        return self.capability

    async def probe(self) -> None:
        """As `Driver.probe`."""

    async def own_account(self) -> str:
        """As `Driver.own_account`."""
        return "ods"

    async def list_packages(self) -> list[RemotePackage]:
        """As `Driver.list_packages`."""
        await self._call("list")
        return list(self.packages.values())

    async def find_package(self, remote_id: str) -> RemotePackage | None:
        """As `Driver.find_package`."""
        await self._call("find", remote_id)
        return self.packages.get(remote_id)

    async def open_package(self, package: RemotePackage, offset: int) -> AsyncIterator[bytes]:
        """As `Driver.open_package`."""
        raise MdmUnreachable("This fake keeps no bytes.")
        yield b""

    async def add_note(self, package: RemotePackage, text: str) -> None:
        """As `Driver.add_note`."""

    async def ensure_package_record(
        self,
        facts: PackageFacts,
        *,
        remote: RemotePackage | None,
        known_id: str = "",
        sent: Mapping[str, Any],
    ) -> Mirrored:
        """As `Driver.ensure_package_record`."""
        await self._call("ensure", facts.file_name)
        found = self.packages.get(remote.id if remote else known_id)
        found = found or next(iter(self.named(facts.file_name)), None)
        hashes = {kind: facts.hashes[kind] for kind in HASHES if kind in facts.hashes}
        if found is None:
            made = self.by_hand(
                facts.file_name, name=facts.record_name, hashes=hashes, fields={"notes": facts.record_notes}
            )
            self.fault("created", facts.file_name)
            return Mirrored(
                remote_id=made.id, created=True, changed=True, sent={"notes": facts.record_notes, **hashes}
            )
        if found.state in {CloudState.READY, CloudState.PENDING}:
            return Mirrored(remote_id=found.id, sent=sent, conflict="The cloud holds other bytes.")
        fields = dict(found.fields)
        if "notes" in sent and fields.get("notes") == sent["notes"]:
            fields["notes"] = facts.record_notes
        changed = dict(found.hashes) != hashes or fields != found.fields
        self.edit(found.id, hashes=hashes, fields=fields)
        kept = {name: sent[name] for name in ("notes",) if name in sent}
        return Mirrored(remote_id=found.id, changed=changed, sent={**kept, **hashes})

    async def upload_package(self, facts: PackageFacts, remote_id: str, path: str) -> Mirrored:
        """As `Driver.upload_package`."""
        await self._call("upload", facts.file_name)
        data = await asyncio.to_thread(Path(path).read_bytes)
        assert len(data) == facts.size
        self.uploaded.append(facts.file_name)
        self.edit(remote_id, state=CloudState.PENDING, size=None, hashes={})
        return Mirrored(remote_id=remote_id, changed=True, pending=True)

    async def withdraw_package_record(
        self, remote_id: str, *, policy: str, sent: Mapping[str, Any]
    ) -> Mirrored:
        """As `Driver.withdraw_package_record`."""
        await self._call("withdraw", f"{remote_id} {policy}")
        if policy == "delete":
            self.packages.pop(remote_id, None)
        return Mirrored(remote_id=remote_id, changed=True)

    async def list_distribution_points(self) -> list[Mapping[str, Any]]:
        """As `Driver.list_distribution_points`."""
        await self._call("points")
        return [dict(point) for point in self.points.values()]

    async def find_distribution_point(self, remote_id: str) -> Mapping[str, Any] | None:
        """As `Driver.find_distribution_point`."""
        await self._call("find point", remote_id)
        return dict(self.points[remote_id]) if remote_id in self.points else None

    async def ensure_distribution_point(
        self, node: NodeFacts, *, remote_id: str, sent: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
    ) -> Mirrored:
        """As `Driver.ensure_distribution_point`; costs a request only if something is to be written."""
        host, _, port = node.url.partition("//")[2].partition(":")
        wanted = {"name": node.record_name, "serverName": host, "httpsPort": int(port or 443)}
        if remote_id in self.points:
            there = self.points[remote_id]
            changed = {
                name: value
                for name, value in wanted.items()
                if sent.get(name) != value and there[name] != value
            }
            if changed:
                await self._call("point", node.record_name)
                there.update(changed)
            return Mirrored(remote_id=remote_id, changed=bool(changed), sent=wanted)
        await self._call("point", node.record_name)
        id = self.id()
        self.points[id] = {"id": id, "principal": False, **wanted}
        self.fault("pointed", node.record_name)
        return Mirrored(remote_id=id, created=True, changed=True, sent=wanted)

    async def remove_distribution_point(self, remote_id: str) -> None:
        """As `Driver.remove_distribution_point`."""
        await self._call("unpoint", remote_id)
        self.points.pop(remote_id, None)

    async def segments(self) -> list[Mapping[str, Any]]:
        """As `Driver.segments`."""
        await self._call("segments")
        return list(self.network_segments)

    async def register_webhooks(
        self, url: str, *, events: Sequence[str], secret: str
    ) -> list[Mapping[str, Any]]:
        """As `Driver.register_webhooks`."""
        return []

    async def remove_webhooks(self, url: str) -> int:
        """As `Driver.remove_webhooks`."""
        return 0

    def parse_webhook(self, content_type: str, body: bytes) -> Hook:
        """As `Driver.parse_webhook`."""
        return Hook(event=body.decode(), id=content_type)

    async def close(self) -> None:
        """As `Driver.close`."""
