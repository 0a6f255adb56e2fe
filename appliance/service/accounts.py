"""Accounts, API tokens, and who is asking.

Passwords are argon2id (OWASP's floor: 19 MiB, two passes), at most two hashed at a time. A password that verified is
remembered for a minute as an HMAC under a key of this process, so that a script's requests do not pay for it each time.
It is remembered together with the stored hash that it matched, and the account is read on every request: whoever
changes or removes an account, in whichever process, ends that at once.
"""

import asyncio
import contextlib
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

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
from appliance.store.ports import Doc, Insert, Remove, Replace, Store

from .journal import entry
from .principal import Principal, Role, parse_role
from .refusals import Refusals
from .throttle import Throttle

__all__ = ["FIRST", "Accounts", "Principal", "Role", "parse_role"]

FIRST = "admin"
MAX_NAME = 64
MIN_PASSWORD = 12
MAX_PASSWORD = 1024
REMEMBERED_MS = 60_000
MAX_TOKENS = 500  #: of one account; they go with it in one store operation
TOKEN_LIFE_S = 90 * 24 * 3600
TOKEN_MAX_LIFE_S = 366 * 24 * 3600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_TOKEN = re.compile(r"ods_([a-z2-7]{8})_([A-Za-z0-9_-]{43})")
_USED_EVERY_MS = 60_000
_SHOWN_EXPIRED_MS = 30 * 24 * 3600 * 1000


