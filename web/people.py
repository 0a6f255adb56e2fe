"""Accounts, API tokens and sessions."""

from collections.abc import Mapping
from typing import ClassVar

from appliance.api.accounts import token_json, user_json
from appliance.api.models import NoQuery
from appliance.api.sessions import session_json
from appliance.service.accounts import Role
from appliance.service.scopes import AREAS

from .pages import PageHandler

#: what a browser calls itself and how its version begins, those that call themselves by others' names first
_BROWSERS = (
    ("Edge", "Edg/"),
    ("Opera", "OPR/"),
    ("Firefox", "Firefox/"),
    ("Chrome", "Chrome/"),
    ("Safari", "Version/"),
)
_SYSTEMS = (
    ("iOS", "iPhone"), ("iPadOS", "iPad"), ("Android", "Android"), ("macOS", "Mac OS X"), ("Windows", "Windows"),
    ("Linux", "Linux"),
)  # fmt: skip


class UsersPage(PageHandler):
    """`/ui/users`."""

    title = "Users"
    section = "/ui/users"
    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN}

    async def get(self) -> None:
        """Every account."""
        self.query_as(NoQuery)
        items = [user_json(doc) for doc in await self.app.accounts.users()]
        self.page("users.html", items=items, roles=[role.word for role in Role])


class TokensPage(PageHandler):
    """`/ui/tokens`."""

    title = "API tokens"
    section = "/ui/tokens"

    async def get(self) -> None:
        """One's own tokens; administrators see all."""
        self.query_as(NoQuery)
        assert self.principal is not None
        mine = None if self.principal.role is Role.ADMIN else self.principal.name
        items = [token_json(doc) for doc in await self.app.accounts.tokens.page(mine)]
        roles = [role.word for role in Role if role <= self.principal.role]
        self.page("tokens.html", items=items, roles=roles, areas=AREAS)


class SessionsPage(PageHandler):
    """`/ui/sessions`."""

    title = "Sessions"
    section = "/ui/sessions"

    async def get(self) -> None:
        """One's own sessions; administrators see all."""
        self.query_as(NoQuery)
        assert self.principal is not None
        mine = None if self.principal.role is Role.ADMIN else self.principal.name
        own = self.session.id if self.session else ""
        items = [
            {**session_json(doc, own), "browser": browser_of(doc["agent"])}
            for doc in await self.app.sessions.page(mine)
        ]
        self.page("sessions.html", items=items)


def browser_of(agent: str) -> str:
    """A browser in a few words, by its User-Agent: "Firefox 140 on macOS". Of others the first word."""
    name = next(((name, mark) for name, mark in _BROWSERS if mark in agent), None)
    system = next((name for name, mark in _SYSTEMS if mark in agent), "")
    if name is None:
        return agent.split(" ", maxsplit=1)[0][:40] or "unknown"
    version = agent.partition(name[1])[2].split(".")[0].split(" ")[0][:6]
    return f"{name[0]} {version}" + (f" on {system}" if system else "")
