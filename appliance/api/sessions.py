"""Sessions of people in a browser: look, and end. They are opened on the sign-in page only."""

from collections.abc import Mapping
from typing import Any, ClassVar

from appliance.service.accounts import Role

from .base import BaseHandler
from .views import iso


class SessionsHandler(BaseHandler):
    """`/api/v1/sessions`."""

    async def get(self) -> None:
        """One's own sessions; administrators see all."""
        assert self.principal is not None
        mine = None if self.principal.role is Role.ADMIN else self.principal.name
        own = self.session.id if self.session else ""
        items = [session_json(doc, own) for doc in await self.app.sessions.page(mine)]
        self.write_json({"items": items, "next": None})


class SessionHandler(BaseHandler):
    """`/api/v1/sessions/{id}`."""

    roles: ClassVar[Mapping[str, Role]] = {"DELETE": Role.VIEWER}

    async def delete(self, id: str) -> None:
        """End a session: one's own, or anybody's as an administrator."""
        assert self.principal is not None
        await self.app.sessions.end(id, self.principal)
        self.set_status(204)
        self.finish()


class UserSessionsHandler(BaseHandler):
    """`/api/v1/users/{name}/sessions`."""

    roles: ClassVar[Mapping[str, Role]] = {"DELETE": Role.VIEWER}

    async def delete(self, name: str) -> None:
        """Sign an account out everywhere: one's own, or anybody's as an administrator."""
        assert self.principal is not None
        if name != self.principal.name:
            self.need(Role.ADMIN)
        await self.app.accounts.user(name)
        self.write_json({"ended": await self.app.sessions.end_all(name, self.principal)})


def session_json(doc: Mapping[str, Any], own: str) -> dict[str, Any]:
    """A session; `own` is the id of the asker's."""
    return {
        "id": doc["_id"],
        "account": doc["account"],
        "created_at": iso(doc["created_at"]),
        "last_used": iso(doc["seen_at"]),
        "address": doc["address"],
        "agent": doc["agent"],
        "current": doc["_id"] == own,
    }
