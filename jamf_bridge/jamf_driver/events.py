"""Understands what Jamf Pro's webhooks say: JSON or XML, leniently, because fields are added without notice.

The payloads have no schema of their own; names follow the public models of `macadmins/jamf-pro-sdk-python`.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any
from xml.parsers import expat

from appliance.domain.mdm_errors import HookInvalid

from ..driver import Hook

#: what Jamf Pro can send
EVENTS = (
    "ComputerAdded", "ComputerCheckIn", "ComputerInventoryCompleted", "ComputerPatchPolicyCompleted",
    "ComputerPolicyFinished", "ComputerPushCapabilityChanged", "DeviceAddedToDEP", "DeviceRateLimited", "JSSShutdown",
    "JSSStartup", "MobileDeviceCheckIn", "MobileDeviceCommandCompleted", "MobileDeviceEnrolled",
    "MobileDeviceInventoryCompleted", "MobileDevicePushSent", "MobileDeviceUnEnrolled", "PatchSoftwareTitleUpdated",
    "PushSent", "RestAPIOperation", "SCEPChallenge", "SmartGroupComputerMembershipChange",
    "SmartGroupMobileDeviceMembershipChange", "SmartGroupUserMembershipChange",
)  # fmt: skip
_BY_WORD = {name.lower(): name for name in EVENTS}
_OPERATIONS = {
    "post": "create", "create": "create", "put": "update", "patch": "update", "update": "update",
    "delete": "delete", "get": "read", "read": "read",
}  # fmt: skip
_MAX_DEPTH = 32


def parse(content_type: str, body: bytes) -> Hook:
    """Understand a delivery.

    Args:
        content_type: As sent; Jamf Pro's own default is text/xml.
        body: The whole body.

    Raises:
        HookInvalid: It is neither JSON nor XML, or names no event.
    """
    text = body.lstrip()
    if not text:
        raise HookInvalid("The webhook has no body.")
    data = _from_xml(body) if "xml" in content_type.lower() or text.startswith(b"<") else _from_json(body)
    webhook, event = _mapping(data.get("webhook")), _mapping(data.get("event"))
    word = str(webhook.get("webhookEvent") or "").strip()
    if not word:
        raise HookInvalid("The webhook names no event (webhook.webhookEvent).")
    name = _BY_WORD.get(word.lower(), word[:100])
    at = _number(webhook.get("eventTimestamp"))
    mark = hashlib.sha256(f"{webhook.get('id')}\0{at}\0".encode() + body).hexdigest()[:32]
    kind = str(event.get("objectTypeName") or "").strip().lower()
    return Hook(
        event=name,
        id=mark,
        at=at,
        subject=str(event.get("objectName") or event.get("name") or "")[:255],
        subject_kind=kind[:100],
        operation=_OPERATIONS.get(str(event.get("restAPIOperationType") or "").strip().lower(), ""),
        actor=str(event.get("authorizedUsername") or "")[:255],
        successful=str(event.get("operationSuccessful", event.get("successful", True))).lower() != "false",
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _number(value: Any) -> int:
    text = str(value or "").strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else 0


def _from_json(body: bytes) -> Mapping[str, Any]:
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise HookInvalid("The webhook's body is neither JSON nor XML.") from exc
    if not isinstance(data, dict):
        raise HookInvalid("The webhook's body is not a JSON object.")
    return data


def _from_xml(body: bytes) -> Mapping[str, Any]:
    """Elements as dictionaries, texts as strings; of elements that come twice the last counts."""
    root: dict[str, Any] = {}
    stack: list[dict[str, Any]] = [root]
    texts: list[list[str]] = [[]]

    def start(name: str, _attributes: dict[str, str]) -> None:
        if len(stack) > _MAX_DEPTH:
            raise HookInvalid("The webhook's XML has too many levels.")
        inner: dict[str, Any] = {}
        stack.append(inner)
        texts.append([])

    def end(name: str) -> None:
        inner, words = stack.pop(), "".join(texts.pop()).strip()
        stack[-1][name] = inner or words

    def text(data: str) -> None:
        texts[-1].append(data)

    def refuse(*_: Any) -> None:
        raise HookInvalid("The webhook's XML has a document type, which no webhook needs.")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except expat.ExpatError as exc:
        raise HookInvalid("The webhook's body is not well-formed XML.") from exc
    return _mapping(next(iter(root.values()), {}))
