"""Checks names and passwords: accounts of this node first, then the directory."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable, Hashable

from appliance.domain.errors import NotAuthenticated
from appliance.store.ports import Doc, Store

from .directory import Directory
from .directory.naming import login_key
from .newcomers import Newcomers, of_directory
from .passwords import Passwords
from .principal import Principal, principal_of
from .refusals import Refusals
from .throttle import Throttle

EVEN_S = 0.5  #: with a directory, refusals take a multiple of it: their time tells nothing about a name
SHOWN_NAME = 64
CROWD = 60  #: wrong passwords from one address, for whatever accounts, that cost nothing
CROWD_NAME = "many accounts"  #: the subject of the event
CROWD_CAP_S = 30  #: a whole office may be behind it
_CROWD_FORGET_MS = 10 * 60_000


class SignIn:
    """Who has which password.

    Args:
        store: Where accounts are.
        passwords: Checks those of this node, and remembers all.
        throttle: Slows guessing down.
        refusals: Tells of it.
        newcomers: The accounts of the directory.
        pause: Waits so many seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        passwords: Passwords,
        throttle: Throttle,
        refusals: Refusals,
        newcomers: Newcomers,
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._throttle = throttle
        self._refusals = refusals
        self._newcomers = newcomers
        self._directory = newcomers.directory
        self._pause = pause
        self._crowd = Throttle(
            throttle.now, free=CROWD, cap_s=CROWD_CAP_S, forget_ms=_CROWD_FORGET_MS
        )  # of addresses: a few guesses at each of many accounts
        self._turns: weakref.WeakValueDictionary[Hashable, asyncio.Lock] = weakref.WeakValueDictionary()

    async def check(self, name: str, password: str, *, address: str) -> Principal:
        """Check a password; an unknown name takes as long and answers the same.

        Raises:
            NotAuthenticated: Name or password are wrong, or the directory gives no role.
            TooManyAttempts: Too many were, for this account from this address, or from this address for many.
            DirectoryUnavailable: It is no account of this node, and the directory does not answer.
        """
        began = asyncio.get_running_loop().time()
        doc = await self._remembered(name, password)
        if doc is not None:
            return _by_password(doc)
        self._crowd.check(address)
        doc = await self._store.get("accounts", name)
        source = (login_key(name[:SHOWN_NAME])[:SHOWN_NAME], address)
        # Who waits for a turn may be overtaken by failures, or by the same script's success.
        turn = self._turns.setdefault(source, asyncio.Lock())
        try:
            async with turn:
                if self._directory is not None and (doc is None or of_directory(doc)):
                    return await self._by_directory(self._directory, name, password, source)
                return await self._by_hash(doc, name, password, source)
        except NotAuthenticated:
            if self._crowd.failed(address):
                await self._refusals.tell(CROWD_NAME, address, locked=True)
            if self._directory is not None:
                taken = asyncio.get_running_loop().time() - began
                await self._pause(EVEN_S - taken % EVEN_S)
            raise

    async def _remembered(self, name: str, password: str) -> Doc | None:
        """The account, if this name and password were right lately and it is as it was."""
        known = self._passwords.recall(name, password)
        doc = await self._store.get("accounts", known.account) if known else None
        if known is None or doc is None or doc["password"] != known.stored or doc.get("blocked"):
            return None
        return doc

    async def _unchanged(self, doc: Doc) -> Doc | None:
        """The account as it is, if its password is the one that was verified, which takes a while."""
        now = await self._store.get("accounts", doc["_id"])
        same = now is not None and now["password"] == doc["password"] and not now.get("blocked")
        return now if same else None

    async def _by_hash(self, doc: Doc | None, name: str, password: str, source: tuple[str, str]) -> Principal:
        async with self._passwords.turn:
            remembered = await self._remembered(name, password)
            if remembered is not None:
                return _by_password(remembered)
            self._throttle.check(source)
            local = doc if doc is not None and not of_directory(doc) else None
            good = await self._passwords.verify(
                local["password"] if local else self._passwords.dummy, password
            )
            account = await self._unchanged(local) if good and local is not None else None
            if account is not None:
                self._throttle.succeeded(source)
                self._passwords.remember(name, password, account=name, stored=account["password"])
                return _by_password(account)
            locked = self._throttle.failed(source)
        await self._refusals.tell(name, source[1], locked=locked and doc is not None)
        raise NotAuthenticated("Name or password are wrong.")

    async def _by_directory(
        self, directory: Directory, name: str, password: str, source: tuple[str, str]
    ) -> Principal:
        remembered = await self._remembered(name, password)
        if remembered is not None:
            return _by_password(remembered)
        self._throttle.check(source)
        person = await directory.sign_in(name, password)
        doc = await self._newcomers.admit(person, name) if person and person.grant else None
        if doc is not None:
            self._throttle.succeeded(source)
            self._passwords.remember(name, password, account=doc["_id"], stored="")
            return _by_password(doc)
        if person is not None and person.grant is None:
            await self._newcomers.block(person.name)
            await self._refusals.tell(name, source[1])
            raise NotAuthenticated(
                "None of your groups in the directory has a role here; ask an administrator."
            )
        locked = self._throttle.failed(source)
        known = locked and await self._store.get("accounts", name) is not None
        await self._refusals.tell(name, source[1], locked=known)
        raise NotAuthenticated("Name or password are wrong.")


def _by_password(doc: Doc) -> Principal:
    return principal_of(doc, "password")
