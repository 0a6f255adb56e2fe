"""The Classic API: XML in, JSON or XML out. Webhooks, network segments, and distribution points as before 11.16."""

import json
import xml.etree.ElementTree as ET
from typing import Any, ClassVar
from xml.sax.saxutils import escape

from .base import Handler
from .state import State

_EVENTS = {
    "ComputerAdded", "ComputerCheckIn", "ComputerInventoryCompleted", "ComputerPatchPolicyCompleted",
    "ComputerPolicyFinished", "ComputerPushCapabilityChanged", "DeviceAddedToDEP", "DeviceRateLimited", "JSSShutdown",
    "JSSStartup", "MobileDeviceCheckIn", "MobileDeviceCommandCompleted", "MobileDeviceEnrolled",
    "MobileDeviceInventoryCompleted", "MobileDevicePushSent", "MobileDeviceUnEnrolled", "PatchSoftwareTitleUpdated",
    "PushSent", "RestAPIOperation", "SCEPChallenge", "SmartGroupComputerMembershipChange",
    "SmartGroupMobileDeviceMembershipChange", "SmartGroupUserMembershipChange",
}  # fmt: skip
_FORBIDDEN = {"content-type", "user-agent", "accept-encoding", "content-length", "host"}


class Refused(Exception):
    """An answer of the Classic API that refuses."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class ClassicHandler(Handler):
    """Records of one kind."""

    classic = True
    plural: ClassVar[str]
    singular: ClassVar[str]
    created: ClassVar[str] = ""  #: the root of the answer to a POST, if it is another

    def records(self) -> dict[int, dict[str, Any]]:
        """What there is."""
        raise NotImplementedError

    def show(self, id: int) -> dict[str, Any]:
        """A record as GET shows it."""
        return {"id": id, **self.records()[id]}

    def keep(self, id: int, fields: dict[str, str]) -> None:
        """Write it, or raise `Refused`."""
        raise Refused(405, "Method not allowed")

    def get(self, id: str | None = None) -> None:
        if id is None:
            items = [{"id": key, "name": record.get("name", "")} for key, record in self.records().items()]
            self._shown({self.plural: items})
        elif int(id) not in self.records():
            self.fail(404, description="Not found")
        else:
            self._shown({self.singular: self.show(int(id))})

    def _shown(self, data: dict[str, Any]) -> None:
        if "json" in self.request.headers.get("Accept", ""):
            self.set_header("Content-Type", "application/json")
            self.finish(json.dumps(data))
            return
        self.set_header("Content-Type", "text/xml;charset=UTF-8")
        ((root, body),) = data.items()
        inner = (
            "".join(f"<{k}>{escape(str(v))}</{k}>" for k, v in body.items()) if isinstance(body, dict) else ""
        )
        self.finish(f'<?xml version="1.0" encoding="UTF-8"?><{root}>{inner}</{root}>')

    def _fields(self) -> dict[str, str]:
        if "xml" not in self.request.headers.get("Content-Type", ""):
            raise Refused(415, "Unsupported media type")
        try:
            root = ET.fromstring(self.request.body)
        except ET.ParseError:
            raise Refused(400, "The XML is not well-formed") from None
        if root.tag != self.singular:
            raise Refused(400, f"Unable to process: expected {self.singular}")
        return {element.tag: element.text or "" for element in root}

    def post(self, id: str) -> None:
        self._write(self.state.new_id(), "POST")

    def put(self, id: str) -> None:
        if int(id) not in self.records():
            self.fail(404, description="Not found")
            return
        self._write(int(id), "PUT")

    def _write(self, id: int, operation: str) -> None:
        try:
            self.keep(id, self._fields())
        except Refused as exc:
            self.fail(exc.status, description=str(exc))
            return
        root = self.created or self.singular
        self.set_status(201)
        self.set_header("Content-Type", "text/xml;charset=UTF-8")
        self.finish(f'<?xml version="1.0" encoding="UTF-8"?><{root}><id>{id}</id></{root}>')
        self.told(operation, self.singular.replace("_", " ").title(), self.records()[id].get("name", ""), id)

    def delete(self, id: str) -> None:
        if self.records().pop(int(id), None) is None:
            self.fail(404, description="Not found")
            return
        self.finish(f"<{self.singular}><id>{id}</id></{self.singular}>")


class WebhooksHandler(ClassicHandler):
    """`/JSSResource/webhooks`."""

    plural, singular = "webhooks", "webhook"
    privileges: ClassVar[dict[str, str]] = {
        "GET": "Read Webhooks", "POST": "Create Webhooks", "PUT": "Update Webhooks", "DELETE": "Delete Webhooks",
    }  # fmt: skip

    def records(self) -> dict[int, dict[str, Any]]:
        return self.state.hooks

    def show(self, id: int) -> dict[str, Any]:
        record = {"id": id, **self.state.hooks[id]}
        record["enabled"] = str(record.get("enabled", "true")) == "true"
        if record.get("password"):
            record["password"] = "********"
        return record

    def keep(self, id: int, fields: dict[str, str]) -> None:
        record = {"enabled": "true", "authentication_type": "NONE", **self.state.hooks.get(id, {}), **fields}
        for name in ("name", "event", "url"):
            if not record.get(name):
                raise Refused(409, f"{name} is required")
        if record["event"] not in _EVENTS:
            raise Refused(409, "Event is not valid")
        if any(other["name"] == record["name"] for key, other in self.state.hooks.items() if key != id):
            raise Refused(409, "Duplicate name")
        if record.get("content_type") not in {"text/xml", "application/json"}:
            record["content_type"] = "text/xml"
        kind = record["authentication_type"].upper()
        faults = self.state.faults
        if kind == "HEADER":
            try:
                header = json.loads(record.get("header", ""))
            except ValueError:
                raise Refused(409, "INVALID_REQUIRED header") from None
            if not isinstance(header, dict) or any(name.lower() in _FORBIDDEN for name in header):
                raise Refused(409, "INVALID_REQUIRED header")
            if not faults.header_auth:  # accepted, and dropped without a word
                kind = "NONE"
                record.pop("header", None)
        elif kind == "BASIC":
            if not record.get("username"):
                raise Refused(409, "Username is required")
            if not faults.basic_auth:
                raise Refused(409, "Authentication type is not valid")
        record["authentication_type"] = kind
        self.state.hooks[id] = record


class SegmentsHandler(ClassicHandler):
    """`/JSSResource/networksegments`."""

    plural, singular = "network_segments", "network_segment"
    privileges: ClassVar[dict[str, str]] = {"GET": "Read Network Segments"}

    def records(self) -> dict[int, dict[str, Any]]:
        return self.state.segments


class ClassicPointsHandler(ClassicHandler):
    """`/JSSResource/distributionpoints`; broken once records were edited on newer servers."""

    plural, singular = "distribution_points", "distribution_point"
    created = "file_share_distribution_point"
    privileges: ClassVar[dict[str, str]] = {
        "GET": "Read Distribution Points", "POST": "Create Distribution Points", "PUT": "Update Distribution Points",
        "DELETE": "Delete Distribution Points",
    }  # fmt: skip

    async def prepare(self) -> None:
        await super().prepare()
        if not self._finished and self.state.version >= (11, 16) and self.state.points:
            self.fail(500, description="System error")

    def records(self) -> dict[int, dict[str, Any]]:
        return self.state.points

    def show(self, id: int) -> dict[str, Any]:
        record = {"id": id, **self.state.points[id]}
        for name in ("http_password", "read_only_password", "read_write_password"):
            if record.pop(name, ""):
                record[f"{name}_sha256"] = "********************"
        return {name: {"true": True, "false": False}.get(value, value) for name, value in record.items()}

    def keep(self, id: int, fields: dict[str, str]) -> None:
        record = {**self.state.points.get(id, {}), **fields}
        for name in ("name", "share_name", "read_only_username", "read_write_username"):
            if not record.get(name):
                raise Refused(409, f"{name} is required")
        if any(other["name"] == record["name"] for key, other in self.state.points.items() if key != id):
            raise Refused(409, "Duplicate name")
        self.state.points[id] = record


def routes(_state: State) -> list[Any]:
    """The Classic API."""
    found: list[Any] = []
    for plural, handler in (
        ("webhooks", WebhooksHandler),
        ("networksegments", SegmentsHandler),
        ("distributionpoints", ClassicPointsHandler),
    ):
        found += [(rf"/JSSResource/{plural}", handler), (rf"/JSSResource/{plural}/id/(\d+)", handler)]
    return found
