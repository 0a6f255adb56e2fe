"""Accounts and API tokens."""

from collections.abc import Mapping
from typing import Any, ClassVar

from appliance.domain.errors import PasswordChangeRequired
from appliance.service.accounts import Role, parse_role

from .base import BaseHandler
from .models import TokenInput, UserChange, UserInput
from .views import iso


def user_json(doc: Mapping[str, Any]) -> dict[str, Any]:
    """An account, without its password."""
    return {
        "name": doc["_id"],
        "role": doc["role"],
        "stages": doc.get("stages", []),
        "source": doc.get("source", "local"),
        "blocked": doc.get("blocked", False),
        "must_change": doc["must_change"],
        "created_at": iso(doc["created_at"]),
        "changed_at": iso(doc["changed_at"]),
        "revision": doc["_rev"],
    }


def token_json(doc: Mapping[str, Any]) -> dict[str, Any]:
    """A token, without the token."""
    return {
        "id": doc["_id"],
        "name": doc["name"],
        "account": doc["account"],
        "role": doc["role"],
        "stages": doc.get("stages", []),
        "scopes": doc.get("scopes", []),
        "created_at": iso(doc["created_at"]),
        "expires_at": iso(doc["expires_at"]),
        "last_used": iso(doc["used_at"]),
        "last_used_from": doc["used_from"],
    }


class UsersHandler(BaseHandler):
    """`/api/v1/users`."""

    roles: ClassVar[Mapping[str, Role]] = {"GET": Role.ADMIN, "POST": Role.ADMIN}

    async def get(self) -> None:
        """Every account."""
        self.write_json({"items": [user_json(doc) for doc in await self.app.accounts.users()], "next": None})

    async def post(self) -> None:
        """Make an account."""
        body = self.body_as(UserInput)
        doc = await self.app.accounts.create_user(
            body.name, body.password, parse_role(body.role), stages=body.stages, actor=self.actor
        )
        self.write_json(user_json(doc), 201)


class UserHandler(BaseHandler):
    """`/api/v1/users/{name}`."""

    roles: ClassVar[Mapping[str, Role]] = {
        "GET": Role.ADMIN,
        "PATCH": Role.VIEWER,
        "DELETE": Role.ADMIN,
    }
    conditional = frozenset({"PATCH", "DELETE"})
    for_new_password = True

    async def get(self, name: str) -> None:
        """One account."""
        self._only_new_password(own=False)
        doc = await self.app.accounts.user(name)
        self.version = str(doc["_rev"])
        self.write_json(user_json(doc))

    async def patch(self, name: str) -> None:
        """Change one's own password, or as an administrator anybody's password, role and stages.

        A token below administrator changes no password: its role may be less than its account's.
        """
        body = self.body_as(UserChange)
        assert self.principal is not None
        only_password = body.role is None and body.stages is None
        self._only_new_password(own=name == self.principal.name and only_password)
        if name != self.principal.name or not only_password or self.principal.via.startswith("token "):
            self.need(Role.ADMIN)
        old = await self.app.accounts.user(name)
        doc = await self.app.accounts.change_user(
            name,
            password=body.password,
            role=parse_role(body.role) if body.role else None,
            stages=body.stages,
            expect=self.expected(name, old["_rev"], body.revision, changed_at=old["changed_at"]),
            actor=self.actor,
        )
        self.write_json(user_json(doc))

    async def delete(self, name: str) -> None:
        """Delete an account and its tokens."""
        self._only_new_password(own=False)
        old = await self.app.accounts.user(name)
        expected = self.expected(name, old["_rev"], changed_at=old["changed_at"])
        await self.app.accounts.remove_user(name, expect=expected, actor=self.actor)
        self.set_status(204)
        self.finish()

    def _only_new_password(self, *, own: bool) -> None:
        if self.session is not None and self.session.must_change and not own:
            raise PasswordChangeRequired()


class TokensHandler(BaseHandler):
    """`/api/v1/tokens`."""

    roles: ClassVar[Mapping[str, Role]] = {"POST": Role.VIEWER}

    async def get(self) -> None:
        """One's own tokens; administrators see all."""
        assert self.principal is not None
        mine = None if self.principal.role is Role.ADMIN else self.principal.name
        docs = await self.app.accounts.tokens.page(mine)
        self.write_json({"items": [token_json(doc) for doc in docs], "next": None})

    async def post(self) -> None:
        """Make a token; it is shown only now."""
        body = self.body_as(TokenInput)
        assert self.principal is not None
        token, doc = await self.app.accounts.tokens.create(
            self.principal,
            name=body.name,
            role=parse_role(body.role) if body.role else None,
            stages=body.stages,
            scopes=body.scopes,
            expires_s=body.expires_in,
        )
        self.write_json({"token": token, **token_json(doc)}, 201)


class TokenHandler(BaseHandler):
    """`/api/v1/tokens/{id}`."""

    roles: ClassVar[Mapping[str, Role]] = {"DELETE": Role.VIEWER}

    async def delete(self, id: str) -> None:
        """Revoke a token: one's own, or anybody's as an administrator."""
        assert self.principal is not None
        await self.app.accounts.tokens.revoke(id, self.principal)
        self.set_status(204)
        self.finish()
