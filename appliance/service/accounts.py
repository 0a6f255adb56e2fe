"""Accounts, and who is asking. API tokens are in `tokens`.

Accounts of this node come first, so that its administrator gets in whatever the directory does; a name that is none of
them is asked of the directory, if there is one. The account is read on every request: whoever changes, blocks or
removes it, in whichever process, ends what was remembered of it at once.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence

from argon2 import PasswordHasher

from appliance.domain.errors import (
    AccountExists,
    AccountUnknown,
    Conflict,
    DuplicateKey,
    InvalidInput,
    StaleRevision,
)
from appliance.domain.event import EventType
from appliance.domain.node import DEFAULT_STAGES
from appliance.store.ports import Doc, Insert, Remove, Replace, Store
from config.settings import MAX_PASSWORD, MIN_PASSWORD

from .directory import Directory
from .journal import entry
from .newcomers import Newcomers, of_directory
from .passwords import Passwords
from .principal import Principal, Role, is_account_name, parse_role
from .refusals import Refusals
from .signing_in import SignIn
from .throttle import Throttle
from .tokens import MAX_TOKENS, Tokens, checked_stages

__all__ = ["FIRST", "Accounts", "Principal", "Role", "parse_role"]

FIRST = "admin"


class Accounts:
    """The accounts of this node.

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
        self.tokens = Tokens(
            store,
            now,
            stages=stages,
            throttle=self._throttle,
            refusals=self._refusals,
            changing=self._changing,
        )
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
        doc["stages"] = checked_stages(self._stages, role, stages)
        try:
            await self._store.batch([Insert("accounts", doc), self._changed(name, actor, "created", role)])
        except DuplicateKey:
            raise AccountExists(f'There is an account "{name}" already.') from None
        return await self.user(name)

    async def change_user(
        self,
        name: str,
        *,
        password: str | None = None,
        role: Role | None = None,
        stages: Sequence[str] | None = None,
        expect: int | None = None,
        actor: str,
    ) -> Doc:
        """Change password, role or stages; another role has no limit unless one is given with it.

        Raises:
            AccountUnknown: There is no such account.
            Conflict: It is the last administrator, or an account of the directory.
            InvalidInput: Password or stages break a rule, or there is nothing to change.
            StaleRevision: It is at another revision than `expect`.
        """
        if password is None and role is None and stages is None:
            raise InvalidInput("Give a password, a role, stages, or several of them.")
        async with self._changing:
            doc = await self.user(name)
            if expect is not None and doc["_rev"] != expect:
                raise StaleRevision("Somebody else changed this account first; read it again.")
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
                doc["stages"] = checked_stages(self._stages, new, kept if stages is None else stages)
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
            return await self.user(name)

    async def remove_user(self, name: str, *, expect: int | None = None, actor: str) -> None:
        """Delete an account and its tokens.

        Raises:
            AccountUnknown: There is no such account.
            Conflict: It is the last administrator.
            StaleRevision: It is at another revision than `expect`.
        """
        async with self._changing:
            doc = await self.user(name)
            if expect is not None and doc["_rev"] != expect:
                raise StaleRevision("Somebody else changed this account first; read it again.")
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

    async def user(self, name: str) -> Doc:
        """One account, with the hash of its password.

        Raises:
            AccountUnknown: There is none of this name.
        """
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


def _check_password(password: str) -> None:
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise InvalidInput(f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters.")
