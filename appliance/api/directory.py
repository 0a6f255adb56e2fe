"""The directory: what is set, how its servers do, and a test that shows each step."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from appliance.domain.errors import Conflict
from appliance.service.accounts import Role
from config.directory import parse_grant

from .app import App
from .base import BaseHandler
from .models import DirectoryTest
from .views import iso

_SHOWN = (
    "ca_file", "bind_dn", "base_dn", "user_filter", "name_attribute", "group_base_dn", "group_filter",
    "group_depth", "connect_timeout_s", "receive_timeout_s", "recheck_s",
)  # fmt: skip


def directory_json(app: App) -> dict[str, Any]:
    """The settings of the directory, without secrets, and how each server did when it was last asked."""
    options = app.settings.directory
    health = app.directory.health() if app.directory else []
    grants = [(group, *parse_grant(grant)) for group, grant in options.groups.items()]
    return {
        **{name: getattr(options, name) for name in _SHOWN},
        "configured": app.directory is not None,
        "groups": [{"group": group, "role": role, "stages": list(stages)} for group, role, stages in grants],
        "servers": [
            {"url": one.url, "healthy": one.healthy, "error": one.error, "asked_at": iso(one.at)}
            for one in health
        ],
    }


class DirectoryHandler(BaseHandler):
    """`/api/v1/directory`."""

    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN}

    async def get(self) -> None:
        """The settings without secrets, and how each server did when it was last asked."""
        self.write_json(directory_json(self.app))


class DirectoryTestHandler(BaseHandler):
    """`/api/v1/directory/test`."""

    roles: ClassVar[Mapping[str, Role]] = {"POST": Role.ADMIN}

    async def post(self) -> None:
        """Try every server, and if a name is given what it finds of that person."""
        body = self.body_as(DirectoryTest)
        if self.app.directory is None:
            raise Conflict("No directory is set: name its servers in directory.servers.")
        steps = await self.app.directory.test(body.username, body.password)
        self.write_json({"ok": all(step.ok for step in steps), "steps": [asdict(step) for step in steps]})
