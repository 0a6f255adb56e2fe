"""Distribution point records: every node of the network is one, and only the fields that are ours are written.

From Jamf Pro 11.16 on by `/api/v1/distribution-points`; before it by the Classic API, which misbehaves on newer
servers once a record was edited there (PI135207, jamf/JamfSync#69).
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from appliance.domain.mdm_errors import MdmRefused

from ..driver import Mirrored, NodeFacts
from ..jamf import JamfNotFound, Server
from .translating import mdm_errors

PRO_SINCE = (11, 16)
CLOUD = "-2"  #: Jamf Pro's word for the cloud distribution point as failover
NO_FAILOVER = "-1"
_CLOUD_CLASSIC = "Cloud Distribution Point"
_UNUSED = "unused"  #: the Classic API demands a share and its accounts, which nobody uses here


def _place(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a node's URL."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise MdmRefused(f"{url} is no URL that devices can use; set one for the node (points.urls).")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _context(node: NodeFacts) -> str:
    """The path that Jamf Pro puts before /Packages/, without slashes around it."""
    return "/".join(part for part in (urlsplit(node.url).path.strip("/"), node.context.strip("/")) if part)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest() if secret else ""


class DistributionPoints:
    """The distribution point records of one server."""

    def __init__(self, server: Server, version: tuple[int, ...], *, cloud: bool | None) -> None:
        """Make it; `cloud` says whether there is a cloud distribution point, None if that could not be read."""
        self._server = server
        self._pro = version >= PRO_SINCE
        self._cloud = cloud

    def _collection(self) -> Any:
        return self._server.DistributionPoints() if self._pro else self._server.ClassicDistributionPoints()

    async def all(self) -> list[Mapping[str, Any]]:
        """Every record: "id", "name", and the fields as Jamf Pro calls them."""
        with mdm_errors():
            return [
                {**record.data, "id": record.id, "name": record.name} async for record in self._collection()
            ]

    async def find(self, remote_id: str) -> Mapping[str, Any] | None:
        """One record, None if there is none of this id."""
        with mdm_errors():
            try:
                record = await self._collection().recordWithId(remote_id)
            except JamfNotFound:
                return None
            return {**record.data, "id": record.id, "name": record.name}

    def _fields(self, node: NodeFacts) -> dict[str, Any]:
        """The fields that are ours; the failover is left as it is where nobody knows whether there is a cloud."""
        found = self._all_fields(node)
        if self._cloud is None and node.failover:
            found.pop("backupDistributionPointId" if self._pro else "failover_point")
        return found

    def _all_fields(self, node: NodeFacts) -> dict[str, Any]:
        scheme, host, port = _place(node.url)
        failover = node.failover and self._cloud
        if self._pro:
            return {
                "name": node.record_name or node.name,
                "serverName": host,
                "httpsEnabled": True,
                "httpsPort": port,
                "httpsContext": _context(node),
                "httpsSecurityType": "USERNAME_PASSWORD" if node.username else "NONE",
                "httpsUsername": node.username,
                "backupDistributionPointId": CLOUD if failover else NO_FAILOVER,
            }
        return {
            "name": node.record_name or node.name,
            "ip_address": host,
            "http_downloads_enabled": True,
            "protocol": scheme,
            "port": port,
            "context": _context(node),
            "no_authentication_required": not node.username,
            "username_password_required": bool(node.username),
            "http_username": node.username,
            "failover_point": _CLOUD_CLASSIC if failover else "",
        }

    def _at_creation(self) -> dict[str, Any]:
        """What a new record needs beside the fields that are kept."""
        if self._pro:
            return {"fileSharingConnectionType": "NONE", "principal": False}
        return {
            "is_master": False,
            "connection_type": "SMB",
            "share_name": _UNUSED,
            "read_only_username": _UNUSED,
            "read_write_username": _UNUSED,
        }

    def _password(self, node: NodeFacts) -> dict[str, str]:
        name = "httpsPassword" if self._pro else "http_password"
        return {name: node.password} if node.password else {}

    async def ensure(
        self, node: NodeFacts, *, remote_id: str, sent: Mapping[str, Any], known: Sequence[Mapping[str, Any]]
    ) -> Mirrored:
        """As `Driver.ensure_distribution_point`."""
        wanted = self._fields(node)
        ours = {**sent, **wanted, "password": _digest(node.password)}
        there = next((point for point in known if str(point["id"]) == remote_id), None)
        with mdm_errors():
            if there is None:
                if await self._collection().recordsWithName(wanted["name"]):
                    raise MdmRefused(
                        f'Jamf Pro did not list a distribution point called "{wanted["name"]}", and has one. ODS '
                        "looks again."
                    )
                record = await self._collection().create(
                    {**self._at_creation(), **wanted, **self._password(node)}
                )
                return Mirrored(remote_id=record.id, created=True, changed=True, sent=ours)
            # What the admin changed by hand stays, until what we want is another thing than last time.
            changed = {
                name: value
                for name, value in wanted.items()
                if sent.get(name, object()) != value and there.get(name) != value
            }
            if ours["password"] != sent.get("password", ""):
                changed |= self._password(node)
            if changed:
                try:
                    record = await self._collection().recordWithId(remote_id)
                except JamfNotFound:
                    raise MdmRefused(
                        "The distribution point was removed a moment ago; the next run sees it."
                    ) from None
                for name, value in changed.items():
                    record.set_path(name, value)
                await record.save()
            return Mirrored(remote_id=remote_id, changed=bool(changed), sent=ours)

    async def remove(self, remote_id: str) -> None:
        """As `Driver.remove_distribution_point`."""
        with mdm_errors():
            try:
                await (await self._collection().recordWithId(remote_id)).delete()
            except JamfNotFound:
                return

    async def segments(self) -> list[Mapping[str, Any]]:
        """As `Driver.segments`."""
        with mdm_errors():
            return [
                {
                    "name": record.data.get("name", record.name),
                    "start": record.data.get("starting_address", ""),
                    "end": record.data.get("ending_address", ""),
                    "distribution_point": record.data.get("distribution_point", ""),
                }
                async for record in self._server.NetworkSegments()
            ]
