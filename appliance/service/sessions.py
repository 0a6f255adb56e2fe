"""Sessions of people in a browser: kept in the store, known to the browser by a random token only.

The store has the token's SHA-256, so a copy of the database opens no session. A session ends when nobody used it for
a while, at an absolute age, when it is signed out, and as soon as its account is changed or removed, in whichever
process.
"""

import contextlib
import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass

from appliance.domain.errors import NotAuthenticated, SessionUnknown, StaleRevision
from appliance.domain.event import EventType
from appliance.store.ports import Doc, Insert, Remove, Store

from .accounts import Principal, Role
from .journal import entry
from .newcomers import of_directory
from .principal import principal_of

VIA = "session"
MAX_SESSIONS = 100  #: of one account; the oldest is ended for a new one
_AGENT = 200  #: characters of a browser's name that are kept
_TOUCH_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """A session that was found good."""

    id: str  #: SHA-256 of the token, hex
    principal: Principal
    must_change: bool  #: the password was generated: nothing goes before a new one
    by_directory: bool  #: the account has no password here
    xsrf: str  #: what a change made through this session has to repeat


class Sessions:
    """Opens, checks and ends sessions."""

    def __init__(self, store: Store, now: Callable[[], int], *, idle_s: float, life_s: float) -> None:
        """Make the service.

        Args:
            store: Where sessions and accounts are.
            now: UTC milliseconds.
            idle_s: A session that is not used for so many seconds has ended.
            life_s: No session is older.
        """
        self._store = store
        self._now = now
        self._idle_ms = round(idle_s * 1000)
        self._life_ms = round(life_s * 1000)

    @property
    def life_s(self) -> int:
        """How old a session gets, in seconds."""
        return self._life_ms // 1000

    async def start(self, principal: Principal, *, address: str, agent: str) -> tuple[str, Session]:
        """Open a session for somebody who has just signed in.

        Args:
            principal: Who.
            address: From where.
            agent: The browser's own name.

        Returns:
            The token, which only the browser keeps, and the session.

        Raises:
            NotAuthenticated: The account was removed meanwhile.
        """
        account = await self._account(principal.name)
        mine = await self._store.find("sessions", {"account": principal.name}, order="seen_at", limit=1000)
        surplus = mine[: max(0, len(mine) - MAX_SESSIONS + 1)]
        token, now = secrets.token_urlsafe(32), self._now()
        doc = {
            "_id": _digest(token),
            "account": principal.name,
            "account_changed_at": account["changed_at"],
            "created_at": now,
            "seen_at": now,
            "expires_at": now + self._idle_ms,
            "address": address,
            "agent": agent[:_AGENT],
        }
        event = entry(
            EventType.SESSION_STARTED, at=now, actor=principal.name, subject=principal.name, address=address
        )
        await self._store.batch(
            [*(Remove("sessions", old["_id"]) for old in surplus), Insert("sessions", doc), event]
        )
        return token, _session(token, doc, account)

    async def check(self, token: str, *, active: bool = True) -> Session:
        """The session of a token.

        Args:
            token: What the browser sent.
            active: Whether a person did this; pages that renew themselves keep no session open.

        Raises:
            NotAuthenticated: It has ended, or never was.
        """
        doc = await self._store.get("sessions", _digest(token)) if token else None
        now = self._now()
        if doc is None or min(doc["expires_at"], doc["created_at"] + self._life_ms) <= now:
            raise NotAuthenticated("The session has ended; sign in again.")
        account = await self._account(doc["account"])
        if account["changed_at"] != doc["account_changed_at"] or account.get("blocked"):
            raise NotAuthenticated("The account was changed; sign in again.")
        if active and now - doc["seen_at"] > min(_TOUCH_MS, self._idle_ms // 4):
            seen = {**doc, "seen_at": now, "expires_at": now + self._idle_ms}
            with contextlib.suppress(StaleRevision):  # another request of this session, or it was signed out
                await self._store.replace("sessions", seen, expect=doc["_rev"])
        return _session(token, doc, account)

    async def page(self, account: str | None = None) -> list[Doc]:
        """Sessions that have not ended, of one account or all, the last used first."""
        where = {"expires_at": {"gt": self._now()}, **({"account": account} if account else {})}
        docs = await self._store.find("sessions", where, order="seen_at", descending=True, limit=10_000)
        oldest = self._now() - self._life_ms
        return [doc for doc in docs if doc["created_at"] > oldest]

    async def end(self, id: str, principal: Principal) -> None:
        """End a session: one's own, or anybody's as an administrator.

        Raises:
            SessionUnknown: There is none that the asker may end.
        """
        doc = await self._store.get("sessions", id)
        if doc is None or (doc["account"] != principal.name and principal.role < Role.ADMIN):
            raise SessionUnknown("There is no such session.")
        await self._store.batch([Remove("sessions", id), self._ended(doc["account"], principal, 1)])

    async def end_all(self, account: str, principal: Principal) -> int:
        """End every session of an account; return how many there were.

        The caller makes sure that the asker is that account or an administrator.
        """
        docs = await self._store.find("sessions", {"account": account}, limit=10_000)
        if docs:
            removals = [Remove("sessions", doc["_id"]) for doc in docs]
            await self._store.batch([*removals, self._ended(account, principal, len(docs))])
        return len(docs)

    def _ended(self, account: str, principal: Principal, count: int) -> Insert:
        return entry(
            EventType.SESSION_ENDED, at=self._now(), actor=principal.name, subject=account, count=count
        )

    async def _account(self, name: str) -> Doc:
        doc = await self._store.get("accounts", name)
        if doc is None:
            raise NotAuthenticated("The account was removed.")
        return doc


def _session(token: str, doc: Doc, account: Doc) -> Session:
    return Session(
        id=doc["_id"],
        principal=principal_of(account, VIA),
        must_change=account["must_change"],
        by_directory=of_directory(account),
        xsrf=hmac.digest(token.encode(), b"xsrf", "sha256").hex(),
    )


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
