"""What tests and demonstrations do to the fake: be the admin in the GUI, look into it, make it unpleasant."""

import dataclasses
import json
import time
from typing import Any

import tornado.web

from .points import DEFAULTS as POINT_DEFAULTS
from .sender import Sender
from .state import PACKAGE_DEFAULTS, Content, State


class ControlHandler(tornado.web.RequestHandler):
    """`POST /control/{action}` with a JSON object."""

    async def post(self, action: str) -> None:
        state: State = self.settings["state"]
        arguments = json.loads(self.request.body or b"{}")
        found = await getattr(Control(state, self.settings["sender"]), action)(**arguments)
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(found))


class FileHandler(tornado.web.RequestHandler):
    """`PUT /control/upload/{name}`: an admin uploads these bytes in the GUI."""

    def put(self, name: str) -> None:
        state: State = self.settings["state"]
        id = state.admin_upload(name, Content(data=self.request.body))
        _tell_gui(state, self.settings["sender"], name, id)
        self.finish(json.dumps({"id": str(id), **state.cloud[name].content.digests()}))


def _tell_gui(state: State, sender: Sender, name: str, id: int) -> None:
    if state.faults.hooks_for_gui:
        sender.rest_operation("POST", "Package", name, id, "admin")


class Control:
    """The actions."""

    def __init__(self, state: State, sender: Sender) -> None:
        self._state = state
        self._sender = sender

    async def upload(self, name: str, size: int, seed: int = 0, **changes: Any) -> dict[str, Any]:
        """An admin uploads a file that is made from a seed."""
        id = self._state.admin_upload(name, Content(size=size, seed=seed), **changes)
        _tell_gui(self._state, self._sender, name, id)
        return {"id": str(id), "size": size, **self._state.cloud[name].content.digests()}

    async def add_packages(self, count: int, prefix: str = "Filler", files: bool = False) -> int:
        """Many records, with or without a small file in the cloud."""
        for number in range(count):
            name = f"{prefix}-{number:05d}.pkg"
            if files:
                self._state.admin_upload(name, Content(data=name.encode()), pending_s=0)
            else:
                self._state.packages[self._state.new_id()] = {
                    **PACKAGE_DEFAULTS,
                    "packageName": name,
                    "fileName": name,
                }
        return count

    async def packages(self) -> list[dict[str, Any]]:
        """Every record."""
        return [self._state.shown(id) for id in list(self._state.packages)]

    async def edit_package(self, id: str, **fields: Any) -> None:
        """An admin edits a record by hand."""
        self._state.packages[int(id)].update(fields)

    async def delete_package(self, id: str) -> None:
        """An admin deletes a record."""
        record = self._state.packages.pop(int(id))
        self._state.cloud.pop(record["fileName"], None)

    async def history(self, id: str) -> list[dict[str, Any]]:
        """The notes of a record."""
        return self._state.history.get(int(id), [])

    async def points(self) -> list[dict[str, Any]]:
        """Every distribution point, passwords and all."""
        return [{"id": str(id), **record} for id, record in self._state.points.items()]

    async def add_point(self, **fields: Any) -> str:
        """An admin makes a distribution point."""
        id = self._state.new_id()
        self._state.points[id] = {**POINT_DEFAULTS, **fields}
        return str(id)

    async def edit_point(self, id: str, **fields: Any) -> None:
        """An admin edits one."""
        self._state.points[int(id)].update(fields)

    async def delete_point(self, id: str) -> None:
        """An admin deletes one."""
        del self._state.points[int(id)]

    async def add_segment(self, **fields: Any) -> None:
        """An admin makes a network segment."""
        self._state.segments[self._state.new_id()] = fields

    async def webhooks(self) -> list[dict[str, Any]]:
        """Every webhook with its secrets."""
        return [{"id": id, **hook} for id, hook in self._state.hooks.items()]

    async def add_webhook(self, **fields: Any) -> int:
        """An admin makes a webhook."""
        id = self._state.new_id()
        self._state.hooks[id] = {"content_type": "application/json", "authentication_type": "NONE", **fields}
        return id

    async def faults(self, **changes: Any) -> None:
        """Make it unpleasant, or pleasant again."""
        known = {field.name for field in dataclasses.fields(self._state.faults)}
        for name, value in changes.items():
            if name not in known:
                raise ValueError(name)
            setattr(self._state.faults, name, value)
        if changes.get("stale_lists"):
            self._state.freeze()

    async def freeze(self) -> None:
        """Remember what lists show now."""
        self._state.freeze()

    async def show_frozen(self, lists: int) -> None:
        """The next lists show what was remembered last."""
        self._state.faults.stale_lists = lists

    async def empty_for(self, seconds: float) -> None:
        """For so long no list and no look-up by name finds a package; look-ups by id do."""
        self._state.faults.empty_until = time.monotonic() + seconds

    async def privileges(self, without: list[str]) -> None:
        """Take privileges away; those that are not named come back."""
        from .state import ALL_PRIVILEGES

        self._state.privileges = set(ALL_PRIVILEGES) - set(without)

    async def secret(self, client_secret: str) -> None:
        """Rotate the API client's secret: the old one and all tokens are dead."""
        self._state.client_secret = client_secret
        self._state.tokens.clear()

    async def requests(self, clear: bool = False) -> list[dict[str, Any]]:
        """The journal."""
        found = list(self._state.journal)
        if clear:
            self._state.journal.clear()
        return found

    async def served(self) -> dict[str, int]:
        """Bytes that were sent from the cloud, by file."""
        return self._state.served

    async def deliveries(self, clear: bool = False) -> list[dict[str, Any]]:
        """What became of webhooks."""
        found = list(self._state.deliveries)
        if clear:
            self._state.deliveries.clear()
        return found

    async def fire(
        self, event: str, data: dict[str, Any], count: int = 1, senders: int = 1
    ) -> list[dict[str, Any]]:
        """Send an event to the webhooks that want it; return what became of each delivery."""
        return await self._sender.flood(event, data, count, senders)
