"""API tokens: for scripts, instead of a password. A token does at most what its account may."""

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence

from appliance.domain.errors import (
    AccountUnknown,
    Conflict,
    InvalidInput,
    NotAuthenticated,
    PermissionDenied,
    StaleRevision,
    TokenUnknown,
)
from appliance.domain.event import EventType
from appliance.domain.node import check_stage, check_within
from appliance.store.ports import Doc, Insert, Remove, Store

from .journal import entry
from .principal import Principal, Role, limited
from .refusals import Refusals
from .scopes import checked_scopes
from .throttle import Throttle

MAX_TOKENS = 500  #: of one account; they go with it in one store operation
TOKEN_LIFE_S = 90 * 24 * 3600
TOKEN_MAX_LIFE_S = 366 * 24 * 3600
_TOKEN = re.compile(r"ods_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")
_USED_EVERY_MS = 60_000
_SHOWN_EXPIRED_MS = 30 * 24 * 3600 * 1000


class Tokens:
    """The tokens of all accounts.

    Args:
        store: Where they are kept.
        now: UTC milliseconds.
        stages: All stages there are.
        throttle: Slows down who tries tokens.
        refusals: Tells of wrong ones.
        changing: Held while accounts or tokens are changed.
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], int],
        *,
        stages: Sequence[str],
        throttle: Throttle,
        refusals: Refusals,
        changing: asyncio.Lock,
    ) -> None:
        self._store = store
        self._now = now
        self._stages = stages
        self._throttle = throttle
        self._refusals = refusals
        self._changing = changing

    async def check(self, token: str, *, address: str) -> Principal:
        """Who comes with a token.

        Raises:
            NotAuthenticated: It is unknown, expired or revoked.
            TooManyAttempts: Too many wrong ones came from this address.
        """
        source = ("token", address)
        match = _TOKEN.fullmatch(token)
        doc = await self._store.get("tokens", match[1]) if match else None
        digest = hashlib.sha256(token.encode()).hexdigest()
        if doc is None or not hmac.compare_digest(doc["digest"], digest) or doc["expires_at"] <= self._now():
            # Only wrong tokens wait: a forgotten script must not lock out the others behind its address.
            self._throttle.check(source)
            self._throttle.failed(source)
            await self._refusals.tell("a token", address)
            raise NotAuthenticated("The token is unknown, expired or revoked.")
        account = await self._store.get("accounts", doc["account"])
        if account is None:
            raise NotAuthenticated("The token's account was removed.")
        if account.get("blocked"):
            raise NotAuthenticated("The token's account has no role in the directory any more.")
        if self._now() - doc["used_at"] > _USED_EVERY_MS:
            used = {**doc, "used_at": self._now(), "used_from": address}
            with contextlib.suppress(StaleRevision):  # used by another request, or revoked: it stays revoked
                await self._store.replace("tokens", used, expect=doc["_rev"])
        role = min(Role[doc["role"].upper()], Role[account["role"].upper()])
        role, stages = limited(role, account.get("stages", ()), doc.get("stages", ()))
        return Principal(
            name=doc["account"],
            role=role,
            via=f"token {doc['_id']}",
            stages=stages,
            scopes=tuple(doc.get("scopes", ())),
        )

    async def page(self, account: str | None = None) -> list[Doc]:
        """Tokens of one account or all, without their digests."""
        docs = await self._store.find("tokens", {"account": account} if account else None, limit=10_000)
        return [{key: value for key, value in doc.items() if key != "digest"} for doc in docs]

    async def create(
        self,
        principal: Principal,
        *,
        name: str,
        role: Role | None = None,
        stages: Sequence[str] = (),
        scopes: Sequence[str] = (),
        expires_s: int = TOKEN_LIFE_S,
    ) -> tuple[str, Doc]:
        """Make a token for the account that asks; an operator's may be limited to stages, at most to the asker's.

        Args:
            principal: Who asks.
            name: What it is for.
            role: At most the asker's; without it the asker's.
            stages: What an operator's is limited to.
            scopes: What it is good for, see `scopes`; none: all that the asker's is good for.
            expires_s: Its life.

        Returns:
            The token, which is shown only now, and what is known of it.

        Raises:
            PermissionDenied: The role is above the asker's, or a stage or scope is none of theirs.
            InvalidInput: Name, life, stages or scopes break a rule.
            Conflict: The account has too many.
            AccountUnknown: The account was removed meanwhile.
        """
        role = role or principal.role
        if role > principal.role:
            raise PermissionDenied(f"A token's role is at most your own, {principal.role.word}.")
        for stage in checked_stages(self._stages, role, stages):
            check_within(stage, principal.stages)
        good_for = checked_scopes(scopes, principal.scopes)
        if not 60 <= expires_s <= TOKEN_MAX_LIFE_S:
            raise InvalidInput(f"A token lives 60 to {TOKEN_MAX_LIFE_S} seconds.")
        if not 0 < len(name) <= 100 or not name.isprintable():
            raise InvalidInput(
                "A token has a name of 1 to 100 printable characters that says what it is for."
            )
        id = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(8))
        token = f"ods_{id}_{secrets.token_urlsafe(32)}"
        doc = {
            "_id": id,
            "name": name,
            "account": principal.name,
            "role": role.word,
            "stages": list(stages or (principal.stages if role is Role.OPERATOR else ())),
            "scopes": good_for,
            "digest": hashlib.sha256(token.encode()).hexdigest(),
            "created_at": self._now(),
            "expires_at": self._now() + expires_s * 1000,
            "used_at": 0,
            "used_from": "",
        }
        event = entry(
            EventType.TOKEN_CREATED,
            at=self._now(),
            actor=principal.name,
            subject=id,
            name=name,
            role=role.word,
            **({"scopes": good_for} if good_for else {}),
        )
        async with self._changing:  # a token that outlived its account would serve the next one of that name
            if await self._store.get("accounts", principal.name) is None:
                raise AccountUnknown(f'There is no account "{principal.name}".')
            old = {"account": principal.name, "expires_at": {"lt": self._now() - _SHOWN_EXPIRED_MS}}
            await self._store.delete("tokens", old)
            if await self._store.count("tokens", {"account": principal.name}) >= MAX_TOKENS:
                raise Conflict(f"The account has {MAX_TOKENS} tokens; revoke some first.")
            await self._store.batch([Insert("tokens", doc), event])
        return token, {key: value for key, value in doc.items() if key != "digest"}

    async def revoke(self, id: str, principal: Principal) -> None:
        """Delete a token: one's own, or anybody's as an administrator.

        Raises:
            TokenUnknown: There is none that the asker may revoke.
        """
        doc = await self._store.get("tokens", id)
        if doc is None or (doc["account"] != principal.name and principal.role < Role.ADMIN):
            raise TokenUnknown(f"There is no token {id}.")
        event = entry(
            EventType.TOKEN_REVOKED, at=self._now(), actor=principal.name, subject=id, name=doc["name"]
        )
        await self._store.batch([Remove("tokens", id), event])


def checked_stages(known: Sequence[str], role: Role, stages: Sequence[str]) -> list[str]:
    """The stages that somebody of a role is limited to, each once.

    Raises:
        InvalidInput: The role cannot be limited, or there is no such stage.
    """
    if stages and role is not Role.OPERATOR:
        raise InvalidInput(f"Only an operator can be limited to stages; this is about the role {role.word}.")
    return [check_stage(stage, known) for stage in dict.fromkeys(stages)]
