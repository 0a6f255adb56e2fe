"""The driver for Jamf Pro, on the client in `jamf_bridge.jamf`."""

import datetime
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from appliance.domain.mdm_errors import MdmError, MdmRefused, MdmUnreachable

from ..driver import Capabilities, CheckLine, Hook, Mirrored, NodeFacts, PackageFacts, RemotePackage
from ..jamf import JamfError, JamfNotFound, JamfServerError, JamfSurprise, Server
from ..names import forms
from . import checks, events, webhooks
from .known import ASK_AGAIN_S, UNKNOWN, Known
from .records import remote_package
from .settings import JamfSettings
from .translating import mdm_errors

__all__ = ["JamfDriver", "JamfDriverFactory", "factory"]

FILES_FRESH_S = 10.0  #: for a look at one record, a list of cloud files may be so old
PAGE = 2000  #: records in one request, Jamf Pro's most: 5,000 unchanged packages cost three requests


class JamfDriver:
    """One Jamf Pro server."""

    def __init__(self, settings: JamfSettings) -> None:
        self._settings = settings
        self._server = Server(
            settings.url,
            client_id=settings.client_id or None,
            client_secret=settings.client_secret or None,
            username=settings.username or None,
            password=settings.password or None,
            ca_file=Path(settings.ca_file) if settings.ca_file else None,
            allow_hosts=settings.cloud_hosts,
            allow_insecure_cloud=settings.insecure,
        )
        self._known: Known | None = None

    @property
    def requests_made(self) -> int:
        """How many requests were sent."""
        return self._server.requests_made

    async def check(self) -> list[CheckLine]:
        """As `Driver.check`."""
        return await checks.check(self._server)

    async def probe(self) -> None:
        """As `Driver.probe`."""
        self._known = None

    async def _know(self) -> Known:
        if self._known is None or self._known.old:
            with mdm_errors():
                self._known = await Known.find_out(self._server)
        return self._known

    async def capabilities(self) -> Capabilities:
        """As `Driver.capabilities`."""
        known = await self._know()
        notes = list(dict.fromkeys(filter(None, (known.missing, *known.notes))))
        notes += [
            f"Jamf announces the end of {notice.path}: {notice.sunset or notice.deprecation}."
            for notice in self._server.notices
        ]
        return Capabilities(
            list_packages=True,
            open_package=known.cloud_files,
            package_records=True,
            upload_package=known.cdn not in {"NONE", UNKNOWN},
            distribution_points=True,
            webhooks=True,
            notes=tuple(notes),
            missing=known.missing,
            privilege_missing=known.privilege_missing,
        )

    async def own_account(self) -> str:
        """As `Driver.own_account`."""
        return (await self._know()).account

    async def list_packages(self) -> list[RemotePackage]:
        """As `Driver.list_packages`."""
        known = await self._know()
        with mdm_errors():
            await known.read_files(self._server)
            return [
                remote_package(record.data, known.file(_file_name(record)), listed=known.cloud_files)
                async for record in self._server.Packages(page_size=PAGE)
            ]

    async def find_package(self, remote_id: str) -> RemotePackage | None:
        """As `Driver.find_package`."""
        known = await self._know()
        with mdm_errors():
            try:
                record = await self._server.Packages().recordWithId(remote_id)
            except JamfNotFound:
                return None
            except JamfServerError as exc:  # for all that is known it fails at this one record
                raise MdmError(str(exc)) from exc
            if str(record.data.get("id")) != remote_id:
                raise JamfSurprise("The answer is another record than was asked for.")
            await known.read_files(self._server, fresh_s=FILES_FRESH_S)
            return remote_package(record.data, known.file(_file_name(record)), listed=known.cloud_files)

    async def open_package(self, package: RemotePackage, offset: int) -> AsyncIterator[bytes]:
        """As `Driver.open_package`."""
        name = await self._cloud_name(package.file_name)
        with mdm_errors():
            file = self._server.CloudFiles().file(
                name, length=package.size or 0, sha3=package.hashes.get("sha3_512", "")
            )
            async for block in file.stream(offset=offset):
                yield block

    async def _cloud_name(self, file_name: str) -> str:
        """The name of a record's file in the cloud, which may have it in another form."""
        if len(forms(file_name)) == 1:
            return file_name
        known = await self._know()
        with mdm_errors():
            await known.read_files(self._server, fresh_s=FILES_FRESH_S)
        file = known.file(file_name)
        return file.file_name if file is not None else file_name

    async def add_note(self, package: RemotePackage, text: str) -> None:
        """As `Driver.add_note`."""
        with mdm_errors():
            record = await self._server.Packages().recordWithId(package.id)
            await record.add_history_note(text)

    async def ensure_package_record(
        self,
        facts: PackageFacts,
        *,
        remote: RemotePackage | None,
        known_id: str = "",
        sent: Mapping[str, Any],
    ) -> Mirrored:
        """As `Driver.ensure_package_record`."""
        known = await self._know()
        return await known.records.ensure(facts, remote=remote, known_id=known_id, sent=sent)

    async def upload_package(self, facts: PackageFacts, remote_id: str, path: str) -> Mirrored:
        """As `Driver.upload_package`."""
        known = await self._know()
        if known.cdn == UNKNOWN:
            raise MdmUnreachable(known.missing, retry_after=ASK_AGAIN_S)
        if known.cdn == "NONE":
            raise MdmRefused("This Jamf Pro has no cloud distribution point to upload to.")
        with mdm_errors():
            record = await self._server.Packages().recordWithId(remote_id)
            await record.upload(path, name=facts.file_name)
            await self._refresh_inventory(facts.file_name)
        return Mirrored(remote_id=remote_id, changed=True, pending=True)

    async def _refresh_inventory(self, file_name: str) -> None:
        """Ask Jamf Pro to look at its cloud again; it comes round by itself if it does not."""
        try:
            await self._server.CloudInventory().refresh(file_name=file_name)
        except JamfError:
            return

    async def withdraw_package_record(
        self, remote_id: str, *, policy: str, sent: Mapping[str, Any]
    ) -> Mirrored:
        """As `Driver.withdraw_package_record`."""
        today = datetime.datetime.now(datetime.UTC).date().isoformat()
        return await (await self._know()).records.withdraw(remote_id, policy=policy, when=today)

    async def list_distribution_points(self) -> list[Mapping[str, Any]]:
        """As `Driver.list_distribution_points`."""
        return await (await self._know()).points.all()

    async def find_distribution_point(self, remote_id: str) -> Mapping[str, Any] | None:
        """As `Driver.find_distribution_point`."""
        return await (await self._know()).points.find(remote_id)

    async def ensure_distribution_point(
        self, node: NodeFacts, *, remote_id: str, sent: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
    ) -> Mirrored:
        """As `Driver.ensure_distribution_point`."""
        return await (await self._know()).points.ensure(node, remote_id=remote_id, sent=sent, known=known)

    async def remove_distribution_point(self, remote_id: str) -> None:
        """As `Driver.remove_distribution_point`."""
        await (await self._know()).points.remove(remote_id)

    async def segments(self) -> list[Mapping[str, Any]]:
        """As `Driver.segments`."""
        return await (await self._know()).points.segments()

    async def register_webhooks(
        self, url: str, *, events: Sequence[str], secret: str
    ) -> list[Mapping[str, Any]]:
        """As `Driver.register_webhooks`."""
        return await webhooks.register(self._server, url, events=events, secret=secret)

    async def remove_webhooks(self, url: str) -> int:
        """As `Driver.remove_webhooks`."""
        return await webhooks.remove(self._server, url)

    def parse_webhook(self, content_type: str, body: bytes) -> Hook:
        """As `Driver.parse_webhook`."""
        return events.parse(content_type, body)

    async def close(self) -> None:
        """As `Driver.close`."""
        await self._server.close()


def _file_name(record: Any) -> str:
    return str(record.data.get("fileName") or "")


class JamfDriverFactory:
    """Makes drivers for Jamf Pro."""

    Settings: type[BaseModel] = JamfSettings

    def __call__(self, settings: BaseModel) -> JamfDriver:
        """A driver for a server with these settings."""
        assert isinstance(settings, JamfSettings)
        return JamfDriver(settings)


factory = JamfDriverFactory()
