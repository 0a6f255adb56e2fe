"""Accounts, API tokens, and who is asking.

Accounts of this node come first, so that its administrator gets in whatever the directory does; a name that is none of
them is asked of the directory, if there is one. The account is read on every request: whoever changes, blocks or
removes it, in whichever process, ends what was remembered of it at once.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Awaitable, Callable, Sequence

from argon2 import PasswordHasher

from appliance.domain.errors import (
    AccountExists,
    AccountUnknown,
    Conflict,
    DuplicateKey,
    InvalidInput,
    NotAuthenticated,
    PermissionDenied,
    StaleRevision,
    TokenUnknown,
)
from appliance.domain.event import EventType
from appliance.domain.node import DEFAULT_STAGES, check_stage, check_within
from appliance.store.ports import Doc, Insert, Remove, Replace, Store
from config.settings import MAX_PASSWORD, MIN_PASSWORD

from .directory import Directory
from .journal import entry
from .newcomers import Newcomers, of_directory
from .passwords import Passwords
from .principal import Principal, Role, is_account_name, limited, parse_role
from .refusals import Refusals
from .signing_in import SignIn
from .throttle import Throttle

__all__ = ["FIRST", "Accounts", "Principal", "Role", "parse_role"]

FIRST = "admin"
MAX_TOKENS = 500  #: of one account; they go with it in one store operation
TOKEN_LIFE_S = 90 * 24 * 3600
TOKEN_MAX_LIFE_S = 366 * 24 * 3600
_TOKEN = re.compile(r"ods_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")
_USED_EVERY_MS = 60_000
_SHOWN_EXPIRED_MS = 30 * 24 * 3600 * 1000


class Accounts:
    """Accounts and their tokens.

    Args:
        store: Where they are kept.
        now: UTC milliseconds.
        hasher: For tests; others take the default.
        stages: All stages there are.
        directory: Who else may come in, None for nobody.
        pause: Waits so many seconds.
    """

    def __init__(
        self,
        store: Store,
        now: Callable[[], int],
        *,
        hasher: PasswordHasher | None = None,
        stages: Sequence[str] = DEFAULT_STAGES,
        directory: Directory | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._now = now
        self._stages = stages
        self._changing = asyncio.Lock()
        self._passwords = Passwords(now, hasher)
        self._throttle = Throttle(now)
        self._refusals = Refusals(store, now)
        self.newcomers = Newcomers(store, directory, now)
        self._sign_in = SignIn(
            store=store,
            passwords=self._passwords,
            throttle=self._throttle,
            refusals=self._refusals,
            newcomers=self.newcomers,
            pause=pause,
        )

    async def ensure_first(self, password: str) -> str | None:
        """Make the account "admin" if there is no account at all.

        Args:
            password: Its password, or "" for a random one.

        Returns:
            The random password, to be shown once, or None.
        """
        if await self._store.count("accounts"):
            return None
        generated = None if password else "-".join(secrets.token_hex(3) for _ in range(4))
        doc = await self._new(FIRST, password or generated or "", Role.ADMIN)
        doc["must_change"] = generated is not None
        try:
            await self._store.insert("accounts", doc)
        except DuplicateKey:
            return None
        return generated

    # Who is asking

    async def sign_in(self, name: str, password: str, *, address: str) -> Principal:
        """Check a password; see `SignIn.check`."""
        return await self._sign_in.check(name, password, address=address)

    async def bearer(self, token: str, *, address: str) -> Principal:
        """Check an API token.

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
        return Principal(name=doc["account"], role=role, via=f"token {doc['_id']}", stages=stages)

    # Accounts

    async def users(self) -> list[Doc]:
        """Every account, without its password."""
        docs = await self._store.find("accounts", limit=10_000)
        return [{key: value for key, value in doc.items() if key != "password"} for doc in docs]

    async def create_user(
        self, name: str, password: str, role: Role, *, stages: Sequence[str] = (), actor: str
    ) -> Doc:
        """Make an account.

        Args:
            name: Its name.
            password: Its password.
            role: What it may do.
            stages: The stages that an operator is limited to; none: all.
            actor: Who makes it.

        Raises:
            InvalidInput: Name, password or stages break a rule.
            AccountExists: The name is taken.
        """
        if not is_account_name(name):
            raise InvalidInput(
                "An account name is 1 to 64 letters, digits and . _ @ -, and begins with one of the first."
            )
        _check_password(password)
        doc = await self._new(name, password, role)
        doc["stages"] = self._checked_stages(role, stages)
        try:
            await self._store.batch([Insert("accounts", doc), self._changed(name, actor, "created", role)])
        except DuplicateKey:
            raise AccountExists(f'There is an account "{name}" already.') from None
        return await self._user(name)

    def _checked_stages(self, role: Role, stages: Sequence[str]) -> list[str]:
        if stages and role is not Role.OPERATOR:
            raise InvalidInput(
                f"Only an operator can be limited to stages; this is about the role {role.word}."
            )
        return [check_stage(stage, self._stages) for stage in dict.fromkeys(stages)]

    async def change_user(
        self,
        name: str,
        *,
        password: str | None = None,
        role: Role | None = None,
        stages: Sequence[str] | None = None,
        actor: str,
    ) -> Doc:
        """Change password, role or stages; another role has no limit unless one is given with it.

        Raises:
            AccountUnknown: There is no such account.
            Conflict: It is the last administrator, or an account of the directory.
            InvalidInput: Password or stages break a rule, or there is nothing to change.
        """
        if password is None and role is None and stages is None:
            raise InvalidInput("Give a password, a role, stages, or several of them.")
        async with self._changing:
            doc = await self._user(name)
            if of_directory(doc):
                raise Conflict(f'"{name}" is an account of the directory; change password and groups there.')
            before = {"role": doc["role"], "stages": doc.get("stages", [])}
            if role is not None and role is not Role.ADMIN:
                await self._not_the_last_admin(doc)
            if password is not None:
                _check_password(password)
                doc["password"] = await self._passwords.hash(password)
                doc["must_change"] = False
            if role is not None or stages is not None:
                kept = before["stages"] if role is None or role.word == before["role"] else []
                new = role or Role[doc["role"].upper()]
                doc["stages"] = self._checked_stages(new, kept if stages is None else stages)
                doc["role"] = new.word
            doc["changed_at"] = self._now()
            parts = (("password changed", password), ("role changed", role), ("stages changed", stages))
            what = ", ".join(part for part, given in parts if given is not None)
            different = [key for key in before if doc.get(key, []) != before[key]]
            shown = {
                side: {key: found[key] for key in different}
                for side, found in (("before", before), ("after", doc))
            }
            change = self._changed(
                name, actor, what, Role[doc["role"].upper()], **(shown if different else {})
            )
            await self._store.batch([Replace("accounts", doc, doc["_rev"]), change])
            self._passwords.forget(name)
            return await self._user(name)

    async def remove_user(self, name: str, *, actor: str) -> None:
        """Delete an account and its tokens.

        Raises:
            AccountUnknown: There is no such account.
            Conflict: It is the last administrator.
        """
        async with self._changing:
            doc = await self._user(name)
            await self._not_the_last_admin(doc)
            tokens = await self._store.find("tokens", {"account": name}, limit=MAX_TOKENS)
            await self._store.batch(
                [
                    *(Remove("tokens", token["_id"]) for token in tokens),
                    Remove("accounts", name),
                    self._changed(name, actor, "removed", Role[doc["role"].upper()]),
                ]
            )
            self._passwords.forget(name)

    async def check_known(self, name: str) -> None:
        """Return if there is such an account.

        Raises:
            AccountUnknown: There is none.
        """
        await self._user(name)

    async def _user(self, name: str) -> Doc:
        doc = await self._store.get("accounts", name)
        if doc is None:
            raise AccountUnknown(f'There is no account "{name}".')
        return doc

    async def _not_the_last_admin(self, doc: Doc) -> None:
        if doc["role"] != Role.ADMIN.word or of_directory(doc):
            return
        admins = await self._store.find("accounts", {"role": Role.ADMIN.word}, limit=10_000)
        if sum(not of_directory(admin) for admin in admins) == 1:  # one gets in when the directory is down
            raise Conflict("This is the last administrator of this node's own; make another one first.")

    async def _new(self, name: str, password: str, role: Role) -> Doc:
        return {
            "_id": name,
            "role": role.word,
            "password": await self._passwords.hash(password),
            "must_change": False,
            "created_at": self._now(),
            "changed_at": self._now(),
        }

    def _changed(self, name: str, actor: str, what: str, role: Role, **data: object) -> Insert:
        return entry(
            EventType.ACCOUNT_CHANGED,
            at=self._now(),
            actor=actor,
            subject=name,
            change=what,
            role=role.word,
            **data,
        )

    # Tokens

    async def tokens(self, account: str | None = None) -> list[Doc]:
        """Tokens of one account or all, without their digests."""
        docs = await self._store.find("tokens", {"account": account} if account else None, limit=10_000)
        return [{key: value for key, value in doc.items() if key != "digest"} for doc in docs]

    async def create_token(
        self,
        principal: Principal,
        *,
        name: str,
        role: Role | None = None,
        stages: Sequence[str] = (),
        expires_s: int = TOKEN_LIFE_S,
    ) -> tuple[str, Doc]:
        """Make a token for the account that asks; an operator's may be limited to stages, at most to the asker's.

        Returns:
            The token, which is shown only now, and what is known of it.

        Raises:
            PermissionDenied: The role is above the asker's, or a stage is none of theirs.
            InvalidInput: Name, life or stages break a rule.
            Conflict: The account has too many.
            AccountUnknown: The account was removed meanwhile.
        """
        role = role or principal.role
        if role > principal.role:
            raise PermissionDenied(f"A token's role is at most your own, {principal.role.word}.")
        for stage in self._checked_stages(role, stages):
            check_within(stage, principal.stages)
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
        )
        async with self._changing:  # a token that outlived its account would serve the next one of that name
            await self._user(principal.name)
            old = {"account": principal.name, "expires_at": {"lt": self._now() - _SHOWN_EXPIRED_MS}}
            await self._store.delete("tokens", old)
            if await self._store.count("tokens", {"account": principal.name}) >= MAX_TOKENS:
                raise Conflict(f"The account has {MAX_TOKENS} tokens; revoke some first.")
            await self._store.batch([Insert("tokens", doc), event])
        return token, {key: value for key, value in doc.items() if key != "digest"}

    async def revoke_token(self, id: str, principal: Principal) -> None:
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


def _check_password(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