class Accounts:
    """Local accounts and their tokens."""

    def __init__(self, store: Store, now: Callable[[], int], *, hasher: PasswordHasher | None = None) -> None:
        self._store = store
        self._now = now
        self._hasher = hasher or PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
        self._hashing = asyncio.Semaphore(2)
        self._changing = asyncio.Lock()
        self._key = secrets.token_bytes(32)
        self._remembered: dict[str, tuple[bytes, int, str]] = {}  # HMAC, until when, the stored hash
        self._throttle = Throttle(now)
        self._dummy = self._hasher.hash(secrets.token_hex(16))
        self._refusals = Refusals(store, now)

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
        """Check a password; an unknown name takes as long and answers the same.

        Raises:
            NotAuthenticated: Name or password are wrong.
            TooManyAttempts: Too many were, for this account from this address.
        """
        mark = hmac.digest(self._key, f"{name}\0{password}".encode(), "sha256")
        doc = await self._store.get("accounts", name)
        if doc is not None and self._remembers(doc, mark):
            return _by_password(doc)
        source = (name[:MAX_NAME].lower(), address)
        async with self._hashing:
            # Who waited here may have been overtaken by failures, or by the same script's success.
            if doc is not None and self._remembers(doc, mark):
                return _by_password(doc)
            self._throttle.check(source)
            good = await self._verify(doc["password"] if doc else self._dummy, password)
            if good and doc is not None:
                self._throttle.succeeded(source)
                self._remembered[name] = (mark, self._now() + REMEMBERED_MS, doc["password"])
                return _by_password(doc)
            locked = self._throttle.failed(source)
        await self._refusals.tell(name, address, locked=locked and doc is not None)
        raise NotAuthenticated("Name or password are wrong.")

    def _remembers(self, doc: Doc, mark: bytes) -> bool:
        """Whether this password matched the stored hash lately."""
        known, until, stored = self._remembered.get(doc["_id"], (b"", 0, ""))
        return until > self._now() and stored == doc["password"] and hmac.compare_digest(known, mark)

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
        if self._now() - doc["used_at"] > _USED_EVERY_MS:
            used = {**doc, "used_at": self._now(), "used_from": address}
            with contextlib.suppress(StaleRevision):  # used by another request, or revoked: it stays revoked
                await self._store.replace("tokens", used, expect=doc["_rev"])
        role = min(Role[doc["role"].upper()], Role[account["role"].upper()])
        return Principal(name=doc["account"], role=role, via=f"token {doc['_id']}")

    # Accounts

    async def users(self) -> list[Doc]:
        """Every account, without its password."""
        docs = await self._store.find("accounts", limit=10_000)
        return [{key: value for key, value in doc.items() if key != "password"} for doc in docs]

    async def create_user(self, name: str, password: str, role: Role, *, actor: str) -> Doc:
        """Make an account.

        Raises:
            InvalidInput: Name or password break a rule.
            AccountExists: The name is taken.
        """
        if not _NAME.fullmatch(name):
            raise InvalidInput(
                "An account name is 1 to 64 letters, digits and . _ @ -, and begins with one of the first."
            )
        _check_password(password)
        doc = await self._new(name, password, role)
        try:
            await self._store.batch([Insert("accounts", doc), self._changed(name, actor, "created", role)])
        except DuplicateKey:
            raise AccountExists(f'There is an account "{name}" already.') from None
        return await self._user(name)

    async def change_user(
        self, name: str, *, password: str | None = None, role: Role | None = None, actor: str
    ) -> Doc:
        """Change password or role.

        Raises:
            AccountUnknown: There is no such account.
            Conflict: It is the last administrator.
            InvalidInput: The password breaks a rule, or there is nothing to change.
        """
        if password is None and role is None:
            raise InvalidInput("Give a password, a role, or both.")
        async with self._changing:
            doc = await self._user(name)
            if role is not None and role is not Role.ADMIN:
                await self._not_the_last_admin(doc)
            if password is not None:
                _check_password(password)
                doc["password"] = await self._hash(password)
                doc["must_change"] = False
            if role is not None:
                doc["role"] = role.word
            doc["changed_at"] = self._now()
            parts = (("password changed", password), ("role changed", role))
            what = ", ".join(part for part, given in parts if given is not None)
            change = self._changed(name, actor, what, Role[doc["role"].upper()])
            await self._store.batch([Replace("accounts", doc, doc["_rev"]), change])
            self._remembered.pop(name, None)
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
            self._remembered.pop(name, None)

    async def _user(self, name: str) -> Doc:
        doc = await self._store.get("accounts", name)
        if doc is None:
            raise AccountUnknown(f'There is no account "{name}".')
        return doc

    async def _not_the_last_admin(self, doc: Doc) -> None:
        if (
            doc["role"] == Role.ADMIN.word
            and await self._store.count("accounts", {"role": Role.ADMIN.word}) == 1
        ):
            raise Conflict("This is the last administrator; make another one first.")

    async def _new(self, name: str, password: str, role: Role) -> Doc:
        return {
            "_id": name,
            "role": role.word,
            "password": await self._hash(password),
            "must_change": False,
            "created_at": self._now(),
            "changed_at": self._now(),
        }

    def _changed(self, name: str, actor: str, what: str, role: Role) -> Insert:
        return entry(
            EventType.ACCOUNT_CHANGED, at=self._now(), actor=actor, subject=name, change=what, role=role.word
        )

    async def _hash(self, password: str) -> str:
        async with self._hashing:
            return await asyncio.to_thread(self._hasher.hash, password)

    async def _verify(self, stored: str, password: str) -> bool:
        try:
            return await asyncio.to_thread(self._hasher.verify, stored, password)
        except (VerificationError, InvalidHashError):
            return False

    # Tokens

    async def tokens(self, account: str | None = None) -> list[Doc]:
        """Tokens of one account or all, without their digests."""
        docs = await self._store.find("tokens", {"account": account} if account else None, limit=10_000)
        return [{key: value for key, value in doc.items() if key != "digest"} for doc in docs]

    async def create_token(
        self, principal: Principal, *, name: str, role: Role | None = None, expires_s: int = TOKEN_LIFE_S
    ) -> tuple[str, Doc]:
        """Make a token for the account that asks.

        Returns:
            The token, which is shown only now, and what is known of it.

        Raises:
            PermissionDenied: The role is above the asker's.
            InvalidInput: Name or life are out of bounds.
            Conflict: The account has too many.
            AccountUnknown: The account was removed meanwhile.
        """
        role = role or principal.role
        if role > principal.role:
            raise PermissionDenied(f"A token's role is at most your own, {principal.role.word}.")
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


def _by_password(doc: Doc) -> Principal:
    return Principal(name=doc["_id"], role=Role[doc["role"].upper()], via="password")


def _check_password(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
