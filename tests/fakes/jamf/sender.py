"""Sends webhooks as Jamf Pro does: once, with short time-outs, in no certain order."""

import asyncio
import base64
import json
import time
from typing import Any

import httpx

from .state import State

_OPERATIONS = {"POST": "POST", "PUT": "PUT", "DELETE": "DELETE"}


class Sender:
    """Sends webhooks in the background."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._tasks: set[asyncio.Task[Any]] = set()
        self._client: httpx.AsyncClient | None = None
        self._number = 0

    def rest_operation(self, operation: str, kind: str, name: str, id: int, account: str) -> None:
        """Tell of an operation, later."""
        event = {
            "operationSuccessful": True, "restAPIOperationType": _OPERATIONS[operation], "objectTypeName": kind,
            "objectName": name, "authorizedUsername": account, "objectID": id,
        }  # fmt: skip
        self.send_soon("RestAPIOperation", event)

    def send_soon(self, name: str, event: dict[str, Any]) -> None:
        """Send an event to every webhook that wants it."""
        if not self._state.faults.hooks:
            return
        for id, hook in list(self._state.hooks.items()):
            if hook["event"] == name and str(hook.get("enabled", "true")) == "true":
                task = asyncio.get_running_loop().create_task(self.deliver(id, hook, name, event))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def deliver(
        self, id: int, hook: dict[str, Any], name: str, event: dict[str, Any]
    ) -> dict[str, Any]:
        """Send one delivery; return and keep what became of it."""
        self._number += 1
        head = {"id": id, "name": hook["name"], "webhookEvent": name,
                "eventTimestamp": time.time_ns() // 1_000_000 + self._number % 1000}  # fmt: skip
        headers = {"Content-Type": hook["content_type"], "User-Agent": "Jamf Pro"}
        auth: tuple[str, str] | None = None
        if hook["authentication_type"] == "HEADER":
            headers |= json.loads(hook["header"])
        elif hook["authentication_type"] == "BASIC":
            token = base64.b64encode(f"{hook['username']}:{hook.get('password', '')}".encode()).decode()
            headers["Authorization"] = f"Basic {token}"
        body = (
            json.dumps({"webhook": head, "event": event})
            if "json" in hook["content_type"]
            else _xml(head, event)
        )
        began = time.monotonic()
        result: dict[str, Any] = {"event": name, "url": hook["url"], "at": time.time()}
        try:
            if self._client is None:
                limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
                self._client = httpx.AsyncClient(
                    timeout=httpx.Timeout(2.0, connect=5.0), limits=limits, trust_env=False
                )
            answer = await self._client.post(hook["url"], content=body.encode(), headers=headers, auth=auth)
            result["status"] = answer.status_code
        except httpx.HTTPError as exc:
            result["error"] = type(exc).__name__
        result["seconds"] = time.monotonic() - began
        self._state.deliveries.append(result)
        return result

    async def flood(self, name: str, event: dict[str, Any], count: int, senders: int) -> list[dict[str, Any]]:
        """Send an event so many times, by so many senders at once, each time a little different."""
        hooks = [(id, hook) for id, hook in self._state.hooks.items() if hook["event"] == name]
        results: list[dict[str, Any]] = []

        async def one(first: int) -> None:
            for number in range(first, count, senders):
                for id, hook in hooks:
                    results.append(await self.deliver(id, hook, name, {**event, "objectID": number}))

        await asyncio.gather(*(one(first) for first in range(senders)))
        return results


def _xml(head: dict[str, Any], event: dict[str, Any]) -> str:
    from xml.sax.saxutils import escape

    def elements(fields: dict[str, Any]) -> str:
        return "".join(
            f"<{k}>{escape(str(v).lower() if isinstance(v, bool) else str(v))}</{k}>"
            for k, v in fields.items()
        )

    return f"<JSSEvent><webhook>{elements(head)}</webhook><event>{elements(event)}</event></JSSEvent>"
