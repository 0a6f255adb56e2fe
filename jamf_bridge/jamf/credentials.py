"""Signing in to Jamf Pro: an API client, or a user account. One refresh at a time, whoever asks."""

import asyncio
import datetime
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from .errors import JamfAuthenticationError, JamfNotFound, JamfSurprise

#: Sends one request without any token: method, path, and httpx's keyword arguments; returns status and JSON body.
Send = Callable[..., Awaitable[tuple[int, Mapping[str, Any]]]]

MARGIN = 0.2  #: a token is renewed when so much of its life is left: some live for 59 seconds
OAUTH = "/api/v1/oauth/token"
OAUTH_LEGACY = "/api/oauth/token"


@dataclass(frozen=True, slots=True)
class Token:
    """A bearer token."""

    value: str
    until: float  #: monotonic seconds
    life_s: float

    def __repr__(self) -> str:
        return f"Token(until={self.until:.0f})"

    def fresh(self, now: float) -> bool:
        """Whether it can be used for a while."""
        return now < self.until - MARGIN * self.life_s


class CredentialsProvider(Protocol):
    """Gives tokens."""

    async def token(self, send: Send) -> str:
        """A token that can be used now.

        Raises:
            JamfAuthenticationError: The credentials are refused.
        """

    def refused(self, token: str) -> None:
        """The server refused this token: the next one is a new one."""

    async def close(self, send: Send) -> None:
        """Sign out."""


class _Renewing:
    """Keeps a token and renews it; concurrent callers share one renewal."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._token: Token | None = None
        self._lock = asyncio.Lock()

    async def token(self, send: Send) -> str:
        """A token that can be used now."""
        async with self._lock:
            if self._token is None or not self._token.fresh(self._clock()):
                self._token = await self._renew(send, self._token)
            return self._token.value

    async def _renew(self, send: Send, old: Token | None) -> Token:
        raise NotImplementedError

    def refused(self, token: str) -> None:
        """The server refused this token."""
        if self._token is not None and self._token.value == token:
            self._token = None


class ClientCredentials(_Renewing):
    """An API client: id and secret (OAuth 2.0 client credentials)."""

    def __init__(
        self, client_id: str, client_secret: str, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        super().__init__(clock)
        self._client_id = client_id
        self._client_secret = client_secret
        self._path = OAUTH

    def __repr__(self) -> str:
        return f"ClientCredentials({self._client_id!r})"

    async def _renew(self, send: Send, old: Token | None) -> Token:
        form = {
            "client_id": self._client_id,
            "client_secret": self._client_secret,
            "grant_type": "client_credentials",
        }
        began = self._clock()
        try:
            status, body = await send("POST", self._path, data=form)
        except JamfNotFound:
            if self._path == OAUTH_LEGACY:
                raise
            self._path = OAUTH_LEGACY  # older servers
            status, body = await send("POST", self._path, data=form)
        if status in {400, 401, 403}:
            code = str(body.get("error") or "invalid_client")
            raise JamfAuthenticationError(
                f"Jamf Pro refused the API client ({code}): check client_id and client_secret, and that it is enabled.",
                call=f"POST {self._path}",
                status=status,
                codes=(code,),
                field="client_id",
            )
        value, life = body.get("access_token"), body.get("expires_in")
        if not isinstance(value, str) or not value or not isinstance(life, int | float):
            raise JamfSurprise("Jamf Pro gave no token.", call=f"POST {self._path}", status=status)
        return Token(value, began + float(life), float(life))

    async def close(self, send: Send) -> None:
        """There is nothing to sign out of: such tokens end by themselves."""
        self._token = None


class UserCredentials(_Renewing):
    """A user account: its token is kept alive, and ended at the end."""

    def __init__(self, username: str, password: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._username = username
        self._password = password

    def __repr__(self) -> str:
        return f"UserCredentials({self._username!r})"

    async def _renew(self, send: Send, old: Token | None) -> Token:
        began = self._clock()
        if old is not None and began < old.until:
            status, body = await send(
                "POST", "/api/v1/auth/keep-alive", headers={"Authorization": f"Bearer {old.value}"}
            )
            if status == 200:
                return self._read(body, began)
        status, body = await send("POST", "/api/v1/auth/token", auth=(self._username, self._password))
        if status in {401, 403}:
            raise JamfAuthenticationError(
                f'Jamf Pro refused the account "{self._username}": check name and password, that the password has '
                "not expired, and that it is no single sign-on account.",
                call="POST /api/v1/auth/token",
                status=status,
                codes=[str(error.get("code")) for error in body.get("errors", []) if isinstance(error, dict)],
                field="username",
            )
        return self._read(body, began)

    def _read(self, body: Mapping[str, Any], began: float) -> Token:
        value = body.get("token")
        try:
            expires = datetime.datetime.fromisoformat(str(body.get("expires")))
        except ValueError:
            expires = None
        if not isinstance(value, str) or not value or expires is None:
            raise JamfSurprise("Jamf Pro gave no token.", call="POST /api/v1/auth/token")
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=datetime.UTC)
        life = max(5.0, (expires - datetime.datetime.now(datetime.UTC)).total_seconds())
        return Token(value, began + life, life)

    async def close(self, send: Send) -> None:
        """End the token."""
        token, self._token = self._token, None
        if token is not None:
            headers = {"Authorization": f"Bearer {token.value}"}
            await send("POST", "/api/v1/auth/invalidate-token", headers=headers)
