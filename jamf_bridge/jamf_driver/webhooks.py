"""Our webhooks in Jamf Pro: created, mended, read back, and removed; known by their URL.

Authentication by a header could be set through the API in some versions and was dropped in others (tf#421), so what
was written is read back: first a header, then HTTP Basic, then a secret as the last part of the URL.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..jamf import JamfConflict, JamfInvalid, Server
from .translating import mdm_errors

HEADER = "X-ODS-Hook-Token"
USER = "ods"
_PREFIX = "ODS"
_CONNECT_S, _READ_S = 5, 5


async def register(
    server: Server, url: str, *, events: Sequence[str], secret: str
) -> list[Mapping[str, Any]]:
    """As `Driver.register_webhooks`."""
    with mdm_errors():
        ours = await _ours(server, url)
        return [await _ensure(server, ours.get(event), event, url, secret) for event in events]


async def remove(server: Server, url: str) -> int:
    """As `Driver.remove_webhooks`."""
    with mdm_errors():
        ours = await _ours(server, url)
        for record in ours.values():
            await record.delete()
        return len(ours)


async def _ours(server: Server, url: str) -> dict[str, Any]:
    """Our webhooks by event: those that call this URL, or one below it."""
    found: dict[str, Any] = {}
    async for record in server.WebHooks():
        await record.refresh()
        target = str(record.data.get("url", ""))
        if target == url or target.startswith(url + "/"):
            found[str(record.data.get("event", ""))] = record
    return found


def _ways(url: str, secret: str) -> list[tuple[str, dict[str, Any]]]:
    """The ways in which a delivery can be proven, the best first."""
    common = {"url": url, "content_type": "application/json", "enabled": True}
    common |= {"connection_timeout": _CONNECT_S, "read_timeout": _READ_S}
    return [
        ("header", {**common, "authentication_type": "HEADER", "header": json.dumps({HEADER: secret})}),
        ("basic", {**common, "authentication_type": "BASIC", "username": USER, "password": secret}),
        ("path", {**common, "url": f"{url}/{secret}", "authentication_type": "NONE"}),
    ]


async def _ensure(server: Server, record: Any, event: str, url: str, secret: str) -> Mapping[str, Any]:
    reasons = []
    for way, fields in _ways(url, secret):
        try:
            if record is None:
                record = await server.WebHooks().create(
                    {"name": f"{_PREFIX} {event}", "event": event, **fields}
                )
            else:
                for name, value in fields.items():
                    record.set_path(name, value)
                await record.save()
            await record.refresh()
        except (JamfConflict, JamfInvalid) as exc:
            reasons.append(f"{way}: {exc}")
            continue
        if _holds(way, record.data, fields):
            return {
                "id": record.id,
                "event": event,
                "authentication": way,
                "ok": True,
                "detail": "; ".join(reasons),
            }
        reasons.append(f"{way}: Jamf Pro did not keep it")
    id = record.id if record is not None else ""
    return {"id": id, "event": event, "authentication": "", "ok": False, "detail": "; ".join(reasons)}


def _holds(way: str, data: Mapping[str, Any], fields: Mapping[str, Any]) -> bool:
    """Whether Jamf Pro kept what was written; it never shows passwords."""
    if str(data.get("authentication_type", "NONE")).upper() != fields["authentication_type"]:
        return False
    if way == "header":
        return HEADER in str(data.get("header", ""))
    return data.get("username") == USER if way == "basic" else str(data.get("url")) == fields["url"]
