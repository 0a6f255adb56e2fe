"""Accounts, API tokens and sessions."""

from collections.abc import Mapping
from typing import ClassVar

from appliance.api.accounts import token_json, user_json
from appliance.api.models import NoQuery
from appliance.api.sessions import session_json
from appliance.service.accounts import Role
from appliance.service.scopes import AREAS

from .pages import PageHandler


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
        items = [session_json(doc, own) for doc in await self.app.sessions.page(mine)]
        self.page("sessions.html", items=items)
